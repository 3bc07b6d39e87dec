"""A schema of their own for the tests of each file, and something to put between the adapter and its server."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from functools import partial

import asyncpg
import pytest

from adapters.postgres import Deadlines, PostgresPersistence, migrate, open_postgres
from tests.adapters.postgres.stores import Home
from tests.adapters.postgres.wire import Wire
from tests.conftest import execute, with_database

Open = Callable[..., AbstractAsyncContextManager[PostgresPersistence]]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The driver's own loop; the conformance suite and the tests of the bridge run on both."""
    return "asyncio"


@pytest.fixture(scope="session")
def adapter_url(postgres_url: str) -> Iterator[str]:
    name = f"leasehold_adapter_{secrets.token_hex(4)}"
    execute(postgres_url, f"CREATE DATABASE {name}")
    yield with_database(postgres_url, name)
    execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def new_schema() -> str:
    """The name of a schema that does not exist yet."""
    return f"test_{secrets.token_hex(5)}"


@pytest.fixture(scope="module")
def schema(adapter_url: str) -> str:
    """A schema for the tests of one file, which keep apart by their workflows: making one takes a while."""
    name = f"test_{secrets.token_hex(5)}"
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, migrate(adapter_url, schema=name)).result()
    return name


@pytest.fixture(scope="module")
def open_at(schema: str) -> Open:
    """Open the test's schema at a URL; short deadlines, so that a test which waits for one is quick."""
    deadlines = Deadlines(connect_s=1.5, statement_s=4, server_statement_s=3, beat_s=1, patience_s=0.5, close_s=1)
    return partial(open_postgres, schema=schema, deadlines=deadlines)


@pytest.fixture(scope="module")
async def store(open_at: Open, adapter_url: str) -> AsyncIterator[PostgresPersistence]:
    """One for the tests of a file, because opening one takes a while as well."""
    async with open_at(adapter_url) as persistence:
        yield persistence


@pytest.fixture
async def home(store: PostgresPersistence) -> Home:
    """The store with a workflow that it knows."""
    home = Home(store, lambda: datetime.now(UTC))
    await home.open()
    return home


@pytest.fixture
async def admin(adapter_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody with psql, in UTC."""
    connection = await asyncpg.connect(adapter_url, timeout=10, server_settings={"timezone": "UTC"})
    yield connection
    await connection.close(timeout=10)


@pytest.fixture
async def holder(adapter_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody who holds locks."""
    connection = await asyncpg.connect(adapter_url, timeout=10)
    yield connection
    await connection.close(timeout=10)


@pytest.fixture
async def seen_deadlocks(adapter_url: str) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """How many deadlocks the server has seen since. It looks for them before our connections stop waiting for a lock,
    which would end a deadlock without anybody's noticing; so this comes before the stores of a test."""
    connection = await asyncpg.connect(adapter_url, timeout=10)
    name = await connection.fetchval("SELECT current_database()")

    async def seen() -> int:
        await connection.execute("SELECT pg_stat_clear_snapshot()")
        return await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = $1", name)

    await connection.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '5ms'")
    before = await seen()

    async def since() -> int:
        # Backends tell what they have seen once a second, or when they end.
        await connection.execute("SELECT pg_sleep(1.1)")
        return await seen() - before

    yield since
    await connection.execute(f"ALTER DATABASE {name} RESET deadlock_timeout")
    await connection.close(timeout=10)


@pytest.fixture
def wire(adapter_url: str) -> Iterator[Wire]:
    with Wire(adapter_url) as wire:
        yield wire
