"""Worker threads for `def` bodies.

A thread cannot be interrupted. When whoever waits for one is cancelled, the thread is *abandoned*: it runs on until
its body ends, its result is thrown away, and it is counted meanwhile. An abandoned thread gives its slot to the next
body, because one hanging call must not stop everybody else's; but only as many of them as there are slots. From then
on an abandoned thread keeps its slot until it ends, so that a process never has more than twice its threads.

Nothing else in the runtime starts threads, except the renewal of the lease.
"""

from __future__ import annotations

import math
import sys
import threading
import traceback
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Literal, TypeVar, cast

import anyio
from anyio import to_thread

from runtime.loop_door import LoopDoor

__all__ = ["BodyThreads", "Slot"]

T = TypeVar("T")


class Slot:
    """Room for one thread; made by `BodyThreads.slot`."""

    def __init__(self, threads: BodyThreads) -> None:
        self._threads = threads
        self._state: Literal["waiting", "running", "abandoned", "ended"] = "waiting"
        self._thread_id: int | None = None
        self.kept: bool = False

    async def run(self, function: Callable[[], T]) -> T:
        """Call the function in a thread. Cancelled, this returns at once and the thread is abandoned."""
        try:
            return await self._threads.start(self._work, function)
        except BaseException:
            self._abandon()
            raise

    def stack(self) -> str | None:
        """Where the thread is just now, as text; None when it is not running."""
        if self._thread_id is None:
            return None
        frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # the documented way
        return None if frame is None else "".join(traceback.format_stack(frame))

    def _work(self, function: Callable[[], T]) -> T | None:
        with self._threads.lock:
            if self._state != "waiting":
                return None  # nobody waits any more, and nothing has been begun
            self._state = "running"
            self._thread_id = threading.get_ident()
        try:
            return function()
        finally:
            self._end()

    def _abandon(self) -> None:
        threads = self._threads
        with threads.lock:
            if self._state == "running":
                self._state = "abandoned"
                threads.abandoned += 1
                self.kept = threads.abandoned > threads.total
            elif self._state == "waiting":
                self._state = "ended"

    def _end(self) -> None:
        threads = self._threads
        with threads.lock:
            abandoned = self._state == "abandoned"
            self._state = "ended"
            self._thread_id = None
            threads.abandoned -= abandoned
        if self.kept:
            threads.give_back(self)


class BodyThreads:
    """At most `total` threads at work, and at most as many abandoned ones beside them; `abandoned` counts those."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.abandoned = 0
        # Guards the two numbers and every slot's state; held for a few instructions only.
        self.lock: threading.Lock = threading.Lock()
        self._slots = anyio.CapacityLimiter(total)
        # What an abandoned thread still occupies differs between event loops, so we count by ourselves.
        self._unlimited = anyio.CapacityLimiter(math.inf)
        self._door: LoopDoor | None = None

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[Slot, None]:
        """Wait for room for one thread."""
        if self._door is None:
            self._door = LoopDoor()
        slot = Slot(self)
        await self._slots.acquire_on_behalf_of(slot)
        try:
            yield slot
        finally:
            if not slot.kept:
                self._slots.release_on_behalf_of(slot)

    async def start(self, work: Callable[[Callable[[], T]], T | None], function: Callable[[], T]) -> T:
        """Hand the work to a thread and wait for it."""
        result = await to_thread.run_sync(work, function, abandon_on_cancel=True, limiter=self._unlimited)
        return cast("T", result)  # None is no result only where nobody waits for one

    def give_back(self, slot: Slot) -> None:
        """From its ended thread: free the slot that an abandoned thread has kept."""
        assert self._door is not None
        self._door.call(lambda: self._slots.release_on_behalf_of(slot))
