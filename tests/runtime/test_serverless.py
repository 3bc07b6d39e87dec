"""Runs without a process that lives: hosts that are called, alone and beside supervisors, in memory and on Postgres."""

from __future__ import annotations

from dataclasses import astuple, replace
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest
from pydantic import TypeAdapter
from pydantic_core import to_json

from kernel import (
    CreateRun,
    DefinitionChanged,
    InvalidCommand,
    RetryPolicy,
    RunFailed,
    StageContext,
    Unavailable,
    WorkflowBuilder,
    stage,
)
from kernel.parking import park_unowned
from runtime import App, JobMessage, ServerlessHost
from runtime.job_attempt import attempt_job, new_tokens
from runtime.job_messages import JobsProcessed
from tests.runtime.queues import Gates, gated, plain, polled, side_by_side
from tests.runtime.shared_store import BreakableStore, SharedStore, in_memory, lose_lease, until
from tests.runtime.told import Told

pytestmark = pytest.mark.anyio

BOTH = {"queues": ("default", "gpu")}


async def finish(host: ServerlessHost, run: Any, *, within_s: float = 20) -> Any:
    """Call the host, as a platform would, until the run has ended."""
    with anyio.fail_after(within_s):
        while (await run.describe()).status not in ("COMPLETED", "FAILED", "CANCELLED"):
            await host.run_maintenance_tick()
            await host.process_available_jobs(max_jobs=10)
    return await run.result(timeout=5)


async def messages(host: ServerlessHost, run: Any) -> list[JobMessage]:
    jobs = await host.storage.jobs.jobs_of(run.id)
    return [JobMessage(job_id=f"{job.run_id}/{job.stage_id}", run_id=job.run_id, stage_id=job.stage_id) for job in jobs]


async def causes(run: Any) -> list[str]:
    return [event.cause for event in await run.history() if event.type == "stage.retrying"]


async def test_a_run_completes_by_calls_alone_and_nobody_ever_owns_it(store: SharedStore) -> None:
    async with store.host(plain()) as host:
        run = await host.start("plain", 4)

        first = await host.run_maintenance_tick()
        assert (first.claimed, first.errors) == (1, {})
        assert (await run.describe()).waiting_for == "queue"

        assert await finish(host, run) == 16
        assert (await run.describe()).owner is None
        assert (await host.run_maintenance_tick()).claimed == 0
        assert list(await host.storage.jobs.jobs_of(run.id)) == []


async def test_parallel_stages_are_separate_messages_that_hosts_execute_at_the_same_time(store: SharedStore) -> None:
    gates = Gates()
    workflow = side_by_side(gates)
    async with store.host(workflow) as one, store.host(workflow) as other:
        run = await one.start(workflow, 1)
        await one.run_maintenance_tick()
        left, right = await messages(one, run)
        results: list[Any] = []

        async def handle(host: ServerlessHost, message: JobMessage) -> None:
            results.append(await host.handle_job(message))

        async with anyio.create_task_group() as both:
            both.start_soon(handle, one, left)
            both.start_soon(handle, other, right)
            await until(lambda: sorted(gates.stages()) == ["left", "right"])
            gates.open("left", "right")

        assert [(result.outcome, result.error) for result in results] == [("completed", None)] * 2
        assert await run.result(timeout=5) == {"left": 2, "right": 3}


async def test_a_message_that_is_delivered_twice_is_executed_once(store: SharedStore) -> None:
    gates = Gates()
    workflow = side_by_side(gates)
    async with store.host(workflow) as host:
        run = await host.start(workflow, 1)
        await host.run_maintenance_tick()
        plain_message, _ = await messages(host, run)
        (token,) = new_tokens(host.storage.ids, 1)
        await host.storage.jobs.take(run.id, "left", token, holder=timedelta(seconds=10))
        message = JobMessage(job_id="left", run_id=run.id, stage_id="left", attempt=1, token=token)
        results: list[Any] = []

        async def handle() -> None:
            results.append(await host.handle_job(message))

        async with anyio.create_task_group() as calls:
            calls.start_soon(handle)
            await until(lambda: gates.entered)
            again = await host.handle_job(message)
            other = await host.handle_job(plain_message)
            gates.open("left")
        late = await host.handle_job(message)

        assert [(result.outcome, result.ghost) for result in results] == [("completed", False)]
        assert [(result.outcome, result.ghost) for result in (again, other, late)] == [("failed", True)] * 3
        assert gates.stages() == ["left"]


