"""One limit for everything that entering (or leaving) does, however many steps it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

# Every wait here ends within a few milliseconds of its reason, at a cost of some hundred system calls per second for
# the fraction of a second that a start takes.
POLL_S = 0.005


def heed_nobody() -> None:
    """Wait whatever happens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """A moment of the monotonic clock, with the span that led to it.

    `heed` is called again and again while something is waited for; what it raises ends the wait.
    """

    span_s: float
    at_s: float
    heed: Callable[[], None] = field(default=heed_nobody)

    @classmethod
    def after(cls, span_s: float, heed: Callable[[], None] = heed_nobody) -> Deadline:
        """Begin now."""
        return cls(span_s=span_s, at_s=time.monotonic() + span_s, heed=heed)

    def left_s(self) -> float:
        """Seconds that remain, never negative."""
        return max(0.0, self.at_s - time.monotonic())

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Ask until the answer is yes (True) or time is up (False); asks at least once."""
        while not condition():
            if not self.left_s():
                return False
            self.pause()
        return True

    def pause(self) -> None:
        """Let a moment pass, after making sure that the wait is still wanted."""
        self.heed()
        time.sleep(POLL_S)
