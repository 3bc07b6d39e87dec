"""The one place where the driver's event loop meets the caller's.

asyncpg speaks asyncio. When the caller does too, a call is a plain await (`Direct`). Under trio the adapter's asyncio
side lives in a thread of its own, to which `trio_bridge` leads; that module is imported only then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Literal, Protocol, TypeVar

__all__ = ["Direct", "EventLoop", "Runner", "current_event_loop", "run_in_asyncio", "runner_for"]

T = TypeVar("T")

EventLoop = Literal["asyncio", "trio"]


class Runner(Protocol):
    """How a call of the port reaches the asyncio side."""

    async def call(self, work: Callable[[], Coroutine[Any, Any, T]], /, *, detach: bool = False) -> T:
        """Do the work and return its result; `detach`: cancelling the caller leaves the work alone."""
        ...


def current_event_loop() -> EventLoop:
    """Which event loop runs the caller."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return "trio"
    return "asyncio"


class Direct:
    """The caller's loop is the driver's."""

    async def call(self, work: Callable[[], Coroutine[Any, Any, T]], /, *, detach: bool = False) -> T:
        return await work()


def runner_for(event_loop: EventLoop) -> AbstractAsyncContextManager[Runner]:
    """The way to the asyncio side for a caller on this loop, open while the context is entered."""
    if event_loop == "asyncio":
        return nullcontext(Direct())
    from adapters.postgres.trio_bridge import TrioBridge

    return TrioBridge()


async def run_in_asyncio(event_loop: EventLoop, work: Callable[[], Awaitable[T]]) -> T:
    """Do one thing that needs asyncio, from either loop."""

    async def as_coroutine() -> T:
        return await work()

    async with runner_for(event_loop) as runner:
        return await runner.call(as_coroutine)
