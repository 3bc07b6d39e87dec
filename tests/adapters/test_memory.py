"""What the memory adapter promises beyond the port: it gives way, it follows its clock, and several may share it."""

from datetime import UTC, datetime, timedelta

import pytest
from anyio import CancelScope, create_task_group, fail_after, move_on_after
from anyio.lowlevel import checkpoint

from adapters.conformance.store.builders import KnownRun, a_creation, a_definition, annotating
from adapters.memory import MemoryBlobStore, MemoryPersistence
from kernel.ports.persistence import RunQuery, SessionInfo

pytestmark = pytest.mark.anyio

INFO = SessionInfo(name="worker", hostname="host", pid=1)


class HandClock:
    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def store(anyio_backend: str, clock: HandClock) -> MemoryPersistence:
    store = MemoryPersistence(clock)
    await store.register_workflows([a_definition("greet")])
    return store


async def created(store: MemoryPersistence, clock: HandClock) -> KnownRun:
    creation = a_creation("greet", clock.now())
    await store.append(creation)
    return KnownRun.of(creation, clock.now)


async def test_every_call_is_a_checkpoint(store: MemoryPersistence, clock: HandClock) -> None:
    run = await created(store, clock)
    session = await store.open_session(INFO, [("greet", "1")])
    calls = {
        "append": lambda: store.append(run.foreign(annotating)),
        "load": lambda: store.load(run.id),
        "heads": lambda: store.heads([]),
        "find_key": lambda: store.find_key("run.create", "greet", "k"),
        "register_workflows": lambda: store.register_workflows([]),
        "find_workflow": lambda: store.find_workflow("greet", "1"),
        "open_session": lambda: store.open_session(INFO, []),
        "renew": lambda: store.renew(session),
        "condemn_expired": lambda: store.condemn_expired(1),
        "claim": lambda: store.claim(session, 1),
        "list_runs": lambda: store.list_runs(RunQuery()),
        "find_runs": lambda: store.find_runs(run.id),
        "live_workflows": store.live_workflows,
        "write_logs": lambda: store.write_logs([]),
        "read_logs": lambda: store.read_logs(run.id),
        "next_hint": store.next_hint,
        "close_session": lambda: store.close_session(session),
        "blobs.put": lambda: MemoryBlobStore().put("a", b""),
        "blobs.list": lambda: MemoryBlobStore().list(""),
    }
    for name, call in calls.items():
        with CancelScope() as scope:
            scope.cancel()
            await call()
        assert scope.cancelled_caught, name


async def test_an_append_whose_sender_is_cancelled_at_once_lands(store: MemoryPersistence, clock: HandClock) -> None:
    run = await created(store, clock)

    with move_on_after(0):
        await store.append(run.foreign(annotating))

    assert (await store.load(run.id)).head.seq == 2


async def test_an_append_is_refused_quietly_when_nobody_waits_for_the_answer(
    store: MemoryPersistence, clock: HandClock
) -> None:
    run = await created(store, clock)
    stale = run.foreign(annotating)
    await run.land(store, run.foreign(annotating))

    with move_on_after(0) as scope:
        await store.append(stale)

    assert scope.cancelled_caught
    assert (await store.load(run.id)).head.seq == 2


async def test_a_lease_ends_by_the_clock_and_by_nothing_else(store: MemoryPersistence, clock: HandClock) -> None:
    session = await store.open_session(INFO, [])
    for _ in range(5):
        clock.time += timedelta(seconds=9)
        assert (await store.renew(session)).alive

    clock.time += timedelta(seconds=10)

    assert not (await store.renew(session)).alive


async def test_the_lease_of_a_session_that_names_none_is_the_stores(clock: HandClock) -> None:
    store = MemoryPersistence(clock, lease=timedelta(seconds=2))
    short, long = await store.open_session(INFO, []), await store.open_session(INFO, [], lease=timedelta(minutes=1))

    clock.time += timedelta(seconds=2)

    assert list(await store.condemn_expired(10)) == [short]
    assert (await store.renew(long)).alive


async def test_session_ids_can_be_drawn_from_elsewhere(clock: HandClock) -> None:
    numbers = iter(range(10))
    store = MemoryPersistence(clock, session_ids=lambda: f"session-{next(numbers)}")

    assert [await store.open_session(INFO, []) for _ in range(2)] == ["session-0", "session-1"]


async def test_several_who_share_a_store_are_each_told(store: MemoryPersistence, clock: HandClock) -> None:
    told: list[int] = []

    async def listen(number: int) -> None:
        for _ in range(2):
            await store.next_hint()
            told.append(number)

    with fail_after(5):
        async with create_task_group() as group:
            for number in range(3):
                group.start_soon(listen, number)
            for _ in range(2):
                await _settled()
                await created(store, clock)

    assert sorted(told) == [0, 0, 1, 1, 2, 2]


async def _settled() -> None:
    for _ in range(10):
        await checkpoint()


async def test_one_who_was_busy_is_told_what_another_has_heard_already(
    store: MemoryPersistence, clock: HandClock
) -> None:
    heard: list[str] = []

    async def idle() -> None:
        await store.next_hint()
        heard.append("idle")

    async def busy() -> None:
        while "idle" not in heard:
            await checkpoint()
        await store.next_hint()
        heard.append("busy")

    with fail_after(5):
        async with create_task_group() as group:
            group.start_soon(idle)
            group.start_soon(busy)
            await created(store, clock)

    assert heard == ["idle", "busy"]


async def test_two_stores_know_nothing_of_each_other(store: MemoryPersistence, clock: HandClock) -> None:
    run = await created(store, clock)
    other = MemoryPersistence(clock)

    assert await other.heads([run.id]) == {}
    assert await other.find_workflow("greet", "1") is None


async def test_condemned_sessions_are_forgotten_with_their_last_run(store: MemoryPersistence, clock: HandClock) -> None:
    dead = await store.open_session(INFO, [("greet", "1")])
    await created(store, clock)
    await store.claim(dead, 1)
    await store.close_session(dead)
    assert dead in store._tables.sessions

    await store.claim(await store.open_session(INFO, [("greet", "1")]), 1)

    assert dead not in store._tables.sessions
