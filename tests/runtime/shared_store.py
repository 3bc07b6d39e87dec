"""One store and the processes on it: supervisors and clients that share it as they would share a database.

In memory they share an object; on Postgres each opens its own connections. Tests wait for facts with `until`.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from inspect import isawaitable
from typing import Any, TypeVar
from uuid import UUID

import anyio
import asyncpg
from anyio.lowlevel import checkpoint

from adapters.memory import MemoryBlobStore, MemoryPersistence
from adapters.system import RandomIds, SystemClock
from kernel import Unavailable, Workflow
from kernel.ports.persistence import Append, Beat, Heartbeat, SessionInfo
from runtime import App, Client, ServerlessHost, Settings, Supervisor
from runtime.actor import Wait
from runtime.bootstrap import Storage, open_storage

T = TypeVar("T")

WAIT_S = 25.0


class SharedStore:
    """Makes the processes of a test; `url` is the database's, None in memory."""

    def __init__(self, opener: Callable[[Settings], AbstractAsyncContextManager[Storage]], url: str | None) -> None:
        self._opener = opener
        self.url = url

    def supervisor(
        self, app: App | Workflow[Any, Any], /, *, services: Any = None, wait: Wait | None = None, **settings: Any
    ) -> Supervisor:
        chosen = self._settings(**settings)
        return Supervisor(_app(app), settings=chosen, services=services, storage=self._opener(chosen), wait=wait)

    def host(self, app: App | Workflow[Any, Any], /, **settings: Any) -> ServerlessHost:
        chosen = self._settings(**settings)
        return ServerlessHost(_app(app), settings=chosen, storage=self._opener(chosen))

    def client(self, app: App | Workflow[Any, Any], /, **settings: Any) -> Client:
        chosen = self._settings(**settings)
        return Client(_app(app), settings=chosen, storage=self._opener(chosen))

    def opened(self) -> AbstractAsyncContextManager[Storage]:
        """The store without a process."""
        return self._opener(self._settings())

    def _settings(self, **settings: Any) -> Settings:
        seconds = {key: timedelta(seconds=value) for key, value in settings.items() if isinstance(value, float)}
        return Settings(database_url=self.url or "memory://", **{**settings, **seconds})


def in_memory(store: Any = None) -> SharedStore:
    """A store in this process, which outlives its supervisors; or a given one."""
    clock = SystemClock()
    persistence = store or MemoryPersistence(clock)
    shared = Storage(
        persistence=persistence,
        scheduler=persistence.scheduler if isinstance(persistence, MemoryPersistence) else None,
        jobs=persistence.jobs,
        blobs=MemoryBlobStore(),
        clock=clock,
        ids=RandomIds(),
        database="memory of this test",
    )

    @asynccontextmanager
    async def opener(_: Settings) -> AsyncGenerator[Storage]:
        yield shared

    return SharedStore(opener, None)


def on_postgres(url: str) -> SharedStore:
    """A migrated database."""
    return SharedStore(open_storage, url)


def _app(app: App | Workflow[Any, Any]) -> App:
    return app if isinstance(app, App) else App(workflows=[app])


async def lose_lease(supervisor: Supervisor) -> str:
    """End the lease of its session behind its back; it lives on."""
    session = supervisor.stats().session_id
    assert session is not None
    await supervisor.storage.persistence.close_session(session)
    return session


@asynccontextmanager
async def dead_owner(client: Client) -> AsyncGenerator[None]:
    """Meanwhile the one run that is due belongs to a session whose process does nothing; it is condemned at the end."""
    persistence = client.storage.persistence
    info = SessionInfo(name="dead", hostname="host", pid=1)
    session = await persistence.open_session(info, client.app.known(), lease=timedelta(seconds=10))
    assert len(await persistence.claim(session, 10)) == 1
    yield
    await persistence.close_session(session)


async def until(fact: Callable[[], T | Awaitable[T]], *, within_s: float = WAIT_S) -> T:
    """What `fact` answers as soon as it is true."""
    with anyio.fail_after(within_s):
        while True:
            answer = fact()
            found: Any = await answer if isawaitable(answer) else answer
            if found:
                return found
            await anyio.sleep(0.002)


async def create_in_sql(url: str, workflow_id: str, value: object) -> str:
    """In a transaction of the caller's own."""
    found: list[UUID] = []

    async def insert() -> None:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            async with connection.transaction():
                sql = "SELECT leasehold.create_run($1, $2::text::json)"
                found.append(await connection.fetchval(sql, workflow_id, json.dumps(value)))
        finally:
            await connection.close(timeout=10)

    # The driver speaks asyncio, whatever loop runs here.
    await anyio.to_thread.run_sync(lambda: asyncio.run(insert()))
    return str(found[0])


class LateAnswers:
    """A store in memory that does what it is asked for at once, and answers appends when it is told to."""

    def __init__(self) -> None:
        self._store = MemoryPersistence(SystemClock())
        self.late = False
        self.stored = anyio.Event()
        self.answer = anyio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def append(self, append: Append) -> bool:
        late, self.late = self.late, False
        owned = await self._store.append(append)
        if late:
            self.stored.set()
            await self.answer.wait()
        return owned


class BreakableStore:
    """A store that cannot be reached while it is `down`, from no task and no thread; it counts what it `refused`.

    Of the methods named in `fail_next` it refuses so many calls also when it is up.
    """

    def __init__(self, store: Any) -> None:
        self.down = False
        self.refused: Counter[str] = Counter()
        self.fail_next: Counter[str] = Counter()
        self._store = store

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name == "jobs":
            return _BreakableJobs(self, method)
        if name == "heartbeat":
            return lambda session_id: _BreakableHeartbeat(self, method(session_id))

        async def call(*args: Any, **named: Any) -> Any:
            await checkpoint()
            self.check(name)
            return await method(*args, **named)

        return call

    def check(self, name: str) -> None:
        if self.fail_next[name] > 0:
            self.fail_next[name] -= 1
            raise Unavailable("The store is out of order for a moment.")
        if self.down:
            self.refused[name] += 1
            raise Unavailable("The store is out of order.")


class _BreakableJobs:
    def __init__(self, store: BreakableStore, jobs: Any) -> None:
        self._store = store
        self._jobs = jobs

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._jobs, name)

        async def call(*args: Any, **named: Any) -> Any:
            await checkpoint()
            self._store.check(name)
            return await method(*args, **named)

        return call


class _BreakableHeartbeat:
    def __init__(self, store: BreakableStore, heartbeat: Heartbeat) -> None:
        self._store = store
        self._heartbeat = heartbeat

    def beat(self, *, adrift: bool = False) -> Beat:
        self._store.check("beat")
        return self._heartbeat.beat(adrift=adrift)

    def close(self) -> None:
        self._heartbeat.close()
