"""What a run's history has to tell its trace: reruns, the root's events, and attempts that nobody can tell of any more.

Pure, and only for runs that are sampled. Facts are looked for in the raw JSON first, because most histories have none
of those that matter here, and decoding costs a hundred times as much.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from kernel.errors import ErrorInfo
from kernel.model.facts import (
    CorruptHistory,
    Fact,
    RunOwnerChanged,
    RunRerun,
    StageFailed,
    StageRetrying,
    StageStarted,
    StageSuspended,
    decode_facts,
)
from kernel.ports.persistence import HistoryRow, StoredHistory
from telemetry import names
from telemetry.failures import failure_of_info
from telemetry.run_trace import RunTrace, after_rerun, to_ns

__all__ = [
    "LostAttempt",
    "RootEvent",
    "is_eventful",
    "is_loss_recorded",
    "is_lossy",
    "lost_attempts",
    "present_trace",
    "root_events",
]

EVENTFUL = tuple(f'"{name}"'.encode() for name in names.RUN_EVENTS)
RERUN = b'"run.rerun"'
LOST = "AttemptLost"
"""The class of the error with which the kernel records a lost attempt (`kernel.model.attempts.lose_attempt`)."""

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class RootEvent:
    """Something that the root span tells, under its name in the history."""

    name: str
    at_ns: int
    attributes: Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class LostAttempt:
    """An attempt that went down with its process."""

    stage_id: str
    execution: int
    attempt: int
    token: str
    began_at: datetime
    session_id: str | None
    error: ErrorInfo


def is_eventful(events: Iterable[bytes]) -> bool:
    """Whether these JSON arrays of facts may hold something that the root has to tell."""
    return any(marker in facts for facts in events for marker in EVENTFUL)


def is_lossy(events: bytes) -> bool:
    """Whether this JSON array of facts may record that an attempt was lost."""
    return LOST.encode() in events


def present_trace(trace: RunTrace, stored: StoredHistory) -> RunTrace:
    """The run's trace after the reruns in these rows."""
    if not trace.sampled or not any(RERUN in row.events for row in stored.rows):
        return trace
    for seq, row, fact in _facts(stored):
        if isinstance(fact, RunRerun):
            trace = after_rerun(trace, seq, row.at)
    return trace


def root_events(stored: StoredHistory, *, since: datetime) -> list[RootEvent]:
    """What happened to the run from this moment on, in order."""
    found: list[RootEvent] = []
    for _seq, row, fact in _facts(stored):
        said = _said(fact) if row.at >= since else None
        if said is not None:
            found.append(RootEvent(fact.type, to_ns(row.at), said))
    return found


def _said(fact: Fact) -> Mapping[str, Value] | None:
    match fact:
        case RunOwnerChanged():
            previous: Mapping[str, Value] = {} if fact.previous is None else {names.PREVIOUS_SESSION_ID: fact.previous}
            return {names.SESSION_ID: fact.owner, names.CAUSE: fact.cause, **previous}
        case RunRerun():
            return {names.STAGE_ID: fact.from_stage_id, names.DISCARDED: ",".join(fact.discarded)}
        case StageRetrying():
            return {
                **_stage(fact),
                names.CAUSE: fact.cause,
                names.DUE_AT: fact.due_at.isoformat(),
                "exception.type": fact.error.type,
                "exception.message": failure_of_info(fact.error).message,
            }
        case StageSuspended():
            return {**_stage(fact), names.NEXT_POLL_AT: fact.next_poll_at.isoformat()}
        case _:
            return None


def _stage(fact: StageRetrying | StageSuspended) -> Mapping[str, Value]:
    return {names.STAGE_ID: fact.stage_id, names.STAGE_EXECUTION: fact.execution, names.STAGE_ATTEMPT: fact.attempt}


def lost_attempts(stored: StoredHistory, *, since_seq: int) -> list[LostAttempt]:
    """The attempts whose loss was recorded after this sequence number, in order."""
    started: dict[str, tuple[StageStarted, HistoryRow]] = {}
    found: list[LostAttempt] = []
    for seq, row, fact in _facts(stored):
        if isinstance(fact, StageStarted):
            started[fact.stage_id] = (fact, row)
        elif isinstance(fact, StageRetrying | StageFailed) and fact.error.type == LOST and seq > since_seq:
            begin = started.get(fact.stage_id)
            if begin is not None:
                begun, where = begin
                owner = fact.owner if isinstance(fact, StageRetrying) else None
                found.append(
                    LostAttempt(
                        stage_id=fact.stage_id,
                        execution=begun.execution,
                        attempt=begun.attempt,
                        token=begun.token,
                        began_at=where.at,
                        session_id=owner or where.session_id,
                        error=fact.error,
                    )
                )
    return found


def is_loss_recorded(stored: StoredHistory, token: str) -> bool:
    """Whether the attempt of this token is recorded as lost. Raises nothing; a history that cannot be read says yes."""
    try:
        return any(lost.token == token for lost in lost_attempts(stored, since_seq=0))
    except CorruptHistory:
        return True


def _facts(stored: StoredHistory) -> Iterator[tuple[int, HistoryRow, Fact]]:
    for row in stored.rows:
        for seq, fact in enumerate(decode_facts(row.events, run_id=stored.head.run_id), start=row.first_seq):
            yield seq, row, fact
