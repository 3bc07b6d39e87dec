"""Runs that wait for something outside: who looks, how often, what wakes them early, and what it leaves behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from kernel import (
    CheckContext,
    ClaimPendingRuns,
    CreateRun,
    ExecuteJob,
    InvalidCommand,
    NotReady,
    PollSuspendedStages,
    Ready,
    ReapStuckRuns,
    RunFailed,
    RunNotFound,
    StageContext,
    Suspend,
    Workflow,
    WorkflowBuilder,
    batch_stage,
)
from kernel.ports.persistence import Append, SessionInfo
from runtime import App, Client, RunHandle
from runtime.testing import FakeClock, memory_kernel
from tests.runtime.gates import Doc
from tests.runtime.shared_store import SharedStore, in_memory, until

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)


class Batch(BaseModel):
    name: str


class Tries(BaseModel):
    limit: int = 7


@dataclass
class Outside:
    """What is waited for: a test says when it is `done`, and how often and by how many at once it was asked."""

    done: set[str] = field(default_factory=set[str])
    asked: Counter[str] = field(default_factory=Counter[str])
    asking: int = 0
    asking_max: int = 0
    takes_s: float = 0.0
    slow: anyio.Event | None = None
    limits: list[int] = field(default_factory=list[int])

    async def answer(self, name: str) -> bool:
        self.asked[name] += 1
        found = name in self.done
        self.asking += 1
        self.asking_max = max(self.asking_max, self.asking)
        try:
            await anyio.sleep(self.takes_s)
            if self.slow is not None:
                await self.slow.wait()
        finally:
            self.asking -= 1
        return found

    def workflow(
        self, *, every: timedelta = HOUR, at_most: timedelta = 24 * HOUR, stages: Sequence[str] = ("wait",)
    ) -> Workflow[Doc, Any]:
        made = [self._stage(stage_id, every, at_most) for stage_id in stages]
        builder = WorkflowBuilder("waiting", input=Doc)
        return (builder.pipe(made[0]) if len(made) == 1 else builder.parallel(made)).build()

    def _stage(self, stage_id: str, every: timedelta, at_most: timedelta) -> Any:
        @batch_stage(stage_id)
        async def wait(ctx: StageContext[Doc, Tries]) -> Suspend[Batch] | str:
            return Suspend(state=Batch(name=f"{ctx.input.text}/{ctx.stage_id}"), poll_interval=every, max_wait=at_most)

        @wait.check
        async def ready(state: Batch, ctx: CheckContext[Tries]) -> Ready[str] | NotReady:
            self.limits.append(ctx.config.limit)
            return Ready(state.name) if await self.answer(state.name) else NotReady()

        return wait


class Spied:
    """A store whose appends a test sees."""

    def __init__(self, store: Any, sent: list[Append]) -> None:
        self._store = store
        self._sent = sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def append(self, append: Append) -> bool:
        owned: bool = await self._store.append(append)
        self._sent.append(append)
        return owned


async def suspended(run: RunHandle[Any]) -> bool:
    return (await run.describe()).status == "SUSPENDED"


async def kinds(run: RunHandle[Any]) -> list[str]:
    return [event.type for event in await run.history()]


async def let_go_when(outside: Outside, asking: int) -> None:
    await until(lambda: outside.asking == asking)
    assert outside.slow is not None
    outside.slow.set()


# -- what waiting leaves behind ----------------------------------------------------------------------------------------


async def test_a_run_that_is_looked_at_often_has_a_short_history(store: SharedStore):
    outside = Outside()
    workflow = outside.workflow(every=timedelta(milliseconds=5))
    async with store.supervisor(workflow, passivate_after=60.0) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: outside.asked["x/wait"] >= 20)
        outside.done.add("x/wait")
        assert await run.result() == "x/wait"
        assert (await kinds(run)).count("stage.suspended") == 1


async def test_ready_without_an_output_completes_a_stage_whose_type_admits_none(store: SharedStore):
    assert await ready_with_nothing(store, returns_none=True) is None


async def test_ready_without_an_output_fails_any_other_stage_at_once(store: SharedStore):
    with pytest.raises(RunFailed) as failed:
        await ready_with_nothing(store, returns_none=False)

    assert (failed.value.error.type, failed.value.error.retryable) == ("InvalidOutput", False)
    assert failed.value.attempt == 1


async def ready_with_nothing(store: SharedStore, *, returns_none: bool) -> Any:
    """The result of a run whose only check said that it is ready, and nothing else."""

    @batch_stage("nothing")
    async def nothing(ctx: StageContext[Doc]) -> Suspend[Batch] | None:
        return Suspend(state=Batch(name="x"), poll_interval=timedelta(0), max_wait=HOUR)

    @batch_stage("something")
    async def something(ctx: StageContext[Doc]) -> Suspend[Batch] | str:
        return Suspend(state=Batch(name="x"), poll_interval=timedelta(0), max_wait=HOUR)

    @nothing.check
    async def found(state: Batch, ctx: CheckContext) -> Ready[None]:
        return Ready()

    @something.check
    async def not_found(state: Batch, ctx: CheckContext) -> Any:
        return Ready()

    chosen: Any = nothing if returns_none else something
    workflow = WorkflowBuilder(chosen.id, input=Doc).pipe(chosen).build()
    async with store.supervisor(workflow) as supervisor:
        return await (await supervisor.start(workflow, Doc(text="x"))).result(timeout=20)


async def test_the_limit_of_a_wait_holds_however_often_it_was_looked_at(store: SharedStore):
    outside = Outside()
    workflow = outside.workflow(every=timedelta(milliseconds=10), at_most=timedelta(milliseconds=150))
    async with store.supervisor(workflow, passivate_after=0.0) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        with pytest.raises(RunFailed) as failed:
            await run.result()
    assert failed.value.error.type == "MaxWaitExceeded"
    assert outside.asked["x/wait"] > 1


async def test_the_next_process_looks_when_the_last_one_said(store: SharedStore):
    outside = Outside()
    workflow = outside.workflow(every=timedelta(milliseconds=10))
    async with store.supervisor(workflow, passivate_after=60.0) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: outside.asked["x/wait"] >= 3)
    async with store.client(workflow) as client:
        [stage] = (await client.run(run.id).describe()).stages or ()
        [event] = [e for e in await client.run(run.id).history() if e.type == "stage.suspended"]
        assert stage.next_poll_at is not None
        assert stage.next_poll_at > event.next_poll_at


async def test_a_run_that_is_looked_at_every_hour_costs_no_actor_and_is_never_reaped(store: SharedStore):
    outside = Outside()
    workflow = outside.workflow()
    async with store.supervisor(workflow, passivate_after=0.0) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: suspended(run))
        await until(lambda: supervisor.stats().actors == 0)
        await supervisor.kernel.dispatch(ReapStuckRuns())
        await supervisor.kernel.dispatch(PollSuspendedStages())
        assert (outside.asked.total(), (await run.describe()).waiting_for) == (0, "poll")


async def test_checks_see_the_defaults_of_the_configuration(store: SharedStore):
    outside = Outside(done={"x/wait"})
    workflow = outside.workflow(every=timedelta(0))
    async with store.supervisor(workflow) as supervisor:
        await (await supervisor.start(workflow, Doc(text="x"))).result()
    assert outside.limits == [7]


async def test_a_run_that_is_looked_at_in_vain_is_given_back_with_what_was_found(memory: SharedStore):
    sent: list[Append] = []
    outside = Outside()
    workflow = outside.workflow(every=timedelta(milliseconds=50))
    async with memory.opened() as storage:
        spied = in_memory(Spied(storage.persistence, sent))
        async with spied.supervisor(workflow, passivate_after=0.0) as supervisor:
            run = await supervisor.start(workflow, Doc(text="x"))
            await until(lambda: outside.asked["x/wait"] >= 3)
            await run.cancel()
    released = [append for append in sent if append.mode == "release" and append.poll_state is not None]
    assert len(released) >= 2
    assert [append.mode for append in sent].count("poll") == 0


# -- asking for a look -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passivate_after", [0.0, 3600.0])
async def test_a_run_goes_on_within_a_second_when_somebody_asks(store: SharedStore, passivate_after: float):
    outside = Outside()
    workflow = outside.workflow()
    async with store.supervisor(workflow, passivate_after=passivate_after) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: suspended(run))
        outside.done.add("x/wait")
        asked_at = datetime.now(UTC)
        assert await run.poll() == ("wait",)
        assert await run.result() == "x/wait"
        [completed] = [event for event in await run.history() if event.type == "stage.completed"]
        assert completed.at - asked_at < timedelta(seconds=1)


@pytest.mark.parametrize("passivate_after", [0.0, 3600.0])
async def test_a_client_makes_whoever_drives_the_run_look_at_it(store: SharedStore, passivate_after: float):
    outside = Outside()
    workflow = outside.workflow()
    driver = store.supervisor(workflow, passivate_after=passivate_after)
    async with store.client(workflow) as client, driver:
        run = await client.start(workflow, Doc(text="x"))
        await until(lambda: suspended(run))
        outside.done.add("x/wait")
        await run.poll()
        assert await run.result() == "x/wait"


async def test_asking_while_a_check_is_under_way_has_one_made_after_it(store: SharedStore):
    outside = Outside(slow=anyio.Event())
    workflow = outside.workflow(every=timedelta(0))
    async with store.supervisor(workflow) as supervisor, store.client(workflow) as client:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: outside.asking)
        # The check has seen that it is not done.
        outside.done.add("x/wait")
        await client.run(run.id).poll()
        assert outside.slow is not None
        outside.slow.set()
        assert await run.result() == "x/wait"
        assert outside.asked["x/wait"] == 2


async def test_asking_twice_is_harmless_and_asking_for_nothing_is_no_error(store: SharedStore):
    outside = Outside()
    workflow = outside.workflow()
    async with store.supervisor(workflow, passivate_after=0.0) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: suspended(run))
        assert await run.poll() == await run.poll() == ("wait",)
        await until(lambda: outside.asked["x/wait"] > 0)
        outside.done.add("x/wait")
        await run.poll()
        await run.result()
        before = await kinds(run)
        assert await run.poll() == ()
        assert await kinds(run) == before
        with pytest.raises(RunNotFound):
            await supervisor.run("019a0000-0000-7000-8000-000000000000").poll()


async def test_a_run_that_nobody_knows_is_looked_at_as_soon_as_somebody_does(store: SharedStore):
    outside = Outside()
    workflow = outside.workflow()
    async with store.supervisor(workflow, passivate_after=0.0) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: suspended(run))
    outside.done.add("x/wait")
    async with store.client(App(workflows=[])) as client:
        await client.run(run.id).poll()
    async with store.supervisor(workflow) as supervisor:
        assert await supervisor.run(run.id, workflow).result() == "x/wait"


# -- many of them ------------------------------------------------------------------------------------------------------


async def test_two_processes_do_not_look_at_the_same_stage(store: SharedStore):
    outside = Outside(takes_s=0.01)
    workflow = outside.workflow(every=timedelta(milliseconds=300))
    names = [str(number) for number in range(30)]
    outside.done.update(f"{name}/wait" for name in names)
    async with (
        store.supervisor(workflow, passivate_after=0.0) as one,
        store.supervisor(workflow, passivate_after=0.0),
    ):
        runs = await one.start_many(workflow, [Doc(text=name) for name in names])
        for run in runs:
            await run.result()
    assert set(outside.asked.values()) == {1}


async def test_checks_of_a_process_are_made_beside_each_other_up_to_a_bound(memory: SharedStore):
    outside = Outside(takes_s=0.01)
    workflow = outside.workflow(every=timedelta(0), stages=[f"wait-{n}" for n in range(12)])
    outside.done.update(f"x/wait-{n}" for n in range(12))
    async with memory.supervisor(workflow, max_checks=3) as supervisor:
        await (await supervisor.start(workflow, Doc(text="x"))).result()
    assert outside.asking_max == 3
    assert set(outside.asked.values()) == {1}


async def test_a_crowd_that_is_due_at_once_is_looked_at_in_turn_and_to_its_end(store: SharedStore):
    outside = Outside()
    workflow = outside.workflow()
    names = [f"n{n}" for n in range(60)]
    async with store.client(workflow) as client:
        runs = await client.start_many(workflow, [Doc(text=name) for name in names])
        async with store.supervisor(workflow, passivate_after=0.0) as supervisor:
            await until(partial(all_suspended, client, len(names)))
            await until(lambda: supervisor.stats().actors == 0)
        for run in runs:
            await run.poll()
        async with store.supervisor(workflow, max_checks=5, passivate_after=0.0, poll_interval=0.05):
            await until(lambda: len(outside.asked) == len(names))
            assert set(outside.asked.values()) == {1}
            outside.done.update(f"{name}/wait" for name in names)
            for run in runs:
                await run.poll()
            assert [await run.result(timeout=30) for run in runs] == [f"{name}/wait" for name in names]


async def all_suspended(client: Client, count: int) -> bool:
    return len((await client.list_runs(status="SUSPENDED", limit=1000)).items) == count


async def test_a_run_with_many_stages_to_look_at_does_not_starve_the_others(memory: SharedStore):
    outside = Outside(takes_s=0.001)
    crowd = outside.workflow(every=timedelta(milliseconds=1), stages=[f"wait-{n}" for n in range(20)])
    async with memory.supervisor(crowd, max_checks=1) as supervisor:
        many, few = [await supervisor.start(crowd, Doc(text=name)) for name in ("many", "few")]
        outside.done.update(f"few/wait-{n}" for n in range(20))
        await few.result()
        assert max(outside.asked[f"many/wait-{n}"] for n in range(20)) <= 4
        await many.cancel()


# -- the command -------------------------------------------------------------------------------------------------------


async def test_the_command_makes_the_checks_of_a_passive_run_at_once(store: SharedStore):
    outside = Outside()
    workflow = outside.workflow(stages=["left", "right"])
    async with store.supervisor(workflow, passivate_after=0.0) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: suspended(run))
        outside.done.add("x/left")
        outside.slow = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(let_go_when, outside, 2)
            result = await supervisor.kernel.dispatch(PollSuspendedStages(run_id=run.id))
        assert (result.checked, result.resumed, result.failed) == (2, 1, 0)
        assert result.resumed_run_ids == (run.id,)


async def test_a_client_cannot_make_checks_itself_and_says_so(store: SharedStore):
    outside = Outside()
    workflow = outside.workflow()
    async with store.supervisor(workflow, passivate_after=0.0) as supervisor, store.client(workflow) as client:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: suspended(run))
        with pytest.raises(InvalidCommand, match="Client"):
            await client.kernel.dispatch(PollSuspendedStages(run_id=run.id))


async def test_a_kernel_that_is_driven_by_hand_polls_what_it_has_claimed(anyio_backend: str):
    del anyio_backend
    outside, clock = Outside(), FakeClock()
    workflow = outside.workflow()
    kernel = memory_kernel([workflow], clock=clock, lease=24 * HOUR)
    info = SessionInfo(name="hand", hostname="host", pid=1)
    session = await kernel.ports.store.open_session(info, [("waiting", "1")], lease=24 * HOUR)
    run_id = (await kernel.dispatch(CreateRun(workflow_id="waiting", input=Doc(text="x")))).run_id
    await kernel.dispatch(ClaimPendingRuns(session_id=session))
    await kernel.dispatch(ExecuteJob(run_id=run_id, stage_id="wait"))
    outside.done.add("x/wait")

    assert (await kernel.dispatch(PollSuspendedStages())).checked == 0
    clock.advance(HOUR)
    assert (await kernel.dispatch(PollSuspendedStages())).resumed_run_ids == (run_id,)
