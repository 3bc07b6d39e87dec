"""Waiting for runs that are driven elsewhere: one reader for however many wait.

Hints make it quick, the clock makes it certain: while anybody waits, the heads of all awaited runs are read in one
query after every hint and at least once per poll interval. The pause between two reads grows with what a read costs,
so ten thousand waiters slow each other down instead of the database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio
import anyio.abc

from kernel.errors import InvalidCommand, RunNotFound, Unavailable
from kernel.ports.persistence import HeadRow, Histories
from telemetry.logs import EventLogger, get_logger

__all__ = ["Watch"]

logger: EventLogger = get_logger("leasehold.runtime")

PAUSE_MIN_S = 0.004
PAUSE_FACTOR = 4.0
"""The reader rests this many times as long as it read, so it takes at most a fifth of a connection's time."""
HEADS_MAX = 1000


class _Waiter:
    __slots__ = ("after", "answered", "event", "head", "run_id")

    def __init__(self, run_id: str, after: int) -> None:
        self.run_id = run_id
        self.after = after
        self.head: HeadRow | None = None
        self.answered = False
        self.event = anyio.Event()


class Watch:
    """Reads heads for those who wait; `run` is its task."""

    def __init__(self, histories: Histories, poll_interval_s: float) -> None:
        self._histories = histories
        self._poll_interval_s = poll_interval_s
        self._waiters: dict[_Waiter, None] = {}
        self._wanted = anyio.Event()
        self._hinted = anyio.Event()
        self._closed = False

    def close(self) -> None:
        """Whoever still waits, and whoever comes later, is told that nobody looks any more."""
        self._closed = True
        for waiter in tuple(self._waiters):
            waiter.event.set()

    def hint(self) -> None:
        """Something changed somewhere."""
        self._hinted.set()

    async def moved(self, run_id: str, *, after: int) -> HeadRow:
        """Return the head once its sequence number is above `after`, or once it has ended.

        Raises: RunNotFound; InvalidCommand when the client is closed meanwhile. An unavailable database is waited out.
        """
        waiter = _Waiter(run_id, after)
        self._waiters[waiter] = None
        self._wanted.set()
        # A run that has moved already must not wait for the next hint.
        self._hinted.set()
        try:
            if not self._closed:
                await waiter.event.wait()
        finally:
            self._waiters.pop(waiter, None)
        if waiter.answered:
            if waiter.head is None:
                raise RunNotFound(run_id)
            return waiter.head
        reason = f'The client was closed while it waited for run "{run_id}", which goes on.'
        raise InvalidCommand(reason, field="client", hint='Wait inside "async with".')

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Read while anybody waits; sleeps without a timer otherwise."""
        task_status.started()
        while True:
            if not self._waiters:
                self._wanted = anyio.Event()
                await self._wanted.wait()
            self._hinted = anyio.Event()
            began = anyio.current_time()
            await self._read(sorted({waiter.run_id for waiter in self._waiters}))
            pause_s = max((anyio.current_time() - began) * PAUSE_FACTOR, PAUSE_MIN_S)
            await anyio.sleep(min(pause_s, self._poll_interval_s))
            if self._waiters:
                with anyio.move_on_after(self._poll_interval_s):
                    await self._hinted.wait()

    async def _read(self, run_ids: Sequence[str]) -> None:
        heads: dict[str, HeadRow] = {}
        try:
            for start in range(0, len(run_ids), HEADS_MAX):
                heads |= await self._histories.heads(run_ids[start : start + HEADS_MAX])
        except Unavailable as error:
            logger.warning("store.unavailable", error=str(error))
            return
        self._answer(set(run_ids), heads)

    def _answer(self, asked: set[str], heads: Mapping[str, HeadRow]) -> None:
        for waiter in tuple(self._waiters):
            if waiter.run_id not in asked:
                continue
            head = heads.get(waiter.run_id)
            if head is None or head.seq > waiter.after or head.head.completed_at is not None:
                waiter.head = head
                waiter.answered = True
                waiter.event.set()
                self._waiters.pop(waiter, None)
