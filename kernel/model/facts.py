"""Facts: the events as a history keeps them.

A fact says what happened and holds exactly what folding needs, including attempt tokens, the plan and the places of
payloads. What everybody else sees of it is an *event* (`kernel.events`), which adds the run, the sequence number, the
time and the payload, and leaves the tokens out.

Payloads (inputs, outputs, suspension states) are *bodies*: raw JSON kept beside the facts under the sequence number
of their fact, or, when large, in the blob store under the `BlobRef` that the fact names.

The JSON form is pydantic's own of these classes; absent keys mean the default, unknown keys are ignored, so that a
field can be added and a newer release's field can be skipped. Renaming one breaks every stored history.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from kernel.errors import EngineError, ErrorInfo, PayloadRefused
from kernel.model.execution_plan import ExecutionPlan
from kernel.value_places import surrogate_problem

__all__ = [
    "FORMAT",
    "NEWER",
    "AnnotationCreated",
    "BlobRef",
    "CorruptHistory",
    "Fact",
    "NewerHistory",
    "RetryCause",
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
    "StageRetrying",
    "StageScheduled",
    "StageSkipped",
    "StageStarted",
    "StageSuspended",
    "StepRecorded",
    "decode_facts",
    "encode_facts",
    "encode_plan",
    "format_of",
]

NEWER: Mapping[str, int] = {}
"""Kinds of facts that format 1 lacks, each with the format that brought it; what one release adds is one format.

Better read by one release and written by the next: then a rolling deploy has nobody who must leave a run to others.
"""

FORMAT = max(NEWER.values(), default=1)
"""The newest format that this release reads; a run with a fact of a newer one is left to whoever can read it."""

RetryCause = Literal["raised", "timeout", "lost", "drained"]


class CorruptHistory(EngineError):
    """A stored history cannot be read; the run is parked and no other run is affected."""

    def __init__(self, run_id: str, reason: str) -> None:
        self.run_id = run_id
        self.reason = reason
        super().__init__(f'The history of run "{run_id}" cannot be read: {reason}.')


class NewerHistory(CorruptHistory):
    """A stored history is not damaged but of a newer format; it is left to processes of a newer release."""

    def __init__(self, run_id: str, *, format: int) -> None:
        self.format = format
        super().__init__(
            run_id, f"it is of format {format}, and this release reads up to {FORMAT}; use the release that wrote it"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobRef:
    """Where a payload lies that is too large for the history: its key, the SHA-256 of its bytes in hex, its size."""

    key: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCreated:
    """The run exists; its body is the input. `config` is complete, by stage id, so that later defaults change nothing.

    `checked` is false for a run that SQL inserted: nobody has validated its input and configuration yet, and `config`
    is what the caller gave.
    """

    workflow_id: str
    workflow_version: str
    fingerprint: str
    plan: ExecutionPlan
    priority: int = 5
    run_at: datetime | None = None
    checked: bool = True
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    input_blob: BlobRef | None = None
    type: Literal["run.created"] = "run.created"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """Somebody drives the run for the first time: a session, or nobody in particular (`owner` is None).

    `drive` "jobs": nobody ever owns it, and everything that is due in it is a job.
    """

    owner: str | None = None
    drive: Literal["jobs"] | None = None
    type: Literal["run.started"] = "run.started"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOwnerChanged:
    """The run was taken over from a session that was condemned, or from now on (`drive`) is driven by jobs."""

    owner: str
    previous: str | None = None
    cause: str = "condemned"
    drive: Literal["jobs"] | None = None
    type: Literal["run.owner_changed"] = "run.owner_changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCompleted:
    """Every stage is done; the output is that of the last group, which its stages' facts hold. Costs are USD."""

    duration_s: float
    total_cost: str = "0"
    total_tokens: int = 0
    type: Literal["run.completed"] = "run.completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed:
    """The run ended with this error, of this stage and attempt when a stage is to blame."""

    error: ErrorInfo
    stage_id: str | None = None
    attempt: int | None = None
    type: Literal["run.failed"] = "run.failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCancelled:
    """Somebody cancelled the run."""

    reason: str | None = None
    type: Literal["run.cancelled"] = "run.cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRerun:
    """The run begins again at a stage; `discarded` stages get a new execution.

    `key` is the idempotency key under which a caller asked for it, `keep_completed` what else the caller asked for.
    """

    from_stage_id: str
    discarded: tuple[str, ...]
    keep_completed: bool | None = None
    key: str | None = None
    type: Literal["run.rerun"] = "run.rerun"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageScheduled:
    """The stage's turn has come, but its start is not in the same append."""

    stage_id: str
    execution: int
    attempt: int
    queue: str | None = None
    due_at: datetime | None = None
    type: Literal["stage.scheduled"] = "stage.scheduled"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """An attempt runs; only who names its token can end it. `resumed`: it is given the state of a suspension.

    `key` is the idempotency key under which a caller asked for it.
    """

    stage_id: str
    execution: int
    attempt: int
    token: str
    resumed: bool | None = None
    key: str | None = None
    type: Literal["stage.started"] = "stage.started"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCompleted:
    """The stage's result is recorded; its body is the output. Metrics are numbers by name; durations are seconds."""

    stage_id: str
    execution: int
    attempt: int
    duration_s: float
    metrics: Mapping[str, float] | None = None
    artifacts: Mapping[str, BlobRef] | None = None
    output_blob: BlobRef | None = None
    type: Literal["stage.completed"] = "stage.completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFailed:
    """The stage will not be tried again in this execution."""

    stage_id: str
    execution: int
    attempt: int
    error: ErrorInfo
    type: Literal["stage.failed"] = "stage.failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRetrying:
    """The attempt is over without a result, and the next one is due at `due_at`.

    `token` is the attempt that ended, `owner` the session in which it was lost.
    """

    stage_id: str
    execution: int
    attempt: int
    error: ErrorInfo
    due_at: datetime
    cause: RetryCause
    token: str | None = None
    owner: str | None = None
    type: Literal["stage.retrying"] = "stage.retrying"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSuspended:
    """The stage waits for something outside; its body is the state that its check is given.

    `state_seq` says that the state is unchanged: it is the body of that earlier fact. `check_failures` counts how often
    in a row the check itself went wrong.
    """

    stage_id: str
    execution: int
    attempt: int
    next_poll_at: datetime
    max_wait_until: datetime
    poll_interval_s: float
    metrics: Mapping[str, float] | None = None
    state_blob: BlobRef | None = None
    state_seq: int | None = None
    check_failures: int | None = None
    type: Literal["stage.suspended"] = "stage.suspended"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCancelled:
    """The stage was scheduled, running or suspended when its run or group ended."""

    stage_id: str
    execution: int
    attempt: int
    type: Literal["stage.cancelled"] = "stage.cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSkipped:
    """The stage's turn never came."""

    stage_id: str
    execution: int
    attempt: int
    reason: str
    type: Literal["stage.skipped"] = "stage.skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecorded:
    """A step inside a body has a result, which is the body of this fact; `position` counts from 0 in an execution."""

    stage_id: str
    execution: int
    attempt: int
    position: int
    name: str
    result_blob: BlobRef | None = None
    type: Literal["step.recorded"] = "step.recorded"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationCreated:
    """Somebody noted something about the run or one of its stages; the value is the body of this fact.

    `stage_id` is the stage that said it or that it is about, with `execution` and `attempt` where a body said it.
    `actor` is the text of an `Actor`; `payload` is JSON in a text, so that it comes back to the byte; `once` is the
    idempotency key, and `emit` whether sinks are given it as an event.
    """

    key: str
    scope: str = "run"
    scope_id: str | None = None
    stage_id: str | None = None
    execution: int | None = None
    attempt: int | None = None
    actor: str | None = None
    payload: str | None = None
    once: str | None = None
    emit: bool | None = None
    type: Literal["annotation.created"] = "annotation.created"


