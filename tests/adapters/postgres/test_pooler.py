"""Behind a transaction pooler: noticed when opening; what needs a session is done without, or elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
from anyio import create_task_group, fail_after, move_on_after
from anyio.to_thread import run_sync

from adapters.conformance.store.builders import KnownRun, annotating, cancelling
from adapters.postgres import PostgresPersistence
from kernel.journal import fold_stored
from kernel.model.machine import Status
from tests.adapters.postgres.conftest import Open
from tests.adapters.postgres.pooler import Pooler
from tests.adapters.postgres.stores import Home

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["last", "first", "refuses settings"])
def pooler(request: pytest.FixtureRequest, adapter_url: str) -> Iterator[Pooler]:
    order = "last" if request.param == "refuses settings" else request.param
    with Pooler(adapter_url, order=order, refuses_settings=request.param == "refuses settings") as pooler:
        yield pooler


@pytest.fixture
async def pooled(pooler: Pooler, open_at: Open) -> AsyncIterator[PostgresPersistence]:
    async with open_at(pooler.url) as store:
        yield store


async def test_a_direct_connection_is_not_taken_for_a_pooled_one(store: PostgresPersistence) -> None:
    assert not store._store.target.pooled
    assert store._store.target.prepared


async def test_a_pooler_is_noticed_when_opening(pooled: PostgresPersistence) -> None:
    assert pooled._store.target.pooled
    assert not pooled._store.target.prepared


async def test_runs_live_behind_it_as_anywhere(home: Home, pooled: PostgresPersistence) -> None:
    session = await home.session(store=pooled)
    creations = [home.creation() for _ in range(30)]

    async with create_task_group() as group:
        for creation in creations:
            group.start_soon(pooled.append, creation)
    claimed = await pooled.claim(session, 100)
    async with create_task_group() as group:
        for one in claimed:
            run = KnownRun(fold_stored(one.history), home.now, one.lease)
            group.start_soon(pooled.append, run.owned(annotating))
            group.start_soon(pooled.load, run.id)

    heads = await pooled.heads([creation.run_id for creation in creations])
    assert {head.seq for head in heads.values()} == {2}


async def test_a_session_renews_but_holds_no_lock(
    home: Home, pooled: PostgresPersistence, admin: asyncpg.Connection, schema: str
) -> None:
    session = await home.session(store=pooled)
    heartbeat = pooled.heartbeat(session)
    try:
        for _ in range(3):
            assert (await run_sync(heartbeat.beat)).alive
    finally:
        heartbeat.close()

    assert not await admin.fetchval(f"SELECT direct FROM {schema}.sessions WHERE id = $1", session)


async def test_nobody_listens_but_one_s_own_changes_are_heard(home: Home, pooled: PostgresPersistence) -> None:
    with move_on_after(0.2):
        await pooled.next_hint()

    with move_on_after(0.3) as waiting:
        await home.create()
        await pooled.next_hint()
    assert waiting.cancelled_caught

    with fail_after(5):
        await pooled.append(home.creation())
        await pooled.next_hint()


async def test_with_a_direct_url_it_listens_and_locks_there(
    home: Home, pooler: Pooler, adapter_url: str, open_at: Open, admin: asyncpg.Connection, schema: str
) -> None:
    async with open_at(pooler.url, direct_url=adapter_url) as store:
        session = await home.session(store=store)
        heartbeat = store.heartbeat(session)
        try:
            assert (await run_sync(heartbeat.beat)).alive
            assert await admin.fetchval(f"SELECT direct FROM {schema}.sessions WHERE id = $1", session)
        finally:
            heartbeat.close()
        with move_on_after(0.2):
            await store.next_hint()

        with fail_after(5):
            await home.create()
            await store.next_hint()


async def test_a_run_is_cancelled_through_it(home: Home, pooled: PostgresPersistence) -> None:
    run = await home.create()

    await run.land(pooled, run.foreign(cancelling))

    assert (await pooled.heads([run.id]))[run.id].head.status is Status.CANCELLED
