"""Stores for tests of the runtime: in memory, where most behaviour is the same, and on Postgres where it may not be."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import structlog
from structlog.testing import LogCapture

from adapters.postgres import migrate
from tests.conftest import execute, with_database
from tests.runtime.shared_store import SharedStore, in_memory, on_postgres

EMPTY_ALL_TABLES = """
DO $$
DECLARE name text;
BEGIN
    FOR name IN SELECT tablename FROM pg_tables
    WHERE schemaname = 'leasehold' AND tablename <> 'migrations' AND tablename NOT LIKE 'history_%' LOOP
        EXECUTE format('DELETE FROM leasehold.%I', name);
    END LOOP;
END $$
"""


@pytest.fixture
def log() -> LogCapture:
    """What is said, by anybody in this process."""
    capture = LogCapture()
    structlog.configure(processors=[capture])
    return capture


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    """Nobody's configuration of logs outlives its test: structlog, once configured, writes to standard output."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    yield
    root.handlers[:], level = before
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def memory() -> SharedStore:
    return in_memory()


@pytest.fixture(scope="module")
def migrated_url(postgres_url: str) -> Iterator[str]:
    """A migrated database for the tests of one module: making one takes longer than most of them."""
    name = f"leasehold_test_{secrets.token_hex(6)}"
    execute(postgres_url, f"CREATE DATABASE {name}")
    url = with_database(postgres_url, name)
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, migrate(url)).result()
    yield url
    execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres(migrated_url: str) -> SharedStore:
    execute(migrated_url, EMPTY_ALL_TABLES)
    return on_postgres(migrated_url)


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> SharedStore:
    """Both, for behaviour that depends on the store."""
    found: SharedStore = request.getfixturevalue(request.param)
    return found
