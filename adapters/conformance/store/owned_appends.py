"""What an owner may append, and that nobody else can in its name."""

from datetime import timedelta

import pytest

from adapters.conformance.store.builders import (
    Change,
    KnownRun,
    annotating,
    cancelling,
    completing,
    failing,
    plain,
    starting,
    suspending,
)
from adapters.conformance.store.worlds import World
from kernel.errors import Conflict, LeaseLost, StaleVersion
from kernel.model.machine import Status
from kernel.ports.persistence import Lease

pytestmark: pytest.MarkDecorator = pytest.mark.anyio


async def test_an_owned_append_extends_the_history_and_moves_the_head(world: World) -> None:
    owner = await world.session()
    run = await world.started(owner)

    append = await run.land(world.store, run.owned(completing))

    stored = await world.other.load(run.id)
    assert [(row.first_seq, row.seq) for row in stored.rows] == [(1, 3), (4, append.seq)]
    assert (stored.rows[1].append_id, stored.rows[1].session_id) == (append.append_id, owner)
    assert plain(stored.rows[1].bodies) == {"4": {"words": 3}}
    assert (stored.head.seq, stored.head.owner, stored.head.claim) == (append.seq, owner, 1)
    assert await world.stored_state(run) == run.state


async def test_a_whole_run_folds_to_what_its_driver_saw(world: World) -> None:
    run = await world.started(await world.session())

    await run.land(world.store, run.owned(annotating))
    await run.land(world.store, run.owned(completing))
    await run.land(world.store, run.owned(completing))

    assert run.state.status is Status.COMPLETED
    assert await world.stored_state(run) == run.state


async def test_a_head_keeps_the_error_of_a_failed_run(world: World) -> None:
    run = await world.started(await world.session())

    await run.land(world.store, run.owned(failing))

    head = (await world.store.load(run.id)).head.head
    assert head.error is not None
    assert (head.error.stage_id, head.error.attempt) == ("extract", 1)
    assert (head.error.error.type, head.error.error.message) == ("ValueError", "no such file")
    assert (head.error.error.retryable, head.error.error.traceback) == (False, None)  # the history has the traceback
    assert (head.status, head.phase, head.completed_at) == (Status.FAILED, "ended", run.state.ended_at)


async def test_an_append_decided_on_an_old_state_is_refused(world: World) -> None:
    run = await world.started(await world.session())
    late = run.owned(completing)
    await run.land(world.store, run.owned(annotating))
    before = await world.store.load(run.id)

    with pytest.raises(StaleVersion) as refused:
        await world.store.append(late)

    assert (refused.value.run_id, refused.value.expected, refused.value.actual) == (run.id, 3, 4)
    assert await world.store.load(run.id) == before


async def test_a_foreign_append_makes_the_owners_next_one_stale(world: World) -> None:
    run = await world.started(await world.session())
    late = run.owned(completing)
    await world.adds(run, annotating)

    with pytest.raises(StaleVersion):
        await world.store.append(late)


@pytest.mark.parametrize("claim", [0, 2])
async def test_another_acquisition_by_the_same_session_does_not_own_the_run(world: World, claim: int) -> None:
    owner = await world.session()
    run = await world.started(owner)

    with pytest.raises(LeaseLost) as refused:
        await world.store.append(run.owned(completing, lease=Lease(owner, claim)))

    assert (refused.value.run_id, refused.value.session_id) == (run.id, owner)


async def test_another_session_does_not_own_the_run(world: World) -> None:
    run = await world.started(await world.session())
    other = await world.session()
    before = await world.store.load(run.id)

    with pytest.raises(LeaseLost):
        await world.store.append(run.owned(completing, lease=Lease(other, 1)))

    assert await world.store.load(run.id) == before


async def test_a_session_that_nobody_opened_owns_nothing(world: World) -> None:
    run = await world.started(await world.session())

    with pytest.raises(LeaseLost):
        await world.store.append(run.owned(completing, lease=Lease("00000000-0000-4000-8000-000000000000", 1)))


async def test_nobody_owns_a_run_that_waits(world: World) -> None:
    owner = await world.session()
    run = await world.create()

    with pytest.raises(LeaseLost):
        await world.store.append(run.owned(starting, lease=Lease(owner, 0)))


async def test_nobody_owns_a_run_that_does_not_exist(world: World) -> None:
    owner = await world.session()
    never_created = KnownRun.of(world.creation(owner=owner, change=starting), world.now)

    with pytest.raises(Conflict):
        await world.store.append(never_created.owned(completing))

    assert await world.store.heads([never_created.id]) == {}


