"""What the store holds: plain records, and the few indexes that keep claiming and listing cheap.

The functions in the neighbouring modules read and change these tables inside one call, under one lock, and change
nothing before they have checked everything: that is the whole of atomicity here. Nothing waits in this module, and
nothing in it leaves the adapter; `head_row` and the history rows, which do, are values that nobody can change.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from operator import attrgetter

from pydantic_core import from_json, to_json

from kernel.model.head import Head
from kernel.model.machine import ENDED
from kernel.ports.outbox import DeadLetter, SinkRecord
from kernel.ports.persistence import (
    HeadRow,
    HistoryRow,
    LogLine,
    NewRun,
    SessionInfo,
    StoredHistory,
    WorkflowRecord,
)
from kernel.ports.scheduler import ScheduledCommand

__all__ = ["PRIORITY_STEP", "Job", "Key", "Owed", "Run", "Session", "Tables", "Waiting", "head_row", "history_of"]

Definition = tuple[str, str]

PRIORITY_STEP = timedelta(seconds=10)
"""How much waiting one step of priority is worth; the order is then a constant of the run, and nothing starves."""


@dataclass(slots=True, kw_only=True)
class Run:
    """A head and its history; `metadata` is JSON, so that nobody outside holds a part of it."""

    run_id: str
    new: NewRun
    metadata: bytes | None
    head: Head
    seq: int
    created_at: datetime
    updated_at: datetime
    owner: str | None = None
    claim: int = 0
    attention: bool = False
    wake_at: datetime | None = None
    parked_reason: str | None = None
    parked_at: datetime | None = None
    format: int = 1
    poll_state: dict[str, object] | None = None
    published_seq: int = 0
    publish_at: datetime | None = None
    rows: list[HistoryRow] = field(default_factory=list[HistoryRow])

    @property
    def definition(self) -> Definition:
        """What the run is a run of."""
        return self.new.workflow_id, self.new.workflow_version

    @property
    def ended(self) -> bool:
        """Whether the run has completed, failed or been cancelled."""
        return self.head.status in ENDED


@dataclass(slots=True, kw_only=True)
class Session:
    """A lease. `runs` are those that it owns, in the order in which it got them; `jobs` counts those it has taken."""

    session_id: str
    info: SessionInfo
    definitions: frozenset[Definition]
    lease: timedelta
    expires_at: datetime
    queues: frozenset[str] = frozenset()
    condemned: bool = False
    jobs: int = 0
    runs: dict[str, Run] = field(default_factory=dict[str, Run])

    def live(self, now: datetime) -> bool:
        """Whether the session may still write."""
        return not self.condemned and now < self.expires_at


@dataclass(slots=True, kw_only=True)
class Job:
    """An attempt that is executed from a queue; without a token nobody has taken it."""

    run_id: str
    stage_id: str
    queue: str
    due_at: datetime
    polls: bool
    lost: int
    token: str | None = None
    session_id: str | None = None
    lease_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An idempotency key that has been admitted."""

    run_id: str
    digest: str
    expires_at: datetime


@dataclass(slots=True, kw_only=True)
class Waiting:
    """A scheduled command; `state` is waiting, taken or failed, and a taken one is due again when its lease ends."""

    command: ScheduledCommand
    due_at: datetime
    state: str = "waiting"
    tries: int = 0
    error: str | None = None


@dataclass(slots=True, kw_only=True)
class Owed:
    """Events `next_seq` to `last_seq` that a sink is owed, and who has claimed them."""

    next_seq: int
    last_seq: int
    due_at: datetime
    tries: int = 0
    token: str | None = None
    error: str | None = None


