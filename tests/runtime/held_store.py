"""A store in memory that stands still where a test says so, for what can go wrong while an append is under way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio

from adapters.memory import MemoryPersistence
from adapters.system import SystemClock
from kernel.ports.persistence import Append, Beat, Heartbeat, StoredHistory

Which = Callable[[Append], bool]


def starts_a_body(append: Append) -> bool:
    return append.mode == "owned" and b"stage.started" in append.events


def completes_a_stage(append: Append) -> bool:
    return append.mode == "owned" and b"stage.completed" in append.events


def creates(append: Append) -> bool:
    return append.mode == "create"


def parks(append: Append) -> bool:
    return append.mode == "park"


class HeldStore:
    """Appends that `before` picks wait before they land, those that `after` picks are answered late.

    With `hold_loads` an actor that reads what others have appended waits too. What waits is in `held`, or counted by
    `loading`; `let_go` ends all of it and holds nothing more, `let_go_appends` leaves the loads as they are.
    """

    def __init__(self) -> None:
        self.store = MemoryPersistence(SystemClock())
        self.before: Which | None = None
        self.after: Which | None = None
        self.hold_loads = False
        self.held: list[Append] = []
        self.loading = 0
        self.full_beats = 0
        self._go = anyio.Event()
        self._go_on_loading = anyio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def append(self, append: Append, /) -> bool:
        if self.before is not None and self.before(append):
            await self._hold(append)
        owned = await self.store.append(append)
        if self.after is not None and self.after(append):
            await self._hold(append)
        return owned

    async def load(self, run_id: str, /, **which: Any) -> StoredHistory:
        if self.hold_loads and which.get("after"):
            self.loading += 1
            await self._go_on_loading.wait()
        return await self.store.load(run_id, **which)

    def heartbeat(self, session_id: str) -> Heartbeat:
        return _CountedHeartbeat(self, self.store.heartbeat(session_id))

    def hold_nothing_new(self) -> None:
        """Whatever waits goes on waiting; the others pass."""
        self.before = self.after = None
        self.hold_loads = False

    def let_go(self) -> None:
        self.hold_nothing_new()
        self._go.set()
        self._go_on_loading.set()

    def let_go_appends(self) -> None:
        self.before = self.after = None
        self._go.set()

    async def _hold(self, append: Append) -> None:
        self.held.append(append)
        await self._go.wait()


class _CountedHeartbeat:
    """Counts the beats that ask for every run of the session."""

    def __init__(self, held: HeldStore, heartbeat: Heartbeat) -> None:
        self._held = held
        self._heartbeat = heartbeat

    def beat(self, *, adrift: bool = False) -> Beat:
        answer = self._heartbeat.beat(adrift=adrift)
        self._held.full_beats += adrift
        return answer

    def close(self) -> None:
        self._heartbeat.close()
