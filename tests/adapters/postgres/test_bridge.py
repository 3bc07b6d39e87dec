"""The way from trio to the driver's loop and back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial

import pytest
import trio

from adapters.postgres import PostgresPersistence, open_postgres
from adapters.postgres.bridge import current_event_loop
from adapters.postgres.trio_bridge import TrioBridge
from kernel.errors import Unavailable
from tests.adapters.postgres.stores import Home

pytestmark = pytest.mark.trio


@pytest.fixture
async def bridge() -> AsyncIterator[TrioBridge]:
    async with TrioBridge() as bridge:
        yield bridge


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


async def test_the_loop_of_the_caller_is_found() -> None:
    assert current_event_loop() == "trio"


async def test_a_result_comes_back(bridge: TrioBridge) -> None:
    assert await bridge.call(lambda: double(21)) == 42


async def test_an_error_comes_back(bridge: TrioBridge) -> None:
    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await bridge.call(fail)


async def test_many_calls_at_once_all_come_back_to_who_made_them_without_further_threads(bridge: TrioBridge) -> None:
    results: dict[int, int] = {}

    async def call(number: int) -> None:
        results[number] = await bridge.call(partial(double, number))

    await bridge.call(lambda: double(1))
    before = threading.active_count()
    async with trio.open_nursery() as nursery:
        for number in range(2000):
            nursery.start_soon(call, number)

    assert results == {number: 2 * number for number in range(2000)}
    assert threading.active_count() == before


async def test_cancelling_the_caller_cancels_the_work_and_waits_until_it_has_let_go(bridge: TrioBridge) -> None:
    said: list[str] = []
    begun = threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.05)
            said.append("let go")

    with trio.move_on_after(60) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bridge.call, work)
            await trio.to_thread.run_sync(begun.wait)
            nursery.cancel_scope.cancel()

    assert said == ["let go"]
    assert not scope.cancelled_caught


async def test_work_that_is_detached_goes_on_without_its_caller(bridge: TrioBridge) -> None:
    begun, go_on, ended = threading.Event(), asyncio.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        await go_on.wait()
        ended.set()

    async def release() -> None:
        go_on.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(bridge.call, work, detach=True))
        await trio.to_thread.run_sync(begun.wait)
        nursery.cancel_scope.cancel()
    assert not ended.is_set()

    await bridge.call(release)

    await trio.to_thread.run_sync(ended.wait)


async def test_work_that_is_done_although_it_was_cancelled_keeps_its_result(bridge: TrioBridge) -> None:
    begun = threading.Event()
    results: list[int] = []

    async def stubborn() -> int:
        begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return 42
        return 0

    async def call() -> None:
        results.append(await bridge.call(stubborn))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.to_thread.run_sync(begun.wait)
        nursery.cancel_scope.cancel()

    assert results == [42]


async def test_a_caller_that_is_cancelled_already_starts_nothing(bridge: TrioBridge) -> None:
    started: list[int] = []

    async def work() -> None:
        started.append(1)

    with trio.CancelScope() as scope:
        scope.cancel()
        await bridge.call(work)
    await bridge.call(lambda: double(1))

    assert scope.cancelled_caught
    assert started == []


async def test_leaving_ends_what_is_still_under_way() -> None:
    outcomes: list[Exception] = []
    begun = threading.Event()

    async def work() -> None:
        begun.set()
        await asyncio.sleep(3600)

    async def call(bridge: TrioBridge) -> None:
        try:
            await bridge.call(work)
        except Unavailable as error:
            outcomes.append(error)

    async with trio.open_nursery() as nursery, TrioBridge() as bridge:
        nursery.start_soon(call, bridge)
        await trio.to_thread.run_sync(begun.wait)

    assert len(outcomes) == 1


@pytest.fixture
async def store(adapter_url: str, schema: str) -> AsyncIterator[PostgresPersistence]:
    async with open_postgres(adapter_url, schema=schema) as persistence:
        yield persistence


async def test_a_storm_of_appends_from_trio_lands(store: PostgresPersistence) -> None:
    home = Home(store, lambda: datetime.now(UTC))
    await home.open()
    creations = [home.creation() for _ in range(300)]

    async with trio.open_nursery() as nursery:
        for creation in creations:
            nursery.start_soon(store.append, creation)

    assert len(await store.heads([creation.run_id for creation in creations])) == 300


async def test_a_cancelled_read_leaves_the_connection_usable(store: PostgresPersistence) -> None:
    for _ in range(5):
        with trio.move_on_after(0.001):
            await store.live_workflows()

    assert await store.live_workflows() == []


async def test_the_loop_can_be_named(adapter_url: str, schema: str) -> None:
    async with open_postgres(adapter_url, schema=schema, event_loop="trio") as store:
        assert await store.live_workflows() == []
