"""Leases: opening, renewing and ending sessions from the event loop. The renewal of its own thread is `heartbeat`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from adapters.postgres.claims import LONG_AGO, Marks
from adapters.postgres.connections import Line
from adapters.postgres.failures import mapped
from adapters.postgres.statements import Schema, statement
from adapters.postgres.workflows import WorkflowKeys
from kernel.model.facts import FORMAT
from kernel.ports.persistence import Beat, SessionInfo

if TYPE_CHECKING:
    from asyncpg import Record

__all__ = ["DUE_MAX", "Sessions", "beat_of", "beat_parameters"]

DUE_MAX = 100
"""A heartbeat counts runnable runs up to here: more would not change what anybody does."""


class Sessions:
    """`kernel.ports.persistence.Sessions`, without the heartbeat."""

    def __init__(self, line: Line, schema: Schema, keys: WorkflowKeys, marks: Marks) -> None:
        self._line = line
        self._keys = keys
        self._marks = marks
        self._sql_open = statement("open_session", schema)
        self._sql_close = statement("close_session", schema)
        self._sql_forget = statement("forget_sessions", schema)
        self._sql_condemn = statement("condemn_expired", schema)
        self._sql_beat = statement("heartbeat", schema)

    async def open_session(
        self, info: SessionInfo, definitions: Sequence[tuple[str, str]], lease: timedelta, queues: Sequence[str] = ()
    ) -> str:
        session_id = str(uuid4())
        keys = sorted(set(await self._keys.keys_of(definitions)))
        described = json.dumps(
            {
                "name": info.name,
                "hostname": info.hostname,
                "pid": info.pid,
                "started_at": None if info.started_at is None else info.started_at.isoformat(),
            }
        )
        with mapped("open a session"):
            await self._line.fetch("tidy up sessions", self._sql_forget)
            # Sent twice it would meet its own id, so a lost answer is an error here, and the row a lease that ends.
            await self._line.fetch(
                "open a session", self._sql_open, session_id, lease, keys, described, list(queues), repeat=False
            )
        return session_id

    async def renew(self, session_id: str) -> Beat:
        with mapped("renew a session"):
            parameters = beat_parameters(session_id, adrift=False, lower=LONG_AGO, locked=None)
            rows = await self._line.fetch("renew a session", self._sql_beat, *parameters)
        return beat_of(rows[0])

    async def close_session(self, session_id: str) -> None:
        with mapped("close a session"):
            await self._line.fetch("close a session", self._sql_close, session_id)
        self._marks.forget(session_id)

    async def condemn_expired(self, limit: int) -> Sequence[str]:
        with mapped("condemn sessions"):
            rows = await self._line.fetch("condemn sessions", self._sql_condemn, limit)
        return [row[0] for row in rows]


def beat_parameters(session_id: str, *, adrift: bool, lower: datetime, locked: bool | None) -> tuple[object, ...]:
    """The parameters of `heartbeat.sql`; due runs are counted from `lower` on.

    `locked`: whether the connection holds the session's advisory lock, None when it does not try to. Only who tries
    also looks whether the others hold theirs.
    """
    return session_id, adrift, lower, DUE_MAX, locked, FORMAT, locked is not None


def beat_of(row: Record) -> Beat:
    """What the row of `heartbeat.sql` says."""
    if not row["alive"]:
        return Beat(alive=False, now=row["now"])
    return Beat(
        alive=True,
        now=row["now"],
        attention=row["attention"],
        adrift=list(zip(row["owned_ids"] or (), row["owned_claims"] or (), strict=True)),
        due=min(row["due"] + row["orphans"], DUE_MAX),
        next_due_at=row["next_due_at"],
        others=row["others"],
        next_command_at=row["next_command_at"],
        jobs_due=row["jobs_due"],
        jobs_lost=row["jobs_lost"],
        next_job_at=row["next_job_at"],
    )
