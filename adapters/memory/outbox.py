"""Publishing: what is new becomes owed, is claimed for a while, and is settled or put aside."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import islice
from operator import attrgetter
from uuid import uuid4

from adapters.memory.tables import Owed, Run, Tables
from kernel.ports.outbox import DeadLetter, DeadLetterPage, Delivery, Settlement, SinkRecord
from kernel.ports.persistence import HistoryRow

__all__ = ["claim", "dead_letters", "forget", "known_sinks", "register", "replay", "settle", "spread"]

ROWS_MAX = 50
"""Appends of one run that are read at a time."""


def register(tables: Tables, sinks: Sequence[SinkRecord]) -> None:
    """Add sinks, or replace what is known of them."""
    for sink in sinks:
        tables.sinks[sink.name] = SinkRecord(name=sink.name, events=sink.events)


def forget(tables: Tables, name: str) -> bool:
    """Delete a sink and all that it is owed."""
    if tables.sinks.pop(name, None) is None:
        return False
    for key in [key for key in tables.owed if key[1] == name]:
        del tables.owed[key]
    for letter in [letter for letter in tables.dead.values() if letter.sink == name]:
        del tables.dead[letter.id]
    return True


def known_sinks(tables: Tables) -> Sequence[SinkRecord]:
    """The sinks, with the number of runs of which each is owed something."""
    return [
        SinkRecord(name=name, events=sink.events, owed=sum(key[1] == name for key in tables.owed))
        for name, sink in sorted(tables.sinks.items())
    ]


def spread(tables: Tables, limit: int, now: datetime) -> int:
    """Make deliveries of what is new."""
    waiting = sorted(tables.unspread.values(), key=lambda run: run.publish_at or now)[:limit]
    for run in waiting:
        for name in tables.sinks:
            owed = tables.owed.get((run.run_id, name, 0))
            if owed is not None:
                owed.last_seq = run.seq
            else:
                first = run.published_seq + 1
                fresh = Owed(next_seq=first, last_seq=run.seq, due_at=now)
                tables.owed[run.run_id, name, 0] = fresh
        run.published_seq, run.publish_at = run.seq, None
        del tables.unspread[run.run_id]
    return len(waiting)


def claim(tables: Tables, sink: str, limit: int, *, lease: timedelta, now: datetime) -> Sequence[Delivery]:
    """Take what is due for the sink."""
    due = sorted(
        (owed.due_at, run_id, replayed)
        for (run_id, name, replayed), owed in tables.owed.items()
        if name == sink and owed.due_at <= now
    )
    claimed: list[Delivery] = []
    for _, run_id, replayed in due[:limit]:
        owed = tables.owed[run_id, sink, replayed]
        owed.due_at, owed.token = now + lease, str(uuid4())
        claimed.append(
            Delivery(
                run_id=run_id,
                sink=sink,
                replayed=replayed,
                token=owed.token,
                next_seq=owed.next_seq,
                last_seq=owed.last_seq,
                tries=owed.tries,
                rows=_rows(tables.runs.get(run_id), owed),
            )
        )
    return claimed


def _rows(run: Run | None, owed: Owed) -> Sequence[HistoryRow]:
    if run is None:
        return ()
    start = bisect_left(run.rows, owed.next_seq, key=attrgetter("seq"))
    rows = islice(run.rows, start, start + ROWS_MAX)
    return tuple(row for row in rows if row.first_seq <= owed.last_seq)


def settle(tables: Tables, settlements: Sequence[Settlement], now: datetime) -> None:
    """Write down how far each has come; what somebody else has claimed since stays as it is."""
    for settlement in settlements:
        delivery = settlement.delivery
        key = (delivery.run_id, delivery.sink, delivery.replayed)
        owed = tables.owed.get(key)
        if owed is None or owed.token != delivery.token:
            continue
        for refused in settlement.dead:
            _bury(tables, delivery, refused.seq, refused.tries, refused.error, now)
        if settlement.next_seq > owed.last_seq:
            del tables.owed[key]
        else:
            owed.next_seq, owed.tries, owed.error = settlement.next_seq, settlement.tries, settlement.error
            owed.due_at, owed.token = now + settlement.delay, None


def _bury(tables: Tables, delivery: Delivery, seq: int, tries: int, error: str, now: datetime) -> None:
    there = (letter.id for letter in tables.dead.values() if _event_of(letter) == (delivery.sink, delivery.run_id, seq))
    for letter_id in list(there):
        del tables.dead[letter_id]
    tables.dead_count += 1
    tables.dead[tables.dead_count] = DeadLetter(
        id=tables.dead_count,
        run_id=delivery.run_id,
        seq=seq,
        sink=delivery.sink,
        error=error,
        tries=tries,
        failed_at=now,
    )


def _event_of(letter: DeadLetter) -> tuple[str, str, int]:
    return letter.sink, letter.run_id, letter.seq


def replay(tables: Tables, limit: int, now: datetime) -> int:
    """Make deliveries of the oldest dead letters."""
    letters = [tables.dead[letter_id] for letter_id in sorted(tables.dead)[:limit]]
    for letter in letters:
        del tables.dead[letter.id]
        once = Owed(next_seq=letter.seq, last_seq=letter.seq, due_at=now)
        tables.owed.setdefault((letter.run_id, letter.sink, letter.seq), once)
    return len(letters)


def dead_letters(tables: Tables, *, after: int, limit: int) -> DeadLetterPage:
    """A page of dead letters."""
    found = [tables.dead[letter_id] for letter_id in sorted(tables.dead) if letter_id > after]
    page = found[:limit]
    return DeadLetterPage(letters=page, next=page[-1].id if len(found) > limit else None)
