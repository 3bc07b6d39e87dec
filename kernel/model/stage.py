"""What is known of one stage of a run, and how each of its facts changes that.

Pure: a function per fact from the stage's state to its next one. `kernel.model.run` decides which stage a fact
belongs to; the table in `kernel.model.machine` decides whether it is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeAlias

from kernel.errors import ErrorInfo
from kernel.model.execution_plan import PlannedStage
from kernel.model.facts import (
    BlobRef,
    StageCancelled,
    StageCompleted,
    StageFailed,
    StageRetrying,
    StageScheduled,
    StageSkipped,
    StageStarted,
    StageSuspended,
)
from kernel.model.machine import ACTIVE, STAGE_TRANSITIONS, Status, advance
from kernel.replace import replace

__all__ = ["Body", "StageFact", "StageState", "Suspension", "evolve_stage", "fresh_stage", "next_attempt"]

StageFact: TypeAlias = (
    StageScheduled
    | StageStarted
    | StageCompleted
    | StageFailed
    | StageRetrying
    | StageSuspended
    | StageCancelled
    | StageSkipped
)


@dataclass(frozen=True, slots=True)
class Body:
    """Where a payload is: beside the fact of this sequence number, or in the blob store."""

    seq: int
    blob: BlobRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspension:
    """What a suspended stage waits for: its state's body, when to look next, and until when at most.

    `seq` is the sequence number of the fact that says so; `check_failures` counts how often in a row its check went
    wrong. Looks that changed nothing else are laid over it (`kernel.model.looks`).
    """

    seq: int
    state: Body
    next_poll_at: datetime
    max_wait_until: datetime
    poll_interval_s: float
    check_failures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """One stage of one run, in its current execution.

    `attempt` is that of the running or last attempt, 0 before the first. `failures` counts against `max_attempts`,
    `lost` against `max_lost`; `lost_in` are the sessions in which attempts were lost. `given_back` says that the last
    attempt ended without counting, so the next one has the same number. `suspension` stays after a failed check that
    is retried, because the next attempt is given its state. `keys` are the idempotency keys of this execution's
    attempts, in order, and `key` that of the running or last one, if it has one. `tokens` are those of every attempt
    of every execution: none of them starts another one. `ended_seq` is the sequence number of the fact that ended the
    stage.
    """

    plan: PlannedStage
    status: Status = Status.PENDING
    execution: int = 1
    attempt: int = 0
    scheduled: bool = False
    token: str | None = None
    tokens: tuple[str, ...] = ()
    due_at: datetime | None = None
    failures: int = 0
    lost: int = 0
    lost_in: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    key: str | None = None
    given_back: bool = False
    started_at: datetime | None = None
    attempt_started_at: datetime | None = None
    ended_at: datetime | None = None
    ended_seq: int | None = None
    error: ErrorInfo | None = None
    output: Body | None = None
    suspension: Suspension | None = None
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    artifacts: Mapping[str, BlobRef] = field(default_factory=dict[str, BlobRef])

    @property
    def id(self) -> str:
        """The stage's id in its workflow."""
        return self.plan.id

    @property
    def poll_at(self) -> datetime:
        """When its check is due, while it is suspended: at the next look, and at its limit at the latest."""
        assert self.suspension is not None
        return min(self.suspension.next_poll_at, self.suspension.max_wait_until)

    @property
    def active(self) -> bool:
        """Whether the stage has not ended."""
        return self.status in ACTIVE


def fresh_stage(plan: PlannedStage, *, execution: int = 1, tokens: tuple[str, ...] = ()) -> StageState:
    """A stage whose turn has not come, in its first execution, or in a new one after attempts under these tokens."""
    return StageState(plan=plan, execution=execution, tokens=tokens)


def next_attempt(stage: StageState) -> int:
    """The number of the stage's next attempt; one that was handed back, or that resumes, has its number again."""
    return max(stage.attempt, 1) if stage.given_back else stage.attempt + 1


