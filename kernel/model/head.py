"""The head of a run: the little that a store keeps beside the history so that runs can be claimed and listed.

It is always derived from the state, never decided by itself; an append carries the head that its facts lead to.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from kernel.model.jobs import queue_of
from kernel.model.machine import Status
from kernel.model.plan import due
from kernel.model.run import RunError, RunState

__all__ = ["Head", "Phase", "head_of", "shown_status"]

Phase = Literal["pending", "delayed", "running", "retrying", "suspended", "queued", "ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a listing shows of a run and what claiming needs; `wake_at` is meant for the time without an owner.

    `phase` says what an active run is waiting for, as far as its own state tells. A `wake_at` in the past means now;
    None means that nothing will ever be due by itself.
    """

    status: Status
    phase: Phase
    wake_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    total_cost: Decimal
    total_tokens: int
    error: RunError | None


def head_of(state: RunState) -> Head:
    """The head that belongs to this state."""
    return Head(
        status=state.status,
        phase=_phase(state),
        wake_at=due(state),
        started_at=state.started_at,
        completed_at=state.ended_at,
        total_cost=state.total_cost,
        total_tokens=state.total_tokens,
        error=state.error,
    )


def shown_status(head: Head) -> Status:
    """The status as people are told it: SUSPENDED, too, of a run whose every active stage is."""
    return Status.SUSPENDED if head.phase == "suspended" else head.status


def _phase(state: RunState) -> Phase:
    if state.ended:
        return "ended"
    if state.status is Status.PENDING:
        return "pending" if state.run_at is None else "delayed"
    active = [] if state.group == 0 else [stage for stage in state.in_group(state.group) if stage.active]
    if active and all(stage.status is Status.SUSPENDED for stage in active):
        return "suspended"
    if any(stage.status is Status.RUNNING for stage in active):
        return "running"
    if any(stage.due_at is not None for stage in active):
        return "retrying"
    return "queued" if active and all(queue_of(state, stage) is not None for stage in active) else "running"
