"""Releasing, parking and unparking: the head changes, the history does not."""

from datetime import timedelta

import pytest

from adapters.conformance.store.builders import KnownRun, annotating, completing, suspending
from adapters.conformance.store.worlds import World
from kernel.errors import Conflict, LeaseLost, RunNotFound, StaleVersion
from kernel.ports.persistence import Lease

pytestmark: pytest.MarkDecorator = pytest.mark.anyio


async def test_a_released_run_waits_until_it_is_due(world: World) -> None:
    run = await world.started(await world.session())
    await run.land(world.store, run.owned(suspending))

    await world.store.append(run.release())

    head = (await world.store.load(run.id)).head
    stage = run.state.stages["extract"]
    assert stage.suspension is not None
    assert (head.owner, head.attention, head.head.wake_at) == (None, False, stage.suspension.next_poll_at)
    assert (head.seq, head.claim) == (run.state.seq, 1)
    assert await world.claims(await world.session()) == []


async def test_a_release_writes_no_history(world: World) -> None:
    run = await world.started(await world.session())
    before = (await world.store.load(run.id)).rows

    await world.store.append(run.release())

    assert (await world.store.load(run.id)).rows == before


async def test_a_released_run_that_is_due_can_be_taken_at_once(world: World) -> None:
    run = await world.started(await world.session())

    await world.store.append(run.release())

    (claimed,) = await world.other.claim(await world.session(at=world.other), 10)
    assert (claimed.history.head.run_id, claimed.previous_owner, claimed.lease.claim) == (run.id, None, 2)


async def test_a_release_in_ignorance_of_a_foreign_append_is_refused(world: World) -> None:
    owner = await world.session()
    run = await world.started(owner)
    release = run.release()
    await world.adds(run, annotating)

    with pytest.raises(StaleVersion):
        await world.store.append(release)

    head = (await world.store.load(run.id)).head
    assert (head.owner, head.attention) == (owner, True)


async def test_a_release_after_a_foreign_append_was_seen_clears_the_attention(world: World) -> None:
    run = await world.started(await world.session())
    await world.adds(run, annotating)

    await world.store.append(run.release())

    head = (await world.store.load(run.id)).head
    assert (head.owner, head.attention) == (None, False)


async def test_only_the_owner_can_release(world: World) -> None:
    owner = await world.session()
    run = await world.started(owner)
    other = await world.session()

    with pytest.raises(LeaseLost):
        await world.store.append(run.release(lease=Lease(other, 1)))

    assert (await world.store.load(run.id)).head.owner == owner


async def test_a_release_may_be_sent_again(world: World) -> None:
    run = await world.started(await world.session())
    release = run.release()
    await world.store.append(release)
    before = (await world.store.load(run.id)).head

    await world.store.append(release)

    after = (await world.store.load(run.id)).head
    assert (after.owner, after.head.wake_at, after.claim) == (None, before.head.wake_at, before.claim)


async def test_a_release_sent_again_does_not_take_the_run_from_its_next_owner(world: World) -> None:
    run = await world.started(await world.session())
    release = run.release()
    await world.store.append(release)
    heir = await world.session()
    await world.store.claim(heir, 1)

    try:
        await world.store.append(release)
    except Conflict:
        pass  # whether it is recognised or refused, it must have no effect

    head = (await world.store.load(run.id)).head
    assert (head.owner, head.claim) == (heir, 2)


async def test_a_parked_run_waits_for_a_human(world: World) -> None:
    run = await world.started(await world.session())

    await world.store.append(run.park("definition_changed"))

    head = (await world.store.load(run.id)).head
    assert (head.owner, head.head.wake_at, head.parked_reason) == (None, None, "definition_changed")
    assert head.parked_at is not None
    assert abs(head.parked_at - await world.time()) < timedelta(minutes=1)
    assert await world.claims(await world.session()) == []


async def test_only_the_owner_can_park(world: World) -> None:
    run = await world.started(await world.session())
    other = await world.session()

    with pytest.raises(LeaseLost):
        await world.store.append(run.park("x", lease=Lease(other, 1)))

    assert (await world.store.load(run.id)).head.parked_reason is None


async def test_a_park_in_ignorance_of_a_foreign_append_is_refused(world: World) -> None:
    run = await world.started(await world.session())
    park = run.park("x")
    await world.adds(run, annotating)

    with pytest.raises(StaleVersion):
        await world.store.append(park)


async def test_a_park_may_be_sent_again(world: World) -> None:
    run = await world.started(await world.session())
    park = run.park("x")
    await world.store.append(park)

    await world.store.append(park)

    assert (await world.store.load(run.id)).head.parked_reason == "x"


async def test_an_unparked_run_can_be_taken_again(world: World) -> None:
    parked = await world.parked()

    await world.other.append(parked.unpark())

    head = (await world.store.load(parked.id)).head
    assert (head.parked_reason, head.parked_at) == (None, None)
    (claimed,) = await world.store.claim(await world.session(), 10)
    assert (claimed.history.head.run_id, claimed.lease.claim) == (parked.id, 2)


async def test_an_unpark_in_ignorance_of_a_change_is_refused(world: World) -> None:
    parked = await world.parked()
    unpark = parked.unpark()
    await world.adds(parked, annotating)

    with pytest.raises(StaleVersion):
        await world.store.append(unpark)

    assert (await world.store.load(parked.id)).head.parked_reason is not None


async def test_an_unpark_may_be_sent_again(world: World) -> None:
    parked = await world.parked()
    unpark = parked.unpark()
    await world.store.append(unpark)

    await world.store.append(unpark)

    assert await world.claims(await world.session()) == [parked.id]


async def test_an_unpark_does_not_take_a_run_from_its_owner(world: World) -> None:
    owner = await world.session()
    run = await world.started(owner)

    with pytest.raises(StaleVersion):
        await world.store.append(run.unpark())

    head = (await world.store.load(run.id)).head
    assert (head.owner, head.head.wake_at) == (owner, None)


async def test_unparking_a_run_that_does_not_exist_is_refused(world: World) -> None:
    never_created = KnownRun.of(world.creation(), world.now)

    with pytest.raises(RunNotFound):
        await world.store.append(never_created.unpark())


async def test_the_next_owner_continues_where_the_last_one_stopped(world: World) -> None:
    run = await world.started(await world.session())
    await run.land(world.store, run.owned(completing))
    await world.store.append(run.release())

    (claimed,) = await world.other.claim(await world.session(at=world.other), 1)

    heir = world.taken(claimed)
    assert heir.state == run.state
    await heir.land(world.other, heir.owned(completing))
    assert (await world.store.load(run.id)).head.seq == heir.state.seq
