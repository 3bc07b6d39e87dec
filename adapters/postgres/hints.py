"""Hearing early, and telling others, that something may have changed; correctness never depends on it.

One connection listens and tells. Telling happens after the commit of what it is about, never within it: a transaction
that notifies takes a lock of the whole cluster when it commits. The first hint goes out at once, further ones at most
every 5 ms, and they carry no content. Nothing waits for one to be sent.

A listener cannot tell a quiet channel from a dead one, so it asks now and then, on its own connection, whether it is
still listening, and connects again when the answer does not come. After every reconnection it gives itself a hint,
because it may have missed one.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

from adapters.postgres.background import end_tasks
from adapters.postgres.connections import Line, Target
from adapters.postgres.failures import DRIVER_ERRORS
from adapters.postgres.statements import Schema
from kernel.errors import EngineError

if TYPE_CHECKING:
    from asyncpg import Connection, Record
    from asyncpg.pool import PoolConnectionProxy

__all__ = ["Hints"]

INTERVAL_S = 0.005
CHECK_EVERY_S = 10.0
RECONNECT_S = 0.5


class Hints:
    """`kernel.ports.persistence.Hints`, and `tell` for the committer."""

    def __init__(self, target: Target, schema: Schema) -> None:
        # A hint need not survive a crash, so its transaction does not wait for the disk.
        quick = replace(target.deadlines, statement_s=target.deadlines.connect_s)
        self._line = Line(
            replace(target.to("wake-up", synchronous_commit="off"), deadlines=quick), prepare=self._listen
        )
        self._channel = str(schema)
        self._pooled = target.pooled
        self._heard = asyncio.Event()
        self._news = False
        self._to_tell = asyncio.Event()
        self._check = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._own_pid: int | None = None
        self.received: int = 0
        self.outages: int = -1
        """How often the connection that listens had to be made anew."""
        self._alive_at = monotonic()

    @property
    def line(self) -> Line:
        """The connection that listens."""
        return self._line

    @property
    def silence_s(self) -> float | None:
        """How long ago the connection that listens has last proved to be alive; None where none can listen."""
        return None if self._pooled else monotonic() - self._alive_at

    async def open(self) -> None:
        """Listen. Raises: Unavailable."""
        await self._line.connection()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._tell(), name="leasehold hints")]
        if not self._pooled:
            self._tasks.append(loop.create_task(self._watch(), name="leasehold listener"))

    async def close(self) -> None:
        """Stop listening."""
        await end_tasks(self._tasks)
        self._tasks = []
        await self._line.close()

    def tell(self, news: bool) -> None:  # noqa: FBT001 - it is the hint
        """Say that something may have changed: to this process at once (see the port), to the others soon."""
        self._news = self._news or news
        self._heard.set()
        self._to_tell.set()

    async def next_hint(self) -> bool:
        await self._heard.wait()
        self._heard.clear()
        news, self._news = self._news, False
        return news

    async def _listen(self, connection: Connection[Record]) -> None:
        if not self._pooled:
            # Taken now: what was received before the connection is closed is handed out when it has forgotten.
            self._own_pid = connection.get_server_pid()
            await connection.add_listener(self._channel, self._hear)
        self.outages += 1
        self._alive_at = monotonic()
        self._news = True
        self._heard.set()

    def _hear(
        self, _connection: Connection[Record] | PoolConnectionProxy[Record], pid: int, _channel: str, _payload: object
    ) -> None:
        self.received += 1
        self._alive_at = monotonic()
        # What this process tells the others it knows already.
        if pid != self._own_pid:
            self._news = True
            self._heard.set()

    async def _tell(self) -> None:
        sql = f'NOTIFY "{self._channel}"'
        while True:
            await self._to_tell.wait()
            self._to_tell.clear()
            # A hint that cannot be sent is not sent: who misses it looks by the clock.
            with suppress(EngineError, *DRIVER_ERRORS):
                await self._line.run("send a hint", lambda connection: connection.execute(sql))
            await asyncio.sleep(INTERVAL_S)

    def look_now(self) -> None:
        """Have it checked at once whether the connection still listens."""
        self._check.set()

    async def _watch(self) -> None:
        pause = CHECK_EVERY_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._check.wait()
            self._check.clear()
            try:
                # On a new connection this listens again; where it has an answer, the old one still does.
                await self._line.fetch("listen", "SELECT pg_listening_channels()")
                self._alive_at = monotonic()
                pause = CHECK_EVERY_S
            except (EngineError, *DRIVER_ERRORS):
                pause = RECONNECT_S
