"""Looking at many runs: heads only, newest first; no history is read.

Which statement answers depends on what is asked for: each reads an index that leads to the wanted runs, so that a
page costs what it shows and not what is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from adapters.postgres.connections import Line
from adapters.postgres.failures import mapped
from adapters.postgres.payloads import is_storable
from adapters.postgres.reading import head_row
from adapters.postgres.statements import Schema, statement
from kernel.errors import InvalidCommand
from kernel.model.ids import RUN_ID_SKEW_MAX, is_run_id, run_id_from
from kernel.model.machine import ACTIVE, Status
from kernel.ports.persistence import Backlog, Page, QueueBacklog, RunQuery

__all__ = ["Listings"]

SHORT_ID = 8
EPOCH_YEAR = 1970
"""Ids tell no time before it, and nothing was created then."""
LOWEST = "00000000-0000-0000-0000-000000000000"
COUNTED_MAX = 1000
"""Due runs are counted so far, of each priority of a workflow: whoever adds processes needs no more to decide by."""
HIGHEST = "ffffffff-ffff-ffff-ffff-ffffffffffff"


class Listings:
    """`kernel.ports.persistence.Listings`, and `Gauges`."""

    def __init__(self, line: Line, schema: Schema) -> None:
        self._line = line
        self._sql = {
            name: statement(name, schema)
            for name in (
                *("list_newest", "list_of_workflow", "list_active", "list_failed", "list_cancelled"),
                *("find_runs", "live_workflows", "backlog", "waiting_jobs"),
            )
        }

    async def list_runs(self, query: RunQuery) -> Page:
        if query.workflow_id is not None and not is_storable(query.workflow_id):
            return Page(heads=())
        if query.after is not None and not is_run_id(query.after):
            raise InvalidCommand(
                f'"{query.after}" is no cursor.', field="after", hint="Pass what the page before gave as next."
            )
        name = _statement_for(query)
        lower = LOWEST
        if query.since is not None and query.since.year > EPOCH_YEAR:
            # The id was minted a little before or after the moment that was recorded as the creation.
            lower = run_id_from(query.since - RUN_ID_SKEW_MAX - timedelta(minutes=1), bytes(10))
        parameters: list[object] = [query.after or HIGHEST, lower, query.status, query.since, query.limit + 1]
        if name != "list_newest":
            parameters.append(query.workflow_id)
        with mapped("list runs"):
            rows = await self._line.fetch("list runs", self._sql[name], *parameters)
        heads = [head_row(row) for row in rows[: query.limit]]
        return Page(heads=heads, next=heads[-1].run_id if len(rows) > query.limit and heads else None)

    async def find_runs(self, suffix: str) -> Sequence[str]:
        if len(suffix) < SHORT_ID or not is_storable(suffix):
            return ()
        with mapped("find runs"):
            rows = await self._line.fetch("find runs", self._sql["find_runs"], suffix)
        return [row[0] for row in rows]

    async def backlog(self) -> Backlog:
        with mapped("measure the backlog"):
            rows = await self._line.fetch("measure the backlog", self._sql["backlog"], COUNTED_MAX)
            queues = await self._line.fetch("measure the backlog", self._sql["waiting_jobs"], COUNTED_MAX)
        row = rows[0]
        return Backlog(
            runnable=dict(zip(row["workflow_ids"], row["runs"], strict=True)),
            unknown=row["unknown"] or 0,
            oldest_age=row["oldest_age"],
            queues={each["queue"]: QueueBacklog(jobs=each["jobs"], oldest_age=each["oldest_age"]) for each in queues},
            outbox_lag=row["outbox_lag"],
            dead_letters=row["dead_letters"],
        )

    async def live_workflows(self) -> Sequence[tuple[str, str]]:
        with mapped("list live workflows"):
            rows = await self._line.fetch("list live workflows", self._sql["live_workflows"])
        return [(row["id"], row["version"]) for row in rows]


def _statement_for(query: RunQuery) -> str:
    if query.status in ACTIVE:
        return "list_active"
    if query.status == Status.FAILED:
        return "list_failed"
    if query.status == Status.CANCELLED:
        return "list_cancelled"
    return "list_newest" if query.workflow_id is None else "list_of_workflow"
