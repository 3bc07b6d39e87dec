"""Jobs come and go with the appends of their run, and are taken by one process at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from anyio import create_task_group, move_on_after
from anyio.lowlevel import checkpoint

from adapters.conformance.store.builders import (
    QUEUED,
    KnownRun,
    annotating,
    cancelling,
    ending_job,
    losing_job,
    scheduling,
    starting_job,
    suspending,
)
from adapters.conformance.store.queued import MINUTE, a_queued_run, jobs_of, sweep, take, tokens, transport
from adapters.conformance.store.worlds import SHORT, World, outcome_of
from kernel.errors import ErrorInfo, JobLost, LeaseLost, StaleVersion
from kernel.journal import fold_stored
from kernel.model.attempts import Raised
from kernel.model.facts import FORMAT
from kernel.model.jobs import JobLease
from kernel.model.machine import Status
from kernel.ports.persistence import Append, Persistence

pytestmark: pytest.MarkDecorator = pytest.mark.anyio


async def started(world: World, run: KnownRun, stage_id: str = "left") -> JobLease:
    """A job of the run that somebody has taken and begun."""
    job = await transport(world).take(run.id, stage_id, tokens(1)[0], holder=MINUTE)
    assert job is not None
    await world.adds(run, starting_job(job.lease))
    return job.lease


# -- with the append ---------------------------------------------------------------------------------------------------


async def test_a_job_appears_with_the_append_that_schedules_its_stage(world: World) -> None:
    run = await world.create(plan=QUEUED, priority=7)
    assert await jobs_of(world, run) == {}

    await world.adds(run, scheduling)

    found = await jobs_of(world, run)
    assert [(stage_id, job.queue, job.priority, job.token) for stage_id, job in found.items()] == [
        ("left", "gpu", 7, None),
        ("right", "gpu", 7, None),
    ]


async def test_a_creation_and_an_owner_s_append_can_enqueue_as_well(world: World) -> None:
    owner = await world.session()
    born = await world.create(plan=QUEUED, owner=owner, change=scheduling)
    later = await world.create(plan=QUEUED, owner=owner)

    await later.land(world.store, later.owned(scheduling))

    assert list(await jobs_of(world, born)) == list(await jobs_of(world, later)) == ["left", "right"]


async def test_a_refused_append_changes_no_job(world: World) -> None:
    run = await world.create(plan=QUEUED)
    stale = run.foreign(scheduling)
    await world.adds(run, annotating)

    refusal = await outcome_of(world.store, stale)

    assert isinstance(refusal, StaleVersion)
    assert await jobs_of(world, run) == {}


async def test_a_fast_second_worker_can_never_see_a_job_before_its_run(world: World) -> None:
    seen: list[Status] = []

    async def work() -> None:
        while len(seen) < 6:
            for job in await take(world, other=True):
                state = fold_stored(await world.other.load(job.lease.run_id))
                seen.append(state.status)
                assert state.stages[job.lease.stage_id].scheduled
            await checkpoint()

    async with create_task_group() as workers:
        workers.start_soon(work)
        for _ in range(3):
            await world.create(plan=QUEUED, change=scheduling)

    assert seen == [Status.RUNNING] * 6


async def test_the_append_that_ends_an_attempt_takes_its_job_out(world: World) -> None:
    run = await a_queued_run(world)
    lease = await started(world, run)

    await world.adds(run, ending_job(lease))

    assert list(await jobs_of(world, run)) == ["right"]


async def test_a_retry_makes_the_job_available_again_when_it_is_due(world: World) -> None:
    run = await a_queued_run(world)
    lease = await started(world, run)
    error = ErrorInfo(type="ValueError", message="busy", retryable=True)

    await world.adds(run, ending_job(lease, Raised(error=error, retry_after=timedelta(hours=1))))

    job = (await jobs_of(world, run))["left"]
    assert (job.token, job.lease_until, job.due_at) == (None, None, run.state.stages["left"].due_at)
    assert [taken.lease.stage_id for taken in await take(world, 2)] == ["right"]
    world.backdoor.age_job(run.id, "left", timedelta(hours=2))
    assert [taken.lease.stage_id for taken in await take(world, 2)] == ["left"]


async def test_a_cancelled_run_leaves_no_job_queued_or_running(world: World) -> None:
    run = await a_queued_run(world)
    lease = await started(world, run)

    await world.adds(run, cancelling)

    assert await jobs_of(world, run) == {}
    assert list(await transport(world).heartbeat([lease], lease=MINUTE)) == []


async def test_a_failing_sibling_withdraws_the_other_job_in_the_same_append(world: World) -> None:
    run = await a_queued_run(world)
    lease, other = await started(world, run), await started(world, run, "right")
    error = ErrorInfo(type="ValueError", message="no", retryable=False)

    await world.adds(run, ending_job(lease, Raised(error=error)))

    assert (run.state.status, await jobs_of(world, run)) == (Status.FAILED, {})
    assert list(await transport(world).heartbeat([other], lease=MINUTE)) == []


async def test_an_append_that_is_sent_again_changes_nothing_more(world: World) -> None:
    run = await a_queued_run(world)
    lease = await started(world, run)
    append = await run.land(world.store, run.foreign(ending_job(lease)))
    taken = await take(world)

    await world.store.append(append)

    assert [job.lease.stage_id for job in taken] == ["right"]
    assert (await jobs_of(world, run))["right"].token == taken[0].lease.token


# -- taking ------------------------------------------------------------------------------------------------------------


async def test_jobs_are_taken_by_priority_and_then_by_age(world: World) -> None:
    runs = {priority: await a_queued_run(world, priority=priority) for priority in (2, 9, 5)}

    order = [job.lease.run_id for job in await take(world, 6)]

    assert order == [runs[priority].id for priority in (9, 9, 5, 5, 2, 2)]


async def test_a_job_that_has_waited_ten_seconds_longer_counts_as_one_priority_higher(world: World) -> None:
    low, high = await a_queued_run(world, priority=4), await a_queued_run(world, priority=5)
    world.backdoor.age_job(low.id, "left", timedelta(seconds=15))
    world.backdoor.age_job(low.id, "right", timedelta(seconds=5))

    order = [(job.lease.run_id, job.lease.stage_id) for job in await take(world, 4)]

    assert order[0] == (low.id, "left")
    assert [run_id for run_id, _ in order[1:3]] == [high.id, high.id]


async def test_a_job_is_given_to_one_of_many_takers(world: World) -> None:
    runs = [await a_queued_run(world) for _ in range(8)]
    taken: Counter[tuple[str, str]] = Counter()

    async def work(number: int) -> None:
        for job in await take(world, 3, other=bool(number % 2)):
            taken[job.lease.run_id, job.lease.stage_id] += 1

    async with create_task_group() as workers:
        for number in range(8):
            workers.start_soon(work, number)

    assert set(taken.values()) == {1}
    assert len(taken) + len(await take(world, 100)) == 2 * len(runs)


async def test_only_known_workflows_and_served_queues_are_taken_from(world: World) -> None:
    run = await a_queued_run(world)
    jobs = transport(world)

    wrong_queue = await take(world, queue="cpu")
    wrong_workflow = await jobs.dequeue(["gpu"], [], tokens(1), holder=MINUTE)
    several = await jobs.dequeue(["cpu", "gpu"], [(world.workflow, "1")], tokens(1), holder=MINUTE)

    assert (list(wrong_queue), list(wrong_workflow)) == ([], [])
    assert [job.lease.run_id for job in several] == [run.id]


async def test_jobs_of_parked_runs_and_of_a_newer_release_stay(world: World) -> None:
    parked, newer = await a_queued_run(world), await a_queued_run(world)
    await world.store.append(parked.park_unowned("definition_changed: another"))
    world.backdoor.set_format(newer.id, FORMAT + 1)
    assert await take(world, 10) == []
    assert await transport(world).take(parked.id, "left", tokens(1)[0], holder=MINUTE) is None

    await world.store.append(parked.unpark())

    assert {job.lease.run_id for job in await take(world, 10)} == {parked.id}


async def test_one_particular_job_can_be_taken_once_and_asked_for_again(world: World) -> None:
    run = await a_queued_run(world)
    token, jobs = tokens(1)[0], transport(world)

    first = await jobs.take(run.id, "right", token, holder=MINUTE)
    again = await jobs.take(run.id, "right", token, holder=MINUTE)

    assert first == again is not None
    assert await jobs.take(run.id, "right", tokens(1)[0], holder=MINUTE) is None
    assert await jobs.take(run.id, "nowhere", token, holder=MINUTE) is None


async def test_a_job_is_found_under_the_token_of_its_lease_and_under_no_other(world: World) -> None:
    run = await a_queued_run(world)
    (job,) = await take(world, holder=SHORT)
    jobs, before = transport(world), await jobs_of(world, run)

    assert await jobs.find_leased(job.lease) == job
    assert await jobs.find_leased(replace(job.lease, token=tokens(1)[0])) is None
    assert await jobs.find_leased(replace(job.lease, stage_id="right")) is None
    assert await jobs.find_leased(replace(job.lease, run_id="no-run")) is None
    # Nothing was taken by that, and nothing prolonged.
    assert await jobs_of(world, run) == before


async def test_a_job_is_no_longer_found_under_a_lease_that_was_swept_or_given_up(world: World) -> None:
    run = await a_queued_run(world)
    left, right = await started(world, run), await started(world, run, "right")
    world.backdoor.expire_job(run.id, "left")
    (swept,) = await sweep(world)
    jobs = transport(world)

    assert await jobs.find_leased(left) is None
    await world.adds(run, losing_job(swept.job.lease))
    await jobs.release(right)

    assert [await jobs.find_leased(lease) for lease in (left, swept.job.lease, right)] == [None] * 3
    assert (await jobs_of(world, run))["left"].token is None


async def test_the_leased_job_of_a_parked_run_or_of_a_newer_release_is_not_found(world: World) -> None:
    parked, newer = await a_queued_run(world), await a_queued_run(world)
    leases = [await started(world, run) for run in (parked, newer)]
    await world.store.append(parked.park_unowned("definition_changed: another"))
    world.backdoor.set_format(newer.id, FORMAT + 1)

    assert [await transport(world).find_leased(lease) for lease in leases] == [None, None]


async def test_a_session_that_has_ended_takes_nothing(world: World) -> None:
    run = await a_queued_run(world)
    session = await world.session()
    await world.store.close_session(session)

    with pytest.raises(LeaseLost):
        await take(world, holder=session)
    with pytest.raises(LeaseLost):
        await transport(world).take(run.id, "left", tokens(1)[0], holder=session)

    assert all(job.token is None for job in (await jobs_of(world, run)).values())


async def test_a_job_that_is_given_back_can_be_taken_after_its_delay(world: World) -> None:
    run = await a_queued_run(world)
    left, right = await take(world, 2)
    jobs = transport(world)

    released = [await jobs.release(left.lease), await jobs.release(right.lease, delay=timedelta(hours=1))]

    assert released == [True, True]
    assert [job.lease.stage_id for job in await take(world, 2)] == [left.lease.stage_id]
    assert await jobs.release(right.lease) is False
    assert len(await jobs_of(world, run)) == 2


async def test_the_jobs_of_runs_say_who_holds_them_and_whether_anybody_would_take_them(world: World) -> None:
    knowing = [(world.workflow, "1")]
    one, other = await a_queued_run(world), await a_queued_run(world)
    unserved = await transport(world).jobs_of(one.id)
    elsewhere = await world.store.open_session(world.info(), knowing, lease=MINUTE, queues=["cpu"])
    ignorant = await world.store.open_session(world.info(), [], lease=MINUTE, queues=["gpu"])
    still = await transport(world).jobs_of(one.id)
    serving = await world.store.open_session(world.info(), knowing, lease=MINUTE, queues=["gpu"])

    served = await transport(world).jobs_of(one.id, other.id, "no run")

    assert {job.served for job in (*unserved, *still)} == {False}
    assert [(job.run_id, job.stage_id, job.served, job.held) for job in served] == [
        (run_id, stage_id, True, False) for run_id in sorted([one.id, other.id]) for stage_id in ("left", "right")
    ]
    for session in (elsewhere, ignorant, serving):
        await world.store.close_session(session)
    assert list(await transport(world).jobs_of()) == []


async def test_a_job_is_held_while_its_lease_lasts_and_not_until_it_is_swept(world: World) -> None:
    run, session = await a_queued_run(world), await world.session()
    await transport(world).take(run.id, "left", tokens(1)[0], holder=MINUTE)
    await transport(world).take(run.id, "right", tokens(1)[0], holder=session)
    before = {job.held for job in (await jobs_of(world, run)).values()}

    world.backdoor.expire_job(run.id, "left")
    await world.store.close_session(session)

    after = {job.held for job in (await jobs_of(world, run)).values()}
    assert (before, after) == ({True}, {False})


# -- leases ------------------------------------------------------------------------------------------------------------


async def test_heartbeats_keep_a_lease_for_as_long_as_they_come(world: World) -> None:
    run = await a_queued_run(world)
    job = (await take(world, holder=SHORT))[0]
    jobs = transport(world)
    before = (await jobs_of(world, run))[job.lease.stage_id].lease_until

    held = await jobs.heartbeat([job.lease, replace(job.lease, token="another")], lease=timedelta(hours=1))

    after = (await jobs_of(world, run))[job.lease.stage_id].lease_until
    assert set(held) == {job.lease}
    assert before is not None
    assert after is not None
    assert after - before > timedelta(minutes=50)
    assert await sweep(world) == []


async def test_a_lease_whose_time_is_up_is_swept_by_one_process(world: World) -> None:
    run = await a_queued_run(world)
    lease = await started(world, run)
    assert await sweep(world) == []
    world.backdoor.expire_job(run.id, "left")

    first, second = await sweep(world), await sweep(world)

    assert [(found.previous, found.previous_session) for found in first] == [(lease, None)]
    assert second == []


async def test_a_run_that_waits_in_a_long_queue_is_not_reaped(world: World) -> None:
    run = await a_queued_run(world)
    for stage_id in ("left", "right"):
        world.backdoor.age_job(run.id, stage_id, timedelta(days=30))

    assert await sweep(world) == []
    assert [job.lease.run_id for job in await take(world, 2)] == [run.id, run.id]


async def test_a_session_s_lease_on_a_job_ends_with_the_session(world: World) -> None:
    run = await a_queued_run(world)
    session = await world.session()
    job = (await take(world, holder=session))[0]
    assert list(await transport(world).held_by(session)) == [job]
    assert await sweep(world) == []

    await world.store.close_session(session)

    (found,) = await sweep(world)
    assert (found.previous, found.previous_session) == (job.lease, session)
    assert list(await transport(world).held_by(session)) == []
    assert (await jobs_of(world, run))[job.lease.stage_id].token == found.job.lease.token


async def test_a_zombie_cannot_start_end_prolong_or_give_back_a_job_that_was_swept(world: World) -> None:
    run = await a_queued_run(world)
    zombie = (await take(world))[0].lease
    world.backdoor.expire_job(run.id, zombie.stage_id)
    (swept,) = await sweep(world)
    jobs = transport(world)

    refusal = await outcome_of(world.store, run.foreign(starting_job(zombie)))

    assert isinstance(refusal, JobLost)
    assert list(await jobs.heartbeat([zombie], lease=MINUTE)) == []
    assert [await jobs.release(zombie), await jobs.discard(zombie)] == [False, False]
    assert (await jobs_of(world, run))[zombie.stage_id].token == swept.job.lease.token


async def test_an_end_is_refused_from_the_moment_its_lease_is_swept_and_after_its_loss(world: World) -> None:
    run = await a_queued_run(world)
    zombie = await started(world, run)
    world.backdoor.expire_job(run.id, "left")
    (swept,) = await sweep(world)

    before = await outcome_of(world.store, run.foreign(ending_job(zombie)))
    late = run.foreign(ending_job(zombie))
    await world.adds(run, losing_job(swept.job.lease))
    after = await outcome_of(world.store, late)

    assert (type(before), type(after)) == (JobLost, StaleVersion)
    job = (await jobs_of(world, run))["left"]
    assert (job.token, run.state.stages["left"].lost) == (None, 1)


async def test_what_has_lost_attempts_says_so_when_it_is_taken_again(world: World) -> None:
    run = await a_queued_run(world)
    await started(world, run)
    world.backdoor.expire_job(run.id, "left")
    (swept,) = await sweep(world)

    await world.adds(run, losing_job(swept.job.lease))

    assert sorted(job.lost for job in await take(world, 2)) == [0, 1]


async def test_a_job_that_its_run_knows_nothing_of_can_be_deleted_by_who_holds_it(world: World) -> None:
    run = await a_queued_run(world)
    job = (await take(world))[0]

    assert await transport(world).discard(job.lease) is True

    assert job.lease.stage_id not in await jobs_of(world, run)


# -- runs that are driven by jobs --------------------------------------------------------------------------------------


async def test_a_run_that_is_handed_over_to_jobs_has_no_owner_and_is_never_claimed(world: World) -> None:
    run = await world.create()

    await run.land(world.store, run.dispatch())

    head = (await world.store.load(run.id)).head
    assert (head.owner, head.head.wake_at, run.state.drive) == (None, None, "jobs")
    assert await world.claims(await world.session()) == []
    assert [(job.stage_id, job.queue) for job in (await jobs_of(world, run)).values()] == [("extract", "default")]


async def test_a_run_with_a_live_owner_is_not_handed_over(world: World) -> None:
    owner = await world.session()
    run = await world.create(owner=owner)

    refusal = await outcome_of(world.store, run.dispatch())

    assert isinstance(refusal, LeaseLost)
    assert (await world.store.load(run.id)).head.owner == owner
    assert await jobs_of(world, run) == {}


async def test_a_run_of_a_condemned_owner_is_handed_over(world: World) -> None:
    owner = await world.session()
    run = await world.create(owner=owner)
    await world.store.close_session(owner)

    await run.land(world.store, run.dispatch())

    head = (await world.store.load(run.id)).head
    assert (head.owner, head.attention) == (None, False)
    assert list(await jobs_of(world, run)) == ["extract"]


async def test_of_two_that_hand_a_run_over_one_does(world: World) -> None:
    run = await world.create()
    first, second = run.dispatch(), run.dispatch()
    outcomes: list[object] = []

    async def send(store: Persistence, append: Append) -> None:
        outcomes.append(await outcome_of(store, append))

    async with create_task_group() as both:
        both.start_soon(send, world.store, first)
        both.start_soon(send, world.other, second)

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "StaleVersion"]
    assert list(await jobs_of(world, run)) == ["extract"]


async def test_the_next_check_of_a_suspended_stage_is_a_job_of_its_run(world: World) -> None:
    run = await world.create()
    await run.land(world.store, run.dispatch())
    lease = (await take(world, queue="default"))[0].lease
    await world.adds(run, starting_job(lease))

    await world.adds(run, suspending)

    job = (await jobs_of(world, run))["extract"]
    suspension = run.state.stages["extract"].suspension
    assert suspension is not None
    assert (job.token, job.due_at) == (None, suspension.next_poll_at)
    assert (await world.store.load(run.id)).head.head.wake_at is None
    world.backdoor.age_job(run.id, "extract", timedelta(hours=2))
    assert [taken.polls for taken in await take(world, queue="default")] == [True]


async def test_runs_that_are_due_can_be_looked_at_without_being_taken(world: World) -> None:
    low, high = await world.create(priority=2), await world.create(priority=8)
    orphan = await world.orphan()
    await world.create(run_at=world.now() + timedelta(hours=1))

    looked = await world.store.look_due([(world.workflow, "1")], 10)

    assert [stored.head.run_id for stored in looked] == [orphan.id, high.id, low.id]
    assert len(await world.claims(await world.session())) == 3


async def test_a_run_that_has_ended_since_its_owner_died_is_not_found_to_be_handed_over(world: World) -> None:
    orphan = await world.orphan()
    await world.adds(orphan, cancelling)

    assert list(await world.store.look_due([(world.workflow, "1")], 10)) == []
    assert await world.claims(await world.session()) == [orphan.id]


async def test_a_run_without_an_owner_is_parked_from_outside_and_one_with_an_owner_is_not(world: World) -> None:
    free, owned = await world.create(), await world.create(owner=await world.session())

    outcomes = [await outcome_of(world.store, run.park_unowned("undecidable: no")) for run in (free, free, owned)]

    assert [type(outcome) for outcome in outcomes] == [type(None), type(None), LeaseLost]
    assert (await world.store.load(free.id)).head.parked_reason == "undecidable: no"
    assert await world.claims(await world.session()) == []


# -- hearing of them ---------------------------------------------------------------------------------------------------


async def test_a_heartbeat_tells_of_jobs_that_are_due_later_or_lost(world: World) -> None:
    session = await world.store.open_session(world.info(), [(world.workflow, "1")], lease=MINUTE, queues=["gpu"])
    elsewhere = await world.store.open_session(world.info(), [(world.workflow, "1")], lease=MINUTE, queues=["cpu"])
    idle = await world.store.renew(session)
    run = await a_queued_run(world)
    due = await world.store.renew(session)
    left, right = await take(world, 2)
    await transport(world).release(left.lease, delay=timedelta(minutes=5))
    later = await world.store.renew(session)
    world.backdoor.expire_job(run.id, right.lease.stage_id)
    lost = await world.store.renew(session)
    other = await world.store.renew(elsewhere)
    for session_id in (session, elsewhere):
        await world.store.close_session(session_id)

    assert (idle.jobs_due, idle.next_job_at, idle.jobs_lost) == (False, None, False)
    assert (due.jobs_due, due.next_job_at) == (True, None)
    assert later.jobs_due is False
    assert later.next_job_at is not None
    assert later.next_job_at > later.now + timedelta(minutes=4)
    assert (later.jobs_lost, lost.jobs_lost) == (False, True)
    assert (other.jobs_due, other.next_job_at, other.jobs_lost) == (False, None, True)


async def test_a_job_that_can_be_taken_is_hinted_at(world: World) -> None:
    run = await world.create(plan=QUEUED)
    with move_on_after(0.5):
        while True:
            await world.other.next_hint()
    heard: list[bool] = []

    async def listen() -> None:
        heard.append(await world.other.next_hint())

    async with create_task_group() as listening:
        listening.start_soon(listen)
        await checkpoint()
        await run.land(world.store, run.foreign(scheduling))

    assert heard == [True]
