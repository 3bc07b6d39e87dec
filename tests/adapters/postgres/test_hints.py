"""Hints between processes: sent after the commit, seldom, without content, and missed without harm."""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import asyncpg
import pytest
from anyio import create_task_group, fail_after, move_on_after

from adapters.conformance.store.builders import annotating, completing
from adapters.postgres import PostgresPersistence
from adapters.postgres.hints import INTERVAL_S
from tests.adapters.postgres.conftest import Open
from tests.adapters.postgres.stores import Home, until
from tests.adapters.postgres.wire import Wire

pytestmark = pytest.mark.anyio


@pytest.fixture
async def other(open_at: Open, adapter_url: str) -> AsyncIterator[PostgresPersistence]:
    async with open_at(adapter_url) as persistence:
        await quiet(persistence)
        yield persistence


async def quiet(store: PostgresPersistence) -> None:
    """Hear out everything that was said before."""
    heard = True
    while heard:
        heard = False
        with move_on_after(0.1):
            await store.next_hint()
            heard = True


class Heard:
    """Somebody who listens on the channel itself."""

    def __init__(self) -> None:
        self.payloads: list[str] = []

    def hear(self, _connection: object, _pid: int, _channel: str, payload: str) -> None:
        self.payloads.append(payload)

    async def anything(self) -> bool:
        return bool(self.payloads)


@pytest.fixture
async def listener(admin: asyncpg.Connection, schema: str) -> AsyncIterator[Heard]:
    heard = Heard()
    await admin.add_listener(schema, heard.hear)
    yield heard
    await admin.remove_listener(schema, heard.hear)


async def test_a_storm_of_changes_is_a_handful_of_hints_without_content(home: Home, listener: Heard) -> None:
    await home.create()
    await quiet(home.store)
    listener.payloads.clear()
    began = monotonic()

    for _ in range(150):
        await home.create()

    passed_s = monotonic() - began
    await until(listener.anything)
    assert set(listener.payloads) == {""}
    # At once, then at most every five milliseconds, and one that was still to come.
    assert len(listener.payloads) <= passed_s / INTERVAL_S + 2


async def test_the_end_of_a_run_is_news_to_others_and_not_to_who_drove_it(
    home: Home, other: PostgresPersistence
) -> None:
    run = await home.started(await home.session())
    await quiet(home.store)
    await quiet(other)

    for _stage in ("extract", "report"):
        await run.land(home.store, run.owned(completing))

    with fail_after(10):
        assert await home.store.next_hint() is False
        assert await other.next_hint() is True
    # Nor is it news when the server tells it back.
    with move_on_after(0.3):
        assert await home.store.next_hint() is False


async def test_a_run_that_can_be_claimed_is_news_to_its_own_process_too(home: Home) -> None:
    await quiet(home.store)

    await home.create()

    with fail_after(10):
        assert await home.store.next_hint() is True


async def test_what_concerns_nobody_else_is_not_told(home: Home, listener: Heard) -> None:
    run = await home.started(await home.session())
    await quiet(home.store)
    listener.payloads.clear()

    await run.land(home.store, run.owned(annotating))
    await run.land(home.store, run.owned(completing))
    # The end of a run is told, so whatever was told before has arrived by then.
    await run.land(home.store, run.owned(completing))

    await until(listener.anything)
    assert len(listener.payloads) == 1


async def test_who_listens_hears_of_it_only_when_it_can_be_seen(home: Home, other: PostgresPersistence) -> None:
    with fail_after(10):
        for _ in range(10):
            creation = home.creation()
            async with create_task_group() as group:
                group.start_soon(home.store.append, creation)
                await other.next_hint()
                found = await other.heads([creation.run_id])
            assert list(found) == [creation.run_id]
            await quiet(other)


async def test_a_listener_that_was_cut_off_is_told_that_it_may_have_missed_something(
    home: Home, open_at: Open, wire: Wire
) -> None:
    async with open_at(wire.url) as far:
        await quiet(far)
        wire.cut()
        # Nobody tells it anything; it notices by itself, when it looks whether it still listens.
        far._store.hints.look_now()

        with fail_after(10):
            await far.next_hint()
            await quiet(far)
        await home.create()

        with fail_after(10):
            await far.next_hint()


async def test_a_listener_on_a_dead_wire_notices_and_listens_again(home: Home, open_at: Open, wire: Wire) -> None:
    async with open_at(wire.url) as far:
        await quiet(far)
        connects = far._store.hints.line.connects
        wire.lose_answers()
        far._store.hints.look_now()

        async def given_up() -> bool:
            return not far._store.hints.line.connected

        async def reconnected() -> bool:
            return far._store.hints.line.connects > connects

        await until(given_up)
        wire.find_answers()
        await until(reconnected)
        await quiet(far)
        await home.create()

        with fail_after(10):
            await far.next_hint()


async def test_work_goes_on_when_no_hint_can_be_sent(home: Home, open_at: Open, wire: Wire) -> None:
    async with open_at(wire.url) as far:
        line = far._store.hints.line
        line.drop()
        wire.refuse_new()

        await far.append(home.creation())

        assert not line.connected


async def test_a_waiting_process_finds_the_run_by_looking_when_a_hint_never_arrives(
    home: Home, other: PostgresPersistence
) -> None:
    session = await home.session(store=other)
    await other._store.hints.close()

    run = await home.create()

    (claimed,) = await other.claim(session, 10)
    assert claimed.history.head.run_id == run.id


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_hint_that_is_handed_out_after_its_connection_was_closed_is_heard(
    open_at: Open, adapter_url: str
) -> None:
    async with open_at(adapter_url) as persistence:
        hints: Any = persistence._store.hints  # type: ignore[attr-defined]
        connection = await hints.line.connection()
        pid = connection.get_server_pid()
    connection.terminate()
    received = hints.received

    # The driver hands out what it has received by a callback of its own, which may come after the end.
    hints._hear(connection, pid + 1, "", "")

    assert hints.received == received + 1
