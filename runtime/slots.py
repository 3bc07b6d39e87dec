"""How many bodies this process executes at once, and who is next.

An actor reserves slots before it appends the start of attempts, so a run is never shown as RUNNING while it merely
waits for room here. A slot whose body has returned passes to the next stage of the same run in the same append;
otherwise whoever has waited longest is next. Everything here is synchronous: no other task can come in between.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Slots"]


class Slots:
    """A count with a queue; waiters are called when there may be room and ask again."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used: int = 0
        self._waiters: dict[Callable[[], None], None] = {}

    def available(self, waiter: Callable[[], None] | None = None) -> int:
        """How many slots this waiter (or a newcomer) may reserve now: none while others have waited longer."""
        if self._waiters and next(iter(self._waiters)) != waiter:
            return 0
        return max(self.total - self.used, 0)

    def reserve(self, count: int) -> None:
        """Take slots; more than are available when an ended attempt's slot is passed on."""
        self.used += count

    def release(self, count: int = 1) -> None:
        """Give slots back and call the first waiter."""
        self.used -= count
        self.wake()

    def wait(self, waiter: Callable[[], None]) -> None:
        """Queue up, once; the place is kept until `leave`."""
        self._waiters.setdefault(waiter)

    def leave(self, waiter: Callable[[], None]) -> None:
        """Leave the queue; the next one may have room now."""
        if self._waiters.pop(waiter, self) is not self:
            self.wake()

    def wake(self) -> None:
        """Call the first waiter, if there is room for it."""
        if self._waiters and self.used < self.total:
            next(iter(self._waiters))()

    @property
    def waiting(self) -> int:
        """How many wait for room."""
        return len(self._waiters)