async def test_a_token_whose_attempt_was_lost_takes_nothing_and_ends_nothing_any_more(store: SharedStore) -> None:
    gates = Gates()
    workflow = gated(gates, retry=RetryPolicy(initial_interval=timedelta(milliseconds=1), jitter=False))
    async with store.host(workflow, **BOTH) as host:
        run = await host.start(workflow, 1)
        await host.run_maintenance_tick()
        await host.process_available_jobs()
        # Its process is frozen from here on, until after its lease.
        frozen = await take_for_a_moment(host, run, "first")
        await begin(host, frozen)
        await until(lambda: swept(host))
        await until(lambda: due(host, run))

        message = JobMessage(job_id="1", run_id=run.id, stage_id="render", token="first")
        redelivered = await host.handle_job(message)
        assert (redelivered.ghost, gates.entered, await due(host, run)) == (True, [], True)

        async with anyio.create_task_group() as calls:
            calls.start_soon(host.process_available_jobs)
            await until(lambda: gates.entered)
            again = await host.handle_job(message)
            # The frozen one goes on.
            late = await ended(host, frozen, b"666")
            gates.open("render")

        assert (again.ghost, late.ghost) == (True, True)
        assert await finish(host, run) == 25
        assert gates.entered == [(run.id, "render", 2)]


async def ended(host: ServerlessHost, job: Any, output: bytes) -> Any:
    """What becomes of a result that is reported under this job's lease."""
    from kernel.commands.execute_job import decide_end
    from kernel.model.attempts import Completed

    outcome, (run_id, stage_id, token) = Completed(output=output), astuple(job.lease)
    return await host.kernel.ports.journals.record(
        run_id, lambda state, moment: decide_end(state, stage_id, token, outcome, RetryPolicy(), moment)
    )


async def test_the_job_of_a_token_that_nothing_was_begun_under_is_left_to_others_when_its_lease_has_ended(
    store: SharedStore,
) -> None:
    workflow = plain()
    async with store.host(workflow) as host:
        run = await host.start(workflow, 4)
        await host.run_maintenance_tick()
        await host.storage.jobs.take(run.id, "double", "sent", holder=timedelta(microseconds=1))
        await until(partial(is_swept_up, host, run))

        late = await host.handle_job(JobMessage(job_id="1", run_id=run.id, stage_id="double", token="sent"))

        assert (late.outcome, late.ghost) == ("failed", True)
        assert await finish(host, run) == 16


async def is_swept_up(host: ServerlessHost, run: Any) -> bool:
    await host.run_maintenance_tick()
    return await due(host, run)


async def test_a_message_for_a_check_that_is_delivered_twice_asks_once(store: SharedStore) -> None:
    asked: list[int] = []
    workflow = polled(asked, checks=1)
    async with store.host(workflow) as host:
        run = await host.start(workflow, 8)
        await host.run_maintenance_tick()
        await host.process_available_jobs()
        await until(lambda: due(host, run))
        await host.storage.jobs.take(run.id, "order", "sent", holder=timedelta(seconds=30))
        message = JobMessage(job_id="1", run_id=run.id, stage_id="order", token="sent")
        results: list[Any] = []

        async def handle() -> None:
            results.append(await host.handle_job(message))

        async with anyio.create_task_group() as calls:
            calls.start_soon(handle)
            calls.start_soon(handle)

        assert sorted((result.outcome, result.ghost) for result in results) == [("completed", False), ("failed", True)]
        assert asked == [8]
        assert await run.result(timeout=5) == "order 8"


