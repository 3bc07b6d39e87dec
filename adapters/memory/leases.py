"""Leases: opening, renewing and ending sessions, and taking runs for them.

A lease ends by the store's clock, whether or not anybody looks; *condemning* says so for ever, and only the runs of
condemned sessions may be taken. A session that has expired can no longer renew, so it cannot come back either.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from heapq import nsmallest

from adapters.memory import jobs
from adapters.memory.scheduler import next_due
from adapters.memory.tables import PRIORITY_STEP, Run, Session, Tables, history_of
from kernel.errors import LeaseLost, WorkflowNotFound
from kernel.model.facts import FORMAT
from kernel.ports.persistence import Beat, Claimed, Lease, SessionInfo, StoredHistory, SuspendedRuns

__all__ = ["beat", "close", "condemn", "hold_suspended", "look", "open_new", "take"]

DUE_MAX = 100
"""A heartbeat counts runnable runs up to here: more would not change what anybody does."""


def open_new(
    tables: Tables,
    session_id: str,
    info: SessionInfo,
    workflows: Sequence[tuple[str, str]],
    *,
    lease: timedelta,
    queues: Sequence[str],
    now: datetime,
) -> None:
    """Begin a lease. Raises: WorkflowNotFound, for a definition that nobody has registered."""
    for workflow_id, version in workflows:
        if (workflow_id, version) not in tables.workflows:
            known = (known_id for known_id, _ in tables.workflows)
            raise WorkflowNotFound(workflow_id, version=version, known=known)
    tables.sessions[session_id] = Session(
        session_id=session_id,
        info=info,
        definitions=frozenset(workflows),
        lease=lease,
        expires_at=now + lease,
        queues=frozenset(queues),
    )


def close(tables: Tables, session_id: str) -> None:
    """End a lease before its time; repeated or unknown, it does nothing."""
    session = tables.sessions.get(session_id)
    if session is not None:
        session.condemned = True
        tables.forget_if_done(session)


def condemn(tables: Tables, now: datetime, *, limit: int | None = None) -> Sequence[str]:
    """Condemn sessions that have expired, longest first, and return their ids."""
    expired = [session for session in tables.sessions.values() if not session.condemned and not session.live(now)]
    expired.sort(key=lambda session: session.expires_at)
    for session in expired[:limit]:
        session.condemned = True
        tables.forget_if_done(session)
    return tuple(session.session_id for session in expired[:limit])


def beat(tables: Tables, session_id: str, now: datetime, *, adrift: bool) -> Beat:
    """Renew, condemn the others that have expired, and tell what is new."""
    session = tables.find_live(session_id, now)
    if session is not None:
        session.expires_at = now + session.lease
    condemn(tables, now)
    if session is None:
        return Beat(alive=False, now=now)
    runnable, next_due_at = _outlook(tables, session, now)
    jobs_due, jobs_lost, next_job_at = jobs.outlook(tables, session, now)
    return Beat(
        alive=True,
        now=now,
        attention=tuple(run.run_id for run in session.runs.values() if run.attention),
        adrift=tuple((run.run_id, run.claim) for run in session.runs.values()) if adrift else (),
        due=min(runnable, DUE_MAX),
        next_due_at=next_due_at,
        others=sum(other is not session for other in tables.live_sessions(now)),
        next_command_at=next_due(tables, {workflow_id for workflow_id, _ in session.definitions}),
        jobs_due=jobs_due,
        jobs_lost=jobs_lost,
        next_job_at=next_job_at,
    )


def look(tables: Tables, definitions: Sequence[tuple[str, str]], limit: int, now: datetime) -> Sequence[StoredHistory]:
    """What a claim for these definitions would take."""
    known = frozenset(definitions)
    left = (run for run in _orphans(tables, known) if not run.ended)
    orphans = nsmallest(limit, left, key=_claiming_order)
    waiting = _known(tables.waiting.values(), known)
    ready = (run for run in waiting if run.wake_at is not None and run.wake_at <= now)
    due = nsmallest(limit - len(orphans), ready, key=_claiming_order)
    return tuple(history_of(tables, run, now) for run in (*orphans, *due))


def take(tables: Tables, session_id: str, limit: int, now: datetime) -> Sequence[Claimed]:
    """Give the session up to `limit` runs. Raises: LeaseLost."""
    session = tables.find_live(session_id, now)
    if session is None:
        raise LeaseLost(None, session_id=session_id)
    orphans = nsmallest(limit, _orphans(tables, session.definitions), key=_claiming_order)
    waiting = _known(tables.waiting.values(), session.definitions)
    ready = (run for run in waiting if run.wake_at is not None and run.wake_at <= now)
    due = nsmallest(limit - len(orphans), ready, key=_claiming_order)
    return tuple(_taken(tables, run, session, now) for run in (*orphans, *due))


def hold_suspended(
    tables: Tables, workflows: Sequence[tuple[str, str]], limit: int, hold: timedelta, now: datetime
) -> SuspendedRuns:
    """Take suspended runs that are due out of sight until `hold` has passed, and name those driven from outside."""
    known = frozenset(workflows)
    waiting = (run for run in tables.waiting.values() if run.definition in known and run.format <= FORMAT)
    due = ((run.wake_at, run) for run in waiting if run.wake_at is not None and run.wake_at <= now)
    suspended = (pair for pair in due if pair[1].head.phase == "suspended")
    held = [run for _, run in nsmallest(limit, suspended, key=lambda pair: (pair[0], pair[1].run_id))]
    for run in held:
        run.updated_at = now
        tables.place(run, owner=None, wake_at=now + hold)
    owned = (run for session in tables.sessions.values() for run in session.runs.values() if run.attention)
    driven = (run for run in owned if run.definition in known and run.format <= FORMAT and not run.ended)
    attended = nsmallest(limit, driven, key=lambda run: (run.updated_at, run.run_id))
    return SuspendedRuns(held=[run.run_id for run in held], attended=[run.run_id for run in attended])


def _taken(tables: Tables, run: Run, session: Session, now: datetime) -> Claimed:
    previous, due_at = run.owner, run.wake_at
    run.claim += 1
    # Whoever takes the run reads its whole history now, so what was to be noticed has been.
    run.attention = False
    run.updated_at = now
    tables.place(run, owner=session.session_id, wake_at=None)
    lease = Lease(session_id=session.session_id, claim=run.claim)
    waited = None if due_at is None else now - due_at
    return Claimed(lease=lease, previous_owner=previous, history=history_of(tables, run, now), waited=waited)


def _outlook(tables: Tables, session: Session, now: datetime) -> tuple[int, datetime | None]:
    """How many runs the session could take now, and when the next one falls due."""
    runnable = sum(1 for _ in _orphans(tables, session.definitions))
    next_due_at: datetime | None = None
    for run in _known(tables.waiting.values(), session.definitions):
        assert run.wake_at is not None
        if run.wake_at <= now:
            runnable += 1
        elif next_due_at is None or run.wake_at < next_due_at:
            next_due_at = run.wake_at
    return runnable, next_due_at


def _orphans(tables: Tables, known: frozenset[tuple[str, str]]) -> Iterable[Run]:
    """Runs of these definitions whose session is condemned."""
    for other in tables.sessions.values():
        if other.condemned and other.runs:
            yield from _known(other.runs.values(), known)


def _known(runs: Iterable[Run], known: frozenset[tuple[str, str]]) -> Iterable[Run]:
    return (run for run in runs if run.definition in known and run.format <= FORMAT)


def _claiming_order(run: Run) -> datetime:
    since = run.updated_at if run.wake_at is None else run.wake_at
    return since - run.new.priority * PRIORITY_STEP
