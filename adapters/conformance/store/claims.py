"""Taking runs: each by one session, the right ones, and in the right order."""

from dataclasses import replace
from datetime import timedelta

import pytest
from anyio import create_task_group

from adapters.conformance.store.builders import KnownRun, annotating, completing, failing, starting, suspending
from adapters.conformance.store.worlds import World, same_runs
from kernel.errors import LeaseLost
from kernel.model.facts import FORMAT
from kernel.ports.persistence import Claimed, Persistence

pytestmark: pytest.MarkDecorator = pytest.mark.anyio


async def test_a_claim_gives_the_lease_the_head_and_the_history(world: World) -> None:
    run = await world.create(priority=3)
    session = await world.session()

    (claimed,) = await world.store.claim(session, 10)

    assert (claimed.lease.session_id, claimed.lease.claim, claimed.previous_owner) == (session, 1, None)
    head = claimed.history.head
    assert (head.run_id, head.owner, head.owner_live, head.claim) == (run.id, session, True, 1)
    assert (head.head.wake_at, head.attention, head.seq, head.priority) == (None, False, 1, 3)
    assert claimed.history == await world.store.load(run.id)


async def test_a_claim_writes_no_history(world: World) -> None:
    run = await world.create()
    before = (await world.store.load(run.id)).rows

    await world.store.claim(await world.session(), 1)

    assert (await world.store.load(run.id)).rows == before


async def test_whoever_claimed_a_run_drives_it(world: World) -> None:
    await world.create()
    (claimed,) = await world.store.claim(await world.session(), 1)
    run = world.taken(claimed)

    for change in (starting, completing, completing):
        await run.land(world.store, run.owned(change))

    assert await world.stored_state(run) == run.state


async def test_a_run_that_was_claimed_is_not_claimed_again(world: World) -> None:
    await world.create()
    await world.store.claim(await world.session(), 10)

    assert await world.claims(await world.session()) == []


async def test_every_acquisition_has_its_own_number(world: World) -> None:
    run = await world.create()
    session = await world.session()
    numbers: list[int] = []

    for _ in range(3):
        (claimed,) = await world.store.claim(session, 1)
        numbers.append(claimed.lease.claim)
        await world.store.append(world.taken(claimed).release())

    assert numbers == [1, 2, 3]
    assert (await world.store.load(run.id)).head.claim == 3


async def test_claimers_never_take_the_same_run(world: World) -> None:
    runs = await world.create_many(40)
    sessions = [await world.session(at=store) for store in (world.store, world.other) * 3]
    taken: list[str] = []

    async def claim_all(store: Persistence, session: str) -> None:
        while found := await store.claim(session, 5):
            taken.extend(claimed.history.head.run_id for claimed in found)

    async with create_task_group() as group:
        for number, session in enumerate(sessions):
            group.start_soon(claim_all, (world.store, world.other)[number % 2], session)

    # A claimer passes over what another one holds just now, so that what is left over is taken by the next claim.
    taken.extend(await world.claims(sessions[0]))
    assert same_runs(taken, runs)


async def test_a_claim_takes_no_more_than_it_asked_for(world: World) -> None:
    runs = await world.create_many(5)
    session = await world.session()

    first, second, third = [await world.claims(session, 2) for _ in range(3)]

    assert [len(first), len(second), len(third)] == [2, 2, 1]
    assert same_runs([*first, *second, *third], runs)


async def test_the_run_that_has_waited_longest_is_taken_first(world: World) -> None:
    runs = [await world.create() for _ in range(4)]
    session = await world.session()

    taken = [(await world.claims(session, 1))[0] for _ in runs]

    assert taken == [run.id for run in runs]


async def test_the_more_important_run_is_taken_first(world: World) -> None:
    low, high, middle = [await world.create(priority=priority) for priority in (1, 9, 5)]
    session = await world.session()

    taken = [(await world.claims(session, 1))[0] for _ in range(3)]

    assert taken == [high.id, middle.id, low.id]


