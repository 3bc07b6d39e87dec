"""Looking at many runs: heads only, no history is read."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice

from adapters.memory.jobs import waiting
from adapters.memory.tables import Run, Tables, head_row
from kernel.errors import InvalidCommand
from kernel.model.ids import is_run_id
from kernel.model.machine import Status
from kernel.ports.persistence import Backlog, HeadRow, Page, RunQuery

__all__ = ["backlog_of", "ending_with", "page_of"]

SHORT_ID = 8
FOUND_MAX = 10


def page_of(tables: Tables, query: RunQuery, now: datetime) -> Page:
    """The newest runs that the query asks for, older than its cursor; the cursor is the last run's id.

    Raises: InvalidCommand, when the cursor is none.
    """
    if query.after is not None and not is_run_id(query.after):
        raise InvalidCommand(
            f'"{query.after}" is no cursor.', field="after", hint="Pass what the page before gave as next."
        )
    found: list[Run] = []
    for run in _newest_first(tables, before=query.after):
        if not _wanted(run, query):
            continue
        if len(found) == query.limit:
            return Page(heads=_heads(tables, found, now), next=found[-1].run_id)
        found.append(run)
    return Page(heads=_heads(tables, found, now))


def ending_with(tables: Tables, suffix: str) -> Sequence[str]:
    """Ids of the newest runs that end so; a suffix shorter than a short id finds nothing."""
    if len(suffix) < SHORT_ID:
        return ()
    return tuple(islice((run_id for run_id in reversed(tables.newest_last) if run_id.endswith(suffix)), FOUND_MAX))


def backlog_of(tables: Tables, now: datetime) -> Backlog:
    """What waits: due runs, those of condemned owners, events, dead letters."""
    known = {definition for session in tables.live_sessions(now) for definition in session.definitions}
    due = [(run, run.wake_at) for run in tables.waiting.values() if run.wake_at is not None and run.wake_at <= now]
    due += [(run, min(s.expires_at, now)) for s in tables.sessions.values() if s.condemned for run in s.runs.values()]
    unpublished = [run.publish_at for run in tables.unspread.values() if run.publish_at is not None]
    unpublished += [owed.due_at for owed in tables.owed.values()]
    waiting_since = [at for at in unpublished if at <= now]
    return Backlog(
        runnable=Counter(run.new.workflow_id for run, _ in due),
        unknown=sum(run.definition not in known for run, _ in due),
        oldest_age=now - min(at for _, at in due) if due else None,
        queues=waiting(tables, now),
        outbox_lag=now - min(waiting_since) if waiting_since else None,
        dead_letters=len(tables.dead),
    )


def _newest_first(tables: Tables, *, before: str | None) -> Iterator[Run]:
    end = len(tables.newest_last) if before is None else bisect_left(tables.newest_last, before)
    return (tables.runs[tables.newest_last[at]] for at in range(end - 1, -1, -1))


def _wanted(run: Run, query: RunQuery) -> bool:
    if query.workflow_id is not None and run.new.workflow_id != query.workflow_id:
        return False
    if query.since is not None and run.created_at < query.since:
        return False
    return query.status is None or query.status == _shown_status(run)


def _shown_status(run: Run) -> Status:
    return Status.SUSPENDED if run.head.phase == "suspended" else run.head.status


def _heads(tables: Tables, runs: Sequence[Run], now: datetime) -> tuple[HeadRow, ...]:
    return tuple(head_row(tables, run, now) for run in runs)
