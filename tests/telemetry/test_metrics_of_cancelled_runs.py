"""That a run was cancelled is counted once: by its owner, or by the canceller when it has none at that moment."""

from __future__ import annotations

import pytest
from anyio import create_task_group
from structlog.testing import LogCapture

from kernel import RunCancelled, Workflow, WorkflowBuilder
from kernel.ports.persistence import Append
from telemetry import names
from telemetry.metrics import use_meters
from tests.runtime.gates import Doc, Gate
from tests.runtime.held_store import HeldStore
from tests.runtime.shared_store import SharedStore, dead_owner, in_memory, until
from tests.telemetry.metered import Metered

pytestmark = pytest.mark.anyio


def holding(gate: Gate) -> Workflow[Doc, Doc]:
    return WorkflowBuilder("held", input=Doc, output=Doc).pipe(gate.stage()).build()


@pytest.mark.parametrize("by", ["a metered process", "a process without meters"])
async def test_whoever_cancels_it_a_run_that_is_driven_is_counted_where_it_is_driven(
    metered: Metered, store: SharedStore, by: str
) -> None:
    gate = Gate()
    held = holding(gate)
    async with store.supervisor(held) as supervisor:
        run = await supervisor.start(held, Doc(text="a"))
        await until(lambda: gate.entered)
        assert metered.points(names.BODIES_RUNNING) == {(): 1}
        use_meters(metered.meters if by == "a metered process" else None)
        async with store.client(held) as client:
            await client.run(run.id).cancel("enough")
        with pytest.raises(RunCancelled):
            await run.result()
        await until(lambda: supervisor.stats().actors == 0)

        assert metered.points(names.RUNS_CANCELLED) == {("held",): 1}
        assert metered.points(names.RUN_DURATION) == {("held", "cancelled"): 1}
        assert metered.points(names.ACTORS) == {(): 0}


async def test_a_run_that_waits_is_counted_by_whoever_cancels_it(metered: Metered, store: SharedStore) -> None:
    held = holding(Gate())
    async with store.client(held) as client:
        run = await client.start(held, Doc(text="a"))
        await client.run(run.id).cancel()

    assert metered.points(names.RUNS_CANCELLED) == {("held",): 1}


async def test_a_run_that_was_claimed_while_it_was_being_cancelled_is_counted_by_its_new_owner(
    metered: Metered,
) -> None:
    slow, gate = HeldStore(), Gate()
    held, store = holding(gate), in_memory(slow)
    async with store.client(held) as client, create_task_group() as tasks:
        run = await client.start(held, Doc(text="a"))
        slow.before = cancels
        tasks.start_soon(client.run(run.id).cancel)
        await until(lambda: slow.held)
        async with store.supervisor(held) as supervisor:
            await until(lambda: supervisor.stats().actors == 1)
            slow.let_go()
            await until(lambda: supervisor.stats().actors == 0)

    assert metered.points(names.RUNS_CANCELLED) == {("held",): 1}


async def test_a_run_that_begins_again_before_its_owner_has_read_that_it_was_cancelled_is_counted_all_the_same(
    metered: Metered, log: LogCapture
) -> None:
    slow, gate = HeldStore(), Gate()
    held, store = holding(gate), in_memory(slow)
    async with store.client(held) as client, store.supervisor(held):
        run = await client.start(held, Doc(text="a"))
        await until(lambda: gate.entered)
        slow.hold_loads = True
        await client.run(run.id).cancel()
        await until(lambda: slow.loading)
        await client.run(run.id).rerun_from("hold")
        slow.let_go()
        await until(lambda: len(gate.entered) == 2)
        gate.open()

        assert metered.points(names.RUNS_CANCELLED) == {("held",): 1}
    assert [line["run_id"] for line in log.entries if line["event"] == "run.cancelled"] == [run.id]


async def test_a_run_whose_owner_died_is_counted_by_whoever_takes_it_over(
    metered: Metered, store: SharedStore, log: LogCapture
) -> None:
    held = holding(Gate())
    async with store.client(held) as client:
        run = await client.start(held, Doc(text="a"))
        async with dead_owner(client):
            await client.run(run.id).cancel()

        async with store.supervisor(held):
            await until(lambda: metered.points(names.RUNS_CANCELLED) == {("held",): 1})
        assert (await run.describe()).owner is None

    assert metered.points(names.RUNS_CANCELLED) == {("held",): 1}
    assert [line["run_id"] for line in log.entries if line["event"] == "run.cancelled"] == [run.id]


def cancels(append: Append) -> bool:
    return b"run.cancelled" in (append.events or b"")


async def test_a_cancelled_run_of_a_changed_definition_is_given_back_and_not_set_aside(
    metered: Metered, store: SharedStore, log: LogCapture
) -> None:
    held, changed = holding(Gate()), WorkflowBuilder("held", input=Doc, output=Doc).pipe(Gate().stage("else")).build()
    async with store.client(held) as client:
        run = await client.start(held, Doc(text="a"))
        async with dead_owner(client):
            await client.run(run.id).cancel()

        async with store.supervisor(changed):
            await until(lambda: metered.points(names.RUNS_CANCELLED) == {("held",): 1})

    assert "run.parked" not in [line["event"] for line in log.entries]


async def test_a_run_that_begins_again_while_its_owner_gives_it_back_is_counted(metered: Metered) -> None:
    slow, gate = HeldStore(), Gate()
    held, store = holding(gate), in_memory(slow)
    async with store.client(held) as client, store.supervisor(held):
        run = await client.start(held, Doc(text="a"))
        await until(lambda: gate.entered)
        slow.before = lambda append: append.mode == "release"
        await client.run(run.id).cancel()
        await until(lambda: slow.held)
        await client.run(run.id).rerun_from("hold")
        slow.let_go()
        await until(lambda: len(gate.entered) == 2)
        gate.open()

        assert metered.points(names.RUNS_CANCELLED) == {("held",): 1}
