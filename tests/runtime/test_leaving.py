"""Leaving while something is still on its way: it is handed back, and nobody waits longer than there is a reason."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from runtime import Supervisor
from tests.runtime.gates import Doc, Gate
from tests.runtime.held_store import HeldStore, starts_a_body
from tests.runtime.shared_store import SharedStore, in_memory, until

pytestmark = pytest.mark.anyio


async def test_a_body_whose_start_is_under_way_when_its_program_is_cancelled_is_handed_back_uncounted():
    held, gate = HeldStore(), Gate()
    place, workflow = in_memory(held), gate.workflow()

    async def let_go_while_leaving(supervisor: Supervisor) -> None:
        with anyio.CancelScope(shield=True):
            await until(lambda: supervisor.stats().draining)
            held.let_go()

    async with place.client(workflow) as client:
        with anyio.CancelScope() as program:
            async with anyio.create_task_group() as tasks, place.supervisor(workflow) as supervisor:
                held.before = starts_a_body
                run = await client.start(workflow, Doc(text="x"))
                await until(lambda: held.held)
                tasks.start_soon(let_go_while_leaving, supervisor)
                await checkpoint()
                program.cancel()
        handed_back = [event.cause for event in await run.history() if event.type == "stage.retrying"]
        info = await run.describe()
    assert (handed_back, info.stages[0].status, info.owner) == (["drained"], "PENDING", None)


async def test_all_who_drain_return_when_nothing_is_left(memory: SharedStore):
    gate = Gate()
    workflow = gate.workflow()
    async with memory.supervisor(workflow, drain_grace=40.0) as supervisor:
        await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: gate.entered)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(supervisor.drain)
                tasks.start_soon(supervisor.drain)
                await anyio.wait_all_tasks_blocked()
                gate.open()
    assert len(gate.passed) == 1


async def test_a_process_that_drains_claims_nothing_more(memory: SharedStore):
    gate = Gate()
    workflow = gate.workflow()
    async with memory.client(workflow) as client, memory.supervisor(workflow, drain_grace=40.0) as leaves:
        await client.start(workflow, Doc(text="1"))
        await until(lambda: gate.entered)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leaves.drain)
            await until(lambda: leaves.stats().draining)
            second = await client.start(workflow, Doc(text="2"))
            async with memory.supervisor(workflow) as stays:
                await until(lambda: second.id in [visit.run_id for visit in gate.entered])
                assert (leaves.stats().claims, stays.stats().claims) == (1, 1)
                gate.open()
                await second.result()
