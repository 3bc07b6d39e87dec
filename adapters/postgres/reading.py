"""Reading one run, or the heads of several; how rows become the port's values stands here for everybody."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import groupby
from typing import TYPE_CHECKING, Any

from adapters.postgres.connections import Line
from adapters.postgres.failures import mapped
from adapters.postgres.payloads import is_storable
from adapters.postgres.statements import Schema, statement
from kernel.errors import ErrorInfo, RunNotFound
from kernel.model.head import Head
from kernel.model.ids import is_run_id
from kernel.model.machine import Status
from kernel.model.run import RunError
from kernel.ports.persistence import HeadRow, HistoryRow, StoredHistory

if TYPE_CHECKING:
    from asyncpg import Record

__all__ = ["Histories", "head_row", "histories_of", "history_row"]


class Histories:
    """`kernel.ports.persistence.Histories`."""

    def __init__(self, line: Line, schema: Schema) -> None:
        self._line = line
        self._sql_load = statement("load_run", schema)
        self._sql_ended = statement("load_ended", schema)
        self._sql_heads = statement("heads", schema)
        self._sql_key = statement("find_key", schema)

    async def load(self, run_id: str, after: int, bodies: bool) -> StoredHistory:  # noqa: FBT001 - behind the port's keyword
        if not is_run_id(run_id):
            raise RunNotFound(run_id)
        with mapped("load a run"):
            rows = await self._line.fetch("load a run", self._sql_load, run_id, after, bodies)
        if not rows:
            raise RunNotFound(run_id)
        return _history(rows)

    async def endings(self, run_ids: Sequence[str], limit: int) -> Mapping[str, StoredHistory | None]:
        wanted = [run_id for run_id in dict.fromkeys(run_ids) if is_run_id(run_id)]
        found: dict[str, StoredHistory | None] = dict.fromkeys(set(run_ids) - set(wanted))
        if wanted:
            with mapped("load runs that have ended"):
                rows = await self._line.fetch("load runs that have ended", self._sql_ended, wanted, limit)
            for run_id, of_run in groupby(rows, key=lambda row: row["wanted_id"]):
                kept = list(of_run)
                found[run_id] = None if kept[0]["run_id"] is None else _history(kept)
        return found

    async def heads(self, run_ids: Sequence[str]) -> Mapping[str, HeadRow]:
        wanted = [run_id for run_id in dict.fromkeys(run_ids) if is_run_id(run_id)]
        if not wanted:
            return {}
        with mapped("read heads"):
            rows = await self._line.fetch("read heads", self._sql_heads, wanted)
        return {row["run_id"]: head_row(row) for row in rows}

    async def find_key(self, command_type: str, scope: str, key: str) -> str | None:
        if not all(map(is_storable, (command_type, scope, key))):
            return None
        with mapped("find an idempotency key"):
            rows = await self._line.fetch("find an idempotency key", self._sql_key, command_type, scope, key)
        return rows[0][0] if rows else None


def histories_of(rows: Sequence[Record]) -> Sequence[StoredHistory]:
    """The histories in rows that are ordered by run."""
    return [_history(list(of_run)) for _, of_run in groupby(rows, key=lambda row: row["run_id"])]


def _history(rows: Sequence[Record]) -> StoredHistory:
    stored = [history_row(row) for row in rows if row["row_seq"] is not None]
    return StoredHistory(head=head_row(rows[0]), rows=stored)


def history_row(row: Record) -> HistoryRow:
    """The append in a row that has the columns `row_…`."""
    names: Sequence[str] = row["row_names"] or ()
    texts: Sequence[str] = row["row_bodies"] or ()
    return HistoryRow(
        first_seq=row["row_first_seq"],
        seq=row["row_seq"],
        append_id=row["row_append_id"],
        session_id=row["row_session"],
        at=row["row_at"],
        events=row["row_events"].encode(),
        bodies={name: text.encode() for name, text in zip(names, texts, strict=True)},
    )


def head_row(row: Record) -> HeadRow:
    """The head in a row that has the columns of `head.fragment.sql`."""
    return HeadRow(
        run_id=row["run_id"],
        workflow_id=row["workflow_id"],
        workflow_version=row["workflow_version"],
        fingerprint=row["fingerprint"],
        seq=row["seq"],
        head=Head(
            status=Status(row["status"]),
            phase=row["phase"],
            wake_at=row["wake_at"],
            started_at=row["started_at"],
            completed_at=row["completed_at"],
            total_cost=Decimal(row["total_cost"]),
            total_tokens=row["total_tokens"],
            error=_error(row["error"]),
        ),
        priority=row["priority"],
        owner=row["owner"],
        claim=row["claim"],
        owner_live=row["owner_live"],
        attention=row["attention"],
        run_at=row["run_at"],
        parked_reason=row["parked_reason"],
        parked_at=row["parked_at"],
        format=row["format"],
        idempotency_key=row["idempotency_key"],
        metadata=_mapping(row["metadata"]),
        root_span_id=row["root_span_id"],
        trace_context=_mapping(row["trace_context"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        poll_state=None if row["poll_state"] is None else row["poll_state"].encode(),
    )


def _mapping(text: str | None) -> dict[str, Any] | None:
    return None if text is None else json.loads(text)


def _error(text: str | None) -> RunError | None:
    if text is None:
        return None
    kept = json.loads(text)
    return RunError(
        error=ErrorInfo(type=kept["type"], message=kept["message"], retryable=kept["retryable"]),
        stage_id=kept["stage_id"],
        attempt=kept["attempt"],
    )
