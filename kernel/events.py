"""Events: what the outside sees of a run's history.

An event is a fact with its run, its sequence number, its time and its payload, and without what is the engine's own
business (attempt tokens, the plan, the places of payloads). `public_event` makes them; sinks, `history` and the live
stream of a run all show these and nothing else. Per run they are in order of `seq`, which counts from 1 without gaps.

`StageProgress` and `Log` are live only: they are never part of a history and have the `seq` of the last event before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import ConfigDict, Field, TypeAdapter

from kernel.errors import ErrorInfo, InvalidCommand
from kernel.model.facts import Fact, RetryCause

__all__ = [
    "AnnotationCreated",
    "Event",
    "EventType",
    "Log",
    "RunCancelled",
    "RunCompleted",
    "RunCreated",
    "RunFailed",
    "RunOwnerChanged",
    "RunRerun",
    "RunStarted",
    "StageCancelled",
    "StageCompleted",
    "StageFailed",
    "StageProgress",
    "StageRetrying",
    "StageScheduled",
    "StageSkipped",
    "StageStarted",
    "StageSuspended",
    "StepRecorded",
    "event_json",
    "is_emitted",
    "public_event",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunEvent:
    """What all events have: the run, the position in its history, and when it was decided (aware UTC)."""

    run_id: str
    seq: int
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _StageEvent(_RunEvent):
    """What all events of stages have: which stage, which execution of it, which attempt in that; all count from 1."""

    stage_id: str
    execution: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCreated(_RunEvent):
    """The run exists and is PENDING."""

    workflow_id: str
    workflow_version: str
    type: Literal["run.created"] = "run.created"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(_RunEvent):
    """The run is RUNNING for the first time; `owner` is the session that drives it, if one does."""

    owner: str | None = None
    type: Literal["run.started"] = "run.started"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOwnerChanged(_RunEvent):
    """Another session took the run over from one that was condemned."""

    owner: str
    cause: str
    type: Literal["run.owner_changed"] = "run.owner_changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCompleted(_RunEvent):
    """Every stage completed. `duration_s` counts from the start, not from creation; `total_cost` is USD."""

    output: Any
    duration_s: float
    total_cost: str
    total_tokens: int
    type: Literal["run.completed"] = "run.completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed(_RunEvent):
    """The run ended with an error, of `stage_id` when a stage is to blame."""

    error: ErrorInfo
    stage_id: str | None = None
    type: Literal["run.failed"] = "run.failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCancelled(_RunEvent):
    """Somebody cancelled the run."""

    reason: str | None = None
    type: Literal["run.cancelled"] = "run.cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRerun(_RunEvent):
    """The run began again at a stage."""

    from_stage_id: str
    discarded: tuple[str, ...]
    type: Literal["run.rerun"] = "run.rerun"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageScheduled(_StageEvent):
    """The stage's turn has come; it starts when there is room, in its queue if it names one."""

    queue: str | None = None
    due_at: datetime | None = None
    type: Literal["stage.scheduled"] = "stage.scheduled"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted(_StageEvent):
    """An attempt began."""

    type: Literal["stage.started"] = "stage.started"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCompleted(_StageEvent):
    """The stage's result is recorded."""

    output: Any
    duration_s: float
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    type: Literal["stage.completed"] = "stage.completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFailed(_StageEvent):
    """The stage will not be tried again in this execution."""

    error: ErrorInfo
    type: Literal["stage.failed"] = "stage.failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRetrying(_StageEvent):
    """The attempt ended without a result and the next one is due at `due_at`."""

    error: ErrorInfo
    due_at: datetime
    cause: RetryCause
    type: Literal["stage.retrying"] = "stage.retrying"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSuspended(_StageEvent):
    """The stage waits for something outside."""

    next_poll_at: datetime
    max_wait_until: datetime
    type: Literal["stage.suspended"] = "stage.suspended"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCancelled(_StageEvent):
    """The stage was active when its run or group ended."""

    type: Literal["stage.cancelled"] = "stage.cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSkipped(_StageEvent):
    """The stage's turn never came."""

    reason: str
    type: Literal["stage.skipped"] = "stage.skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecorded(_RunEvent):
    """A step inside a body has a result."""

    stage_id: str
    execution: int
    position: int
    name: str
    type: Literal["step.recorded"] = "step.recorded"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationCreated(_RunEvent):
    """Somebody noted something about the run, or about a stage (`scope`)."""

    key: str
    value: Any
    scope: str
    scope_id: str | None = None
    stage_id: str | None = None
    actor: str | None = None
    type: Literal["annotation.created"] = "annotation.created"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProgress(_StageEvent):
    """A body said how far it is; live only."""

    progress: float
    message: str = ""
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    type: Literal["stage.progress"] = "stage.progress"


