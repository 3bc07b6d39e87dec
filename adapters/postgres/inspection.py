"""Who drives runs, and what sinks have not taken of one: `kernel.ports.diagnosis.Inspection`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adapters.postgres.connections import Statements
from adapters.postgres.failures import mapped
from adapters.postgres.statements import Schema, statement
from kernel.model.ids import is_run_id
from kernel.ports.diagnosis import SessionSeen, SinkDebt

__all__ = ["SESSIONS_MAX", "Inspections", "session_seen"]

SESSIONS_MAX = 1000


class Inspections:
    """The statements, on a connection that is there anyway."""

    def __init__(self, line: Statements, schema: Schema) -> None:
        self._line = line
        self._sql_sessions = statement("list_sessions", schema)
        self._sql_debts = statement("sink_debts", schema)

    async def sessions(self) -> Sequence[SessionSeen]:
        with mapped("list sessions"):
            rows = await self._line.fetch("list sessions", self._sql_sessions, SESSIONS_MAX)
        return [session_seen(row) for row in rows]

    async def debts(self, run_id: str) -> Sequence[SinkDebt]:
        if not is_run_id(run_id):
            return ()
        with mapped("look at what sinks are owed"):
            rows = await self._line.fetch("look at what sinks are owed", self._sql_debts, run_id)
        return [SinkDebt(**row) for row in rows]


def session_seen(row: Any) -> SessionSeen:
    """The session in a row of `list_sessions.sql`."""
    return SessionSeen(
        id=row["id"],
        name=row["name"] or "",
        hostname=row["hostname"] or "",
        pid=row["pid"],
        renewed_at=row["renewed_at"],
        lease=row["lease"],
        lease_expires_at=row["lease_expires_at"],
        condemned_at=row["condemned_at"],
        queues=tuple(row["queues"]),
        workflows=tuple(zip(row["workflow_ids"], row["workflow_versions"], strict=True)),
        runs=row["runs"],
        jobs=row["jobs"],
        seen_at=row["seen_at"],
    )
