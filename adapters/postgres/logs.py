"""What stage bodies log, kept with the run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from adapters.log_lines import storable_line
from adapters.postgres.connections import Line
from adapters.postgres.failures import mapped
from adapters.postgres.statements import Schema, statement
from kernel.model.ids import is_run_id
from kernel.ports.persistence import LogLine

if TYPE_CHECKING:
    from asyncpg import Record

__all__ = ["Logs"]


class Logs:
    """`kernel.ports.persistence.Logs`."""

    def __init__(self, line: Line, schema: Schema) -> None:
        self._line = line
        self._sql_write = statement("write_logs", schema)
        self._sql_read = statement("read_logs", schema)
        self._sql_progress = statement("read_progress", schema)

    async def write_logs(self, lines: Sequence[LogLine]) -> None:
        rows = [_parameters(storable_line(line)) for line in lines if is_run_id(line.run_id)]
        if not rows:
            return
        with mapped("write logs"):
            # Sent twice they would be there twice.
            await self._line.fetch("write logs", self._sql_write, *zip(*rows, strict=True), repeat=False)

    async def read_logs(self, run_id: str, after: int, limit: int) -> Sequence[LogLine]:
        if not is_run_id(run_id):
            return []
        with mapped("read logs"):
            rows = await self._line.fetch("read logs", self._sql_read, run_id, after, limit)
        return [_line(run_id, row) for row in rows]

    async def read_progress(self, run_id: str) -> Mapping[str, LogLine]:
        if not is_run_id(run_id):
            return {}
        with mapped("read progress"):
            rows = await self._line.fetch("read progress", self._sql_progress, run_id)
        return {row["stage_id"]: _line(run_id, row) for row in rows}


def _parameters(line: LogLine) -> tuple[object, ...]:
    return (
        line.run_id,
        line.stage_id,
        line.execution,
        line.attempt,
        line.at,
        line.level,
        line.message,
        json.dumps(line.fields, separators=(",", ":")) if line.fields else None,
    )


def _line(run_id: str, row: Record) -> LogLine:
    return LogLine(
        run_id=run_id,
        stage_id=row["stage_id"],
        execution=row["execution"],
        attempt=row["attempt"],
        at=row["at"],
        level=row["level"],
        message=row["message"],
        fields={} if row["fields"] is None else json.loads(row["fields"]),
        id=row["id"],
    )
