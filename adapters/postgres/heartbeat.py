"""The renewal of a session from a thread of its own, on a connection of its own.

A stage that blocks the event loop must not cost the process its lease, so nothing in here uses that loop: each beat
runs a private one, in the thread that calls it, for as long as the round trip takes.

The connection also holds the session's advisory lock, by which the others see that the process lives, and looks
whether theirs are held (`early_condemnation`). Behind a transaction pooler there is neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from adapters.postgres.claims import Mark, Marks
from adapters.postgres.clock import DatabaseClock
from adapters.postgres.connections import Line, Target
from adapters.postgres.early_condemnation import Watch
from adapters.postgres.failures import mapped, unavailable
from adapters.postgres.sessions import beat_of, beat_parameters
from adapters.postgres.statements import Schema, statement
from kernel.errors import Unavailable
from kernel.ports.persistence import Beat

if TYPE_CHECKING:
    from asyncpg import Connection, Record

__all__ = ["PostgresHeartbeat"]

T = TypeVar("T")


class PostgresHeartbeat:
    """`kernel.ports.persistence.Heartbeat`; one thread at a time."""

    def __init__(self, target: Target, schema: Schema, session_id: str, marks: Marks, clock: DatabaseClock) -> None:
        self._session_id = session_id
        self._marks = marks
        self._clock = clock
        self._timer = Mark()
        self._watch = Watch()
        self._target = target.to("renew")
        self._deadline_s = target.deadlines.beat_s
        self._sql = statement("heartbeat", schema)
        self._sql_condemn = statement("condemn_absent", schema)
        self._sql_lock = statement("lock_session", schema)
        self._locked: bool | None = None
        self._connects = 0
        # A close from elsewhere must not pull the loop from under a beat.
        self._turn = Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._line: Line | None = None
        self._closed = False

    def beat(self, *, adrift: bool = False) -> Beat:
        with self._turn:
            if self._closed:
                raise Unavailable("The heartbeat has been closed.")
            return self._run(lambda: self._bounded_beat(adrift=adrift))

    def close(self) -> None:
        with self._turn:
            self._closed = True
            if self._line is not None:
                self._run(self._line.close)
            if self._loop is not None:
                self._loop.close()
                self._loop = None

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        loop = self._loop
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return loop.run_until_complete(work())
        # Called from an event loop after all, most likely to close; no two may run in one thread.
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="leasehold renew") as thread:
            return thread.submit(lambda: loop.run_until_complete(work())).result()

    async def _bounded_beat(self, *, adrift: bool) -> Beat:
        if self._line is None:
            self._line = Line(self._target, prepare=None if self._target.pooled else self._take_lock)
        try:
            async with asyncio.timeout(self._deadline_s):
                row = await self._renew(self._line, adrift=adrift)
                if await self._condemn_absent(self._line, row):
                    # So that whoever asked hears of the runs that have just become free.
                    row = await self._renew(self._line, adrift=adrift)
        except TimeoutError as error:
            self._line.drop()
            raise unavailable(error, "renew a session") from error
        return beat_of(row)

    async def _renew(self, line: Line, *, adrift: bool) -> Record:
        # The claims' mark, but with a timer of our own: who only claims when something is due must hear of what
        # appeared below the mark.
        self._timer.at = self._marks.of(self._session_id).at
        lower = self._timer.lower()
        began = monotonic()
        with mapped("renew a session"):
            # The line connects, and so takes the lock, before the parameters say whether it is held.
            row = await line.run("renew a session", lambda connection: self._send(connection, lower, adrift=adrift))
        self._timer.scanned(lower, monotonic() - began)
        self._clock.observe(row["now"])
        return row

    async def _send(self, connection: Connection[Record], lower: datetime, *, adrift: bool) -> Record:
        if self._locked is False:
            await self._take_lock(connection)
        parameters = beat_parameters(self._session_id, adrift=adrift, lower=lower, locked=self._locked)
        row = await connection.fetchrow(self._sql, *parameters)
        assert row is not None
        return row

    async def _take_lock(self, connection: Connection[Record]) -> None:
        # False while the server still holds it for a connection of ours that is lost.
        self._locked = bool(await connection.fetchval(self._sql_lock, self._session_id))

    async def _condemn_absent(self, line: Line, row: Record) -> bool:
        if not row["alive"] or row["absent_ids"] is None:
            return False
        lease: timedelta = row["lease"]
        now = monotonic()
        if line.connects != self._connects:
            if self._connects:
                self._watch.distrust(now, lease)
            self._connects = line.connects
        absent = dict(zip(row["absent_ids"], row["absent_renewed"], strict=True))
        found = self._watch.look(absent, now, lease)
        if found is None:
            return False
        with mapped("condemn a session"):
            return bool(await line.fetch("condemn a session", self._sql_condemn, *found))
