"""Stores for tests of the runtime: in memory, where most behaviour is the same, and on Postgres where it may not be."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog
from structlog.testing import LogCapture

from tests.conftest import execute, new_database
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
def migrated_url(postgres_url: str, migrated_template: str) -> Iterator[str]:
    """A migrated database for the tests of one module: making one takes longer than many of them."""
    with new_database(postgres_url, migrated_template) as url:
        yield url


@pytest.fixture
def postgres(migrated_url: str) -> SharedStore:
    execute(migrated_url, EMPTY_ALL_TABLES)
    return on_postgres(migrated_url)


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> SharedStore:
    """Both, for behaviour that depends on the store."""
    found: SharedStore = request.getfixturevalue(request.param)
    return found
