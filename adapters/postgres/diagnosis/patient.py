"""The database that is examined: how it is reached, and how it is asked without being changed.

Connecting happens once, whichever check comes first; when it fails, the check of that name tells why and the others
have nothing to look at. Judges nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from adapters.postgres.connections import Deadlines, Line, Target, place_of
from adapters.postgres.failures import mapped
from adapters.postgres.pooling import connect_two
from adapters.postgres.statements import Schema, statement
from kernel.errors import EngineError, SchemaOutdated
from kernel.ports.diagnosis import CheckSkipped

if TYPE_CHECKING:
    from asyncpg import Connection, Record

__all__ = ["Patient", "Thresholds"]

T = TypeVar("T")

DEADLINES = Deadlines(connect_s=4.0, statement_s=8.0, server_statement_s=5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """From when on something is a warning, and from when on a problem, in seconds (and multiples, where it says so).

    The problems are those that OPERATIONS.md has alerts for, at the same values.
    """

    clock_warning_s: float = 1.0
    clock_problem_s: float = 300.0
    idle_warning_s: float = 10.0
    open_warning_s: float = 60.0
    open_problem_s: float = 600.0
    xmin_age_warning: int = 1_000_000
    dead_rows_warning: float = 2.0
    dead_rows_problem: float = 10.0
    dead_rows_least: int = 10_000
    dead_session_problem_s: float = 60.0
    nobody_problem_s: float = 60.0
    backlog_warning_s: float = 30.0
    backlog_problem_s: float = 300.0
    outbox_warning_s: float = 60.0
    outbox_problem_s: float = 600.0
    months_ahead: int = 2


@dataclass(slots=True)
class _Reached:
    line: Line
    target: Target
    connect_s: float


class Patient:
    """One database, or one schema of it; `wall` is the clock of this host."""

    def __init__(
        self,
        url: str,
        direct_url: str | None,
        schema: Schema,
        *,
        thresholds: Thresholds,
        embedded: bool = False,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.url = url
        self.direct_url = direct_url
        self.schema = schema
        self.thresholds = thresholds
        self.embedded = embedded
        self.wall = wall
        self.failure: EngineError | None = None
        self._reached: _Reached | None = None
        self._direct: _Reached | EngineError | None = None
        self._turn = asyncio.Lock()

    @property
    def place(self) -> str:
        """Which database it is, for people."""
        return place_of(self.url)

    async def reach(self) -> _Reached:
        """The connection, made at the first call. Raises: CheckSkipped, when it cannot be made (`failure`)."""
        async with self._turn:
            if self.failure is None and self._reached is None:
                try:
                    self._reached = await _connected(self.url, "doctor")
                except EngineError as error:
                    self.failure = error
            if self._reached is None:
                raise CheckSkipped("The database was not reached.")
            return self._reached

    async def reach_direct(self) -> _Reached:
        """The connection for what a transaction pooler takes away; one of its own also where there is no pooler.

        Raises: CheckSkipped, when there is no database; Unavailable and NoDatabase, when the way of its own is blocked.
        """
        reached = await self.reach()
        async with self._turn:
            if self._direct is None:
                try:
                    if self.direct_url is not None:
                        self._direct = await _connected(self.direct_url, "doctor direct")
                    else:
                        self._direct = _Reached(Line(reached.target.to("doctor direct")), reached.target, 0.0)
                except EngineError as error:
                    self._direct = error
            if isinstance(self._direct, EngineError):
                raise self._direct
            return self._direct

    async def ask(self, name: str, *args: object) -> Sequence[Any]:
        """The rows of a statement. Raises: as `use`."""
        sql = statement(name, self.schema)
        return await self.use(lambda connection: connection.fetch(sql, *args))

    async def use(self, work: Callable[[Connection[Record]], Awaitable[T]]) -> T:
        """Look at something on the connection, in a transaction that may only read.

        Raises: CheckSkipped, when there is no database or no schema; InvalidCommand, when the role may not look;
        Unavailable.
        """
        line = (await self.reach()).line

        async def reading(connection: Connection[Record]) -> T:
            async with connection.transaction(readonly=True):
                return await work(connection)

        try:
            with mapped("answer"):
                return await line.run("answer", reading)
        except SchemaOutdated:
            raise CheckSkipped("There is no schema of this release to look at.") from None

    async def close(self) -> None:
        """Let go of the connections; nothing is waited for."""
        for reached in (self._reached, self._direct):
            if isinstance(reached, _Reached):
                reached.line.drop()


async def _connected(url: str, purpose: str) -> _Reached:
    begun = time.perf_counter()
    target, (first, second) = await connect_two(Target(url=url, purpose=purpose, deadlines=DEADLINES))
    second.terminate()
    line = Line(target)
    line.adopt(first)
    return _Reached(line, target, time.perf_counter() - begun)
