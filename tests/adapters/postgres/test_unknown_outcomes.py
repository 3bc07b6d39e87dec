"""A connection that breaks after a statement was sent: nobody knows what became of it, until the database has said."""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest
from anyio import create_task_group, fail_after, sleep
from anyio.lowlevel import checkpoint

from adapters.conformance.store.builders import IDS, KnownRun, a_key, annotating, cancelling, completing
from adapters.postgres import PostgresPersistence
from adapters.postgres.batches import item_of, parameters
from adapters.postgres.refusals import questions
from kernel.errors import EngineError, LeaseLost, StaleVersion, Unavailable
from kernel.journal import fold_stored
from kernel.ports.persistence import Append, Lease
from tests.adapters.postgres.conftest import Open
from tests.adapters.postgres.stores import Home, note_outcome, outcome_of, until
from tests.adapters.postgres.wire import Wire

pytestmark = pytest.mark.anyio


Outcomes = list[EngineError | None]


@pytest.fixture
async def remote(home: Home, open_at: Open, wire: Wire) -> AsyncIterator[PostgresPersistence]:
    """The same store, behind a wire that can break."""
    async with open_at(wire.url) as far:
        await prepare(far, home)
        yield far


async def prepare(far: PostgresPersistence, home: Home) -> None:
    """Let every connection know every statement, so that an append is a single round trip from now on."""
    await far.append(home.creation())
    nobody = Lease(session_id=IDS.append_id(), claim=1)
    creation = home.creation(lease=nobody)
    absent = KnownRun.of(creation, home.now)
    items = [
        item_of(append, get_running_loop().create_future(), 0.0)
        for append in (creation, absent.owned(annotating), absent.foreign(annotating))
    ]
    for line in far._store.committer.lines:
        for item in items:
            connection = await line.connection()
            sql = far._store.committer._sql[item.kind.group, item.kind.jobs]
            row = await connection.fetchrow(sql, *parameters(item.kind, [item]))
            assert row["done"] is None
        await connection.fetch(far._store.committer._sql_refused, *questions(items))


async def sent_without_answer(
    remote: PostgresPersistence, append: Append, wire: Wire, landed: Callable[[], Awaitable[object]]
) -> EngineError | None:
    """Send it, wait until it has been committed, and only then break the connection on which its answer is."""
    outcomes: Outcomes = []
    wire.lose_answers()
    async with create_task_group() as group:
        group.start_soon(note_outcome, outcomes, remote, append)
        await until(landed)
        assert outcomes == []
        wire.cut()
    return outcomes[0]


async def test_a_creation_whose_answer_is_lost_is_done_once(
    home: Home, remote: PostgresPersistence, wire: Wire
) -> None:
    creation = home.creation()

    outcome = await sent_without_answer(remote, creation, wire, lambda: home.store.heads([creation.run_id]))

    assert outcome is None
    assert len((await home.store.load(creation.run_id)).rows) == 1


async def test_who_watches_is_told_of_the_batch_without_an_answer_and_of_its_second_sending(
    home: Home, remote: PostgresPersistence, wire: Wire
) -> None:
    run = await home.started(await home.session())
    append = run.owned(completing)
    told: list[tuple[list[str], Exception | None]] = []
    remote.observe_batches(lambda appends, _s, _e, error: told.append(([one.append_id for one in appends], error)))

    await sent_without_answer(remote, append, wire, lambda: _is_at(home, run, append.seq))

    (first, lost), (second, again) = told
    assert first == second == [append.append_id]
    assert lost is not None
    assert again is None


async def test_a_creation_with_a_key_recognises_its_own_key(
    home: Home, remote: PostgresPersistence, wire: Wire
) -> None:
    creation = home.creation(key=a_key("order-1", scope=home.workflow))

    outcome = await sent_without_answer(remote, creation, wire, lambda: home.store.heads([creation.run_id]))

    assert outcome is None
    assert await home.store.find_key("run.create", home.workflow, "order-1") == creation.run_id


async def test_an_owned_append_whose_answer_is_lost_is_done_once(
    home: Home, remote: PostgresPersistence, wire: Wire
) -> None:
    run = await home.started(await home.session())
    append = run.owned(completing)

    outcome = await sent_without_answer(remote, append, wire, lambda: _is_at(home, run, append.seq))

    assert outcome is None
    assert (await home.append_ids(run))[1:] == [append.append_id]


async def test_a_foreign_append_whose_answer_is_lost_is_done_once(
    home: Home, remote: PostgresPersistence, wire: Wire
) -> None:
    run = await home.create()
    append = run.foreign(cancelling)

    outcome = await sent_without_answer(remote, append, wire, lambda: _is_at(home, run, append.seq))

    assert outcome is None
    assert (await home.append_ids(run))[1:] == [append.append_id]


@pytest.mark.parametrize("mode", ["release", "park"])
async def test_giving_a_run_back_is_recognised_by_its_effect(
    home: Home, remote: PostgresPersistence, wire: Wire, mode: str
) -> None:
    run = await home.started(await home.session())
    append = run.release() if mode == "release" else run.park("corrupt_history")

    async def is_free() -> bool:
        return (await home.store.heads([run.id]))[run.id].owner is None

    assert await sent_without_answer(remote, append, wire, is_free) is None
    head = (await home.store.heads([run.id]))[run.id]
    assert (head.owner, head.parked_reason) == (None, None if mode == "release" else "corrupt_history")


