"""Changes from outside: they respect the history, leave the owner in place and are noticed."""

import pytest

from adapters.conformance.store.builders import (
    KnownRun,
    annotating,
    cancelling,
    completing,
    plain,
    rerunning,
    starting,
    suspending,
)
from adapters.conformance.store.worlds import World
from kernel.errors import RunNotFound, StaleVersion
from kernel.model.machine import Status

pytestmark: pytest.MarkDecorator = pytest.mark.anyio


async def test_a_foreign_append_keeps_the_owner_and_asks_for_its_attention(world: World) -> None:
    owner = await world.session()
    run = await world.started(owner)

    append = await run.land(world.other, run.foreign(annotating))

    stored = await world.store.load(run.id)
    assert (stored.head.owner, stored.head.claim, stored.head.attention) == (owner, 1, True)
    assert stored.head.head.wake_at is None
    assert (stored.rows[-1].append_id, stored.rows[-1].session_id) == (append.append_id, None)
    assert plain(stored.rows[-1].bodies) == {"4": "seen"}


async def test_a_foreign_append_on_a_waiting_run_leaves_it_claimable(world: World) -> None:
    run = await world.create()

    await world.adds(run, annotating)

    head = (await world.store.load(run.id)).head
    assert (head.owner, head.attention) == (None, False)
    assert head.head.wake_at is not None
    assert await world.claims(await world.session()) == [run.id]


async def test_who_appends_from_outside_learns_whether_somebody_owns_the_run(world: World) -> None:
    waiting, owned = await world.create(), await world.started(await world.session())

    answers = [await world.other.append(run.foreign(annotating)) for run in (waiting, owned)]

    assert answers == [False, True]


async def test_a_foreign_append_can_make_a_sleeping_run_due(world: World) -> None:
    sleeping = await world.started(await world.session())
    await sleeping.land(world.store, sleeping.owned(suspending))
    await world.store.append(sleeping.release())
    session = await world.session()
    assert await world.claims(session) == []

    await world.adds(sleeping, cancelling)
    await world.adds(sleeping, rerunning)

    assert await world.claims(session) == [sleeping.id]


async def test_a_foreign_append_on_an_old_state_is_refused(world: World) -> None:
    run = await world.create()
    late = run.foreign(cancelling)
    await world.adds(run, annotating)
    before = await world.store.load(run.id)

    with pytest.raises(StaleVersion) as refused:
        await world.store.append(late)

    assert (refused.value.run_id, refused.value.expected, refused.value.actual) == (run.id, 1, 2)
    assert await world.store.load(run.id) == before


async def test_a_foreign_append_to_a_run_that_does_not_exist_is_refused(world: World) -> None:
    never_created = KnownRun.of(world.creation(), world.now)

    with pytest.raises(RunNotFound) as refused:
        await world.store.append(never_created.foreign(cancelling))

    assert refused.value.run_id == never_created.id


async def test_a_foreign_append_that_landed_may_be_sent_again(world: World) -> None:
    run = await world.create()
    append = await run.land(world.other, run.foreign(annotating))
    await world.adds(run, annotating)
    before = await world.store.load(run.id)

    await world.store.append(append)

    assert await world.store.load(run.id) == before


async def test_a_run_that_somebody_else_cancelled_has_its_owner_until_the_owner_gives_it_back(world: World) -> None:
    owner = await world.session()
    run = await world.started(owner)

    await world.adds(run, cancelling)

    head = (await world.store.load(run.id)).head
    assert head.head.status is Status.CANCELLED
    assert (head.owner, head.attention, head.head.wake_at) == (owner, True, None)
    await world.store.append(run.release())
    head = (await world.store.load(run.id)).head
    assert (head.owner, head.attention, head.head.wake_at) == (None, False, None)
    assert await world.claims(owner) == []


async def test_a_cancelled_run_without_an_owner_asks_for_nothing(world: World) -> None:
    run = await world.create()

    await world.adds(run, cancelling)

    head = (await world.store.load(run.id)).head
    assert (head.owner, head.attention, head.head.wake_at) == (None, False, None)


async def test_a_cancelled_run_of_a_dead_owner_is_taken_and_given_back(world: World) -> None:
    orphan = await world.orphan()
    await world.adds(orphan, cancelling)

    (claimed,) = await world.store.claim(await world.session(), 10)
    await world.store.append(world.taken(claimed).release())

    head = (await world.store.load(orphan.id)).head
    assert (head.owner, head.attention, head.head.wake_at) == (None, False, None)
    assert await world.claims(await world.session()) == []


async def test_an_owner_cannot_extend_a_run_that_somebody_else_has_ended(world: World) -> None:
    run = await world.started(await world.session())
    late = run.owned(completing)
    await world.adds(run, cancelling)

    with pytest.raises(StaleVersion):
        await world.store.append(late)

    assert (await world.store.load(run.id)).head.head.status is Status.CANCELLED


async def test_a_run_that_is_rerun_before_its_owner_gave_it_back_stays_with_the_owner(world: World) -> None:
    owner = await world.session()
    run = await world.started(owner)
    await world.adds(run, cancelling)

    await world.adds(run, rerunning)

    head = (await world.store.load(run.id)).head
    assert (head.owner, head.attention, head.head.wake_at) == (owner, True, None)
    await run.land(world.store, run.owned(annotating))


async def test_a_rerun_makes_an_ended_run_claimable(world: World) -> None:
    run = await world.create()
    await world.adds(run, cancelling)

    await world.adds(run, rerunning)

    (claimed,) = await world.store.claim(await world.session(), 10)
    assert claimed.previous_owner is None
    assert world.taken(claimed).state == run.state


async def test_a_foreign_append_on_a_parked_run_leaves_it_parked(world: World) -> None:
    parked = await world.parked()

    await world.adds(parked, annotating)

    head = (await world.store.load(parked.id)).head
    assert (head.seq, head.parked_reason) == (4, "corrupt_history")
    assert await world.claims(await world.session()) == []


async def test_a_parked_run_can_be_cancelled(world: World) -> None:
    parked = await world.parked()

    await world.adds(parked, cancelling)

    head = (await world.store.load(parked.id)).head
    assert (head.head.status, head.parked_reason, head.head.wake_at) == (Status.CANCELLED, None, None)


async def test_a_driver_without_a_session_can_drive_a_run_from_outside(world: World) -> None:
    run = await world.create()

    for change in (starting, completing, completing):
        await world.adds(run, change)

    assert run.state.status is Status.COMPLETED
    assert await world.stored_state(run) == run.state