async def test_a_message_for_an_attempt_that_is_over_leaves_the_next_one_alone(store: SharedStore) -> None:
    @stage("unsteady", retry=RetryPolicy(initial_interval=timedelta(milliseconds=1), jitter=False))
    async def unsteady(ctx: StageContext[int]) -> int:
        if ctx.attempt == 1:
            raise ValueError("not yet")
        return ctx.input

    workflow = WorkflowBuilder("unsteady", input=int, output=int).pipe(unsteady).build()
    async with store.host(workflow) as host:
        run = await host.start(workflow, 3)
        await host.run_maintenance_tick()
        message = JobMessage(job_id="1", run_id=run.id, stage_id="unsteady", attempt=1)

        first = await host.handle_job(message)
        await until(lambda: due(host, run))
        stale = await host.handle_job(message)

        assert (first.outcome, first.ghost, first.retryable) == ("failed", False, True)
        assert (stale.outcome, stale.ghost) == ("failed", True)
        assert await finish(host, run) == 3


async def due(host: ServerlessHost, run: Any) -> bool:
    (job,) = await host.storage.jobs.jobs_of(run.id)
    return job.token is None and job.due_at <= host.storage.clock.now()


async def test_cancelling_interrupts_a_call_and_its_result_is_a_ghost(store: SharedStore) -> None:
    gates = Gates()
    workflow = gated(gates)
    async with store.host(workflow, lease=0.6, renew=0.1, **BOTH) as host, store.client(workflow) as client:
        run = await host.start(workflow, 1)
        await host.run_maintenance_tick()
        await host.process_available_jobs()
        results: list[Any] = []

        async def handle() -> None:
            (message,) = await messages(host, run)
            results.append(await host.handle_job(message))

        async with anyio.create_task_group() as calls:
            calls.start_soon(handle)
            await until(lambda: gates.entered)
            await client.run(run.id).cancel("enough")

        assert [(result.outcome, result.ghost) for result in results] == [("failed", True)]
        assert gates.interrupted == [(run.id, "render")]


async def test_a_run_whose_job_executes_waits_for_nothing_until_its_lease_has_ended(store: SharedStore) -> None:
    gates = Gates()
    workflow = gated(gates)

    async def waits(host: ServerlessHost, run: Any) -> list[Any]:
        (listed,) = (await host.list_runs()).items
        return [(await run.describe()).waiting_for, listed.waiting_for, listed.waiting_queues, listed.unserved_queues]

    async with store.host(workflow, **BOTH) as host:
        run = await host.start(workflow, 1)
        await host.run_maintenance_tick()
        await host.process_available_jobs()
        assert await waits(host, run) == ["queue", "queue", ("gpu",), ("gpu",)]

        async with anyio.create_task_group() as calls:
            calls.start_soon(host.process_available_jobs)
            await until(lambda: gates.entered)
            assert await waits(host, run) == [None, None, (), ()]
            calls.cancel_scope.cancel()

        await begin(host, await until(partial(take_for_a_moment, host, run, "frozen")))
        assert await waits(host, run) == ["claim", "claim", (), ()]


async def test_a_run_whose_owner_has_nothing_to_do_while_its_job_executes_waits_for_nothing(store: SharedStore) -> None:
    gates = Gates()
    workflow = gated(gates)
    async with (
        store.supervisor(workflow, queues=("default",), renew=0.1, passivate_after=0.05) as supervisor,
        store.host(workflow, **BOTH) as host,
    ):
        run = await supervisor.start(workflow, 1)
        await until(partial(passivated, run))
        waiting = await run.describe()
        assert (waiting.waiting_for, waiting.unserved_queues) == ("queue", ("gpu",))

        async with anyio.create_task_group() as calls:
            calls.start_soon(host.process_available_jobs)
            await until(lambda: gates.entered)
            (listed,) = (await host.list_runs()).items
            assert ((await run.describe()).waiting_for, listed.waiting_for) == (None, None)
            gates.open("render")

        assert await run.result(timeout=20) == 25


async def passivated(run: Any) -> bool:
    described = await run.describe()
    return described.waiting_for == "queue" and described.owner is None


