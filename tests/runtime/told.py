"""A sink that a test looks into, and makes slow or sick."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from kernel import Event, Sink


class Told:
    """Remembers what it took. `refuse` says what to raise, and `hold` what to wait for."""

    def __init__(self) -> None:
        self.taken: list[Event] = []
        self.asked = 0
        self.at_once = 0
        self.most_at_once = 0
        self.opened = 0
        self.closed = 0
        self.refuse: Callable[[Event], Exception | None] = lambda _event: None
        self.hold: anyio.Event | None = None

    async def publish(self, event: Event, /) -> None:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await checkpoint()
            if self.hold is not None:
                await self.hold.wait()
        finally:
            self.at_once -= 1
        error = self.refuse(event)
        if error is not None:
            raise error
        self.taken.append(event)

    def seqs(self, run_id: str) -> list[int]:
        return [event.seq for event in self.taken if event.run_id == run_id]

    def types(self, run_id: str) -> list[str]:
        return [event.type for event in self.taken if event.run_id == run_id]

    @asynccontextmanager
    async def _open(self) -> AsyncGenerator[Told]:
        self.opened += 1
        yield self
        await checkpoint()
        self.closed += 1

    def sink(self, name: str = "told", **options: Any) -> Sink:
        options.setdefault("backoff", timedelta(milliseconds=10))
        return Sink(name=name, open=self._open, **options)
