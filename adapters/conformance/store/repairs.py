"""Runs that nothing will move are found and mended, and healthy ones are never suspected."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from anyio import create_task_group

from adapters.conformance.store.builders import KnownRun, annotating, cancelling, completing, suspending
from adapters.conformance.store.queued import a_queued_run
from adapters.conformance.store.worlds import World
from kernel.model.head import head_of
from kernel.model.machine import Status

pytestmark: pytest.MarkDecorator = pytest.mark.anyio

EVENTS_MAX = 10_000


async def suspects(world: World, *, limit: int = 1000, events_max: int = EVENTS_MAX) -> list[str]:
    """Everybody's; tests may share a database."""
    found: list[str] = []
    after: str | None = None
    while True:
        page = await world.store.find_stuck(after=after, limit=limit, events_max=events_max)
        found += page.run_ids
        after = page.next
        if after is None:
            return found


async def stranded(world: World) -> KnownRun:
    run = await world.started(await world.session())
    world.backdoor.strand(run.id)
    return run


async def heal(world: World, run: KnownRun, *, expected: int | None = None) -> bool:
    seq = run.state.seq
    return await world.store.heal(run.id, head_of(run.state), expected=expected or seq, seq=seq)


async def test_a_run_that_is_neither_owned_nor_due_is_a_suspect(world: World) -> None:
    runs = [await stranded(world) for _ in range(3)]

    found = await suspects(world)

    assert [run_id for run_id in found if run_id in {run.id for run in runs}] == sorted(run.id for run in runs)


async def test_runs_that_wait_are_owned_parked_or_ended_are_no_suspects(world: World) -> None:
    owner = await world.session()
    due, owned, parked = await world.create(), await world.started(owner), await world.parked()
    orphan = await world.orphan()
    sleeping = await world.started(owner)
    await sleeping.land(world.store, sleeping.owned(suspending))
    await world.store.append(sleeping.release())
    completed = await world.started(owner)
    for _ in range(2):
        await completed.land(world.store, completed.owned(completing))
    cancelled = await world.create()
    await world.adds(cancelled, cancelling)

    found = await suspects(world, events_max=0)

    healthy = {run.id for run in (due, owned, parked, orphan, sleeping, completed, cancelled)}
    assert healthy & set(found) == set()


async def test_a_run_that_waits_for_a_job_is_a_suspect_when_there_is_none(world: World) -> None:
    healthy, robbed = await a_queued_run(world), await a_queued_run(world)
    world.backdoor.drop_jobs(robbed.id)

    found = await suspects(world)

    assert [run_id for run_id in found if run_id in {healthy.id, robbed.id}] == [robbed.id]


async def test_suspects_are_found_page_by_page(world: World) -> None:
    runs = [await stranded(world) for _ in range(5)]

    found = await suspects(world, limit=2)

    assert {run.id for run in runs} <= set(found)
    assert len(found) == len(set(found))


async def test_a_healed_run_is_as_if_nothing_had_happened_and_can_be_claimed(world: World) -> None:
    run = await stranded(world)

    assert await heal(world, run)

    assert run.id not in await suspects(world)
    claims = await world.store.claim(await world.session(), 10)
    (claimed,) = [claimed for claimed in claims if claimed.history.head.run_id == run.id]
    assert world.taken(claimed).state == run.state


async def test_a_healed_run_is_not_due_before_its_time(world: World) -> None:
    owner = await world.session()
    run = await world.started(owner)
    await run.land(world.store, run.owned(suspending))
    world.backdoor.strand(run.id)

    assert await heal(world, run)

    head = (await world.store.load(run.id)).head.head
    assert (head.phase, head.wake_at) == ("suspended", head_of(run.state).wake_at)
    assert run.id not in await world.claims(owner)


async def test_a_healed_run_that_has_ended_stays_ended(world: World) -> None:
    run = await stranded(world)
    ended = replace(head_of(run.state), status=Status.CANCELLED, phase="ended", completed_at=world.now())

    assert await world.store.heal(run.id, ended, expected=run.state.seq, seq=run.state.seq)

    head = (await world.store.load(run.id)).head.head
    assert (head.status, head.wake_at) == (Status.CANCELLED, None)
    assert run.id not in await suspects(world)


async def test_only_a_run_that_is_stuck_where_it_was_seen_is_healed(world: World) -> None:
    moved, owned, due = await stranded(world), await world.started(await world.session()), await world.create()
    late = KnownRun(moved.state, world.now)
    await world.adds(moved, annotating)
    world.backdoor.strand(moved.id)

    for run in (late, owned, due):
        before = await world.store.load(run.id)
        assert not await heal(world, run)
        assert await world.store.load(run.id) == before
    assert not await heal(world, KnownRun.of(world.creation(), world.now))


async def test_healing_twice_does_nothing_the_second_time(world: World) -> None:
    run = await stranded(world)

    assert [await heal(world, run), await heal(world, run)] == [True, False]


async def test_a_chore_is_given_to_one_of_those_who_ask(world: World) -> None:
    name, session = f"chore-{uuid4()}", await world.session()
    turns: list[bool] = []

    async def ask() -> None:
        store = world.store if len(turns) % 2 else world.other
        turns.append(await store.take_chore(name, session, every=timedelta(minutes=1)))

    async with create_task_group() as group:
        for _ in range(8):
            group.start_soon(ask)

    assert turns.count(True) == 1


async def test_a_chore_comes_up_again_when_its_time_has_passed(world: World) -> None:
    name, session = f"chore-{uuid4()}", await world.session()
    every = timedelta(milliseconds=200)
    assert await world.store.take_chore(name, session, every=every)
    assert not await world.other.take_chore(name, session, every=every)

    async def again() -> bool:
        return await world.other.take_chore(name, session, every=every)

    assert await world.until(again)


HOUR = timedelta(hours=1)


async def test_a_run_that_is_due_for_long_and_that_nobody_knows_is_told_and_no_other_is(world: World) -> None:
    nobodys = f"{world.workflow}-unknown"
    await world.define(nobodys)
    await world.session()
    late, fresh = [await world.create(workflow=nobodys) for _ in range(2)]
    known = await world.create()
    for run in (late, known):
        world.backdoor.age(run.id, 2 * HOUR)

    found = await world.store.find_unknown(grace=HOUR, limit=100)

    ours = {late.id, fresh.id, known.id}
    assert [run_id for run_id in found if run_id in ours] == [late.id]


async def test_no_more_unknown_runs_are_told_than_asked_for_longest_first(world: World) -> None:
    nobodys = f"{world.workflow}-unknown"
    await world.define(nobodys)
    runs = [await world.create(workflow=nobodys) for _ in range(3)]
    for n, run in enumerate(runs):
        world.backdoor.age(run.id, timedelta(days=300 + n))

    two = await world.store.find_unknown(grace=timedelta(days=200), limit=2)
    found = await world.store.find_unknown(grace=timedelta(days=200), limit=1000)

    assert len(two) == 2
    ours = [run.id for run in reversed(runs)]
    assert [run_id for run_id in found if run_id in ours] == ours