async def test_one_claim_takes_the_most_important_of_many(world: World) -> None:
    runs = {priority: await world.create(priority=priority) for priority in (0, 3, 9, 6, 1)}

    taken = await world.claims(await world.session(), 2)

    assert same_runs(taken, [runs[9], runs[6]])


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("patience, first", [(-0.5, "urgent"), (0.5, "patient")])
async def test_ten_seconds_of_waiting_are_worth_one_step_of_priority(
    world: World, steps: int, patience: float, first: str
) -> None:
    patient = await world.create(priority=3)
    urgent = await world.create(priority=3 + steps)
    waited = (await world.store.heads([patient.id]))[patient.id].head.wake_at
    came = (await world.store.heads([urgent.id]))[urgent.id].head.wake_at
    assert waited is not None
    assert came is not None
    world.backdoor.age(patient.id, timedelta(seconds=10 * steps + patience) - (came - waited))

    taken = await world.claims(await world.session(), 1)

    assert taken == [{"urgent": urgent, "patient": patient}[first].id]


async def test_a_delayed_run_is_not_taken_early(world: World) -> None:
    delayed = await world.create(run_at=world.now() + timedelta(hours=1))
    session = await world.session()

    assert await world.claims(session) == []
    assert (await world.store.load(delayed.id)).head.owner is None


async def test_a_delayed_run_is_taken_when_its_time_has_come(world: World) -> None:
    run_at = world.now() + timedelta(milliseconds=300)
    run = await world.create(run_at=run_at)
    session = await world.session()

    taken = await world.until(lambda: world.claims(session))

    assert taken == [run.id]
    assert await world.time() >= run_at


async def test_a_suspended_run_sleeps_until_its_poll(world: World) -> None:
    run = await world.started(await world.session())
    await run.land(world.store, run.owned(suspending))
    await world.store.append(run.release())

    assert await world.claims(await world.session()) == []


async def test_only_known_workflows_are_taken(world: World) -> None:
    await world.define(world.workflow + "-b")
    known = await world.create()
    unknown = await world.create(workflow=world.workflow + "-b")

    assert await world.claims(await world.session((world.workflow, "1"))) == [known.id]

    assert (await world.store.load(unknown.id)).head.owner is None
    assert await world.claims(await world.session((world.workflow + "-b", "1"))) == [unknown.id]


async def test_only_known_versions_are_taken(world: World) -> None:
    await world.define(world.workflow, "2")
    old = await world.create(version="1")
    new = await world.create(version="2")
    session = await world.session((world.workflow, "2"))

    assert await world.claims(session) == [new.id]

    assert (await world.store.load(old.id)).head.owner is None
    both = await world.session((world.workflow, "1"), (world.workflow, "2"))
    assert await world.claims(both) == [old.id]


async def test_a_session_without_workflows_takes_nothing(world: World) -> None:
    await world.create()
    info_only = await world.store.open_session(world.info(), (), lease=timedelta(minutes=1))

    assert await world.claims(info_only) == []
    await world.store.close_session(info_only)


async def test_a_parked_run_is_left_alone(world: World) -> None:
    await world.parked()

    assert await world.claims(await world.session()) == []


async def test_only_the_run_whose_events_are_newer_is_of_a_newer_format(world: World) -> None:
    newer, other = await world.create_many(2)
    await newer.land(world.store, replace(newer.foreign(annotating), format=FORMAT + 1))
    for run in (newer, other):
        await run.land(world.store, run.foreign(annotating))

    assert [(await world.store.load(run.id)).head.format for run in (newer, other)] == [FORMAT + 1, 1]
    assert await world.claims(await world.session()) == [other.id]


async def test_a_run_may_be_born_of_a_newer_format_and_stays_so_when_it_is_released(world: World) -> None:
    owner = await world.session()
    creation = replace(world.creation(owner=owner, change=starting), format=FORMAT + 1)
    await world.store.append(creation)
    run = KnownRun.of(creation, world.now)
    await run.land(world.store, run.owned(annotating))
    await world.store.append(run.release())

    assert (await world.store.load(run.id)).head.format == FORMAT + 1
    assert await world.claims(await world.session()) == []


async def test_a_run_of_a_newer_format_is_left_alone(world: World) -> None:
    run = await world.create()
    world.backdoor.set_format(run.id, FORMAT + 1)

    assert await world.claims(await world.session()) == []

    head = (await world.store.load(run.id)).head
    assert (head.owner, head.format) == (None, FORMAT + 1)


async def test_an_orphan_of_a_newer_format_is_left_alone(world: World) -> None:
    orphan = await world.orphan()
    world.backdoor.set_format(orphan.id, FORMAT + 1)

    assert await world.claims(await world.session()) == []


