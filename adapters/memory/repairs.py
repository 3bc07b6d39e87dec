"""Runs that nothing will move: finding them, mending their heads, and whose turn it is to do so."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime, timedelta

from adapters.memory.tables import Run, Tables
from kernel.model.head import Head
from kernel.ports.persistence import Suspects

__all__ = ["mend", "suspects_in", "take_turn", "unknown_in"]


def suspects_in(tables: Tables, *, after: str | None, limit: int, events_max: int) -> Suspects:
    """Those among the next heads that are neither owned nor due."""
    start = 0 if after is None else bisect_right(tables.newest_last, after)
    idle = [run_id for run_id in tables.newest_last[start:] if _is_idle(tables.runs[run_id])]
    page = idle[:limit]
    found = [
        run_id for run_id in page if _is_stuck(tables, tables.runs[run_id]) or tables.runs[run_id].seq > events_max
    ]
    return Suspects(run_ids=found, next=page[-1] if len(idle) > limit else None)


def unknown_in(tables: Tables, *, grace: timedelta, limit: int, now: datetime) -> Sequence[str]:
    """Those that have been due for long, longest first, and that nobody knows."""
    remembered = [session for session in tables.sessions.values() if session.expires_at > now - grace]
    known = {definition for session in remembered for definition in session.definitions}
    unowned = [run for run in tables.waiting.values() if run.wake_at is not None and run.wake_at <= now - grace]
    orphans = [
        run
        for session in tables.sessions.values()
        if session.condemned and session.expires_at <= now - grace
        for run in session.runs.values()
        if not run.ended
    ]
    unknown = [run for run in (*unowned, *orphans) if run.definition not in known]
    return [run.run_id for run in sorted(unknown, key=lambda run: run.wake_at or now)[:limit]]


def mend(tables: Tables, run_id: str, head: Head, *, expected: int, seq: int, now: datetime) -> bool:
    """Replace the head of a run that is stuck."""
    run = tables.runs.get(run_id)
    if run is None or run.seq != expected or not _is_idle(run):
        return False
    run.seq, run.head, run.updated_at = seq, head, now
    tables.place(run, owner=None, wake_at=None if run.ended or head.wake_at is None else max(head.wake_at, now))
    return True


def take_turn(tables: Tables, name: str, *, every: timedelta, now: datetime) -> bool:
    """Let one caller per so much time through."""
    if tables.chores.get(name, now) > now:
        return False
    tables.chores[name] = now + every
    return True


def _is_idle(run: Run) -> bool:
    return run.owner is None and run.wake_at is None and run.parked_reason is None and run.head.completed_at is None


def _is_stuck(tables: Tables, run: Run) -> bool:
    if not _is_idle(run):
        return False
    return all(run_id != run.run_id for run_id, _ in tables.jobs)
