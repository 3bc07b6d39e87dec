"""Looks at suspended stages: what is kept in the head alone, and who may take runs out of sight to make them."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from adapters.conformance.store.builders import KnownRun, annotating, asking, cancelling, looking, rerunning, suspending
from adapters.conformance.store.worlds import World
from kernel.errors import LeaseLost, StaleVersion
from kernel.model.draft import Draft
from kernel.ports.persistence import Lease, SuspendedRuns

pytestmark: pytest.MarkDecorator = pytest.mark.anyio

HOLD = timedelta(minutes=5)


async def suspended(world: World, owner: str | None = None) -> KnownRun:
    """A run whose stage waits, looked at every hour; of a session, or of nobody."""
    run = await world.started(owner or await world.session())
    await run.land(world.store, run.owned(suspending))
    if owner is None:
        await world.store.append(run.release())
    return run


# -- the owner's ------------------------------------------------------------------------------------------------------


async def test_a_look_of_the_owner_is_kept_and_the_history_stays_as_it_is(world: World) -> None:
    owner = await world.session()
    run = await suspended(world, owner)
    before = await world.store.load(run.id)

    await run.land(world.store, run.poll(looking, lease=run.lease))

    after = await world.other.load(run.id)
    assert after.rows == before.rows
    assert (after.head.seq, after.head.owner, after.head.head.wake_at) == (run.state.seq, owner, None)
    assert await world.stored_state(run) == run.state


async def test_the_next_owner_knows_of_the_looks_of_the_last_one(world: World) -> None:
    run = await suspended(world, await world.session())
    await run.land(world.store, run.poll(looking, lease=run.lease))
    await world.store.append(run.release())
    world.backdoor.age(run.id, timedelta(hours=1))

    (claimed,) = await world.other.claim(await world.session(at=world.other), 1)

    assert world.taken(claimed).state == run.state


async def test_a_released_run_waits_for_the_look_that_was_moved(world: World) -> None:
    run = await suspended(world, await world.session())
    await run.land(world.store, run.poll(looking, lease=run.lease))

    await world.store.append(run.release())

    assert (await world.store.load(run.id)).head.head.wake_at == run.state.stages["extract"].poll_at


async def test_a_look_may_be_kept_by_the_release_itself(world: World) -> None:
    run = await suspended(world, await world.session())
    before = (await world.store.load(run.id)).rows

    release = await run.land(world.store, run.release_with(looking))
    await world.store.append(release)

    after = await world.other.load(run.id)
    assert (after.head.owner, after.head.head.wake_at) == (None, run.state.stages["extract"].poll_at)
    assert (after.rows, await world.stored_state(run)) == (before, run.state)


async def test_a_look_in_ignorance_of_a_foreign_append_is_refused(world: World) -> None:
    run = await suspended(world, await world.session())
    poll = run.poll(looking, lease=run.lease)
    await world.adds(run, asking)

    with pytest.raises(StaleVersion):
        await world.store.append(poll)

    head = (await world.store.load(run.id)).head
    assert (head.poll_state, head.attention) == (None, True)


async def test_only_the_owner_can_look_as_one(world: World) -> None:
    run = await suspended(world, await world.session())
    other = await world.session()

    with pytest.raises(LeaseLost):
        await world.store.append(run.poll(looking, lease=Lease(other, 1)))

    assert (await world.store.load(run.id)).head.poll_state is None


async def test_a_look_under_a_lease_that_has_ended_is_refused(world: World) -> None:
    owner = await world.session()
    run = await suspended(world, owner)
    world.backdoor.expire(owner)

    with pytest.raises(LeaseLost):
        await world.store.append(run.poll(looking, lease=run.lease))


async def test_a_look_may_be_sent_again(world: World) -> None:
    run = await suspended(world, await world.session())
    poll = await run.land(world.store, run.poll(looking, lease=run.lease))

    await world.store.append(poll)

    assert await world.stored_state(run) == run.state


async def test_looks_of_several_stages_are_kept_beside_each_other(world: World) -> None:
    run = await suspended(world, await world.session())
    await run.land(world.store, run.poll(looking, lease=run.lease))
    of_another = b'{"report":{"seq":1,"next_poll_at":"2026-01-01T00:00:00Z","max_wait_until":"2026-01-01T00:00:00Z"}}'

    await world.store.append(replace(run.poll(looking, lease=run.lease), poll_state=of_another))

    head = (await world.store.load(run.id)).head
    assert head.poll_state is not None
    assert json.loads(head.poll_state).keys() == {"extract", "report"}
    assert await world.stored_state(run) == run.state


async def test_an_append_with_events_may_bring_a_look_too(world: World) -> None:
    def both(draft: Draft) -> None:
        annotating(draft)
        looking(draft)

    run = await suspended(world, await world.session())

    await run.land(world.store, run.owned(both))

    assert await world.stored_state(run) == run.state


async def test_looks_are_forgotten_when_the_run_ends(world: World) -> None:
    run = await suspended(world, await world.session())
    await run.land(world.store, run.poll(looking, lease=run.lease))
    await run.land(world.store, run.owned(cancelling))
    assert (await world.store.load(run.id)).head.poll_state is None

    await world.adds(run, rerunning)

    assert (await world.store.load(run.id)).head.poll_state is None


# -- everybody else's -------------------------------------------------------------------------------------------------


async def test_a_look_from_outside_moves_when_the_run_is_due(world: World) -> None:
    run = await suspended(world)

    await run.land(world.other, run.poll(looking))

    head = (await world.store.load(run.id)).head
    assert head.head.wake_at == run.state.stages["extract"].poll_at
    assert await world.stored_state(run) == run.state


async def test_a_look_from_outside_is_no_news_to_the_owner(world: World) -> None:
    owner = await world.session()
    run = await suspended(world, owner)

    await run.land(world.other, run.poll(looking))

    head = (await world.store.load(run.id)).head
    assert (head.owner, head.attention, head.head.wake_at) == (owner, False, None)


async def test_a_look_from_outside_does_not_unpark(world: World) -> None:
    run = await suspended(world, await world.session())
    await world.store.append(run.park("x"))

    await world.other.append(run.poll(looking))

    head = (await world.store.load(run.id)).head
    assert (head.parked_reason, head.head.wake_at) == ("x", None)


async def test_asking_for_a_look_raises_the_attention_of_the_owner_or_makes_the_run_due(world: World) -> None:
    owned, free = await suspended(world, await world.session()), await suspended(world)

    await world.adds(owned, asking)
    await world.adds(free, asking)

    assert (await world.store.load(owned.id)).head.attention
    assert await world.claims(await world.session()) == [free.id]


# -- holding ----------------------------------------------------------------------------------------------------------


async def held(world: World, limit: int = 10) -> SuspendedRuns:
    return await world.other.hold_suspended([(world.workflow, "1")], limit, hold=HOLD)


async def test_a_held_run_is_nobody_else_s_until_the_hold_has_passed(world: World) -> None:
    run = await suspended(world)
    await world.adds(run, asking)

    assert (await held(world)).held == [run.id]

    assert (await held(world)).held == []
    assert await world.claims(await world.session()) == []
    world.backdoor.age(run.id, HOLD)
    assert (await held(world)).held == [run.id]


async def test_the_longest_due_are_held_first(world: World) -> None:
    runs = [await suspended(world) for _ in range(3)]
    for age, run in enumerate(runs):
        await world.adds(run, asking)
        world.backdoor.age(run.id, timedelta(minutes=age))

    assert (await held(world, 2)).held == [runs[2].id, runs[1].id]
    assert (await held(world, 2)).held == [runs[0].id]


async def test_what_waits_for_something_else_or_is_unknown_is_not_held(world: World) -> None:
    pending, asleep, newer = await world.create(), await suspended(world), await suspended(world)
    for run in (asleep, newer):
        await world.adds(run, asking)
    await asleep.land(world.other, asleep.poll(looking))
    world.backdoor.set_format(newer.id, 99)

    assert await held(world) == SuspendedRuns(held=[], attended=[])
    assert await world.other.hold_suspended([("unknown", "1")], 10, hold=HOLD) == SuspendedRuns(held=[], attended=[])
    assert pending.id in await world.claims(await world.session())


async def test_runs_that_a_session_owns_and_others_append_to_are_named_and_left_as_they_are(world: World) -> None:
    owner = await world.session()
    run, quiet = await suspended(world, owner), await suspended(world, owner)
    await world.adds(run, annotating)

    assert await held(world) == SuspendedRuns(held=[], attended=[run.id])

    assert (await world.store.load(run.id)).head.owner == owner
    assert quiet.id != run.id
