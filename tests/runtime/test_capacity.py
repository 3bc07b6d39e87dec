"""How much one process takes on: so many runs, so many bodies, and one suspect at a time."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any

import anyio
import pytest

from kernel import ExecuteJob, RetryPolicy, Workflow, WorkflowBuilder
from kernel.model.draft import Decision, Draft, Moment
from kernel.model.facts import AnnotationCreated
from kernel.model.run import RunState
from runtime import App, RunHandle
from tests.runtime.gates import Doc, Gate
from tests.runtime.held_store import HeldStore, starts_a_body
from tests.runtime.shared_store import SharedStore, in_memory, until

pytestmark = pytest.mark.anyio

AT_ONCE = RetryPolicy(initial_interval=timedelta(0))


async def test_runs_that_a_process_creates_count_against_max_runs_while_they_are_created(memory: SharedStore):
    gate = Gate()
    workflow = gate.workflow()
    async with memory.supervisor(workflow, max_runs=2) as supervisor:
        runs = await supervisor.start_many(workflow, [Doc(text=str(n)) for n in range(10)])
        assert supervisor.stats().actors <= 2
        gate.open()
        assert [(await run.result()).text for run in runs] == [str(n) for n in range(10)]


async def test_a_process_leaves_what_it_cannot_execute_to_another_one(memory: SharedStore):
    gate = Gate()
    workflow = gate.workflow()
    async with memory.client(workflow) as client:
        runs = await client.start_many(workflow, [Doc(text=str(n)) for n in range(12)])
        async with memory.supervisor(workflow, max_bodies=3) as early:
            await until(lambda: early.stats().bodies == 3)
            async with memory.supervisor(workflow, max_bodies=3) as late:
                await until(lambda: late.stats().bodies == 3)
                assert early.stats().actors <= 6
                gate.open()
                assert [(await run.result()).text for run in runs] == [str(n) for n in range(12)]


async def test_a_start_that_meets_a_foreign_append_finds_its_room_taken_and_waits_again():
    held, gates = HeldStore(), {name: Gate() for name in ("busy", "slow", "quick")}
    place = in_memory(held)
    app = App(workflows=[gate.workflow(name) for name, gate in gates.items()])
    async with place.client(app) as client, place.supervisor(app, max_bodies=1, drain_grace=0.0) as supervisor:
        busy = await supervisor.start("busy", Doc(text="1"))
        await until(lambda: gates["busy"].entered)
        slow = await supervisor.start("slow", Doc(text="2"))
        await until(lambda: supervisor.stats().bodies_waiting == 1)
        held.before, held.hold_loads = starts_a_body, True
        gates["busy"].open()
        await until(lambda: held.held)
        held.before = None
        await client.kernel.ports.journals.record(slow.id, annotated)
        quick = await supervisor.start("quick", Doc(text="3"))
        await until(lambda: supervisor.stats().bodies_waiting == 1)
        held.let_go_appends()
        await until(lambda: held.loading and gates["quick"].entered)
        held.let_go()
        await until(lambda: gates["slow"].entered or supervisor.stats().bodies_waiting == 1)
        assert (len(gates["slow"].entered), supervisor.stats().bodies) == (0, 1)
        for gate in gates.values():
            gate.open()
        for run in (busy, slow, quick):
            await run.result()


def annotated(state: RunState, moment: Moment) -> Decision[None]:
    draft = Draft(state, moment)
    draft.add(AnnotationCreated(key="note"), b'"seen"')
    return draft.decided(None)


async def test_a_job_that_somebody_dispatches_by_hand_does_not_execute_beside_the_actor(memory: SharedStore):
    gate = Gate()
    workflow = gate.workflow()
    async with memory.supervisor(workflow, max_bodies=1) as supervisor, anyio.create_task_group() as tasks:
        first = await supervisor.start(workflow, Doc(text="1"))
        await until(lambda: gate.entered)
        second = await supervisor.start(workflow, Doc(text="2"))
        await until(lambda: supervisor.stats().bodies_waiting)
        tasks.start_soon(supervisor.kernel.dispatch, ExecuteJob(run_id=second.id, stage_id="hold"))
        await anyio.wait_all_tasks_blocked()
        assert [visit.run_id for visit in gate.entered] == [first.id]
        gate.open()
        assert await second.result() == Doc(text="2")
    assert len(gate.entered) == 2


# -- suspects: attempts that were lost twice, and may have killed their processes --------------------------------------


async def test_of_the_suspects_of_one_group_one_executes_at_a_time(memory: SharedStore):
    gate = Gate()
    pair = [gate.stage("a", retry=AT_ONCE), gate.stage("b", retry=AT_ONCE)]
    workflow = WorkflowBuilder("pair", input=Doc).parallel(pair).build()
    async with memory.client(workflow) as client:
        runs = [await client.start(workflow, Doc(text="x"))]
        await lost_twice(memory, workflow, gate, bodies=2)
        await one_executes_and_one_waits(memory, workflow, gate, runs)


async def test_of_the_suspects_of_several_runs_one_executes_at_a_time(memory: SharedStore):
    gate = Gate()
    workflow = gate.workflow(retry=AT_ONCE)
    async with memory.client(workflow) as client:
        runs = [await client.start(workflow, Doc(text=str(n))) for n in range(2)]
        await lost_twice(memory, workflow, gate, bodies=2)
        await one_executes_and_one_waits(memory, workflow, gate, runs)


async def one_executes_and_one_waits(
    place: SharedStore, workflow: Workflow[Any, Any], gate: Gate, runs: Collection[RunHandle[Any]]
) -> None:
    before = len(gate.entered)
    async with place.supervisor(workflow, drain_grace=0.0) as supervisor:
        await until(lambda: len(gate.entered) > before)
        await until(lambda: supervisor._suspects.waiting or len(gate.entered) > before + 1)
        assert (len(gate.entered) - before, supervisor._suspects.used) == (1, 1)
        gate.open()
        for run in runs:
            await run.result()
        await until(lambda: supervisor.stats().actors == 0)
        assert (supervisor._suspects.used, supervisor._suspects.waiting) == (0, 0)


async def test_a_suspect_that_waits_for_another_does_not_keep_a_free_slot_from_the_innocent(memory: SharedStore):
    poison, good = Gate(), Gate()
    suspicious, innocent = poison.workflow("poison", retry=AT_ONCE), good.workflow("good")
    app = App(workflows=[suspicious, innocent])
    async with memory.client(app) as client:
        for n in range(2):
            await client.start(suspicious, Doc(text=str(n)))
        await lost_twice(memory, app, poison, bodies=2)
        before = len(poison.entered)
        async with memory.supervisor(app, max_bodies=2, drain_grace=0.0) as supervisor:
            supervisor._bodies.reserve(2)  # as two other bodies would, which then end together
            await until(lambda: supervisor.stats().bodies_waiting)
            supervisor._bodies.release()
            supervisor._bodies.release()
            await until(lambda: len(poison.entered) > before)
            await supervisor.start(innocent, Doc(text="x"))
            await until(lambda: good.entered, within_s=5)
            assert (len(poison.entered) - before, supervisor.stats().bodies) == (1, 2)


async def lost_twice(place: SharedStore, app: App | Workflow[Any, Any], gate: Gate, *, bodies: int) -> None:
    """Two processes end one after the other, while so many bodies are at the gate."""
    for _ in range(2):
        before = len(gate.entered)
        async with place.supervisor(app, drain_grace=0.0) as supervisor:
            await until(lambda before=before: len(gate.entered) == before + bodies)
            for actor in tuple(supervisor.actors.values()):
                actor.abandon()
