"""A schema for one benchmark: made under a name of its own, removed at the end, with gauges of what was done in it.

Whoever has one holds an advisory lock named like the schema, on a connection that also reads the gauges. When a
benchmark is killed the server frees the lock, and the next benchmark removes the schema: a name that looks like ours
and whose lock can be had belongs to nobody.

The gauges read what the server counts for itself (transactions, tuples, WAL) and, for a server on this machine, the
processor time of its processes as the operating system has it. Speaks asyncio; knows nothing of what is measured.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
from anyio import CancelScope

from adapters.postgres.connections import Target, connect
from adapters.postgres.failures import DRIVER_ERRORS, mapped
from adapters.postgres.migrating import migrate_with
from adapters.postgres.statements import Schema, checked_schema, qualify
from kernel.errors import Unavailable

if TYPE_CHECKING:
    from asyncpg import Connection, Record

__all__ = ["PREFIX", "Tuples", "Work", "Workbench", "open_workbench", "process_cpu_s"]

PREFIX = "leasehold_bench_"
_PATTERN = f"^{PREFIX}[0-9a-f]{{12}}$"
_LOCK = "hashtextextended($1, 0)"
_GONE_S = 10.0
_DROP_TRIES = 5
_KEPT = ("migrations", "workflows")

_HOST_TICKS_PER_S = 100
"""What /proc counts processor time in. 100 on every Linux that people run, whatever the kernel's own tick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the server had done by a moment; meant to be subtracted from a later one.

    `moment_s` is the database's clock. `transactions` are those of everybody else in this database, which for
    statements without BEGIN is their number. `wal_bytes` are of the whole server; None where it may not be read.
    `cpu_s_by_process` maps process ids to processor time; None where the server is not on this machine.
    """

    moment_s: float
    transactions: int
    wal_bytes: int | None
    cpu_s_by_process: Mapping[int, float] | None

    def cpu_s_since(self, earlier: Work) -> float | None:
        """Processor seconds of all processes of the server between the two moments; one that is new counts whole."""
        if self.cpu_s_by_process is None or earlier.cpu_s_by_process is None:
            return None
        before = earlier.cpu_s_by_process
        return sum(cpu_s - before.get(process, 0.0) for process, cpu_s in self.cpu_s_by_process.items())

    def wal_bytes_since(self, earlier: Work) -> int | None:
        """Bytes of log that were written in between."""
        return None if self.wal_bytes is None or earlier.wal_bytes is None else self.wal_bytes - earlier.wal_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuples:
    """What was written to the tables of runs: history rows, heads (inserted or updated), and any other rows."""

    history: int
    heads: int
    hot_heads: int
    others: int

    def since(self, earlier: Tuples) -> Tuples:
        """What was written in between."""
        return Tuples(
            history=self.history - earlier.history,
            heads=self.heads - earlier.heads,
            hot_heads=self.hot_heads - earlier.hot_heads,
            others=self.others - earlier.others,
        )

    @property
    def rows(self) -> int:
        """All of them."""
        return self.history + self.heads + self.others


@asynccontextmanager
async def open_workbench(url: str) -> AsyncGenerator[Workbench]:
    """A migrated schema with a new name, dropped at the end whatever happens; leftovers of others go first.

    `url` leads to the server itself, not to a transaction pooler, because the lock belongs to a session.
    Raises: NoDatabase, Unavailable, InvalidCommand.
    """
    target = Target(url=url, purpose="bench", settings=_SETTINGS)
    connection = await connect(target)
    try:
        with mapped("be prepared for a benchmark"):
            removed = await _remove_leftovers(connection)
            schema = checked_schema(f"{PREFIX}{secrets.token_hex(6)}")
            await connection.fetchval(f"SELECT pg_advisory_lock({_LOCK})", schema)
        try:
            with mapped("be prepared for a benchmark"):
                await migrate_with(connection, schema)
                strangers = await _connected(connection)
            yield Workbench(connection, schema, removed, strangers)
        finally:
            with CancelScope(shield=True):
                await _drop_finally(target, connection, schema)
    finally:
        connection.terminate()


_SETTINGS = {
    "statement_timeout": "60s",
    "lock_timeout": "5s",
    # Unlike what serves runs, this counts rows of whole tables.
    "enable_seqscan": "on",
    "enable_hashjoin": "on",
    "plan_cache_mode": "auto",
    "idle_in_transaction_session_timeout": "0",
}


async def _connected(connection: Connection[Record]) -> frozenset[int]:
    """Who else is connected to this database."""
    sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    return frozenset(int(row["pid"]) for row in await connection.fetch(sql))


async def _remove_leftovers(connection: Connection[Record]) -> Sequence[str]:
    """Drop the schemas of benchmarks whose process is gone."""
    removed: list[str] = []
    for row in await connection.fetch("SELECT nspname FROM pg_namespace WHERE nspname ~ $1", _PATTERN):
        name = str(row["nspname"])
        if not await connection.fetchval(f"SELECT pg_try_advisory_lock({_LOCK})", name):
            continue
        # What cannot be dropped, because it is another role's or in use after all, is left for the next time.
        with suppress(*DRIVER_ERRORS, asyncpg.PostgresError):
            await connection.execute(f'DROP SCHEMA IF EXISTS "{checked_schema(name)}" CASCADE')
            removed.append(name)
        await connection.fetchval(f"SELECT pg_advisory_unlock({_LOCK})", name)
    return removed


async def _drop_finally(target: Target, connection: Connection[Record], schema: Schema) -> None:
    """Drop the schema over this connection, or over a new one if it broke or was interrupted within a statement."""
    for attempt in range(_DROP_TRIES):
        try:
            if attempt or connection.is_closed():
                connection.terminate()
                connection = await connect(target)
            await connection.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE', timeout=_GONE_S)
        except (Unavailable, *DRIVER_ERRORS, asyncpg.PostgresError):
            if attempt == _DROP_TRIES - 1:
                raise
            await asyncio.sleep(0.2)
        else:
            break
    if not connection.is_closed():
        connection.terminate()


class Workbench:
    """The open schema and its gauges; made by `open_workbench`. `removed` are leftovers that were dropped before."""

    def __init__(
        self, connection: Connection[Record], schema: Schema, removed: Sequence[str], strangers: frozenset[int]
    ) -> None:
        self._connection = connection
        # Processes of the server that serve this connection, and others that were there before any of ours.
        self._strangers = strangers
        self._own_transactions = 0
        self.schema: str = schema
        self.removed: Sequence[str] = removed

    async def server(self) -> Mapping[str, str]:
        """Version and the settings that decide what a commit costs."""
        names = ("server_version", "fsync", "synchronous_commit", "wal_level", "shared_buffers", "max_wal_size")
        return {name: str(await self._value(f"SHOW {name}")) for name in names}

    async def others_connected(self) -> int:
        """How many connections of others this database has; what they do the server counts with what is measured."""
        sql = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return int(await self._value(sql))

    async def is_local(self) -> bool:
        """Whether the server's processes are processes of this machine."""
        return _is_server_process(int(await self._value("SELECT pg_backend_pid()")))

    async def now_s(self) -> float:
        """The database's clock."""
        return float(await self._value("SELECT extract(epoch FROM clock_timestamp())"))

    async def empty(self) -> None:
        """Forget every run and session; nobody may be connected to the schema."""
        rows = await self._rows("SELECT tablename FROM pg_tables WHERE schemaname = $1", self.schema)
        names = [str(row[0]) for row in rows if row[0] not in _KEPT and not str(row[0]).startswith("history_")]
        tables = ", ".join(f'"{self.schema}"."{name}"' for name in names)
        await self._value(f"TRUNCATE {tables}")

    async def unfinished(self) -> int:
        """How many runs have not ended."""
        return int(await self._value(self._sql("SELECT count(*) FROM leasehold.runs WHERE completed_at IS NULL")))

    async def retrying(self) -> int:
        """How many runs wait for their next attempt."""
        return int(await self._value(self._sql("SELECT count(*) FROM leasehold.runs WHERE phase = 'retrying'")))

    async def statuses(self) -> Mapping[str, int]:
        """How many runs have which status."""
        rows = await self._rows(self._sql("SELECT status, count(*) FROM leasehold.runs GROUP BY status"))
        return {str(status): int(count) for status, count in rows}

    async def last_ended_s(self) -> float:
        """When the last run ended, by the database's clock at its append."""
        sql = "SELECT extract(epoch FROM max(updated_at)) FROM leasehold.runs WHERE completed_at IS NOT NULL"
        return float(await self._value(self._sql(sql)) or 0.0)

    async def work(self) -> Work:
        """What the server has done by now."""
        await self._flush_own()
        found = await self._rows(
            "SELECT extract(epoch FROM clock_timestamp()), xact_commit + xact_rollback "
            "FROM pg_stat_database WHERE datname = current_database()"
        )
        moment_s, transactions = found[0]
        return Work(
            moment_s=float(moment_s),
            transactions=int(transactions) - self._own_transactions,
            wal_bytes=await self._wal_bytes(),
            cpu_s_by_process=await self._cpu_s_by_process(),
        )

    async def tuples(self) -> Tuples:
        """What the server has counted for our tables; exact once the processes that wrote are gone."""
        await self._flush_own()
        sql = """
            SELECT coalesce(sum(n_tup_ins) FILTER (WHERE relname LIKE 'history%'), 0)::bigint,
                   coalesce(sum(n_tup_ins + n_tup_upd) FILTER (WHERE relname = 'runs'), 0)::bigint,
                   coalesce(sum(n_tup_hot_upd) FILTER (WHERE relname = 'runs'), 0)::bigint,
                   coalesce(sum(n_tup_ins + n_tup_upd)
                            FILTER (WHERE relname IN ('idempotency_keys', 'jobs', 'deliveries')), 0)::bigint
            FROM pg_stat_all_tables WHERE schemaname = $1
        """
        history, heads, hot_heads, others = (await self._rows(sql, self.schema))[0]
        return Tuples(history=history, heads=heads, hot_heads=hot_heads, others=others)

    async def alone(self) -> bool:
        """Wait until nobody else of ours is connected, for then their counts are in; whether that came about."""
        # The server notices a closed connection at once, unless it is in the middle of a statement.
        sql = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> ALL ($1::integer[]) AND application_name LIKE 'leasehold %'"
        )
        for _ in range(int(_GONE_S / 0.1)):
            if int(await self._value(sql, list(self._strangers))) == 0:
                return True
            await asyncio.sleep(0.1)
        return False

    # -- how ---------------------------------------------------------------------------------------------------------

    def _sql(self, sql: str) -> str:
        return qualify(sql, checked_schema(self.schema))

    async def _rows(self, sql: str, *values: object) -> Sequence[Any]:
        self._own_transactions += 1
        with mapped("be read by the benchmark"):
            return await self._connection.fetch(sql, *values)

    async def _value(self, sql: str, *values: object) -> Any:
        rows = await self._rows(sql, *values)
        return rows[0][0] if rows else None

    async def _flush_own(self) -> None:
        """Have the server count our own statements now; it counts those of a busy connection late."""
        if self._connection.get_server_version() >= (15,):
            await self._value("SELECT pg_stat_force_next_flush()")
        else:
            await asyncio.sleep(1.0)

    async def _wal_bytes(self) -> int | None:
        try:
            return int(await self._value("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"))
        except (Unavailable, asyncpg.PostgresError):
            return None

    async def _cpu_s_by_process(self) -> Mapping[int, float] | None:
        """Everything that works for the benchmark: the connections of its processes, and the server's helpers."""
        if not await self.is_local():
            return None
        rows = await self._rows(
            "SELECT pid FROM pg_stat_activity "
            "WHERE (datname = current_database() OR datname IS NULL) AND pid <> ALL ($1::integer[])",
            list(self._strangers),
        )
        return _cpu_s_of(int(row[0]) for row in rows)


def _cpu_s_of(processes: Iterable[int]) -> Mapping[int, float]:
    found: dict[int, float] = {}
    for process in processes:
        cpu_s = process_cpu_s(process)
        if cpu_s is not None:
            found[process] = cpu_s
    return found


def process_cpu_s(process: int) -> float | None:
    """Processor seconds of a process, user and system, with all its threads; None where that cannot be read."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name of the program stands in brackets and may hold anything; behind it come numbers only.
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _HOST_TICKS_PER_S


def _is_server_process(process: int) -> bool:
    """Whether this number is a server process here; another machine's number may be anybody's."""
    try:
        return Path(f"/proc/{process}/comm").read_text(encoding="utf-8", errors="replace").strip() == "postgres"
    except OSError:
        return False