async def test_an_ended_run_is_left_alone(world: World) -> None:
    run = await world.started(await world.session())
    await run.land(world.store, run.owned(failing))

    assert await world.claims(await world.session()) == []


async def test_the_runs_of_a_condemned_session_are_taken_with_its_name(world: World) -> None:
    owner = await world.session()
    run = await world.started(owner)
    await world.store.close_session(owner)

    (claimed,) = await world.other.claim(await world.session(at=world.other), 10)

    assert (claimed.history.head.run_id, claimed.previous_owner, claimed.lease.claim) == (run.id, owner, 2)
    assert world.taken(claimed).state == run.state


async def test_the_runs_of_a_condemned_session_are_taken_first(world: World) -> None:
    important = await world.create_many(3, priority=9)
    orphan = await world.orphan(priority=0)
    session = await world.session()

    assert await world.claims(session, 1) == [orphan.id]
    assert same_runs(await world.claims(session, 10), important)


async def test_a_claim_for_orphans_is_filled_up_with_waiting_runs(world: World) -> None:
    orphan = await world.orphan()
    waiting = await world.create_many(3)

    taken = await world.claims(await world.session(), 3)

    assert orphan.id in taken
    assert len(taken) == 3
    assert set(taken) <= {orphan.id, *(run.id for run in waiting)}


async def test_runs_of_an_expired_session_stay_until_it_is_condemned(world: World) -> None:
    owner = await world.session()
    run = await world.started(owner)
    session = await world.session()
    world.backdoor.expire(owner)
    assert await world.claims(session) == []

    await world.other.condemn_expired(1000)

    assert await world.claims(session) == [run.id]


async def test_runs_of_a_live_session_are_not_taken(world: World) -> None:
    run = await world.started(await world.session())
    await run.land(world.store, run.owned(annotating))

    assert await world.claims(await world.session()) == []


async def test_orphans_are_not_released_but_taken_one_by_one(world: World) -> None:
    owner = await world.session()
    runs = [await world.started(owner) for _ in range(4)]
    await world.store.close_session(owner)

    taken = await world.claims(await world.session(), 1)

    heads = await world.store.heads([run.id for run in runs if run.id not in taken])
    assert {(head.owner, head.owner_live, head.claim) for head in heads.values()} == {(owner, False, 1)}


async def test_orphans_of_unknown_workflows_stay_where_they_are(world: World) -> None:
    await world.define(world.workflow + "-b")
    orphan = await world.orphan(workflow=world.workflow + "-b")

    assert await world.claims(await world.session((world.workflow, "1"))) == []

    assert await world.claims(await world.session((world.workflow + "-b", "1"))) == [orphan.id]


async def test_two_claimers_never_take_the_same_orphan(world: World) -> None:
    owner = await world.session()
    runs = [await world.started(owner) for _ in range(20)]
    await world.store.close_session(owner)
    sessions = [await world.session(), await world.session(at=world.other)]
    taken: list[Claimed] = []

    async def claim_all(store: Persistence, session: str) -> None:
        while found := await store.claim(session, 3):
            taken.extend(found)

    async with create_task_group() as group:
        group.start_soon(claim_all, world.store, sessions[0])
        group.start_soon(claim_all, world.other, sessions[1])

    taken.extend(await world.store.claim(sessions[0], 100))
    assert same_runs([claimed.history.head.run_id for claimed in taken], runs)
    assert {(claimed.previous_owner, claimed.lease.claim) for claimed in taken} == {(owner, 2)}


@pytest.mark.parametrize("end", ["closed", "expired"])
async def test_a_session_whose_lease_has_ended_takes_nothing(world: World, end: str) -> None:
    run = await world.create()
    session = await world.session()
    if end == "closed":
        await world.store.close_session(session)
    else:
        world.backdoor.expire(session)

    with pytest.raises(LeaseLost) as refused:
        await world.store.claim(session, 10)

    assert refused.value.session_id == session
    assert (await world.store.load(run.id)).head.owner is None


async def test_a_claim_brings_large_histories(world: World) -> None:
    run = await world.create()
    for _ in range(30):
        await world.adds(run, annotating)

    (claimed,) = await world.store.claim(await world.session(), 1)

    assert [row.seq for row in claimed.history.rows] == list(range(1, 32))
    assert world.taken(claimed).state == run.state
