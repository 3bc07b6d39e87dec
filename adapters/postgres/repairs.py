"""Runs that nothing will move: finding them, mending their heads, and whose turn it is to do so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from adapters.postgres.connections import Line
from adapters.postgres.failures import mapped
from adapters.postgres.payloads import error_text
from adapters.postgres.statements import Schema, statement
from kernel.model.head import Head
from kernel.model.machine import ENDED
from kernel.ports.persistence import Suspects

__all__ = ["Repairs"]


class Repairs:
    """`kernel.ports.persistence.Repairs`."""

    def __init__(self, line: Line, schema: Schema, hint: Callable[[bool], None]) -> None:
        self._line = line
        self._hint = hint
        self._sql_find = statement("find_stuck", schema)
        self._sql_unknown = statement("find_unknown", schema)
        self._sql_heal = statement("heal_run", schema)
        self._sql_chore = statement("take_chore", schema)

    async def find_stuck(self, after: str | None, limit: int, events_max: int) -> Suspects:
        with mapped("look for stuck runs"):
            rows = await self._line.fetch("look for stuck runs", self._sql_find, after, limit, events_max)
        return Suspects(run_ids=rows[0]["ids"], next=rows[0]["next"])

    async def find_unknown(self, grace: timedelta, limit: int) -> Sequence[str]:
        with mapped("look for runs of unknown workflows"):
            rows = await self._line.fetch("look for runs of unknown workflows", self._sql_unknown, grace, limit)
        return [row[0] for row in rows]

    async def heal(self, run_id: str, head: Head, expected: int, seq: int) -> bool:
        with mapped("repair a run"):
            # Not repeated when the answer is lost: the next look tells whether it was done.
            rows = await self._line.fetch(
                "repair a run",
                self._sql_heal,
                run_id,
                expected,
                seq,
                None if head.status in ENDED else head.wake_at,
                head.status.value,
                head.phase,
                head.started_at,
                head.completed_at,
                format(head.total_cost, "f"),
                head.total_tokens,
                None if head.error is None else error_text(head.error),
                repeat=False,
            )
        if rows:
            self._hint(True)  # somebody may take it now
        return bool(rows)

    async def take_chore(self, name: str, session_id: str, every: timedelta) -> bool:
        with mapped("ask for a chore"):
            rows = await self._line.fetch("ask for a chore", self._sql_chore, name, session_id, every, repeat=False)
        return bool(rows)
