"""What a supervisor does with runs: executes, shares, hands back, takes over, waits out, gives up to nobody."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import asynccontextmanager

import anyio
import pytest

from kernel import RetryPolicy, StageContext, Workflow, WorkflowBuilder, stage
from runtime import App, Supervisor
from tests.runtime.gates import Doc, Gate, echo, three_stages
from tests.runtime.shared_store import SharedStore, lose_lease, until

pytestmark = pytest.mark.anyio


# -- leaving -----------------------------------------------------------------------------------------------------------


async def test_leaving_waits_for_a_body_that_ends_within_the_grace(store: SharedStore):
    gate = Gate()
    async with store.client(gate.workflow()) as client:
        async with store.supervisor(gate.workflow()) as supervisor, anyio.create_task_group() as tasks:
            run = await supervisor.start("gated", Doc(text="x"))
            await until(lambda: gate.entered)
            tasks.start_soon(opened_while_draining, gate, supervisor)
            await supervisor.drain()
            assert supervisor.stats().actors == 0
        assert (await client.run(run.id).describe()).status == "COMPLETED"
    assert (len(gate.passed), gate.interrupted) == (1, [])


async def opened_while_draining(gate: Gate, supervisor: Supervisor) -> None:
    await until(lambda: supervisor.stats().draining)
    gate.open()


async def test_a_drained_run_is_continued_by_the_next_supervisor_with_the_same_attempt(store: SharedStore):
    gate = Gate()
    workflow = gate.workflow(retry=RetryPolicy(max_attempts=1))
    async with store.supervisor(workflow, drain_grace=0.0) as first:
        run_id = (await first.start(workflow, Doc(text="x"))).id
        await until(lambda: gate.entered)
    assert len(gate.interrupted) == 1

    gate.open()
    async with store.supervisor(workflow) as second:
        run = second.run(run_id, workflow)
        assert await run.result() == Doc(text="x")
        drained = [event for event in await run.history() if event.type == "stage.retrying"]
        assert [event.cause for event in drained] == ["drained"]
        assert [visit.attempt for visit in gate.entered] == [1, 1]


async def test_a_body_that_ends_while_others_are_drained_completes_its_stage_and_the_next_one_waits(
    memory: SharedStore,
):
    gate, log = Gate(), list[str]()

    @stage("after")
    async def after(ctx: StageContext[Doc]) -> Doc:
        log.append(ctx.run_id)
        return ctx.input

    workflow = WorkflowBuilder("two", input=Doc, output=Doc).pipe(gate.stage()).pipe(after).build()
    async with memory.supervisor(workflow) as first:
        run_id = (await first.start(workflow, Doc(text="x"))).id
        await until(lambda: gate.entered)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(opened_while_draining, gate, first)
            await first.drain()
    assert log == []

    async with memory.supervisor(workflow) as second:
        assert await second.run(run_id, workflow).result() == Doc(text="x")
    assert (len(gate.entered), log) == (1, [run_id])


async def test_a_draining_supervisor_starts_no_body_of_a_run_that_it_creates(memory: SharedStore):
    gate = Gate(opened=True)
    async with memory.supervisor(gate.workflow()) as supervisor:
        await supervisor.drain()
        run = await supervisor.start("gated", Doc(text="x"))
        assert (await run.describe()).owner is None
    assert gate.entered == []


async def test_a_closed_session_is_no_longer_among_the_living(memory: SharedStore):
    async with memory.opened() as storage:
        async with memory.supervisor(echo()):
            assert await storage.persistence.live_workflows() == [("echo", "1")]
        assert await storage.persistence.live_workflows() == []


async def test_a_body_in_a_thread_that_does_not_end_is_left_behind_and_its_attempt_handed_back(memory: SharedStore):
    entered, release = threading.Event(), threading.Event()

    @stage("block", retry=RetryPolicy(max_attempts=1))
    def block(ctx: StageContext[Doc]) -> Doc:
        entered.set()
        release.wait(20)
        return ctx.input

    workflow = WorkflowBuilder("blocked", input=Doc, output=Doc).pipe(block).build()
    try:
        async with memory.supervisor(workflow, drain_grace=0.0) as first:
            run_id = (await first.start(workflow, Doc(text="x"))).id
            await until(entered.is_set)
        async with memory.client(workflow) as client:
            assert (await client.run(run_id).describe()).owner is None
    finally:
        release.set()
    async with memory.supervisor(workflow) as second:
        assert await second.run(run_id, workflow).result() == Doc(text="x")


# -- several supervisors -----------------------------------------------------------------------------------------------


async def test_two_supervisors_share_the_runs_and_execute_no_stage_twice(store: SharedStore):
    log: list[tuple[str, str]] = []
    workflow = three_stages(log)
    async with store.client(workflow) as client, store.supervisor(workflow) as one, store.supervisor(workflow) as two:
        runs = await client.start_many(workflow, [Doc(text=str(n)) for n in range(60)])
        assert [(await run.result()).text for run in runs] == [str(n) for n in range(60)]
        assert set(Counter(log).values()) == {1}
        assert len(log) == 180
        await until(lambda: one.stats().jobs_processed + two.stats().jobs_processed == 180)


async def test_a_supervisor_takes_no_more_runs_than_it_has_room_for(memory: SharedStore):
    gate = Gate()
    workflow = gate.workflow()
    async with memory.client(workflow) as client, memory.supervisor(workflow, max_runs=2) as small:
        await client.start_many(workflow, [Doc(text=str(n)) for n in range(5)])
        await until(lambda: len(gate.entered) == 2)
        async with memory.supervisor(workflow) as large:
            await until(lambda: len(gate.entered) == 5)
            assert (small.stats().actors, large.stats().actors) == (2, 3)
            gate.open()


async def test_no_more_bodies_execute_at_once_than_the_bound_allows(memory: SharedStore):
    executing, most = 0, 0

    @stage("count")
    async def count(ctx: StageContext[Doc]) -> Doc:
        nonlocal executing, most
        executing += 1
        most = max(most, executing)
        await anyio.lowlevel.checkpoint()
        executing -= 1
        return ctx.input

    workflow = WorkflowBuilder("counted", input=Doc, output=Doc).pipe(count).build()
    async with memory.supervisor(workflow, max_bodies=3) as supervisor:
        runs = await supervisor.start_many(workflow, [Doc(text=str(n)) for n in range(30)])
        for run in runs:
            await run.result()
        assert most == 3
        await until(lambda: supervisor.stats().bodies == 0)


async def test_two_supervisors_of_one_name_are_two_sessions(store: SharedStore):
    workflow = echo()
    async with store.supervisor(workflow, name="twin") as one:
        async with store.supervisor(workflow, name="twin") as other:
            assert None not in (one.stats().session_id, other.stats().session_id)
            assert one.stats().session_id != other.stats().session_id
        # The end of one is not the other's.
        run = await one.start(workflow, Doc(text="x"))
        assert await run.result(timeout=20) == Doc(text="x")


async def test_a_supervisor_that_loses_its_lease_interrupts_its_bodies_and_begins_anew(memory: SharedStore):
    gate = Gate()
    workflow = gate.workflow()
    async with memory.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: gate.entered)
        lost = await lose_lease(supervisor)
        await until(lambda: gate.interrupted)
        gate.open()
        assert await run.result() == Doc(text="x")
        assert supervisor.stats().session_id not in (None, lost)
        assert supervisor.stats().degraded is None
        events = await run.history()
        assert [event.cause for event in events if event.type == "stage.retrying"] == ["lost"]
        assert [event.owner for event in events if event.type == "run.owner_changed"] == [supervisor.stats().session_id]


# -- services ----------------------------------------------------------------------------------------------------------


def using_a_service(log: list[str]) -> Workflow[Doc, Doc]:
    @stage("use")
    async def use(ctx: StageContext[Doc]) -> Doc:
        log.append("used")
        return Doc(text=ctx.service("name", str))

    return WorkflowBuilder("using", input=Doc, output=Doc).pipe(use).build()


async def test_services_live_from_before_the_first_body_until_after_the_last(memory: SharedStore):
    log: list[str] = []

    @asynccontextmanager
    async def name():
        log.append("entered")
        yield "Ada"
        log.append("closed")

    app = App(workflows=[using_a_service(log)], services={"name": name})
    async with memory.supervisor(app) as supervisor:
        run = await supervisor.start("using", Doc(text=""))
        assert await run.result() == Doc(text="Ada")
    assert log == ["entered", "used", "closed"]


async def test_a_service_is_closed_after_the_bodies_that_leaving_interrupts(memory: SharedStore):
    log: list[str] = []

    @asynccontextmanager
    async def name():
        yield "Ada"
        log.append("closed")

    @stage("use")
    async def use(ctx: StageContext[Doc]) -> Doc:
        try:
            log.append("waits")
            await anyio.sleep_forever()
        finally:
            log.append(f"leaves {ctx.service('name', str)}")

    workflow = WorkflowBuilder("using", input=Doc, output=Doc).pipe(use).build()
    app = App(workflows=[workflow], services={"name": name})
    async with memory.supervisor(app, drain_grace=0.0) as supervisor:
        await supervisor.start(workflow, Doc(text=""))
        await until(lambda: log)
    assert log == ["waits", "leaves Ada", "closed"]


async def test_every_kind_of_factory_makes_a_service_and_a_supervisor_may_override_it(memory: SharedStore):
    async def awaited() -> str:
        await anyio.lowlevel.checkpoint()
        return "awaited"

    app = App(workflows=[using_a_service([])], services={"name": lambda: "plain"})
    async with memory.supervisor(app) as supervisor:
        assert await (await supervisor.start("using", Doc(text=""))).result() == Doc(text="plain")
    async with memory.supervisor(app, services={"name": awaited}) as supervisor:
        assert await (await supervisor.start("using", Doc(text=""))).result() == Doc(text="awaited")


async def test_a_client_makes_no_services(memory: SharedStore):
    made: list[str] = []
    app = App(workflows=[using_a_service([])], services={"name": lambda: made.append("made")})
    async with memory.client(app) as client:
        await client.start("using", Doc(text=""))
    assert made == []


# -- cancelling --------------------------------------------------------------------------------------------------------


async def test_cancelling_a_run_interrupts_its_body_at_once_and_its_finally_runs(memory: SharedStore):
    gate = Gate()
    async with memory.supervisor(gate.workflow()) as supervisor:
        run = await supervisor.start("gated", Doc(text="x"))
        await until(lambda: gate.entered)
        assert await run.cancel("enough") is True
        await until(lambda: gate.interrupted, within_s=1.0)
        assert [event.type for event in await run.history()][-2:] == ["stage.cancelled", "run.cancelled"]
        await until(lambda: supervisor.stats().actors == 0)


async def test_a_cancellation_by_another_process_reaches_the_body_within_a_second(store: SharedStore):
    gate = Gate()
    workflow = gate.workflow()
    async with store.supervisor(workflow), store.client(workflow) as client:
        run = await client.start(workflow, Doc(text="x"))
        await until(lambda: gate.entered)
        assert await run.cancel() is True
        await until(lambda: gate.interrupted, within_s=2.0)
        assert (await run.describe()).status == "CANCELLED"
    assert not gate.passed


# -- what it says of itself --------------------------------------------------------------------------------------------


async def test_its_figures_follow_what_it_does(memory: SharedStore):
    gate = Gate()
    async with memory.supervisor(gate.workflow()) as supervisor:
        idle = supervisor.stats()
        assert (idle.actors, idle.bodies, idle.jobs_processed, idle.degraded) == (0, 0, 0, None)
        run = await supervisor.start("gated", Doc(text="x"))
        await until(lambda: gate.entered)
        assert (supervisor.stats().actors, supervisor.stats().bodies) == (1, 1)
        gate.open()
        await run.result()
        await until(lambda: supervisor.stats().jobs_processed)
        assert (supervisor.stats().actors, supervisor.stats().bodies, supervisor.stats().jobs_processed) == (0, 0, 1)
        assert supervisor.stats().uptime_s > 0
