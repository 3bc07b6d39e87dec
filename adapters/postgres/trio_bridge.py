"""The way from trio to an asyncio loop in a thread of its own, and back.

A call is posted to the thread and wakes the trio task by trio's token when it is done. No thread is started per call,
and what is posted while the other side is busy is handed over in one go.

Cancelling the trio task cancels the work on the other side and waits until it has let go, so nothing runs on behind
the caller's back; work that is detached is the exception (an append, as its port says): it goes on and its answer is
dropped.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Self, TypeVar

import outcome
import trio

from kernel.errors import Unavailable

__all__ = ["TrioBridge"]

T = TypeVar("T")


class TrioBridge:
    """An asyncio loop in a thread of its own, callable from trio. Use it as an async context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="leasehold postgres", daemon=True)
        self._to_asyncio = _Mailbox(self._loop.call_soon_threadsafe)
        self._to_trio = _Mailbox(self._wake_trio)
        self._token: trio.lowlevel.TrioToken | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._token = trio.lowlevel.current_trio_token()
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            leftover = asyncio.all_tasks(self._loop)
            for task in leftover:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*leftover, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            self._loop.close()

    async def call(self, work: Callable[[], Coroutine[Any, Any, T]], /, *, detach: bool = False) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        task = trio.lowlevel.current_task()
        running: list[asyncio.Task[T]] = []
        abandoned = False
        raise_cancelled: list[Callable[[], Any]] = []

        def start() -> None:
            begun = self._loop.create_task(work())
            running.append(begun)
            self._tasks.add(begun)
            begun.add_done_callback(finished)
            if raise_cancelled and not detach:
                begun.cancel()

        def finished(ended: asyncio.Task[T]) -> None:
            self._tasks.discard(ended)
            if ended.cancelled():
                result: outcome.Outcome[T] = outcome.Error(asyncio.CancelledError())
            elif (error := ended.exception()) is not None:
                result = outcome.Error(error)
            else:
                result = outcome.Value(ended.result())
            self._to_trio.post(lambda: deliver(result))

        def deliver(result: outcome.Outcome[T]) -> None:
            if not abandoned:
                trio.lowlevel.reschedule(task, result)

        def cancel() -> None:
            for begun in running:
                begun.cancel()

        def abort(raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
            nonlocal abandoned
            if detach:
                abandoned = True
                return trio.lowlevel.Abort.SUCCEEDED
            raise_cancelled.append(raise_cancel)
            self._to_asyncio.post(cancel)
            return trio.lowlevel.Abort.FAILED

        self._to_asyncio.post(start)
        try:
            result: T = await trio.lowlevel.wait_task_rescheduled(abort)
        except asyncio.CancelledError:
            if raise_cancelled:
                raise_cancelled[0]()
            raise Unavailable("The database adapter has been closed.") from None
        return result

    def _wake_trio(self, deliver: Callable[[], None]) -> None:
        assert self._token is not None, "entered"
        # Without a trio loop nobody waits for the answer any more.
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(deliver)


class _Mailbox:
    """Actions for a loop in another thread; only the first of several that wait has to wake it."""

    def __init__(self, wake: Callable[[Callable[[], None]], object]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._actions: deque[Callable[[], None]] = deque()
        self._woken = False

    def post(self, action: Callable[[], None]) -> None:
        with self._lock:
            self._actions.append(action)
            if self._woken:
                return
            self._woken = True
        self._wake(self._deliver)

    def _deliver(self) -> None:
        while True:
            with self._lock:
                actions, self._actions = self._actions, deque()
                if not actions:
                    self._woken = False
                    return
            for action in actions:
                action()
