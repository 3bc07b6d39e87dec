"""What operators watch of a store as a whole: how much is due and waits, since when, and for whom nobody is there.

Tests may share a database, so they look at their own workflow, or at what has become more.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from adapters.conformance.store.builders import completing
from adapters.conformance.store.queued import a_queued_run, take
from adapters.conformance.store.worlds import World
from kernel.ports.outbox import SinkRecord
from kernel.ports.persistence import Backlog

pytestmark: pytest.MarkDecorator = pytest.mark.anyio


async def runnable(world: World) -> int:
    return (await world.store.backlog()).runnable.get(world.workflow, 0)


async def test_due_runs_that_nobody_drives_are_counted_by_workflow(world: World) -> None:
    for _ in range(3):
        await world.create()
    await world.started(await world.session())

    assert await runnable(world) == 3


async def test_what_sleeps_is_parked_or_has_ended_does_not_wait(world: World) -> None:
    owner = await world.session()
    await world.create(run_at=world.now() + timedelta(hours=1))
    await world.parked()
    ended = await world.started(owner)
    for _ in range(2):
        await ended.land(world.store, ended.owned(completing))

    assert await runnable(world) == 0


async def test_a_run_whose_owner_is_condemned_waits_to_be_taken_over(world: World) -> None:
    await world.orphan()

    assert await runnable(world) == 1


async def test_the_age_is_that_of_the_run_that_has_been_due_longest(world: World) -> None:
    await world.create()
    old = await world.create()
    world.backdoor.age(old.id, timedelta(days=400))

    age = (await world.store.backlog()).oldest_age

    assert age is not None
    assert timedelta(days=400) <= age < timedelta(days=401)


async def test_runs_whose_workflow_nobody_live_knows_are_counted_apart(world: World) -> None:
    before = (await world.store.backlog()).unknown
    await world.create()

    unknown = (await world.store.backlog()).unknown
    await world.session()
    known = (await world.store.backlog()).unknown

    assert unknown >= before + 1
    assert known <= unknown - 1


async def test_events_wait_from_the_moment_they_are_due_until_the_sink_has_them(world: World) -> None:
    sink = SinkRecord(name=f"sink-{world.workflow}", events=None)
    await world.store.register_sinks([sink])
    await world.create()

    async def lagging() -> Backlog | None:
        backlog = await world.store.backlog()
        return backlog if backlog.outbox_lag is not None and backlog.outbox_lag > timedelta(0) else None

    assert await world.until(lagging)
    await world.store.forget_sink(sink.name)


async def test_a_claimed_run_tells_how_long_it_had_been_due(world: World) -> None:
    run = await world.create()
    world.backdoor.age(run.id, timedelta(minutes=7))
    orphan = await world.orphan()

    claimed = {each.history.head.run_id: each for each in await world.store.claim(await world.session(), 10)}

    waited = claimed[run.id].waited
    assert waited is not None
    assert timedelta(minutes=7) <= waited < timedelta(minutes=8)
    assert claimed[orphan.id].waited is None


async def waiting_jobs(world: World) -> int:
    backlog = (await world.store.backlog()).queues.get("gpu")
    return 0 if backlog is None else backlog.jobs


async def test_jobs_wait_in_their_queue_until_somebody_takes_them(world: World) -> None:
    before = await waiting_jobs(world)
    await a_queued_run(world)
    waiting = await waiting_jobs(world)
    await take(world)

    assert (waiting - before, await waiting_jobs(world) - before) == (2, 1)


async def test_a_job_that_is_due_later_or_whose_run_is_parked_does_not_wait(world: World) -> None:
    before = await waiting_jobs(world)
    later, parked = await a_queued_run(world), await a_queued_run(world)
    world.backdoor.age_job(later.id, "left", -timedelta(hours=1))
    await world.store.append(parked.park_unowned("definition_changed: another"))

    assert await waiting_jobs(world) - before == 1


async def test_a_job_whose_holder_is_gone_waits_again(world: World) -> None:
    before = await waiting_jobs(world)
    run = await a_queued_run(world)
    session = await world.session()
    (by_time,) = await take(world)
    assert len(await take(world, holder=session)) == 1
    taken = await waiting_jobs(world)
    world.backdoor.expire_job(run.id, by_time.lease.stage_id)
    lost_by_time = await waiting_jobs(world)
    await world.store.close_session(session)
    found = (await world.store.backlog()).queues["gpu"]

    assert (taken - before, lost_by_time - before, found.jobs - before) == (0, 1, 2)


async def test_a_job_waits_from_the_moment_when_its_session_was_closed_and_not_from_the_end_of_its_lease(
    world: World,
) -> None:
    before = await waiting_jobs(world)
    await a_queued_run(world)
    session = await world.session()
    assert len(await take(world, 2, holder=session)) == 2
    await world.store.close_session(session)

    found = (await world.store.backlog()).queues["gpu"]

    assert found.jobs - before == 2
    assert found.oldest_age >= timedelta(0)


async def test_the_age_of_a_queue_is_that_of_the_job_that_has_been_due_longest(world: World) -> None:
    run = await a_queued_run(world, priority=9)
    await a_queued_run(world, priority=2)
    world.backdoor.age_job(run.id, "right", timedelta(days=400))

    age = (await world.store.backlog()).queues["gpu"].oldest_age

    assert timedelta(days=400) <= age < timedelta(days=401)