Fact: TypeAlias = Annotated[
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
    | AnnotationCreated,
    Field(discriminator="type"),
]

# Built when first used: a process that only looks at heads, or executes a body in a child, needs neither.
_DEFERRED = ConfigDict(defer_build=True)
_PLAN: TypeAdapter[ExecutionPlan] = TypeAdapter(ExecutionPlan)
_FACTS: TypeAdapter[tuple[Fact, ...]] = TypeAdapter(tuple[Fact, ...], config=_DEFERRED)


def encode_facts(facts: tuple[Fact, ...]) -> bytes:
    """The JSON array that a history row keeps.

    Raises: PayloadRefused, when a text in it cannot be encoded (a lone surrogate in a reason, an error, a name).
    """
    try:
        return _FACTS.dump_json(facts, exclude_none=True)
    except PydanticSerializationError as error:
        problem = next((found for fact in facts if (found := surrogate_problem(fact))), str(error))
        raise PayloadRefused("An event", problem, field="events") from error


def format_of(facts: Iterable[Fact], *, newer: Mapping[str, int] = NEWER) -> int:
    """The format that somebody must know to read these facts; `newer` is the table of kinds."""
    return max((newer.get(fact.type, 1) for fact in facts), default=1) if newer else 1


def encode_plan(plan: ExecutionPlan) -> bytes:
    """The plan in the same form that `run.created` has it in, for whoever creates runs without this code."""
    return _PLAN.dump_json(plan, exclude_none=True)


def decode_facts(data: bytes | str, *, run_id: str) -> tuple[Fact, ...]:
    """Read what `encode_facts` wrote.

    Raises: CorruptHistory, naming the run, when it is not such an array or holds a kind that this release lacks.
    """
    try:
        return _FACTS.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CorruptHistory(run_id, f"{where}: {first['msg']}") from error
