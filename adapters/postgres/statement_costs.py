"""What each statement has cost the server, by its own account: the extension pg_stat_statements.

For profiling only; nothing that serves runs knows of it. The extension counts only where the server loads it when it
starts. Where it does, and a database does not have it yet, it is made in the schema that is being profiled, so that it
goes with it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from adapters.postgres.connections import Target, connect
from adapters.postgres.failures import mapped
from adapters.postgres.statements import Schema, checked_schema, statement

if TYPE_CHECKING:
    from asyncpg import Connection, Record

__all__ = ["StatementCost", "StatementCosts", "name_statements", "open_statement_costs"]

EXTENSION = "pg_stat_statements"
OTHERS = "(others)"
"""Statements that are no file of ours: of other programs, and of whoever takes the profile."""

_CONSTANT = re.compile(r"\$\d+|'(?:[^']|'')*'|\b(?:\d+(?:\.\d+)?|true|false|null)\b", re.IGNORECASE)
_SQUASHED = re.compile(r"/\*.*?\*/")
_LIST = re.compile(r"\?(?:\s*,\s*\?)+\s*,?")
_BLANKS = re.compile(r"\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementCost:
    """How often one statement was executed, for how many milliseconds in all, and for how many rows and log bytes."""

    name: str
    calls: int
    total_ms: float
    rows: int
    wal_bytes: int


class StatementCosts:
    """The costs of the statements of one schema since `begin`. `missing` says why there are none, and the way out."""

    def __init__(self, connection: Connection[Record], schema: Schema, view: str | None, missing: str | None) -> None:
        self._connection = connection
        self._view = view
        self._names = name_statements(schema)
        self._before: Mapping[int, StatementCost] = {}
        self.missing: str | None = missing

    async def begin(self) -> None:
        """Count from now on. Raises: Unavailable."""
        self._before = await self._read()

    async def since(self) -> Sequence[StatementCost]:
        """What was done since then, the dearest first; statements of others are one. Raises: Unavailable."""
        total: dict[str, StatementCost] = {}
        for identity, now in (await self._read()).items():
            cost = _difference(now, self._before.get(identity))
            known = total.get(cost.name)
            total[cost.name] = cost if known is None else _sum(known, cost)
        costs = [cost for cost in total.values() if cost.calls > 0]
        return sorted(costs, key=lambda cost: -cost.total_ms)

    async def _read(self) -> Mapping[int, StatementCost]:
        if self._view is None:
            return {}
        sql = f"""
            SELECT queryid, min(query) AS query, sum(calls)::bigint AS calls, sum(total_exec_time) AS total_ms,
                   sum(rows)::bigint AS rows, sum(wal_bytes)::bigint AS wal_bytes
            FROM {self._view}
            WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND queryid IS NOT NULL
            GROUP BY queryid
        """  # noqa: S608 - the view's name is the server's own
        with mapped("tell the costs of statements"):
            rows = await self._connection.fetch(sql)
        return {
            row["queryid"]: StatementCost(
                name=self._names.get(_skeleton(row["query"]), OTHERS),
                calls=row["calls"],
                total_ms=row["total_ms"],
                rows=row["rows"],
                wal_bytes=row["wal_bytes"],
            )
            for row in rows
        }


def _difference(now: StatementCost, before: StatementCost | None) -> StatementCost:
    # Fewer than before: somebody has reset the counts, or the server has forgotten the statement meanwhile.
    if before is None or now.calls < before.calls:
        return now
    return StatementCost(
        name=now.name,
        calls=now.calls - before.calls,
        total_ms=now.total_ms - before.total_ms,
        rows=now.rows - before.rows,
        wal_bytes=now.wal_bytes - before.wal_bytes,
    )


def _sum(one: StatementCost, other: StatementCost) -> StatementCost:
    return StatementCost(
        name=one.name,
        calls=one.calls + other.calls,
        total_ms=one.total_ms + other.total_ms,
        rows=one.rows + other.rows,
        wal_bytes=one.wal_bytes + other.wal_bytes,
    )


def name_statements(schema: Schema) -> Mapping[str, str]:
    """The names of our statements by what is left of their texts without constants; the extension leaves these out."""
    files = sorted((Path(__file__).parent / "sql").glob("*.sql"))
    names = [file.stem for file in files if not file.stem.endswith(".fragment")]
    return {_skeleton(statement(name, schema)): name for name in names} | {_skeleton(f'NOTIFY "{schema}"'): "NOTIFY"}


def _skeleton(query: str) -> str:
    bare = _CONSTANT.sub("?", _SQUASHED.sub(" ", query))
    return _BLANKS.sub("", _LIST.sub("?", bare))


@asynccontextmanager
async def open_statement_costs(url: str, schema: str) -> AsyncGenerator[StatementCosts]:
    """The costs of what is done in this schema, which must exist; needs a direct connection.

    Raises: NoDatabase, Unavailable.
    """
    name = checked_schema(schema)
    connection = await connect(Target(url=url, purpose="profile"))
    try:
        with mapped("tell the costs of statements"):
            view, missing = await _find_view(connection, name)
        yield StatementCosts(connection, name, view, missing)
    finally:
        connection.terminate()


async def _find_view(connection: Connection[Record], schema: Schema) -> tuple[str | None, str | None]:
    """The extension's view, or why there is none."""
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = $1)", EXTENSION):
        return None, (
            f"This server does not have {EXTENSION}. Debian's packages do (postgresql-15 and later have it among "
            f"their contrib modules), the embedded server does not. {_WAY}"
        )
    home = await _home_of_extension(connection)
    if home is None:
        try:
            await connection.execute(f'CREATE EXTENSION {EXTENSION} SCHEMA "{schema}"')
        except asyncpg.InsufficientPrivilegeError:
            return None, f"This role may not make {EXTENSION}. As superuser: CREATE EXTENSION {EXTENSION}"
        home = schema
    view = f'"{home}".{EXTENSION}'
    try:
        await connection.fetch(f"SELECT FROM {view} LIMIT 1")
    except asyncpg.ObjectNotInPrerequisiteStateError:
        return None, f"This server has {EXTENSION} but does not load it. {_WAY}"
    return view, None


_WAY = (
    f"Start a server with shared_preload_libraries = '{EXTENSION}' in its postgresql.conf, and name it in "
    "LEASEHOLD_DATABASE_URL."
)


async def _home_of_extension(connection: Connection[Record]) -> str | None:
    sql = (
        "SELECT n.nspname FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = $1"
    )
    found: str | None = await connection.fetchval(sql, EXTENSION)
    return found
