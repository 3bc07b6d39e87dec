"""What the kernel asks for when it has several things to wait for: tasks of one group, side by side.

How many checks are really made at once is the executor's affair; here it is bounded by what one command asks for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

__all__ = ["SideBySide"]

R = TypeVar("R")


class SideBySide:
    """`kernel.ports.concurrency.Concurrency` on the event loop that runs here."""

    async def gather(self, calls: Sequence[Callable[[], Awaitable[R]]], /) -> Sequence[R]:
        """Make all calls at once; the first error, in their order, comes out bare when all have ended."""
        results: dict[int, R] = {}
        errors: dict[int, Exception] = {}

        async def one(place: int, call: Callable[[], Awaitable[R]]) -> None:
            try:
                results[place] = await call()
            except Exception as error:  # noqa: BLE001 - raised below, when the others have ended
                errors[place] = error

        async with anyio.create_task_group() as tasks:
            for place, call in enumerate(calls):
                tasks.start_soon(one, place, call)
        if errors:
            raise errors[min(errors)]
        return [results[place] for place in range(len(calls))]