async def test_ticks_and_results_name_every_job_once_and_so_messages_alone_drive_a_run(store: SharedStore) -> None:
    workflow = plain()
    async with store.host(workflow) as host:
        run = await host.start(workflow, 4)
        queue = list((await host.run_maintenance_tick()).jobs)
        handled: list[str] = []

        while queue:
            message = TypeAdapter(JobMessage).validate_json(to_json(queue.pop(0)))
            result = await host.handle_job(message)
            assert (result.outcome, result.ghost) == ("completed", False)
            handled.append(message.job_id)
            queue += result.jobs

        assert await run.result(timeout=5) == 16
        assert sorted(handled) == [f"{run.id}/{stage_id}" for stage_id in ("double", "down", "sum", "up")]
        assert (await host.run_maintenance_tick()).jobs == ()


async def test_a_retry_a_check_and_a_job_that_was_lost_are_named_with_the_date_when_they_are_due(
    store: SharedStore,
) -> None:
    retry = RetryPolicy(initial_interval=timedelta(minutes=1), jitter=False)

    @stage("unsteady", retry=retry)
    async def unsteady(_: StageContext[int]) -> int:
        raise ValueError("not yet")

    failing, waiting = WorkflowBuilder("failing", input=int).pipe(unsteady).build(), polled([], checks=2)
    async with store.host(App(workflows=[failing, waiting])) as host:
        fails, lost, waits = [await host.start(each, 1) for each in (failing, failing, waiting)]
        messages = {message.run_id: message for message in (await host.run_maintenance_tick()).jobs}
        now = host.storage.clock.now()

        (again,) = (await host.handle_job(messages[fails.id])).jobs
        (check,) = (await host.handle_job(messages[waits.id])).jobs
        job = await host.storage.jobs.take(lost.id, "unsteady", "t", holder=timedelta(microseconds=1))
        await begin(host, job)
        swept_up = await until(partial(jobs_of_tick, host))
        await until(lambda: due(host, waits))
        (next_check,) = (await host.handle_job(check)).jobs

        assert [again.job_id, swept_up[0].job_id] == [f"{run.id}/unsteady" for run in (fails, lost)]
        assert again.due_at is not None
        assert again.due_at > now + timedelta(seconds=50)
        assert next_check.job_id == check.job_id == f"{waits.id}/order"


async def jobs_of_tick(host: ServerlessHost) -> Any:
    return (await host.run_maintenance_tick()).jobs


async def test_a_call_that_is_taken_away_hands_its_job_back_uncounted(store: SharedStore) -> None:
    gates = Gates()
    workflow = gated(gates)
    async with store.host(workflow, **BOTH) as host:
        run = await host.start(workflow, 1)
        await host.run_maintenance_tick()
        await host.process_available_jobs()
        async with anyio.create_task_group() as calls:
            calls.start_soon(host.process_available_jobs)
            await until(lambda: gates.entered)
            calls.cancel_scope.cancel()

        gates.open("render")

        assert await finish(host, run) == 25
        assert await causes(run) == ["drained"]
        assert [attempt for _, _, attempt in gates.entered] == [1, 1]


async def test_leaving_waits_for_the_calls_under_way(store: SharedStore) -> None:
    gates = Gates()
    workflow = gated(gates)
    done: list[Any] = []
    async with anyio.create_task_group() as calls, store.host(workflow, **BOTH) as host:
        await host.start(workflow, 1)
        await host.run_maintenance_tick()
        await host.process_available_jobs()

        async def call() -> None:
            done.append(await host.process_available_jobs())

        calls.start_soon(call)
        await until(lambda: gates.entered)
        calls.start_soon(opened_soon, gates)

    assert [(jobs.processed, jobs.succeeded) for jobs in done] == [(1, 1)]


async def opened_soon(gates: Gates) -> None:
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    gates.open("render")


async def test_a_supervisor_executes_what_is_driven_by_jobs_as_well(store: SharedStore) -> None:
    workflow = plain()
    async with store.host(workflow) as host:
        run = await host.start(workflow, 4)
        await host.run_maintenance_tick()

        async with store.supervisor(workflow, renew=0.2, lease=1.0) as supervisor:
            assert await run.result(timeout=20) == 16
            assert supervisor.stats().claims == 0


