"""Batches on a real server: what is in each other's way, what is poisoned, and in which order rows are locked."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

import asyncpg
import pytest
from anyio import create_task_group

from adapters.conformance.store.builders import a_key, annotating, completing
from adapters.postgres import PostgresPersistence
from kernel.errors import EngineError, PayloadRefused
from tests.adapters.postgres.conftest import Open
from tests.adapters.postgres.stores import Home, note_outcome, outcome_of, until
from tests.adapters.postgres.wire import Wire

pytestmark = pytest.mark.anyio

Outcomes = list[EngineError | None]
Deadlocks = Callable[[], Awaitable[int]]


async def test_many_appends_go_in_few_statements(home: Home, admin: asyncpg.Connection, schema: str) -> None:
    session = await home.session()
    runs = [await home.started(session) for _ in range(100)]

    async with create_task_group() as group:
        for run in runs:
            group.start_soon(home.store.append, run.owned(completing))

    transactions = await admin.fetchval(
        f"SELECT count(DISTINCT xmin::text) FROM {schema}.history WHERE run_id = ANY($1) AND first_seq > 1",
        [run.id for run in runs],
    )
    assert transactions <= 4


async def test_a_successor_waits_for_its_predecessor_and_neither_is_refused(home: Home) -> None:
    run = await home.started(await home.session())
    first = run.owned(annotating)
    await_order: Outcomes = []

    async with create_task_group() as group:
        group.start_soon(note_outcome, await_order, home.store, first)
        second = replace(first, append_id=run.owned(annotating).append_id, expected=first.seq, seq=first.seq + 1)
        group.start_soon(note_outcome, await_order, home.store, second)

    assert await_order == [None, None]
    assert (await home.append_ids(run))[1:] == [first.append_id, second.append_id]


async def test_a_row_that_somebody_has_locked_holds_up_no_other_owned_append(
    home: Home, holder: asyncpg.Connection, schema: str
) -> None:
    session = await home.session()
    runs = [await home.started(session) for _ in range(20)]
    outcomes: Outcomes = []
    busy: Outcomes = []

    async with create_task_group() as group, holder.transaction():
        await holder.execute(f"SELECT FROM {schema}.runs WHERE id = $1 FOR UPDATE", runs[7].id)
        group.start_soon(note_outcome, busy, home.store, runs[7].owned(completing))
        for run in runs[:7] + runs[8:]:
            group.start_soon(note_outcome, outcomes, home.store, run.owned(completing))
        await until(lambda: count_of(outcomes, 19))
        assert busy == []

    assert (busy, set(outcomes)) == ([None], {None})


async def count_of(outcomes: Outcomes, wanted: int) -> bool:
    return len(outcomes) == wanted


async def test_one_poisoned_append_is_isolated_and_the_others_land(home: Home) -> None:
    runs = [await home.create() for _ in range(40)]
    appends = [run.foreign(annotating) for run in runs]
    # Such JSON the gate lets through; the server does not.
    appends[13] = replace(appends[13], events=b"[{]")
    appends[29] = replace(appends[29], bodies=b"{")
    outcomes: dict[int, EngineError | None] = {}

    async def send(place: int) -> None:
        outcomes[place] = await outcome_of(home.store, appends[place])

    async with create_task_group() as group:
        for place in range(40):
            group.start_soon(send, place)

    assert {place for place, outcome in outcomes.items() if outcome is not None} == {13, 29}
    assert isinstance(outcomes[13], PayloadRefused)
    assert isinstance(outcomes[29], PayloadRefused)


async def test_an_append_of_wrong_types_harms_none_of_those_beside_it(home: Home) -> None:
    runs = [await home.create() for _ in range(20)]
    appends = [run.foreign(annotating) for run in runs]
    appends[7] = replace(appends[7], head=replace(appends[7].head, wake_at="soon"))
    outcomes: Outcomes = []

    async with create_task_group() as group:
        for append in appends[:7] + appends[8:]:
            group.start_soon(note_outcome, outcomes, home.store, append)
        with pytest.raises(AttributeError):
            await home.store.append(appends[7])

    assert outcomes == [None] * 19


async def test_callers_wait_outside_while_the_queue_is_full_and_owners_do_not(
    home: Home, open_at: Open, wire: Wire
) -> None:
    owned = (await home.started(await home.session())).owned(annotating)
    creations = [home.creation() for _ in range(8)]
    outcomes: Outcomes = []

    async with open_at(wire.url) as far:
        committer = far._store.committer
        await far.append(home.creation())
        committer.queue_max = 3
        wire.lose_answers()
        async with create_task_group() as group:
            for append in (*creations, owned):
                group.start_soon(note_outcome, outcomes, far, append)
            await until(lambda: has_waiting(far, 5))
            assert {item.append for item in committer._queue.unanswered} == {*creations[:3], owned}
            wire.cut()

    assert outcomes == [None] * 9


async def has_waiting(store: PostgresPersistence, count: int) -> bool:
    return len(store._store.committer._room) == count


async def test_a_batch_that_waits_for_its_lowest_run_holds_none_of_the_others(
    home: Home, holder: asyncpg.Connection, admin: asyncpg.Connection, schema: str, rng: random.Random
) -> None:
    runs = [await home.create() for _ in range(40)]
    ids = sorted(run.id for run in runs)
    free = f"SELECT id FROM {schema}.runs WHERE id = ANY($1) FOR UPDATE SKIP LOCKED"

    async with create_task_group() as group, holder.transaction():
        await holder.execute(f"SELECT FROM {schema}.runs WHERE id = $1 FOR UPDATE", ids[0])
        for run in rng.sample(runs, 40):
            group.start_soon(home.store.append, run.foreign(annotating))
        await until(lambda: waits_for_a_lock(admin))
        found = await admin.fetch(free, ids)

    assert sorted(str(row["id"]) for row in found) == ids[1:]


async def waits_for_a_lock(admin: asyncpg.Connection) -> bool:
    return await admin.fetchval(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'leasehold append' AND wait_event_type = 'Lock')"
    )


async def test_overlapping_batches_of_several_processes_do_not_deadlock(
    seen_deadlocks: Deadlocks, home: Home, open_at: Open, adapter_url: str, rng: random.Random
) -> None:
    runs = [await home.create() for _ in range(60)]

    async def write(store: PostgresPersistence) -> None:
        for _ in range(8):
            # Of the newest state, because a row that has moved on is not locked at all.
            heads = await store.heads([run.id for run in runs])
            async with create_task_group() as group:
                for run in rng.sample(runs, 50):
                    seq = heads[run.id].seq
                    append = replace(run.foreign(annotating), expected=seq, seq=seq + 1)
                    group.start_soon(outcome_of, store, append)

    async with open_at(adapter_url) as second, open_at(adapter_url) as third, create_task_group() as group:
        for store in (home.store, second, third):
            group.start_soon(write, store)

    assert await seen_deadlocks() == 0


async def test_keys_that_processes_take_in_opposite_orders_do_not_deadlock(
    seen_deadlocks: Deadlocks, home: Home, open_at: Open, adapter_url: str
) -> None:
    outcomes: Outcomes = []

    async with open_at(adapter_url) as other:
        for tried in range(6):
            keys = [a_key(f"{tried}-{n:02}", scope=home.workflow) for n in range(60)]
            async with create_task_group() as group:
                # Run ids ascend as they are minted, so each process has the keys in another order of runs.
                for store, ordered in ((home.store, keys), (other, keys[::-1])):
                    for creation in [home.creation(key=key) for key in ordered]:
                        group.start_soon(note_outcome, outcomes, store, creation)

    assert (outcomes.count(None), len(outcomes)) == (360, 720)
    assert await seen_deadlocks() == 0


async def test_closing_sends_what_is_queued(home: Home, open_at: Open, adapter_url: str) -> None:
    outcomes: Outcomes = []
    creations = [home.creation() for _ in range(30)]

    async with create_task_group() as group, open_at(adapter_url) as store:
        await store.append(home.creation())
        for creation in creations:
            group.start_soon(note_outcome, outcomes, store, creation)
        await until(lambda: has_taken(store, outcomes))

    assert set(outcomes) == {None}
    assert len(await home.store.heads([creation.run_id for creation in creations])) == 30


async def has_taken(store: PostgresPersistence, outcomes: Outcomes) -> bool:
    return len(store._store.committer._queue.unanswered) + len(outcomes) == 30