@dataclass(frozen=True, slots=True, kw_only=True)
class Log(_RunEvent):
    """A body logged a line; live only."""

    level: str
    message: str
    stage_id: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    type: Literal["log"] = "log"


Event: TypeAlias = Annotated[
    RunCreated
    | RunStarted
    | RunOwnerChanged
    | RunCompleted
    | RunFailed
    | RunCancelled
    | RunRerun
    | StageScheduled
    | StageStarted
    | StageCompleted
    | StageFailed
    | StageRetrying
    | StageSuspended
    | StageCancelled
    | StageSkipped
    | StepRecorded
    | AnnotationCreated
    | StageProgress
    | Log,
    Field(discriminator="type"),
]

EventType = Literal[
    "run.created",
    "run.started",
    "run.owner_changed",
    "run.completed",
    "run.failed",
    "run.cancelled",
    "run.rerun",
    "stage.scheduled",
    "stage.started",
    "stage.completed",
    "stage.failed",
    "stage.retrying",
    "stage.suspended",
    "stage.cancelled",
    "stage.skipped",
    "step.recorded",
    "annotation.created",
    "stage.progress",
    "log",
]


def _kind(cls: type) -> str:
    """The event type of a class; with slots, the class attribute is not the default value."""
    return str(next(f.default for f in fields(cls) if f.name == "type"))


_CLASSES: Mapping[str, type] = {_kind(cls): cls for cls in get_args(get_args(Event)[0])}
_NAMES: Mapping[str, Sequence[str]] = {
    kind: [f.name for f in fields(cls) if f.name not in {"run_id", "seq", "at", "type"}]
    for kind, cls in _CLASSES.items()
}
# Built when first used: most processes that import the kernel never write an event as JSON.
_EVENT: TypeAdapter[Event] = TypeAdapter(Event, config=ConfigDict(defer_build=True))


def public_event(fact: Fact, *, run_id: str, seq: int, at: datetime, body: Any = None) -> Event:
    """The event of a fact; `body` is its payload as plain JSON, for the kinds that show one.

    That is the output of `stage.completed` and of `run.completed` (which has no payload of its own: the caller
    gives the workflow's output) and the value of `annotation.created`.
    """
    cls = _CLASSES[fact.type]
    values: dict[str, Any] = {}
    for name in _NAMES[fact.type]:
        match name:
            case "output" | "value" if not hasattr(fact, name):
                values[name] = body
            case "metrics":
                values[name] = getattr(fact, name) or {}
            case _:
                values[name] = getattr(fact, name)
    event: Event = cls(run_id=run_id, seq=seq, at=at, **values)
    return event


LIVE_ONLY: frozenset[EventType] = frozenset({"stage.progress", "log"})
"""Shown to who watches a run while it executes; no history keeps them, so no sink can be owed them."""


def event_types(of: str, given: Iterable[EventType], *, field: str) -> frozenset[EventType]:
    """The types of events that a sink or a plugin wants. Raises: InvalidCommand, for any that it can never be given."""
    known: list[EventType] = [each for each in get_args(EventType) if each not in LIVE_ONLY]
    hint = f"Events: {', '.join(known)}."
    if isinstance(given, str):
        reason, hint = f"`{field}` is a text", f'Write {field}=["{given}"].'
    else:
        types = frozenset(given)
        wrong = sorted(str(each) for each in types if each not in known)
        live = [each for each in wrong if each in LIVE_ONLY]
        if types and not wrong:
            return types
        if live:
            reason = f"{', '.join(map(repr, live))} cannot arrive: it is live only, for RunHandle.events()"
        else:
            reason = f"there is no event {', '.join(map(repr, wrong))}" if wrong else f"`{field}` names no event"
    raise InvalidCommand(f"{of}: {reason}.", field=field, hint=hint)


def is_emitted(fact: Fact) -> bool:
    """Whether sinks are given this fact as an event: every kind is, but annotations only when their authors said so."""
    return fact.type != "annotation.created" or fact.emit is True


def event_json(event: Event) -> bytes:
    """The event as one JSON object; the traceback of an error is left out."""
    exclude: Any = {"error": {"traceback"}} if hasattr(event, "error") else None
    return _EVENT.dump_json(event, exclude=exclude)
