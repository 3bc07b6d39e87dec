"""The machine's own clock and randomness, for whoever has no database to tell the time."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from kernel.model.ids import run_id_from

__all__ = ["RandomIds", "SystemClock"]


class SystemClock:
    """The operating system's time of day."""

    def now(self) -> datetime:
        """The present moment, aware UTC."""
        return datetime.now(UTC)


class RandomIds:
    """Identifiers that nobody can guess and no two processes share."""

    def run_id(self, now: datetime, /) -> str:
        """A new UUIDv7 text minted at this moment."""
        return run_id_from(now, os.urandom(10))

    def append_id(self) -> str:
        """A new random UUID text."""
        # As uuid4 makes it (RFC 9562, 5.4), without the object in between.
        digits = os.urandom(16).hex()
        variant = "89ab"[int(digits[16], 16) & 3]
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
