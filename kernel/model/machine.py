"""The two state machines, as tables; everything that may happen to a run or a stage stands here and nowhere else.

A row says: in this state, this event leads to that state. A pair without a row is illegal, and `advance` says so. The
diagrams in ARCHITECTURE.md are drawn from these tables, and a test counts that every row has been taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from kernel.errors import IllegalTransition

__all__ = ["ACTIVE", "ENDED", "RUN_TRANSITIONS", "STAGE_TRANSITIONS", "Status", "advance"]


class Status(StrEnum):
    """What a run or a stage is; a run is never SKIPPED, and its SUSPENDED is derived (see `head.phase`)."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    SKIPPED = "SKIPPED"

    # That of Enum is written in Python, and every look into a table or set of statuses would call it.
    __hash__ = str.__hash__


ACTIVE = frozenset({Status.PENDING, Status.RUNNING, Status.SUSPENDED})
ENDED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.SKIPPED})

RUN_TRANSITIONS: Mapping[tuple[Status | None, str], Status] = {
    (None, "run.created"): Status.PENDING,
    (Status.PENDING, "run.started"): Status.RUNNING,
    # A run that SQL created unchecked fails before it starts, when its first owner finds its input invalid.
    (Status.PENDING, "run.failed"): Status.FAILED,
    (Status.PENDING, "run.cancelled"): Status.CANCELLED,
    (Status.RUNNING, "run.owner_changed"): Status.RUNNING,
    (Status.RUNNING, "run.completed"): Status.COMPLETED,
    (Status.RUNNING, "run.failed"): Status.FAILED,
    (Status.RUNNING, "run.cancelled"): Status.CANCELLED,
    (Status.COMPLETED, "run.rerun"): Status.RUNNING,
    (Status.FAILED, "run.rerun"): Status.RUNNING,
    (Status.CANCELLED, "run.rerun"): Status.RUNNING,
}

STAGE_TRANSITIONS: Mapping[tuple[Status | None, str], Status] = {
    # Stages exist from their run's creation.
    (None, "run.created"): Status.PENDING,
    (Status.PENDING, "stage.scheduled"): Status.PENDING,
    (Status.PENDING, "stage.started"): Status.RUNNING,
    (Status.PENDING, "stage.cancelled"): Status.CANCELLED,
    (Status.PENDING, "stage.skipped"): Status.SKIPPED,
    (Status.RUNNING, "stage.completed"): Status.COMPLETED,
    (Status.RUNNING, "stage.failed"): Status.FAILED,
    (Status.RUNNING, "stage.retrying"): Status.PENDING,
    (Status.RUNNING, "stage.suspended"): Status.SUSPENDED,
    (Status.RUNNING, "stage.cancelled"): Status.CANCELLED,
    # A check that is not ready and brings a new state suspends again.
    (Status.SUSPENDED, "stage.suspended"): Status.SUSPENDED,
    (Status.SUSPENDED, "stage.completed"): Status.COMPLETED,
    (Status.SUSPENDED, "stage.failed"): Status.FAILED,
    (Status.SUSPENDED, "stage.retrying"): Status.PENDING,
    (Status.SUSPENDED, "stage.cancelled"): Status.CANCELLED,
    # A rerun begins a new execution of every stage that it discards.
    (Status.COMPLETED, "run.rerun"): Status.PENDING,
    (Status.FAILED, "run.rerun"): Status.PENDING,
    (Status.CANCELLED, "run.rerun"): Status.PENDING,
    (Status.SKIPPED, "run.rerun"): Status.PENDING,
}


def advance(
    table: Mapping[tuple[Status | None, str], Status], state: Status | None, event: str, *, subject: str
) -> Status:
    """The state after the event.

    Raises: IllegalTransition, naming `subject`, when the table has no row for the pair.
    """
    try:
        return table[state, event]
    except KeyError:
        raise IllegalTransition(subject, state="absent" if state is None else state.value, event=event) from None
