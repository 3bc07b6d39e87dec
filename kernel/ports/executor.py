"""Running user code, somewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from kernel.authoring.workflow import Workflow
from kernel.errors import ErrorInfo
from kernel.model.attempts import Note, Raised
from kernel.model.execution_plan import PlannedStage

__all__ = [
    "Attempt",
    "BodyCompleted",
    "BodyOutcome",
    "BodySuspended",
    "CheckAttempt",
    "CheckFailed",
    "CheckNotReady",
    "CheckOutcome",
    "CheckRaised",
    "CheckReady",
    "Executor",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt, ready to run: everything that a body may read, as raw JSON, and the definition that explains it.

    `outputs` has the raw output of every completed stage whose payload is at hand; `offloaded` the ids of completed
    stages whose payload is not. `config` is what was given at creation, by stage id (validated then), `resume_state`
    the state of the suspension that this attempt resumes, `steps` what earlier attempts recorded, in order.
    """

    workflow: Workflow[Any, Any]
    stage: PlannedStage
    run_id: str
    execution: int
    number: int
    token: str
    started_at: datetime
    input: bytes
    config: Mapping[str, Any]
    outputs: Mapping[str, bytes]
    offloaded: frozenset[str] = frozenset()
    resume_state: bytes | None = None
    steps: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyCompleted:
    """The body returned this output, validated and encoded; artifacts are bytes by name, to be stored."""

    output: bytes
    metrics: Mapping[str, float]
    artifacts: Mapping[str, bytes]
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BodySuspended:
    """The body suspended with this state, encoded; intervals are seconds."""

    state: bytes
    poll_interval_s: float
    max_wait_s: float
    metrics: Mapping[str, float]
    notes: tuple[Note, ...] = ()


BodyOutcome = BodyCompleted | BodySuspended | Raised


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckAttempt:
    """One call of a batch stage's check, ready to be made: the suspended state as raw JSON, and the definition.

    `number` is the attempt that suspended; `config` is as in `Attempt`. `look` names this look among all of the stage's
    execution: one of which nothing was recorded has the same name when it is made again.
    """

    workflow: Workflow[Any, Any]
    stage: PlannedStage
    run_id: str
    execution: int
    number: int
    state: bytes
    config: Mapping[str, Any]
    look: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReady:
    """What the stage waited for is there: its output, validated and encoded; artifacts are bytes by name."""

    output: bytes
    metrics: Mapping[str, float]
    artifacts: Mapping[str, bytes]
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckNotReady:
    """Look again after so many seconds (None: the stage's interval); a `state` replaces the suspended one."""

    next_check_in_s: float | None = None
    state: bytes | None = None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckFailed:
    """The check said that it will not come; with `retry` the stage's retry policy applies, else the stage fails."""

    error: ErrorInfo
    retry: bool
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRaised:
    """The check itself went wrong: call it again, after `retry_after` or a backoff, unless `error.retryable` is False.

    `cause` "timeout": it did not answer in time.
    """

    error: ErrorInfo
    cause: Literal["raised", "timeout"] = "raised"
    retry_after: timedelta | None = None
    notes: tuple[Note, ...] = ()


CheckOutcome = CheckReady | CheckNotReady | CheckFailed | CheckRaised


class Executor(Protocol):
    """Runs user code and returns its outcome as data."""

    async def run(self, attempt: Attempt, /) -> BodyOutcome:
        """Run the body to its end, its timeout or the cancellation of the caller.

        What the body raises is part of the outcome. Whatever this raises is trouble of the executor itself.
        """
        ...

    async def check(self, check: CheckAttempt, /) -> CheckOutcome:
        """Call a suspended stage's check once, on the same terms."""
        ...
