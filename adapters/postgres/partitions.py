"""The months of `history`: making more of them before they are needed, without blocking a writer.

There is no DEFAULT partition, because beside one no partition can be detached concurrently. Instead the catch-all
`history_after` takes what lies above the last month. To add months it is detached (CONCURRENTLY, which needs a direct
connection and no transaction), the months are attached, and it is attached again above them. New runs are created with
an id of now, so nothing is written meanwhile to where it was.

Unless nobody has added months for half a year: then it holds rows, and is in use. It becomes a partition of its own,
for the time from where it began to the end of next month; that its rows lie within is checked beforehand, so that it
is away for milliseconds, and what is appended in them is tried again by the committer.

Interrupted anywhere, the next call goes on from what it finds.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from adapters.postgres.connections import Target, connect
from adapters.postgres.failures import DRIVER_ERRORS, Failure, failure_of, mapped
from adapters.postgres.statements import Schema, qualify, statement
from kernel.model.ids import minted_at

if TYPE_CHECKING:
    from asyncpg import Connection, Record

__all__ = ["MONTHS_AHEAD", "extended_history"]

MONTHS_AHEAD = 6

_LOCK = "hashtextextended('leasehold history', 0)"
_TRIES = 40
_BOUND = re.compile(r"FROM \('(?P<lower>[^']+)'\) TO \((?:'(?P<upper>[^']+)'|MAXVALUE)\)")
_DETACH_S = 300


async def extended_history(target: Target, schema: Schema, *, today: date | None = None) -> list[str]:
    """Have months up to `MONTHS_AHEAD` from now, and return the names of the partitions that were made.

    Raises: Unavailable, when somebody else's locks leave no gap; then part of the work is done, and none undone.
    """
    settings = {"lock_timeout": "250ms", "statement_timeout": f"{_DETACH_S}s"}
    connection = await connect(target.to("maintenance", **settings))
    try:
        with mapped("add months to the history"):
            return await _Extension(connection, schema, today or datetime.now(UTC).date()).run()
    finally:
        connection.terminate()


class _Extension:
    """One pass over the partitions."""

    def __init__(self, connection: Connection[Record], schema: Schema, today: date) -> None:
        self._connection = connection
        self._schema = schema
        self._this_month = today.replace(day=1)
        self._beyond = _months_later(self._this_month, MONTHS_AHEAD + 1)

    async def run(self) -> list[str]:
        if not await self._value(f"SELECT pg_try_advisory_lock({_LOCK})"):
            return []
        made = await self._extend()
        # With the connection it would be given back too, but only when the server notices, and until then whoever comes
        # next does nothing.
        await self._value(f"SELECT pg_advisory_unlock({_LOCK})")
        return made

    async def _extend(self) -> list[str]:
        attached = await self._is_catch_all_attached()
        end = await self._end_of_months()
        if attached and end >= self._beyond:
            return []
        made: list[str] = []
        if await self._value("SELECT to_regclass('leasehold.history_after') IS NOT NULL"):
            in_use = bool(await self._value("SELECT EXISTS (SELECT FROM leasehold.history_after)"))
            upper = _months_later(self._this_month, 2)
            if in_use:
                await self._check_bounds(end, upper)
            if attached:
                await self._detach_catch_all()
            if in_use:
                made.append(await self._keep_catch_all(end, upper))
                end = upper
        while end < self._beyond:
            made.append(str(await self._value(f"SELECT leasehold.add_history_month('{end}')")))
            end = _months_later(end, 1)
        await self._attach_catch_all(end)
        return made

    async def _is_catch_all_attached(self) -> bool:
        """Whether the catch-all is a partition, after finishing a detachment that was interrupted."""
        for row in await self._connection.fetch(statement("history_partitions", self._schema)):
            if row["name"] == "history_after":
                if not row["detaching"]:
                    return True
                await self._do("ALTER TABLE leasehold.history DETACH PARTITION leasehold.history_after FINALIZE")
        return False

    async def _end_of_months(self) -> date:
        """The first day that no month covers."""
        uppers = [
            minted_at(found["upper"]).date()
            for row in await self._connection.fetch(statement("history_partitions", self._schema))
            if (found := _BOUND.search(row["bound"])) is not None and found["upper"] is not None
        ]
        return max(uppers, default=self._this_month)

    async def _check_bounds(self, lower: date, upper: date) -> None:
        """Have it proved that the catch-all's rows lie in this time, so that attaching it need not read them."""
        check = f"CHECK (run_id >= {await self._id(lower)} AND run_id < {await self._id(upper)}) NOT VALID"
        await self._do("ALTER TABLE leasehold.history_after DROP CONSTRAINT IF EXISTS history_bounds")
        await self._do(f"ALTER TABLE leasehold.history_after ADD CONSTRAINT history_bounds {check}")
        await self._do("ALTER TABLE leasehold.history_after VALIDATE CONSTRAINT history_bounds")

    async def _detach_catch_all(self) -> None:
        # Waits for the transactions that are under way, however long they take; interrupted, it is finished next time.
        await self._connection.execute("SET lock_timeout = 0")
        await self._do("ALTER TABLE leasehold.history DETACH PARTITION leasehold.history_after CONCURRENTLY")
        await self._connection.execute("SET lock_timeout = '250ms'")

    async def _keep_catch_all(self, lower: date, upper: date) -> str:
        name = f"history_{lower:%Y_%m}"
        bounds = f"FOR VALUES FROM ({await self._id(lower)}) TO ({await self._id(upper)})"
        await self._do(
            f"ALTER TABLE leasehold.history_after RENAME TO {name};"
            f"ALTER TABLE leasehold.history ATTACH PARTITION leasehold.{name} {bounds};"
            f"ALTER TABLE leasehold.{name} DROP CONSTRAINT history_bounds"
        )
        return name

    async def _attach_catch_all(self, lower: date) -> None:
        await self._do("CREATE TABLE IF NOT EXISTS leasehold.history_after (LIKE leasehold.history INCLUDING ALL)")
        bounds = f"FOR VALUES FROM ({await self._id(lower)}) TO (MAXVALUE)"
        await self._do(f"ALTER TABLE leasehold.history ATTACH PARTITION leasehold.history_after {bounds}")

    async def _id(self, moment: date) -> str:
        return f"'{await self._value(f'SELECT {_lowest(moment)}')}'"

    async def _value(self, sql: str) -> object:
        return await self._patiently(lambda: self._connection.fetchval(qualify(sql, self._schema)))

    async def _do(self, sql: str) -> None:
        await self._patiently(lambda: self._connection.execute(qualify(sql, self._schema), timeout=_DETACH_S))

    async def _patiently(self, work: Callable[[], Awaitable[object]]) -> object:
        """Do it, again and again while others hold what it needs: they are quick, and must not queue up behind us."""
        tries = 0
        while True:
            tries += 1
            try:
                return await work()
            except DRIVER_ERRORS as error:
                if failure_of(error) is not Failure.RETRY or tries == _TRIES:
                    raise
                await asyncio.sleep(0.1)


def _lowest(moment: date) -> str:
    return f"leasehold.lowest_run_id('{moment} 00:00:00+00')"


def _months_later(month: date, count: int) -> date:
    years, index = divmod(month.month - 1 + count, 12)
    return date(month.year + years, index + 1, 1)