@pytest.mark.parametrize("mode", ["owned", "release", "park"])
async def test_a_condemned_session_can_do_nothing_with_its_runs(world: World, mode: str) -> None:
    owner = await world.session()
    run = await world.started(owner)
    await world.other.close_session(owner)
    before = await world.store.load(run.id)
    append = {"owned": run.owned(completing), "release": run.release(), "park": run.park("x")}[mode]

    with pytest.raises(LeaseLost):
        await world.store.append(append)

    assert await world.store.load(run.id) == before


@pytest.mark.parametrize("mode", ["owned", "release", "park"])
async def test_an_expired_session_can_do_nothing_even_before_it_is_condemned(world: World, mode: str) -> None:
    owner = await world.session()
    run = await world.started(owner)
    world.backdoor.expire(owner)
    before = await world.store.load(run.id)
    append = {"owned": run.owned(completing), "release": run.release(), "park": run.park("x")}[mode]

    with pytest.raises(LeaseLost):
        await world.store.append(append)

    assert await world.store.load(run.id) == before
    assert (before.head.owner, before.head.owner_live) == (owner, False)


async def test_a_zombie_learns_that_its_run_was_taken_over_and_moved_on(world: World) -> None:
    zombie = await world.session()
    run = await world.started(zombie)
    late = run.owned(completing)
    await world.other.close_session(zombie)
    (claimed,) = await world.other.claim(await world.session(at=world.other), 1)
    heir = world.taken(claimed)
    await heir.land(world.other, heir.owned(annotating))

    with pytest.raises(LeaseLost):
        await world.store.append(late)

    assert await world.stored_state(run) == heir.state


async def test_an_append_that_landed_may_be_sent_again(world: World) -> None:
    run = await world.started(await world.session())
    append = await run.land(world.store, run.owned(completing))
    before = await world.store.load(run.id)

    await world.store.append(append)
    await world.other.append(append)

    assert await world.store.load(run.id) == before


async def test_an_append_that_landed_is_recognised_after_the_run_moved_on(world: World) -> None:
    run = await world.started(await world.session())
    append = await run.land(world.store, run.owned(completing))
    await run.land(world.store, run.owned(annotating))
    await world.adds(run, annotating)
    before = await world.store.load(run.id)

    await world.store.append(append)

    assert await world.store.load(run.id) == before


async def test_an_append_that_landed_is_recognised_after_the_run_was_taken_over(world: World) -> None:
    owner = await world.session()
    run = await world.started(owner)
    append = await run.land(world.store, run.owned(completing))
    await world.store.close_session(owner)
    await world.store.claim(await world.session(), 1)
    before = await world.store.load(run.id)

    await world.store.append(append)

    assert await world.store.load(run.id) == before


async def test_the_last_append_of_a_run_may_be_sent_again(world: World) -> None:
    run = await world.started(await world.session())
    await run.land(world.store, run.owned(completing))
    append = await run.land(world.store, run.owned(completing))

    await world.store.append(append)

    assert (await world.store.load(run.id)).head.seq == append.seq


@pytest.mark.parametrize("ending", [cancelling, failing])
async def test_a_run_that_ended_belongs_to_nobody(world: World, ending: Change) -> None:
    owner = await world.session()
    run = await world.started(owner)
    await world.adds(run, annotating)

    await run.land(world.store, run.owned(ending))

    head = (await world.store.load(run.id)).head
    assert (head.owner, head.attention, head.head.wake_at) == (None, False, None)
    assert await world.claims(owner) == []


async def test_an_owned_append_clears_the_attention(world: World) -> None:
    run = await world.started(await world.session())
    await world.adds(run, annotating)
    assert (await world.store.load(run.id)).head.attention

    await run.land(world.store, run.owned(completing))

    assert not (await world.store.load(run.id)).head.attention


async def test_a_run_is_not_due_while_it_is_owned(world: World) -> None:
    run = await world.started(await world.session())

    await run.land(world.store, run.owned(suspending))

    head = (await world.store.load(run.id)).head.head
    assert (head.phase, head.wake_at) == ("suspended", None)


async def test_totals_and_times_of_the_head_are_those_of_the_run(world: World) -> None:
    run = await world.started(await world.session())
    await run.land(world.store, run.owned(completing))

    append = await run.land(world.store, run.owned(completing))

    head = (await world.store.load(run.id)).head
    expected = append.head
    assert (head.head.total_cost, head.head.total_tokens) == (expected.total_cost, expected.total_tokens)
    assert (head.head.started_at, head.head.completed_at) == (expected.started_at, expected.completed_at)
    assert head.updated_at - append.at < timedelta(minutes=1)