@dataclass(slots=True)
class Tables:
    """Everything that is stored. `newest_last` are all run ids in order, `waiting` the runs that a claim may find."""

    runs: dict[str, Run] = field(default_factory=dict[str, Run])
    newest_last: list[str] = field(default_factory=list[str])
    waiting: dict[str, Run] = field(default_factory=dict[str, Run])
    sessions: dict[str, Session] = field(default_factory=dict[str, Session])
    workflows: dict[Definition, WorkflowRecord] = field(default_factory=dict[Definition, WorkflowRecord])
    jobs: dict[tuple[str, str], Job] = field(default_factory=dict[tuple[str, str], Job])
    keys: dict[tuple[str, str, str], Key] = field(default_factory=dict[tuple[str, str, str], Key])
    logs: dict[str, list[tuple[LogLine, bytes]]] = field(default_factory=dict[str, list[tuple[LogLine, bytes]]])
    log_count: int = 0
    chores: dict[str, datetime] = field(default_factory=dict[str, datetime])
    scheduled: dict[str, Waiting] = field(default_factory=dict[str, Waiting])
    sinks: dict[str, SinkRecord] = field(default_factory=dict[str, SinkRecord])
    unspread: dict[str, Run] = field(default_factory=dict[str, Run])
    # By run, sink, and the one event that is replayed, or 0.
    owed: dict[tuple[str, str, int], Owed] = field(default_factory=dict[tuple[str, str, int], Owed])
    dead: dict[int, DeadLetter] = field(default_factory=dict[int, DeadLetter])
    dead_count: int = 0

    def insert(self, run: Run) -> None:
        """Add a new run that nobody owns yet."""
        self.runs[run.run_id] = run
        insort(self.newest_last, run.run_id)

    def place(self, run: Run, *, owner: str | None, wake_at: datetime | None) -> None:
        """Give the run to an owner, or to nobody until `wake_at`; the only place that changes either."""
        if run.owner is not None and run.owner != owner:
            previous = self.sessions[run.owner]
            del previous.runs[run.run_id]
            self.forget_if_done(previous)
        run.owner, run.wake_at = owner, wake_at
        if owner is not None:
            self.sessions[owner].runs[run.run_id] = run
        if owner is None and wake_at is not None:
            self.waiting[run.run_id] = run
        else:
            self.waiting.pop(run.run_id, None)

    def forget_if_done(self, session: Session) -> None:
        """Delete a condemned session that owns nothing any more."""
        if session.condemned and not session.runs and not session.jobs:
            self.sessions.pop(session.session_id, None)

    def live_sessions(self, now: datetime) -> Iterator[Session]:
        """The sessions that may still write."""
        return (session for session in self.sessions.values() if session.live(now))

    def find_live(self, session_id: str, now: datetime) -> Session | None:
        """The session, if it may still write."""
        session = self.sessions.get(session_id)
        return session if session is not None and session.live(now) else None


def head_row(tables: Tables, run: Run, now: datetime) -> HeadRow:
    """The head as it is now."""
    new = run.new
    metadata: Mapping[str, object] | None = None if run.metadata is None else from_json(run.metadata)
    return HeadRow(
        run_id=run.run_id,
        workflow_id=new.workflow_id,
        workflow_version=new.workflow_version,
        fingerprint=new.fingerprint,
        seq=run.seq,
        head=replace(run.head, wake_at=run.wake_at),
        priority=new.priority,
        owner=run.owner,
        claim=run.claim,
        owner_live=run.owner is not None and tables.sessions[run.owner].live(now),
        attention=run.attention,
        run_at=new.run_at,
        parked_reason=run.parked_reason,
        parked_at=run.parked_at,
        format=run.format,
        idempotency_key=new.idempotency_key,
        metadata=metadata,
        root_span_id=new.root_span_id,
        trace_context=None if new.trace_context is None else dict(new.trace_context),
        created_at=run.created_at,
        updated_at=run.updated_at,
        poll_state=None if run.poll_state is None else to_json(run.poll_state),
    )


def history_of(tables: Tables, run: Run, now: datetime, *, after: int = 0, bodies: bool = True) -> StoredHistory:
    """The head and the rows that end after sequence number `after`."""
    rows = run.rows[bisect_right(run.rows, after, key=attrgetter("seq")) :]
    if not bodies:
        rows = [replace(row, bodies={}) if row.bodies else row for row in rows]
    return StoredHistory(head=head_row(tables, run, now), rows=tuple(rows))