async def test_two_hosts_do_not_poll_the_same_stage(store: SharedStore) -> None:
    asked: list[int] = []
    workflow = polled(asked, checks=3)
    async with store.host(workflow) as one, store.host(workflow) as other:
        run = await one.start(workflow, 8)
        await one.run_maintenance_tick()
        await one.process_available_jobs()
        assert (await run.describe()).status == "SUSPENDED"

        async def keep_calling(host: ServerlessHost) -> None:
            while (await run.describe()).status == "SUSPENDED":
                await host.run_maintenance_tick()
                await host.process_available_jobs()

        async with anyio.create_task_group() as hosts:
            hosts.start_soon(keep_calling, one)
            hosts.start_soon(keep_calling, other)

        assert await run.result(timeout=5) == "order 8"
        assert asked == [8, 8, 8]


async def test_ticks_of_many_hosts_hand_a_run_over_once(store: SharedStore) -> None:
    workflow = plain()
    async with store.host(workflow) as one, store.host(workflow) as other:
        runs = [await one.start(workflow, number) for number in range(10)]
        claimed: list[int] = []

        async def tick(host: ServerlessHost) -> None:
            claimed.append((await host.run_maintenance_tick()).claimed)

        async with anyio.create_task_group() as ticks:
            for host in (one, other, one, other):
                ticks.start_soon(tick, host)

        assert sum(claimed) == 10
        for run in runs:
            kinds = [event.type for event in await run.history()]
            assert kinds == ["run.created", "run.started", "stage.scheduled"]


async def test_a_run_that_was_handed_over_between_being_found_and_being_read_is_left_alone() -> None:
    from adapters.memory import MemoryPersistence
    from adapters.system import SystemClock

    class Slow(MemoryPersistence):
        async def look_due(self, *args: Any) -> Any:
            found = await super().look_due(*args)
            if not self.met:
                self.met = True
                await other.run_maintenance_tick()
            return [await self.load(stored.head.run_id) for stored in found]

        met = False

    workflow = plain()
    store = in_memory(Slow(SystemClock()))
    async with store.host(workflow) as one, store.host(workflow) as other:
        run = await one.start(workflow, 1)

        tick = await one.run_maintenance_tick()

        assert (tick.claimed, (await run.describe()).waiting_for) == (0, "queue")
        assert await finish(one, run) == 4


async def test_a_tick_takes_no_more_runs_than_it_is_told(store: SharedStore) -> None:
    workflow = plain()
    async with store.host(workflow) as host:
        for number in range(5):
            await host.start(workflow, number)

        taken = [(await host.run_maintenance_tick(max_claims=2)).claimed for _ in range(4)]

    assert taken == [2, 2, 1, 0]


async def test_a_call_takes_no_more_jobs_than_asked_for_and_says_what_became_of_them(store: SharedStore) -> None:
    workflow = plain()
    async with store.host(workflow) as host:
        assert await host.process_available_jobs(max_jobs=2) == JobsProcessed()
        for number in range(3):
            await host.start(workflow, number)
        await host.run_maintenance_tick()

        assert await host.process_available_jobs(max_jobs=2) == JobsProcessed(processed=2, succeeded=2)


async def test_the_runs_of_a_supervisor_that_died_are_handed_over_with_what_it_lost(store: SharedStore) -> None:
    gates = Gates()
    workflow = side_by_side(gates)
    async with store.supervisor(workflow, queues=("nothing",)) as supervisor:
        run = await supervisor.start(workflow, 1)
        await until(lambda: gates.stages() == ["right"])
        await lose_lease(supervisor)

        async with store.host(workflow, **BOTH) as host:
            gates.open("left", "right")

            assert await finish(host, run) == {"left": 2, "right": 3}
            assert await causes(run) == ["lost"]


