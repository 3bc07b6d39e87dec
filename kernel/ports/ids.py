"""New identifiers, as the kernel is given them."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

__all__ = ["Ids"]


class Ids(Protocol):
    """The engine's only source of randomness."""

    def run_id(self, now: datetime, /) -> str:
        """A new UUIDv7 text minted at this moment."""
        ...

    def append_id(self) -> str:
        """A new random UUID text."""
        ...
