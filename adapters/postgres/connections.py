"""Connections to the server: how they are made, what is set on them, and how a broken one is replaced.

A `Line` is one place for a connection. It connects when it is first needed, and again after a loss. A connection that
failed in the middle of something is closed at once and never used again: what the server still does with the old
statement, the next one on a new connection finds out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import parse_qs, urlsplit

import asyncpg

from adapters.postgres.failures import DRIVER_ERRORS, Failure, describe, failure_of, unavailable
from kernel.errors import NoDatabase, Unavailable

if TYPE_CHECKING:
    from asyncpg import Connection, Record

__all__ = ["Deadlines", "Line", "SettingsRefused", "Statements", "Target", "connect", "place_of"]

T = TypeVar("T")

GOODBYE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long we wait, in seconds. Ours for a statement is longer than the server's, which gives a clear answer."""

    connect_s: float = 5.0
    statement_s: float = 15.0
    server_statement_s: float = 10.0
    beat_s: float = 3.0
    lock_s: float = 0.25
    idle_in_transaction_s: float = 10.0
    blob_s: float = 60.0
    patience_s: float = 5.0
    close_s: float = 5.0


class SettingsRefused(Unavailable):
    """Who answered takes no settings for a connection, so it is a pooler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to connect and as what.

    `pooled`: a transaction pooler stands between, so nothing belongs to a session; `prepared`: statements that were
    prepared are there the next time all the same. `advice` is for people, when it cannot be reached.
    """

    url: str
    purpose: str
    pooled: bool = False
    prepared: bool = True
    deadlines: Deadlines = field(default_factory=Deadlines)
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    advice: str = "Check that the server is running and that the database URL names it."

    def to(self, purpose: str, **settings: str) -> Target:
        """The same place for another purpose, with these settings besides."""
        return replace(self, purpose=purpose, settings={**self.settings, **settings})


def place_of(url: str) -> str:
    """Host and database of a URL for messages; never the user's password."""
    try:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        host = parts.hostname or (query.get("host") or ["(default host)"])[0]
        port = f":{parts.port}" if parts.port else ""
        database = parts.path.lstrip("/") or (query.get("dbname") or query.get("database") or ["(default database)"])[0]
    except ValueError:
        return "the database URL"
    return f'database "{database}" at {host}{port}'


async def connect(target: Target) -> Connection[Record]:
    """A new connection with our settings.

    Raises: NoDatabase, when the URL is none; Unavailable, when the server cannot be reached, has no such database, or
    refuses us now.
    """
    deadlines = target.deadlines
    try:
        # The driver's own deadline does not bound its whole dance of hosts and fallbacks.
        async with asyncio.timeout(deadlines.connect_s + 1):
            return await asyncpg.connect(
                target.url,
                timeout=deadlines.connect_s,
                command_timeout=deadlines.statement_s,
                statement_cache_size=100 if target.prepared else 0,
                server_settings=None if target.pooled else _settings(target),
            )
    except asyncpg.InvalidCatalogNameError as error:
        # Somebody may create it, as somebody may start the server or add the role.
        raise Unavailable(
            f"There is no {place_of(target.url)}.",
            field="database",
            hint="Create it (createdb NAME), or name another one in the database URL.",
        ) from error
    except asyncpg.ProtocolViolationError as error:
        raise SettingsRefused(f"The {place_of(target.url)} does not take our settings: {describe(error)}.") from error
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        raise Unavailable(
            f"The {place_of(target.url)} refused the login: {describe(error)}.",
            field="database",
            hint="Check user and password of the database URL.",
        ) from error
    except (ValueError, asyncpg.ClientConfigurationError) as error:
        # What Python says of a text that it cannot read may quote a password; the driver names its own parameters.
        reason = describe(error) if isinstance(error, asyncpg.ClientConfigurationError) else type(error).__name__
        raise NoDatabase(
            f"The database URL cannot be used ({place_of(target.url)}): {reason.rstrip('.')}.",
            hint="Write it as postgresql://user@host:5432/database.",
        ) from error
    except DRIVER_ERRORS as error:
        raise Unavailable(
            f"The {place_of(target.url)} cannot be reached: {describe(error)}.",
            field="database",
            hint=target.advice,
        ) from error


