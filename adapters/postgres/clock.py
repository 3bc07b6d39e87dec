"""The database's time, without asking the database each time.

A value that the database returned lies in its past by the time it arrives, so `value + monotonic time since its
arrival` is never later than the database's own time: what is decided by this clock never fires early. Of the latest
answers the one that says most counts; older ones are forgotten, because the two clocks do not run equally fast.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from time import monotonic

__all__ = ["DatabaseClock"]

ANSWERS = 8
"""Of how many answers the best is kept: about ten seconds of heartbeats, in which clocks drift by microseconds."""


class DatabaseClock:
    """`kernel.ports.clock.Clock`; may be told the time by any thread."""

    def __init__(self) -> None:
        self._offsets_s: deque[float] = deque(maxlen=ANSWERS)
        self._offset_s = datetime.now(UTC).timestamp() - monotonic()

    def observe(self, now: datetime) -> None:
        """Take what the database has just returned."""
        self._offsets_s.append(now.timestamp() - monotonic())
        self._offset_s = max(self._offsets_s)

    def now(self) -> datetime:
        """The present moment, aware UTC; at most as late as the database's."""
        return datetime.fromtimestamp(monotonic() + self._offset_s, UTC)
