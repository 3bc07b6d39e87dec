"""The stores that the conformance suite holds to the ports' promises."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from anyio.lowlevel import checkpoint

from adapters.conformance.store import Backdoor, World
from adapters.memory import MemoryPersistence
from adapters.postgres import open_postgres
from tests.conftest import SEED, execute, fetch_value, with_database


class ByHand:
    """Time in memory: it stands still, and every look takes a while."""

    def __init__(self) -> None:
        self._now = datetime.now(UTC)

    def now(self) -> datetime:
        return self._now

    async def a_little(self) -> None:
        self._now += timedelta(milliseconds=50)
        await checkpoint()


class BehindMemory(Backdoor):
    def __init__(self, store: MemoryPersistence, clock: ByHand) -> None:
        self._store = store
        self._clock = clock

    def set_format(self, run_id: str, format: int) -> None:
        self._store._tables.runs[run_id].format = format

    def expire(self, session_id: str) -> None:
        self._store._tables.sessions[session_id].expires_at = self._clock.now()

    def age(self, run_id: str, by: timedelta) -> None:
        run = self._store._tables.runs[run_id]
        assert run.wake_at is not None
        run.wake_at -= by

    def strand(self, run_id: str) -> None:
        self._store._tables.place(self._store._tables.runs[run_id], owner=None, wake_at=None)

    def expire_job(self, run_id: str, stage_id: str) -> None:
        job = self._store._tables.jobs[run_id, stage_id]
        job.lease_until = self._clock.now() - timedelta(microseconds=1)

    def drop_jobs(self, run_id: str) -> None:
        jobs = self._store._tables.jobs
        for key in [key for key in jobs if key[0] == run_id]:
            del jobs[key]

    def age_command(self, key: str, by: timedelta) -> None:
        self._store._tables.scheduled[key].due_at -= by

    def is_kept(self, key: str) -> bool:
        return key in self._store._tables.scheduled

    def age_job(self, run_id: str, stage_id: str, by: timedelta) -> None:
        self._store._tables.jobs[run_id, stage_id].due_at -= by


class BehindPostgres(Backdoor):
    def __init__(self, url: str) -> None:
        self._url = url

    def set_format(self, run_id: str, format: int) -> None:
        execute(self._url, f"UPDATE leasehold.runs SET format = {format} WHERE id = '{run_id}'")

    def expire(self, session_id: str) -> None:
        ended = "lease_expires_at = clock_timestamp() - interval '1 microsecond'"
        execute(self._url, f"UPDATE leasehold.sessions SET {ended} WHERE id = '{session_id}'")

    def age(self, run_id: str, by: timedelta) -> None:
        earlier = f"wake_at = wake_at - interval '{by.total_seconds()} seconds'"
        execute(self._url, f"UPDATE leasehold.runs SET {earlier} WHERE id = '{run_id}'")

    def strand(self, run_id: str) -> None:
        execute(self._url, f"UPDATE leasehold.runs SET owner = NULL, wake_at = NULL WHERE id = '{run_id}'")

    def expire_job(self, run_id: str, stage_id: str) -> None:
        self._job(run_id, stage_id, "lease_until = clock_timestamp() - interval '1 microsecond'")

    def drop_jobs(self, run_id: str) -> None:
        execute(self._url, f"DELETE FROM leasehold.jobs WHERE run_id = '{run_id}'")

    def age_command(self, key: str, by: timedelta) -> None:
        earlier = f"due_at = due_at - interval '{by.total_seconds()} seconds'"
        execute(self._url, f"UPDATE leasehold.scheduled_commands SET {earlier} WHERE key = '{key}'")

    def is_kept(self, key: str) -> bool:
        query = f"SELECT count(*) > 0 FROM leasehold.scheduled_commands WHERE key = '{key}'"
        return fetch_value(self._url, query) is True

    def age_job(self, run_id: str, stage_id: str, by: timedelta) -> None:
        self._job(run_id, stage_id, f"due_at = due_at - interval '{by.total_seconds()} seconds'")

    def _job(self, run_id: str, stage_id: str, change: str) -> None:
        where = f"run_id = '{run_id}' AND stage_id = '{stage_id}'"
        execute(self._url, f"UPDATE leasehold.jobs SET {change} WHERE {where}")


@pytest.fixture(scope="session")
def shared_database(postgres_url: str) -> Iterator[str]:
    """One database for the whole suite; its tests keep apart by the names of their workflows."""
    name = f"leasehold_conformance_{secrets.token_hex(4)}"
    execute(postgres_url, f"CREATE DATABASE {name}")
    yield with_database(postgres_url, name)
    execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module", params=["memory", "postgres"])
async def served(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[Callable[[], World]]:
    """How to make a world for one test. The connections of a database are made once per file, which takes its time."""
    if request.param == "memory":
        yield in_memory
        return
    url = request.getfixturevalue("shared_database")
    async with open_postgres(url, migrate=True) as store, open_postgres(url) as other:
        yield lambda: World(store, other, backdoor=BehindPostgres(url), seed=SEED)


@pytest.fixture
async def world(served: Callable[[], World]) -> AsyncIterator[World]:
    async with served() as world:
        yield world


def in_memory(made: Callable[[ByHand], MemoryPersistence] = MemoryPersistence) -> World:
    clock = ByHand()
    store = made(clock)
    return World(store, passage=clock, backdoor=BehindMemory(store, clock), seed=SEED)