def _settings(target: Target) -> dict[str, str]:
    deadlines = target.deadlines
    return {
        "application_name": f"leasehold {target.purpose}",
        "timezone": "UTC",
        "synchronous_commit": "on",
        "statement_timeout": str(int(deadlines.server_statement_s * 1000)),
        "lock_timeout": str(int(deadlines.lock_s * 1000)),
        "idle_in_transaction_session_timeout": str(int(deadlines.idle_in_transaction_s * 1000)),
        # A plan made for the parameters of one call may join by hash and lock rows in the order of a hash table, and
        # costs more to make than our statements cost to run.
        "plan_cache_mode": "force_generic_plan",
        # A generic plan lives until somebody analyzes the tables. One that was made while they were empty would read
        # them from end to end, or compare every row with every other, for minutes after they have filled. All our
        # statements are written for nested loops over an index, and read it in its order: a bitmap of it forgets the
        # order, so that a page of fifty runs is chosen by sorting all.
        "enable_seqscan": "off",
        "enable_bitmapscan": "off",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "jit": "off",
        "work_mem": "16MB",
        **target.settings,
    }


class Statements(Protocol):
    """What runs single statements: a `Line`, or somebody else's connection."""

    async def fetch(self, doing: str, sql: str, *args: object, repeat: bool = True) -> Sequence[Any]:
        """Run one statement and return its rows; see `Line.fetch`."""
        ...


class Line:
    """One connection at a time, used by one statement at a time; replaced when it breaks."""

    def __init__(
        self, target: Target, *, prepare: Callable[[Connection[Record]], Awaitable[None]] | None = None
    ) -> None:
        self.target = target
        self._prepare = prepare
        self._connection: Connection[Record] | None = None
        self._turn = asyncio.Lock()
        self._closed = False
        self.connects: int = 0

    @property
    def connected(self) -> bool:
        """Whether there is a connection that looks usable."""
        return self._connection is not None and not self._connection.is_closed()

    async def connection(self) -> Connection[Record]:
        """The connection, made if there is none. Raises: NoDatabase, Unavailable."""
        if self._closed:
            raise Unavailable("The database adapter has been closed.")
        if self._connection is not None and self._connection.is_closed():
            self._connection = None
        if self._connection is None:
            connection = await connect(self.target)
            try:
                if self._prepare is not None:
                    await self._prepare(connection)
            except BaseException:
                connection.terminate()
                raise
            self._connection = connection
            self.connects += 1
        return self._connection

    def adopt(self, connection: Connection[Record]) -> None:
        """Use a connection that was made already."""
        assert self._connection is None, "one connection at a time"
        self._connection = connection
        self.connects += 1

    def drop(self) -> None:
        """Close the connection without a farewell; nothing that was under way is waited for."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def fetch(self, doing: str, sql: str, *args: object, repeat: bool = True) -> Sequence[Any]:
        """Run one statement, in turn, and return its rows.

        With `repeat` (for statements that may run twice) a broken connection is replaced once and the statement sent
        again; lock conflicts are retried. `doing` completes "the database could not ...".
        Raises: Unavailable and what `connect` raises; the driver's errors when they are none of availability.
        """
        return await self.run(doing, lambda connection: connection.fetch(sql, *args), repeat=repeat)

    async def run(self, doing: str, work: Callable[[Connection[Record]], Awaitable[T]], *, repeat: bool = True) -> T:
        """The same for any use of the connection.

        One deadline bounds all of it, the waiting for one's turn included: who stands in line for a server that has
        fallen silent does not wait for the deadlines of all before.
        """
        try:
            async with asyncio.timeout(self.target.deadlines.statement_s), self._turn:
                return await self._use(doing, work, repeat=repeat)
        except TimeoutError as error:
            raise unavailable(error, doing) from error

    async def _use(self, doing: str, work: Callable[[Connection[Record]], Awaitable[T]], *, repeat: bool) -> T:
        tries = 0
        while True:
            tries += 1
            connection = await self.connection()
            try:
                return await work(connection)
            except asyncio.CancelledError:
                # The driver would have the statement cancelled and wait for that, without end if nobody answers.
                self.drop()
                raise
            except DRIVER_ERRORS as error:
                failure = failure_of(error)
                if failure is Failure.LOST:
                    self.drop()
                worth_it = failure is Failure.RETRY or (repeat and failure is Failure.LOST)
                if worth_it and tries < (5 if failure is Failure.RETRY else 2):
                    continue
                if failure in (Failure.LOST, Failure.UNAVAILABLE, Failure.RETRY):
                    raise unavailable(error, doing) from error
                raise

    async def close(self) -> None:
        """Say goodbye, for a moment at most."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            # The driver waits without end for a statement that it is cancelling.
            async with asyncio.timeout(GOODBYE_S):
                await connection.close(timeout=GOODBYE_S)
        except DRIVER_ERRORS:
            connection.terminate()
        except asyncio.CancelledError:
            connection.terminate()
            raise