async def test_a_poison_body_stops_after_max_lost_without_anybody_who_lives(store: SharedStore) -> None:
    workflow = gated(Gates(), retry=RetryPolicy(max_lost=2, initial_interval=timedelta(milliseconds=1)))
    async with store.host(workflow, **BOTH) as host:
        run = await host.start(workflow, 1)
        await host.run_maintenance_tick()
        await host.process_available_jobs()
        for number in range(3):
            job = await until(partial(take_for_a_moment, host, run, f"poison-{number}"))
            await begin(host, job)
            await until(lambda: swept(host))

        with pytest.raises(RunFailed) as failed:
            await finish(host, run)

        assert (failed.value.error.type, failed.value.stage_id) == ("AttemptLost", "render")


async def take_for_a_moment(host: ServerlessHost, run: Any, token: str) -> Any:
    return await host.storage.jobs.take(run.id, "render", token, holder=timedelta(microseconds=1))


async def swept(host: ServerlessHost) -> int:
    return (await host.run_maintenance_tick()).released


async def begin(host: ServerlessHost, job: Any) -> None:
    """Start the attempt of a job, whose body nobody executes."""
    from kernel.commands.execute_job import ExecuteJob, decide_start

    command = ExecuteJob(run_id=job.lease.run_id, stage_id=job.lease.stage_id, token=job.lease.token)
    await host.kernel.ports.journals.record(
        job.lease.run_id, lambda state, moment: decide_start(state, command, moment)
    )


async def test_a_tick_dispatches_commands_that_are_due_and_publishes_what_was_appended(store: SharedStore) -> None:
    told, workflow = Told(), plain("scheduled")
    async with store.host(App(workflows=[workflow], sinks=[told.sink(f"told {uuid4()}")])) as host:
        due, later = host.storage.clock.now(), host.storage.clock.now() + timedelta(hours=1)
        command = CreateRun(workflow_id="scheduled", input=4, idempotency_key="from the schedule")
        await host.kernel.schedule(command, at=due)
        await host.kernel.schedule(replace(command, idempotency_key="not yet"), at=later)

        tick = await host.run_maintenance_tick()

        run = await host.find(workflow, "from the schedule")
        assert run is not None
        assert (tick.dispatched, tick.errors) == (1, {})
        assert await finish(host, run) == 16
        published = (await host.run_maintenance_tick()).published
        assert published > 0
        assert told.types(run.id)[-1] == "run.completed"
        assert await host.find(workflow, "not yet") is None


async def test_a_run_that_cannot_be_decided_is_parked_and_harms_no_other(store: SharedStore) -> None:
    before, after = plain("changing"), polled([], "changing")
    async with store.client(before) as client:
        changed = await client.start(before, 1)
    async with store.host(after) as host:
        good = await host.start(after, 2)

        tick = await host.run_maintenance_tick()

        assert tick.claimed == 1
        assert (await host.run(changed.id).describe()).waiting_for == "definition_changed"
        assert await finish(host, good) == "order 2"


async def test_a_job_whose_definition_changed_parks_its_run(store: SharedStore) -> None:
    before, after = plain("changing"), polled([], "changing")
    async with store.host(before) as host:
        run = await host.start(before, 1)
        await host.run_maintenance_tick()
    async with store.host(after) as host:
        jobs = await host.process_available_jobs(max_jobs=3)

        assert (jobs.processed, jobs.failed) == (1, 1)
        assert (await host.run(run.id).describe()).waiting_for == "definition_changed"
        assert (await host.process_available_jobs()).processed == 0


async def test_a_message_to_a_host_that_does_not_know_the_workflow_leaves_its_run_to_those_who_do(
    store: SharedStore,
) -> None:
    async with store.host(plain()) as host, store.host(plain("another")) as stranger:
        run = await host.start("plain", 4)
        await host.run_maintenance_tick()
        (message,) = await messages(host, run)

        result = await stranger.handle_job(message)

        assert (result.ghost, (await run.describe()).waiting_for) == (True, "queue")
        assert result.error is not None
        assert result.error.type == "WorkflowNotFound"
        assert await finish(host, run) == 16


RUN_ID = "01912d68-783e-7000-8000-5d0a4f5a7b11"


