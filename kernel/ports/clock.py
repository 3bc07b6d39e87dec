"""Time, as the kernel is told it."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

__all__ = ["Clock"]


class Clock(Protocol):
    """The engine's only source of the time of day."""

    def now(self) -> datetime:
        """The present moment, aware UTC; never later than the database's own time when there is a database."""
        ...
