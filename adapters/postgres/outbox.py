"""Publishing: spreading what is new, claiming what is owed, and settling it; and the dead letters.

Both scans, of runs with news and of deliveries that are due, begin at a low-water mark as claims of runs do
(`adapters.postgres.claims`): what was taken leaves index entries behind at the lower end of the range that is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import groupby
from time import monotonic
from typing import TYPE_CHECKING
from uuid import uuid4

from adapters.postgres.claims import LONG_AGO, MARGIN, Mark
from adapters.postgres.connections import Line
from adapters.postgres.failures import mapped
from adapters.postgres.payloads import is_storable
from adapters.postgres.reading import history_row
from adapters.postgres.statements import Schema, statement
from kernel.ports.outbox import DeadLetter, DeadLetterPage, Delivery, Settlement, SinkRecord

if TYPE_CHECKING:
    from asyncpg import Record

__all__ = ["ROWS_MAX", "Outbox", "settled_columns"]

ROWS_MAX = 50
"""Appends of one run that are read at a time: a long history comes in pieces."""
OWED_MAX = 10_000
"""How far what a sink is owed is counted."""
TRIES = 4


class Outbox:
    """`kernel.ports.outbox.Outbox`."""

    def __init__(self, line: Line, schema: Schema) -> None:
        self._line = line
        self._spread_mark = Mark()
        self._due_marks: dict[str, Mark] = {}
        self._sql_register = statement("register_sinks", schema)
        self._sql_forget = statement("forget_sink", schema)
        self._sql_sinks = statement("list_sinks", schema)
        self._sql_spread = statement("spread", schema)
        self._sql_claim = statement("claim_deliveries", schema)
        self._sql_settle = statement("settle_deliveries", schema)
        self._sql_replay = statement("replay_dead_letters", schema)
        self._sql_dead = statement("list_dead_letters", schema)

    async def register_sinks(self, sinks: Sequence[SinkRecord]) -> None:
        types = [None if sink.events is None else ",".join(sink.events) for sink in sinks]
        with mapped("register sinks"):
            await self._line.fetch("register sinks", self._sql_register, [sink.name for sink in sinks], types)

    async def forget_sink(self, name: str) -> bool:
        if not is_storable(name):
            return False
        with mapped("forget a sink"):
            return bool(await self._line.fetch("forget a sink", self._sql_forget, name))

    async def list_sinks(self) -> Sequence[SinkRecord]:
        with mapped("list sinks"):
            rows = await self._line.fetch("list sinks", self._sql_sinks, OWED_MAX)
        return [SinkRecord(name=row["name"], events=row["event_types"], owed=row["owed"]) for row in rows]

    async def spread(self, limit: int) -> int:
        moved, picked, tries = 0, limit, 0
        # All that was picked was locked by others, who are spreading it: there may be more behind it.
        while not moved and picked >= limit and tries < TRIES:
            tries += 1
            moved, picked = await self._spread_once(limit)
        return moved

    async def _spread_once(self, limit: int) -> tuple[int, int]:
        mark = self._spread_mark
        lower, began = mark.lower(), monotonic()
        with mapped("spread events"):
            (row,) = await self._line.fetch("spread events", self._sql_spread, limit, lower)
        mark.scanned(lower, monotonic() - began)
        _move(mark, row, full=row["picked"] == limit)
        return row["moved"], row["picked"]

    async def claim_deliveries(self, sink: str, limit: int, *, lease: timedelta) -> Sequence[Delivery]:
        claimed: Sequence[Delivery] = ()
        picked, tries = limit, 0
        while not claimed and picked >= limit and tries < TRIES:
            tries += 1
            claimed, picked = await self._claim_once(sink, limit, lease)
        return claimed

    async def _claim_once(self, sink: str, limit: int, lease: timedelta) -> tuple[Sequence[Delivery], int]:
        mark = self._due_marks.setdefault(sink, Mark())
        lower, began, token = mark.lower(), monotonic(), str(uuid4())
        with mapped("claim deliveries"):
            # Not repeated when the answer is lost: what was taken then is due again when the claim has ended.
            rows = await self._line.fetch(
                "claim deliveries", self._sql_claim, sink, limit, lease, token, ROWS_MAX, lower, repeat=False
            )
        mark.scanned(lower, monotonic() - began)
        _move(mark, rows[0], full=rows[0]["picked"] == limit)
        return _deliveries(rows, sink, token), rows[0]["picked"]

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        if not settlements:
            return
        with mapped("settle deliveries"):
            # Sent twice it finds nothing the second time: the claim is over.
            await self._line.fetch("settle deliveries", self._sql_settle, *settled_columns(settlements))

    async def replay_dead_letters(self, limit: int) -> int:
        with mapped("replay dead letters"):
            (row,) = await self._line.fetch("replay dead letters", self._sql_replay, limit, repeat=False)
        replayed: int = row["replayed"]
        return replayed

    async def list_dead_letters(self, after: int, limit: int) -> DeadLetterPage:
        with mapped("list dead letters"):
            rows = await self._line.fetch("list dead letters", self._sql_dead, after, limit + 1)
        letters = [DeadLetter(**dict(row)) for row in rows[:limit]]
        return DeadLetterPage(letters=letters, next=letters[-1].id if len(rows) > limit else None)


def settled_columns(settlements: Sequence[Settlement]) -> Sequence[object]:
    """The parameters of `settle_deliveries.sql`."""
    per_delivery = [
        (
            settlement.delivery.run_id,
            settlement.delivery.sink,
            str(settlement.delivery.replayed),
            settlement.delivery.token,
            str(settlement.next_seq),
            str(settlement.tries),
            f"{settlement.delay.total_seconds():f} s",
            settlement.error,
        )
        for settlement in settlements
    ]
    per_letter = [
        (str(place), str(refused.seq), str(refused.tries), refused.error)
        for place, settlement in enumerate(settlements, start=1)
        for refused in settlement.dead
    ]
    runs, sinks, replayed, tokens, next_seqs, tries, delays, errors = zip(*per_delivery, strict=True)
    places, seqs, dead_tries, dead_errors = zip(*per_letter, strict=True) if per_letter else ((), (), (), ())
    return (
        *(_array(runs), sinks, _array(replayed), _array(tokens), _array(next_seqs), _array(tries), _array(delays)),
        *(errors, _array(places), _array(seqs), _array(dead_tries), dead_errors),
    )


def _array(values: Sequence[str]) -> str:
    """Plain words as the server's text for an array, which spares the driver an encoder per element."""
    return "{" + ",".join(values) + "}"


def _move(mark: Mark, row: Record, *, full: bool) -> None:
    """Begin the next scan where this one ended, less a margin for what is being committed."""
    if not full:
        mark.at = row["now"] - MARGIN
    elif row["last"] is not None:
        mark.at = max(row["last"] - MARGIN, LONG_AGO)


def _deliveries(rows: Sequence[Record], sink: str, token: str) -> Sequence[Delivery]:
    claimed: list[Delivery] = []
    found = (row for row in rows if row["run_id"] is not None)
    for (run_id, replayed), grouped in groupby(found, key=lambda row: (row["run_id"], row["replayed"])):
        of_one = list(grouped)
        claimed.append(
            Delivery(
                run_id=run_id,
                sink=sink,
                replayed=replayed,
                token=token,
                next_seq=of_one[0]["next_seq"],
                last_seq=of_one[0]["last_seq"],
                tries=of_one[0]["tries"],
                rows=[history_row(row) for row in of_one if row["row_seq"] is not None],
            )
        )
    return claimed