@pytest.mark.parametrize(
    "field, value",
    [
        ("job_id", ""),
        ("job_id", 5),
        ("run_id", 5),
        ("run_id", ""),
        ("run_id", "x"),
        ("stage_id", "a\0b"),
        ("stage_id", "\ud800"),
        ("stage_id", " "),
        ("token", ""),
        ("token", "a\0b"),
        ("token", "t" * 1001),
        ("attempt", 0),
        ("attempt", "x"),
        ("attempt", True),
        ("attempt", 1.5),
    ],
)
async def test_a_message_that_names_no_job_is_refused_when_it_is_made(field: str, value: Any) -> None:
    given: dict[str, Any] = {"job_id": "1", "run_id": RUN_ID, "stage_id": "double", field: value}

    with pytest.raises(InvalidCommand) as refused:
        JobMessage(**given)

    assert refused.value.field == field
    assert refused.value.message.startswith(f"{field} ")
    assert refused.value.hint


async def test_a_ghost_says_why_and_that_repeating_it_does_not_help(store: SharedStore) -> None:
    workflow = plain()
    async with store.host(workflow) as host:
        run, parked = await host.start(workflow, 4), await host.start(workflow, 4)
        await host.run_maintenance_tick()

        async def said(stage_id: str = "double", run_id: str = run.id, **given: Any) -> str:
            result = await host.handle_job(JobMessage(job_id="j", run_id=run_id, stage_id=stage_id, **given))
            assert (result.ghost, result.retryable) == (True, False)
            assert result.error is not None
            assert result.error.retryable is False
            return result.error.message

        assert "its run does not exist" in await said(run_id=RUN_ID)
        assert "no such stage, but double, up, down, sum" in await said("triple")
        assert "is not leased under the token" in await said(token="t")
        assert "the stage is PENDING, and nothing of it is queued" in await said("sum")
        head = (await host.storage.persistence.load(parked.id)).head
        await park_unowned(head, DefinitionChanged("It", "it was and is"), host.kernel.ports)
        assert "its run is parked (definition_changed: It" in await said(run_id=parked.id)
        await host.storage.jobs.take(run.id, "double", "another", holder=timedelta(seconds=30))
        assert "somebody has it" in await said()
        await run.cancel()
        assert "its run is CANCELLED" in await said()


async def test_calls_with_numbers_that_are_none_and_messages_that_are_none_are_refused() -> None:
    async with in_memory().host(plain()) as host:
        calls: dict[str, Any] = {"max_jobs": host.process_available_jobs}
        calls["max_claims"] = lambda count: host.run_maintenance_tick(max_claims=count)
        for field, call in calls.items():
            for value in ("3", 1.5, True, 0, None):
                with pytest.raises(InvalidCommand, match=f"{field} must be") as refused:
                    await call(value)
                assert refused.value.field == field
        with pytest.raises(InvalidCommand, match="JobMessage"):
            await host.handle_job({"run_id": RUN_ID})  # type: ignore[arg-type]


async def test_a_mistake_in_what_is_asked_for_gives_the_job_back_and_never_parks_its_run(store: SharedStore) -> None:
    workflow = plain()
    async with store.host(workflow) as host:
        run = await host.start(workflow, 4)
        await host.run_maintenance_tick()
        (token,) = new_tokens(host.storage.ids, 1)
        job = await host.storage.jobs.take(run.id, "double", token, holder=timedelta(seconds=30))
        assert job is not None

        with pytest.raises(InvalidCommand, match="attempt"):
            await attempt_job(job, host.kernel, attempt=0)

        assert (await run.describe()).waiting_for == "queue"
        assert await finish(host, run) == 16


async def test_a_dead_database_is_an_error_and_never_an_empty_queue() -> None:
    from adapters.memory import MemoryPersistence
    from adapters.system import SystemClock

    workflow = plain()
    breakable = BreakableStore(MemoryPersistence(SystemClock()))
    async with in_memory(breakable).host(workflow) as host:
        run = await host.start(workflow, 1)
        breakable.down = True

        for call in (
            host.process_available_jobs,
            host.run_maintenance_tick,
            lambda: host.handle_job(JobMessage(job_id="1", run_id=run.id, stage_id="double")),
        ):
            with pytest.raises(Unavailable):
                await call()

        breakable.down = False
        assert await finish(host, run) == 4
