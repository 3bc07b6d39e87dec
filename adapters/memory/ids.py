"""Identifiers that a seed determines, so that a test or a simulation can be repeated to the byte."""

from __future__ import annotations

import random
from datetime import datetime
from uuid import UUID

from kernel.model.ids import run_id_from

__all__ = ["SeededIds"]


class SeededIds:
    """`Ids` drawn from one seed: the same calls in the same order give the same identifiers."""

    def __init__(self, seed: int | str = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose, guards nothing

    def run_id(self, now: datetime, /) -> str:
        """The next run id, minted at this moment."""
        return run_id_from(now, self._random.randbytes(10))

    def append_id(self) -> str:
        """The next random UUID text."""
        return str(UUID(bytes=self._random.randbytes(16), version=4))
