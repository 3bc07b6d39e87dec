"""Two engines in one database, each in a schema of its own, know nothing of each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from anyio import fail_after

from adapters.conformance.store.builders import a_key
from adapters.postgres import PostgresPersistence, migrate
from kernel.errors import RunNotFound
from tests.adapters.postgres.conftest import Open
from tests.adapters.postgres.stores import Home

pytestmark = pytest.mark.anyio


@pytest.fixture
async def neighbour(adapter_url: str, new_schema: str, home: Home, open_at: Open) -> AsyncIterator[Home]:
    """The other schema, with a workflow of the same name."""
    await migrate(adapter_url, schema=new_schema)
    async with open_at(adapter_url, schema=new_schema) as store:
        neighbour = Home(store, lambda: datetime.now(UTC), home.workflow)
        await neighbour.open()
        yield neighbour


async def test_the_runs_of_the_one_are_not_those_of_the_other(home: Home, neighbour: Home) -> None:
    run = await home.create()

    assert await neighbour.store.heads([run.id]) == {}
    with pytest.raises(RunNotFound):
        await neighbour.store.load(run.id)
    assert list(await neighbour.store.claim(await neighbour.session(), 10)) == []


async def test_both_may_use_the_same_key(home: Home, neighbour: Home) -> None:
    ours = await home.create(key=a_key("order-1", scope=home.workflow))
    theirs = await neighbour.create(key=a_key("order-1", scope=home.workflow))

    assert await home.store.find_key("run.create", home.workflow, "order-1") == ours.id
    assert await neighbour.store.find_key("run.create", home.workflow, "order-1") == theirs.id


async def test_sessions_of_the_one_are_no_others_to_the_other(home: Home, neighbour: Home) -> None:
    await home.session()

    beat = await neighbour.store.renew(await neighbour.session())

    assert (beat.others, beat.due) == (0, 0)


async def test_a_hint_of_the_one_is_not_heard_by_the_other(
    home: Home, neighbour: Home, open_at: Open, adapter_url: str, new_schema: str
) -> None:
    async with open_at(adapter_url) as ours, open_at(adapter_url, schema=new_schema) as theirs:
        for store in (ours, theirs):
            await hear(store)

        await home.create()
        await hear(ours)
        await neighbour.create()
        await hear(theirs)

        # Notifications come in the order of their commits, so ours would have been heard before.
        assert theirs._store.hints.received == 1


async def hear(store: PostgresPersistence) -> None:
    with fail_after(10):
        await store.next_hint()