def evolve_stage(stage: StageState, fact: StageFact, *, seq: int, at: datetime, run_id: str) -> StageState:
    """The stage after the fact.

    Raises: IllegalTransition, when the stage's status does not admit the fact.
    """
    status = advance(STAGE_TRANSITIONS, stage.status, fact.type, subject=f'Stage "{stage.id}" of run "{run_id}"')
    return _EVOLVE[type(fact)](stage, fact, status, seq, at)


def _scheduled(stage: StageState, fact: StageScheduled, status: Status, _seq: int, _at: datetime) -> StageState:
    return replace(stage, status=status, scheduled=True, due_at=fact.due_at)


def _started(stage: StageState, fact: StageStarted, status: Status, _seq: int, at: datetime) -> StageState:
    return replace(
        stage,
        status=status,
        scheduled=True,
        attempt=fact.attempt,
        token=fact.token,
        tokens=(*stage.tokens, fact.token),
        due_at=None,
        given_back=False,
        keys=stage.keys if fact.key is None else (*stage.keys, fact.key),
        key=fact.key,
        started_at=stage.started_at or at,
        attempt_started_at=at,
    )


def _completed(stage: StageState, fact: StageCompleted, status: Status, seq: int, at: datetime) -> StageState:
    return replace(
        stage,
        status=status,
        token=None,
        due_at=None,
        ended_at=at,
        ended_seq=seq,
        error=None,
        suspension=None,
        output=Body(seq, fact.output_blob),
        metrics=_added(stage.metrics, fact.metrics),
        artifacts=fact.artifacts or {},
    )


def _failed(stage: StageState, fact: StageFailed, status: Status, seq: int, at: datetime) -> StageState:
    return replace(
        stage,
        status=status,
        token=None,
        due_at=None,
        ended_at=at,
        ended_seq=seq,
        error=fact.error,
        suspension=None,
    )


def _retrying(stage: StageState, fact: StageRetrying, status: Status, _seq: int, _at: datetime) -> StageState:
    counted = fact.cause in ("raised", "timeout")
    lost = fact.cause == "lost"
    return replace(
        stage,
        status=status,
        token=None,
        due_at=fact.due_at,
        given_back=fact.cause == "drained" or stage.status is Status.SUSPENDED,
        error=stage.error if fact.cause == "drained" else fact.error,
        failures=stage.failures + counted,
        lost=stage.lost + lost,
        lost_in=(*stage.lost_in, fact.owner) if lost and fact.owner is not None else stage.lost_in,
    )


def _suspended(stage: StageState, fact: StageSuspended, status: Status, seq: int, _at: datetime) -> StageState:
    return replace(
        stage,
        status=status,
        token=None,
        due_at=None,
        given_back=True,
        error=None,
        metrics=_added(stage.metrics, fact.metrics),
        suspension=Suspension(
            seq=seq,
            state=Body(fact.state_seq or seq, fact.state_blob),
            next_poll_at=fact.next_poll_at,
            max_wait_until=fact.max_wait_until,
            poll_interval_s=fact.poll_interval_s,
            check_failures=fact.check_failures or 0,
        ),
    )


def _given_up(
    stage: StageState, _fact: StageCancelled | StageSkipped, status: Status, seq: int, at: datetime
) -> StageState:
    return replace(stage, status=status, token=None, due_at=None, ended_at=at, ended_seq=seq, suspension=None)


def _added(old: Mapping[str, float], new: Mapping[str, float] | None) -> Mapping[str, float]:
    """A suspension and the completion after it both count."""
    if not new or not old:
        return new or old
    return {name: _sum(old.get(name, 0), new.get(name, 0)) for name in {**old, **new}}


def _sum(one: float, other: float) -> float:
    """As people add: 0.1 and 0.2 USD are 0.3 USD."""
    if isinstance(one, int) and isinstance(other, int):
        return one + other
    return float(Decimal(str(one)) + Decimal(str(other)))


_EVOLVE: Mapping[type, Callable[[StageState, Any, Status, int, datetime], StageState]] = {
    StageScheduled: _scheduled,
    StageStarted: _started,
    StageCompleted: _completed,
    StageFailed: _failed,
    StageRetrying: _retrying,
    StageSuspended: _suspended,
    StageCancelled: _given_up,
    StageSkipped: _given_up,
}
