"""The annotations of a run, read from its history."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.postgres.connections import Line
from adapters.postgres.failures import mapped
from adapters.postgres.statements import Schema, statement
from kernel.model.ids import is_run_id
from kernel.ports.persistence import StoredNote

__all__ = ["Notes"]


class Notes:
    """`kernel.ports.persistence.Notes`."""

    def __init__(self, line: Line, schema: Schema) -> None:
        self._line = line
        self._sql = statement("read_notes", schema)

    async def read_notes(self, run_id: str, after: int, limit: int) -> Sequence[StoredNote]:
        if not is_run_id(run_id):
            return []
        with mapped("read annotations"):
            rows = await self._line.fetch("read annotations", self._sql, run_id, after, limit)
        return [
            StoredNote(seq=row["seq"], at=row["at"], fact=row["fact"].encode(), value=row["value"].encode())
            for row in rows
        ]
