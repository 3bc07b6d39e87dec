"""Runs that begin again: with a live supervisor, from another process, and while somebody waits for their end."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import anyio
import pytest

from kernel import (
    RetryPolicy,
    RunCancelled,
    RunFailed,
    RunNotRerunnable,
    Stage,
    StageContext,
    StageResult,
    Workflow,
    WorkflowBuilder,
    stage,
)
from runtime import App, RunHandle
from tests.runtime.gates import Doc, Gate
from tests.runtime.shared_store import SharedStore, until

pytestmark = pytest.mark.anyio

ONCE = RetryPolicy(max_attempts=1)
LARGE = 40_000


class Counter:
    """Three stages whose outputs tell how often each has run; the second one fails while it is told to."""

    def __init__(self, *, size: int = 0) -> None:
        self.calls: list[str] = []
        self.fails = False
        self._size = size

    def workflow(self, id: str = "counted", *, second: str = "second") -> Workflow[Doc, Doc]:
        builder = WorkflowBuilder(id, input=Doc, output=Doc).pipe(self._stage("first"))
        return builder.pipe(self._stage(second)).pipe(self._stage("third")).build()

    def _stage(self, stage_id: str) -> Stage[Doc, Doc, Any]:
        @stage(stage_id, retry=ONCE)
        async def body(ctx: StageContext[Doc]) -> StageResult[Doc]:
            self.calls.append(stage_id)
            if self.fails and stage_id == "second":
                raise ValueError("not yet")
            text = f"{ctx.input.text.rstrip('.')} {stage_id}{self.calls.count(stage_id)}"
            return StageResult(Doc(text=text + "." * self._size), metrics={"total_cost": 0.25, "total_tokens": 10})

        return body


# -- in the process that executes --------------------------------------------------------------------------------------


async def test_a_completed_run_is_rerun_beside_a_live_supervisor_and_comes_to_a_new_end(store: SharedStore):
    counter = Counter()
    workflow = counter.workflow()
    async with store.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        assert await run.result() == Doc(text="x first1 second1 third1")

        result = await run.rerun_from("second")

        assert result.discarded == ("second", "third")
        assert await run.result(timeout=10) == Doc(text="x first1 second2 third2")
        info = await run.describe()
        assert [(s.id, s.execution, s.attempt) for s in info.stages or ()] == [
            ("first", 1, 1),
            ("second", 2, 1),
            ("third", 2, 1),
        ]


async def test_a_run_is_rerun_in_the_very_moment_of_its_end(memory: SharedStore):
    counter = Counter()
    workflow = counter.workflow()
    async with memory.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        for n in range(1, 20):
            assert await run.result(timeout=10) == Doc(text=f"x first1 second1 third{n}")
            await run.rerun_from("third")


async def test_a_stage_can_be_named_by_its_object(memory: SharedStore):
    gate = Gate(opened=True)
    held = gate.stage()
    workflow = WorkflowBuilder("w", input=Doc, output=Doc).pipe(held).build()
    async with memory.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await run.result()
        assert (await run.rerun_from(held)).from_stage_id == "hold"
        assert await run.result() == Doc(text="x")


async def test_a_failed_run_goes_on_from_where_it_failed(store: SharedStore):
    counter = Counter()
    counter.fails = True
    workflow = counter.workflow()
    async with store.supervisor(workflow) as supervisor, store.client(workflow) as client:
        run = await supervisor.start(workflow, Doc(text="x"))
        with pytest.raises(RunFailed):
            await run.result()
        counter.fails = False

        other = client.run(run.id, workflow)
        await other.rerun_from("second", idempotency_key="k")
        await other.rerun_from("second", idempotency_key="k")

        assert await other.result(timeout=10) == Doc(text="x first1 second2 third1")
        info = await other.describe()
        assert (info.status, info.error, counter.calls.count("second")) == ("COMPLETED", None, 2)


async def test_a_cancelled_run_whose_owner_has_not_noticed_yet_is_rerun_by_it(store: SharedStore):
    gate = Gate()
    workflow = gate.workflow()
    async with store.supervisor(workflow) as supervisor, store.client(workflow) as client:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: gate.entered)
        assert await client.run(run.id).cancel()

        await run.rerun_from("hold")

        await until(lambda: len(gate.entered) == 2)
        assert len(gate.interrupted) == 1
        gate.open()
        assert await run.result(timeout=10) == Doc(text="x")


async def test_who_waits_for_a_rerun_run_gets_its_new_end_and_not_the_old_one(store: SharedStore):
    gate, ends = Gate(), list[Doc]()
    workflow = gate.workflow()

    async def wait_for(run: RunHandle[Doc]) -> None:
        ends.append(await run.result())

    async with store.supervisor(workflow) as supervisor, store.client(workflow) as client:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: gate.entered)
        await run.cancel()
        with pytest.raises(RunCancelled):
            await run.result()
        await run.rerun_from("hold")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for, run)
            tasks.start_soon(wait_for, client.run(run.id, workflow))
            await until(lambda: len(gate.entered) == 2)
            gate.open()
    assert ends == [Doc(text="x")] * 2


async def test_an_active_run_is_not_rerun(memory: SharedStore):
    gate = Gate()
    workflow = gate.workflow()
    async with memory.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: gate.entered)
        with pytest.raises(RunNotRerunnable, match="it is RUNNING"):
            await run.rerun_from("hold")
        gate.open()
        assert await run.result() == Doc(text="x")


# -- what is shown of it -----------------------------------------------------------------------------------------------


async def test_totals_count_each_stage_once_and_a_rerun_starts_them_anew(store: SharedStore):
    counter = Counter()
    workflow = counter.workflow()
    async with store.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await run.result()
        before = await run.describe()

        await run.rerun_from("third")
        await run.result(timeout=10)

        after = await run.describe()
        assert (
            (before.total_cost, before.total_tokens) == (after.total_cost, after.total_tokens) == (Decimal("0.75"), 30)
        )


async def test_the_history_of_a_rerun_run_tells_both_ends_each_with_its_own_output(store: SharedStore):
    counter = Counter()
    workflow = counter.workflow()
    async with store.supervisor(workflow) as supervisor, store.client(workflow) as client:
        run = await supervisor.start(workflow, Doc(text="x"))
        await run.result()
        await run.rerun_from("third")
        await run.result(timeout=10)

        events = await client.run(run.id).history()

        ends = [event.output for event in events if event.type == "run.completed"]
        assert ends == [{"text": "x first1 second1 third1"}, {"text": "x first1 second1 third2"}]
        streamed = [event async for event in client.run(run.id).events()]
        assert [e.seq for e in streamed if e.type not in ("log", "stage.progress")] == [e.seq for e in events]


async def test_large_outputs_that_were_discarded_are_gone_and_the_history_can_still_be_read(store: SharedStore):
    counter = Counter(size=LARGE)
    workflow = counter.workflow()
    async with store.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await run.result()
        blobs = supervisor.storage.blobs
        before = set(await blobs.list(f"runs/counted/{run.id}/"))

        await run.rerun_from("third")
        assert (await run.result(timeout=10)).text.startswith("x first1 second1 third2")

        after = set(await blobs.list(f"runs/counted/{run.id}/"))
        assert {key.split("/")[3] for key in before - after} == {"third"}
        outputs = {(e.stage_id, e.execution): e.output for e in await run.history() if e.type == "stage.completed"}
        assert outputs["third", 1] is None
        assert outputs["third", 2] is not None
        assert outputs["second", 1] is not None
        assert len((await run.describe()).output["text"]) > LARGE


@pytest.mark.parametrize("look", ["result", "describe"])
async def test_what_is_discarded_while_somebody_reads_it_is_read_again(
    memory: SharedStore, monkeypatch: pytest.MonkeyPatch, look: str
):
    counter = Counter(size=LARGE)
    workflow = counter.workflow()
    async with memory.supervisor(workflow) as supervisor, memory.client(workflow) as client:
        run = await supervisor.start(workflow, Doc(text="x"))
        await run.result()
        blobs = client.storage.blobs
        get = blobs.get

        async def get_too_late(key: str, /) -> bytes:
            monkeypatch.setattr(blobs, "get", get)
            await run.rerun_from("first")
            return await get(key)

        monkeypatch.setattr(blobs, "get", get_too_late)
        seen = client.run(run.id, workflow)
        if look == "result":
            assert (await seen.result(timeout=10)).text.startswith("x first2 second2 third2")
        else:
            assert [stage.execution for stage in (await seen.describe()).stages or ()] == [2, 2, 2]
            await run.result(timeout=10)


async def test_the_end_of_a_rerun_follows_the_end_that_came_before(memory: SharedStore):
    gate = Gate(opened=True)
    workflow = gate.workflow()
    async with memory.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await run.result()
        first_end = (await run.history())[-1].seq
        await run.rerun_from("hold")

        kinds = [e.type async for e in run.events(after=first_end) if e.type not in ("log", "stage.progress")]

        assert kinds == ["run.rerun", "stage.scheduled", "stage.started", "stage.completed", "run.completed"]


# -- definitions -------------------------------------------------------------------------------------------------------


async def test_a_process_without_the_definition_can_rerun(memory: SharedStore):
    counter = Counter()
    workflow = counter.workflow()
    async with memory.supervisor(workflow) as supervisor, memory.client(App(workflows=[])) as other:
        run = await supervisor.start(workflow, Doc(text="x"))
        await run.result()
        await other.run(run.id).rerun_from("third")
        assert await run.result(timeout=10) == Doc(text="x first1 second1 third2")


async def test_a_rerun_of_a_definition_that_has_changed_is_parked_until_somebody_accepts_the_change(
    memory: SharedStore,
):
    old, new = Counter(), Counter()
    async with memory.supervisor(old.workflow()) as supervisor:
        run = await supervisor.start(old.workflow(), Doc(text="x"))
        await run.result()
    changed = new.workflow(second="renamed")
    async with memory.supervisor(changed) as supervisor:
        again = supervisor.run(run.id)
        await again.rerun_from("third")
        await until(lambda: parked(again))
        assert (await again.describe()).waiting_for == "definition_changed"
        assert new.calls == []


async def parked(run: RunHandle[Any]) -> bool:
    return (await run.describe()).waiting_detail is not None
