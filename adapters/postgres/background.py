"""Ending tasks of ours, whatever they are waiting for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

__all__ = ["end_tasks"]

AGAIN_S = 0.2


async def end_tasks(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel the tasks until they have ended; what they raise at the end is of no interest.

    More than once, because a task that gets its cancellation in the very moment in which what it waits for is done
    may lose it (`asyncio.wait_for` before Python 3.12, and the driver uses it).
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=AGAIN_S)
        for task in done:
            if not task.cancelled():
                task.exception()
