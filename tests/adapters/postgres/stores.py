"""What the adapter's tests build on a store: a workflow, sessions, runs made by the real kernel."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import uuid4

from anyio import fail_after, sleep

from adapters.conformance.store.builders import KnownRun, a_creation, a_definition, starting
from adapters.postgres import PostgresPersistence
from kernel.errors import EngineError
from kernel.ports.persistence import Append, Lease, SessionInfo

T = TypeVar("T")

LONG = timedelta(minutes=5)


@dataclass
class Home:
    """A store with a workflow that no other test knows."""

    store: PostgresPersistence
    now: Callable[[], datetime]
    workflow: str = field(default_factory=lambda: f"greet-{uuid4().hex[:8]}")

    async def open(self) -> None:
        await self.store.register_workflows([a_definition(self.workflow)])

    async def session(self, *, lease: timedelta = LONG, store: PostgresPersistence | None = None) -> str:
        info = SessionInfo(name="worker", hostname="host", pid=1, started_at=self.now())
        return await (store or self.store).open_session(info, [(self.workflow, "1")], lease=lease)

    def creation(self, **fields: Any) -> Append:
        return a_creation(self.workflow, self.now(), **fields)

    async def create(self, *, owner: str | None = None, **fields: Any) -> KnownRun:
        lease = None if owner is None else Lease(session_id=owner, claim=1)
        creation = self.creation(lease=lease, **fields)
        await self.store.append(creation)
        return KnownRun.of(creation, self.now)

    async def started(self, owner: str) -> KnownRun:
        return await self.create(owner=owner, change=starting)

    async def append_ids(self, run: KnownRun) -> list[str]:
        return [row.append_id for row in (await self.store.load(run.id)).rows]


async def outcome_of(store: PostgresPersistence, append: Append) -> EngineError | None:
    """None when the append landed, else why it did not."""
    try:
        await store.append(append)
    except EngineError as error:
        return error
    return None


async def note_outcome(into: list[EngineError | None], store: PostgresPersistence, append: Append) -> None:
    into.append(await outcome_of(store, append))


async def until(fact: Callable[[], Awaitable[T]], *, within_s: float = 15) -> T:
    """What `fact` answers as soon as it is true."""
    with fail_after(within_s):
        while not (answer := await fact()):  # noqa: ASYNC110 - the fact is in a database
            await sleep(0.01)
        return answer