async def test_what_was_done_behind_a_lost_answer_is_not_undone_by_sending_it_again(
    home: Home, remote: PostgresPersistence, wire: Wire
) -> None:
    run = await home.create()
    append = run.foreign(annotating)

    async def landed_and_was_followed() -> bool:
        if not await _is_at(home, run, append.seq):
            return False
        run.state = (await _after(home, run)).state
        await run.land(home.store, run.foreign(annotating))
        return True

    assert await sent_without_answer(remote, append, wire, landed_and_was_followed) is None
    assert len(await home.append_ids(run)) == 3


async def test_an_append_that_did_not_land_is_refused_when_somebody_else_was_faster(
    home: Home,
    remote: PostgresPersistence,
    wire: Wire,
    admin: asyncpg.Connection,
    holder: asyncpg.Connection,
    schema: str,
) -> None:
    run = await home.create()
    outcomes: Outcomes = []
    backends = [(await line.connection()).get_server_pid() for line in remote._store.committer.lines]

    async with create_task_group() as group:
        async with holder.transaction():
            await holder.execute(f"SELECT FROM {schema}.runs WHERE id = $1 FOR UPDATE", run.id)
            group.start_soon(note_outcome, outcomes, remote, run.foreign(annotating))
            # It waits for the lock above (again and again, each time for a moment); the connection ends before it gets
            # it, on the server's side too, and it cannot come back in time.
            await until(lambda: waits_for_a_lock(admin))
            wire.refuse()
            await until(lambda: ended(admin, backends))
        await run.land(home.store, run.foreign(annotating))
        wire.repair()

    assert isinstance(outcomes[0], StaleVersion)
    assert len(await home.append_ids(run)) == 2


async def waits_for_a_lock(admin: asyncpg.Connection) -> bool:
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(await admin.fetch(f"{waiting} AND application_name = 'leasehold append'"))


async def ended(admin: asyncpg.Connection, backends: list[int]) -> bool:
    """Whether none of these is there any more; each is told to end."""
    there = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY ($1)"
    return not await admin.fetch(there, backends)


async def test_an_owner_that_was_condemned_meanwhile_learns_it(
    home: Home, remote: PostgresPersistence, wire: Wire
) -> None:
    session = await home.session()
    run = await home.started(session)
    outcomes: Outcomes = []
    wire.refuse()

    async with create_task_group() as group:
        group.start_soon(note_outcome, outcomes, remote, run.owned(completing))
        await home.store.close_session(session)
        assert outcomes == []
        wire.repair()

    assert isinstance(outcomes[0], LeaseLost)


async def test_an_owner_s_append_is_kept_until_the_database_is_back(
    home: Home, remote: PostgresPersistence, wire: Wire
) -> None:
    run = await home.started(await home.session())
    wire.refuse()

    async with create_task_group() as group:
        group.start_soon(remote.append, run.owned(completing))
        await _impatience(remote)
        wire.repair()

    assert len(await home.append_ids(run)) == 2


async def test_a_caller_s_append_is_given_up_when_no_connection_can_be_had(
    home: Home, remote: PostgresPersistence, wire: Wire
) -> None:
    wire.refuse()
    # Sent on a connection whose end has not been noticed yet, it might have been done.
    await until(lambda: is_cut_off(remote))

    with fail_after(10), pytest.raises(Unavailable):
        await remote.append(home.creation())


async def is_cut_off(remote: PostgresPersistence) -> bool:
    return not any(line.connected for line in remote._store.committer.lines)


async def test_a_caller_s_append_that_may_have_been_done_is_not_given_up(
    home: Home, remote: PostgresPersistence, wire: Wire
) -> None:
    creation = home.creation()
    wire.lose_answers()

    async with create_task_group() as group:
        group.start_soon(remote.append, creation)
        await until(lambda: home.store.heads([creation.run_id]))
        wire.refuse()
        await _impatience(remote)
        wire.repair()

    assert len((await home.store.load(creation.run_id)).rows) == 1


async def test_closing_gives_up_what_waits_for_the_database(home: Home, open_at: Open, wire: Wire) -> None:
    run = await home.started(await home.session())
    outcomes: Outcomes = []

    with fail_after(20):
        async with create_task_group() as group, open_at(wire.url) as far:
            wire.refuse()
            group.start_soon(note_outcome, outcomes, far, run.owned(completing))
            await checkpoint()

    assert isinstance(outcomes[0], Unavailable)
    assert isinstance(await outcome_of(far, run.owned(completing)), Unavailable)


async def test_a_connection_that_the_server_ends_is_replaced(home: Home, admin: asyncpg.Connection) -> None:
    run = await home.create()
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'leasehold %'"
    )

    await home.store.append(run.foreign(annotating))

    assert len(await home.append_ids(run)) == 2


async def _impatience(remote: PostgresPersistence) -> None:
    """Longer than a caller's patience; nothing can be waited for, because nothing is to happen."""
    await sleep(remote._store.target.deadlines.patience_s * 2)


async def _is_at(home: Home, run: KnownRun, seq: int) -> bool:
    return (await home.store.heads([run.id]))[run.id].seq == seq


async def _after(home: Home, run: KnownRun) -> KnownRun:
    return KnownRun(fold_stored(await home.store.load(run.id)), home.now, run.lease)
