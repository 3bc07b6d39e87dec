"""Doing several things at once, for a kernel that knows no event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

__all__ = ["Concurrency", "InTurn"]

R = TypeVar("R")


class Concurrency(Protocol):
    """Somebody who can wait for several things at once."""

    async def gather(self, calls: Sequence[Callable[[], Awaitable[R]]], /) -> Sequence[R]:
        """Make all calls, as many at once as it sees fit, and return what they return in their order.

        What one of them raises is raised when all have ended. Cancelled, it cancels those that are under way.
        """
        ...


class InTurn:
    """One call after the other, which needs no event loop: what a kernel does that is given nothing else."""

    async def gather(self, calls: Sequence[Callable[[], Awaitable[R]]], /) -> Sequence[R]:
        """Make the calls in their order; what one of them raises is raised at once."""
        return [await call() for call in calls]
