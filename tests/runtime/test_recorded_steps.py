"""Recorded steps of runs that a supervisor drives: done once per execution, kept with the run, committed together."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import pytest

from kernel import RetryPolicy, Stage, StageContext, WorkflowBuilder, stage
from tests.runtime.counted_wire import CountedWire
from tests.runtime.gates import Doc, Gate
from tests.runtime.shared_store import SharedStore, on_postgres, until

pytestmark = pytest.mark.anyio

AT_ONCE = RetryPolicy(max_attempts=3, initial_interval=timedelta(0), jitter=False)
TOGETHER = 40
LARGE = 40_000


class Pages:
    """What steps fetch, and how often."""

    def __init__(self) -> None:
        self.fetched: list[int] = []
        self.attempts: list[tuple[int, int]] = []

    def fetch(self, n: int) -> int:
        self.fetched.append(n)
        return 10 * n

    def stage(self, *, in_thread: bool, succeeds_at: int = 3) -> Stage[Doc, int, Any]:
        """Two steps, after which the body raises until its last attempt."""

        def total(ctx: StageContext[Doc], got: list[int]) -> int:
            self.attempts.append((ctx.execution, ctx.attempt))
            if ctx.attempt < succeeds_at:
                raise OSError("again")
            return sum(got)

        @stage("stepwise", retry=AT_ONCE)
        async def in_the_loop(ctx: StageContext[Doc]) -> int:
            return total(ctx, [await ctx.step(f"fetch {n}", self.fetch, n) for n in (1, 2)])

        @stage("stepwise", retry=AT_ONCE)
        def threaded(ctx: StageContext[Doc]) -> int:
            return total(ctx, [ctx.step.blocking(f"fetch {n}", self.fetch, n) for n in (1, 2)])

        return threaded if in_thread else in_the_loop


@pytest.mark.parametrize("in_thread", [False, True], ids=["in the loop", "in a thread"])
async def test_a_stage_that_runs_again_gets_its_recorded_steps_and_a_rerun_does_them_again(
    store: SharedStore, *, in_thread: bool
):
    pages = Pages()
    workflow = WorkflowBuilder("steps", input=Doc).pipe(pages.stage(in_thread=in_thread)).build()
    async with store.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        assert await run.result() == 30
        assert (pages.fetched, pages.attempts) == ([1, 2], [(1, 1), (1, 2), (1, 3)])

        await run.rerun_from("stepwise")

        assert await run.result(timeout=10) == 30
        assert (pages.fetched, pages.attempts[3]) == ([1, 2, 1, 2], (2, 1))


async def test_steps_are_shown_with_their_stage_and_told_in_the_history(memory: SharedStore):
    workflow = WorkflowBuilder("steps", input=Doc).pipe(Pages().stage(in_thread=False)).build()
    async with memory.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await run.result()

        (shown,) = (await run.describe()).stages or ()
        events = [event for event in await run.history() if event.type == "step.recorded"]

    assert shown.steps == ("fetch 1", "fetch 2")
    assert [(e.stage_id, e.execution, e.position, e.name) for e in events] == [
        ("stepwise", 1, 0, "fetch 1"),
        ("stepwise", 1, 1, "fetch 2"),
    ]


async def test_the_next_owner_is_given_the_steps_of_the_one_before(store: SharedStore):
    gate, fetched = Gate(), list[str]()

    def fetch() -> str:
        fetched.append("once")
        return "x" * LARGE

    @stage("held")
    async def held(ctx: StageContext[Doc]) -> int:
        page = await ctx.step("fetch", fetch)
        await gate.admit(ctx)
        return len(page)

    workflow = WorkflowBuilder("w", input=Doc).pipe(held).build()
    async with store.supervisor(workflow, drain_grace=0.0) as first:
        run = await first.start(workflow, Doc(text="x"))
        await until(lambda: gate.entered)
    gate.open()
    async with store.supervisor(workflow) as second:
        assert await second.run(run.id).result(timeout=10) == LARGE
    assert fetched == ["once"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_steps_of_runs_that_run_together_share_their_appends(migrated_url: str):
    ready, way = list[str](), anyio.Event()

    @stage("one")
    async def one(ctx: StageContext[Doc]) -> int:
        ready.append(ctx.run_id)
        await way.wait()
        return await ctx.step("first", int) + await ctx.step("second", int)

    workflow = WorkflowBuilder("w", input=Doc).pipe(one).build()
    with CountedWire(migrated_url) as wire:
        async with on_postgres(wire.url).supervisor(workflow) as supervisor:
            runs = await supervisor.start_many(workflow, [Doc(text=str(n)) for n in range(TOGETHER)])
            await until(lambda: len(ready) == TOGETHER)
            wire.begin()
            way.set()
            assert [await run.result() for run in runs] == [0] * TOGETHER
    # Two steps and an end each; one by one they would be three times as many as there are runs.
    assert wire.sent["append_owned"] <= TOGETHER
