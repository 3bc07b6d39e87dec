"""One run seen through its handle: its result, its state, its events, its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from adapters.memory import MemoryPersistence
from adapters.system import SystemClock
from kernel import (
    CheckContext,
    Event,
    Failed,
    InvalidCommand,
    NotReady,
    Ready,
    RetryAfter,
    RetryPolicy,
    RunCancelled,
    RunFailed,
    StageContext,
    Suspend,
    Workflow,
    WorkflowBuilder,
    batch_stage,
    stage,
)
from runtime import App, Client, RunHandle
from tests.runtime.gates import Doc, Gate, echo, failing
from tests.runtime.shared_store import BreakableStore, SharedStore, in_memory, until

pytestmark = pytest.mark.anyio

ECHO = echo()
ONCE = RetryPolicy(max_attempts=1)
AT_ONCE = RetryPolicy(initial_interval=timedelta(0), jitter=False)


class Ticket(BaseModel):
    number: int


@stage("left")
async def left(ctx: StageContext[Doc]) -> Doc:
    return Doc(text=f"{ctx.input.text}<")


@stage("right")
async def right(ctx: StageContext[Doc]) -> Ticket:
    return Ticket(number=len(ctx.input.text))


@stage("nothing")
async def nothing(ctx: StageContext[Doc]) -> None:
    return None


BOTH = WorkflowBuilder("both", input=Doc).parallel([left, right]).build()
NOTHING = WorkflowBuilder("nothing", input=Doc).pipe(nothing).build()


# -- results -----------------------------------------------------------------------------------------------------------


async def test_the_result_is_the_typed_output_of_the_last_stage_or_group(memory: SharedStore):
    async with memory.supervisor(App(workflows=[ECHO, BOTH, NOTHING])) as supervisor:
        assert await (await supervisor.start(ECHO, Doc(text="x"))).result() == Doc(text="x")
        both = await (await supervisor.start(BOTH, Doc(text="x"))).result()
        assert both == {"left": Doc(text="x<"), "right": Ticket(number=1)}
        assert await (await supervisor.start(NOTHING, Doc(text="x"))).result() is None


async def test_a_process_without_the_definition_gets_plain_json(memory: SharedStore):
    async with memory.supervisor(App(workflows=[ECHO, BOTH])) as supervisor, memory.client(App(workflows=[])) as other:
        one = await supervisor.start(ECHO, Doc(text="x"))
        both = await supervisor.start(BOTH, Doc(text="x"))
        assert await other.run(one.id).result() == {"text": "x"}
        assert await other.run(both.id).result() == {"left": {"text": "x<"}, "right": {"number": 1}}
        assert await other.run(one.id, ECHO).result() == Doc(text="x")


async def test_large_outputs_come_back_from_where_they_were_put(store: SharedStore):
    text = "x" * 100_000
    async with store.supervisor(ECHO) as supervisor, store.client(ECHO) as client:
        run = await supervisor.start(ECHO, Doc(text=text))
        assert await run.result() == Doc(text=text)
        assert await client.run(run.id, ECHO).result() == Doc(text=text)
        assert (await client.run(run.id).describe()).output == {"text": text}


async def test_a_failed_run_raises_what_its_body_raised_and_where(store: SharedStore):
    workflow = failing(ZeroDivisionError, retry=ONCE)
    async with store.supervisor(workflow) as supervisor, store.client(workflow) as client:
        run = await supervisor.start(workflow, Doc(text="by nought"))
        for process in (supervisor, client):
            with pytest.raises(RunFailed) as failed:
                await process.run(run.id).result()
            assert (failed.value.run_id, failed.value.workflow_id) == (run.id, "failing")
            assert (failed.value.stage_id, failed.value.attempt) == ("fail", 1)
            assert (failed.value.error.type, failed.value.error.message) == ("ZeroDivisionError", "by nought")
            assert "raise error(ctx.input.text)" in (failed.value.error.traceback or "")


async def test_a_cancelled_run_raises_its_reason_in_every_process(memory: SharedStore):
    gate = Gate()
    workflow = gate.workflow()
    async with memory.supervisor(workflow) as supervisor, memory.client(workflow) as client:
        run = await supervisor.start(workflow, Doc(text="x"))
        assert await client.run(run.id).cancel("not needed") is True
        for process in (supervisor, client):
            with pytest.raises(RunCancelled) as cancelled:
                await process.run(run.id).result()
            assert (cancelled.value.run_id, cancelled.value.reason) == (run.id, "not needed")


async def test_a_timeout_leaves_the_run_alone(memory: SharedStore):
    gate = Gate()
    async with memory.supervisor(gate.workflow()) as supervisor:
        run = await supervisor.start("gated", Doc(text="x"))
        with pytest.raises(TimeoutError, match=rf'Run "{run.id}" has not ended within 0\.05 s; it goes on\.'):
            await run.result(timeout=0.05)
        with pytest.raises(TimeoutError):
            await run.result(timeout=timedelta(milliseconds=50))
        gate.open()
        assert await run.result(timeout=20) == Doc(text="x")


@pytest.mark.parametrize("given", [-1, -0.5, timedelta(seconds=-1), float("nan")])
async def test_a_timeout_that_is_none_is_refused(memory: SharedStore, given: float | timedelta):
    async with memory.client(ECHO) as client:
        run = await client.start(ECHO, Doc(text="x"))
        with pytest.raises(InvalidCommand, match=r"timeout must be 0 s or more") as refused:
            await run.result(timeout=given)
    assert refused.value.field == "timeout"


async def test_a_result_is_waited_for_through_an_outage():
    broken, gate = BreakableStore(MemoryPersistence(SystemClock())), Gate()
    place, workflow = in_memory(broken), gate.workflow()
    results: list[Doc] = []

    async def wait(run: RunHandle[Doc]) -> None:
        results.append(await run.result())

    async with place.supervisor(workflow) as supervisor, place.client(workflow) as client:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: gate.entered)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, run)
            tasks.start_soon(wait, client.run(run.id, workflow))
            broken.down = True
            gate.open()
            await until(lambda: broken.refused["append"] and broken.refused["endings"])
            broken.fail_next["endings"] = 1
            broken.down = False
    assert results == [Doc(text="x")] * 2
    assert broken.fail_next["endings"] == 0


# -- ending it ---------------------------------------------------------------------------------------------------------


async def test_cancelling_what_has_ended_changes_nothing(memory: SharedStore):
    async with memory.supervisor(ECHO) as supervisor:
        run = await supervisor.start(ECHO, Doc(text="x"))
        assert await run.result() == Doc(text="x")
        assert await run.cancel("too late") is False
        assert await run.result() == Doc(text="x")
        assert await run.unpark() is False


async def test_cancelling_a_run_that_nobody_has_begun_ends_it(memory: SharedStore):
    async with memory.client(ECHO) as client:
        run = await client.start(ECHO, Doc(text="x"))
        assert await run.cancel() is True
        assert await run.cancel() is False
        info = await run.describe()
        assert (info.status, info.started_at, [s.status for s in info.stages or ()]) == ("CANCELLED", None, ["SKIPPED"])


# -- looking -----------------------------------------------------------------------------------------------------------


async def test_a_description_follows_the_run_from_waiting_to_its_end(memory: SharedStore):
    gate = Gate()
    workflow = WorkflowBuilder("two", input=Doc, output=Doc).pipe(left).pipe(gate.stage()).build()
    async with memory.client(workflow) as client:
        run = await client.start(workflow, Doc(text="x"))
        info = await run.describe()
        assert (info.status, info.waiting_for, info.owner, info.duration_s) == ("PENDING", "claim", None, None)
        async with memory.supervisor(workflow) as supervisor:
            await until(lambda: gate.entered)
            info = await run.describe()
            assert (info.status, info.waiting_for, info.owner) == ("RUNNING", None, supervisor.stats().session_id)
            assert [(s.id, s.status, s.attempt) for s in info.stages or ()] == [
                ("left", "COMPLETED", 1),
                ("hold", "RUNNING", 1),
            ]
            gate.open()
            await run.result()
        info = await run.describe()
        assert (info.status, info.ended, info.output, info.error) == ("COMPLETED", True, {"text": "x<"}, None)
        assert info.duration_s is not None


async def test_the_duration_is_that_of_the_execution_and_not_of_the_wait_before_it(store: SharedStore):
    async with store.client(ECHO) as client:
        run = await client.start(ECHO, Doc(text="x"))
        waited = (await run.describe()).started_at
        async with store.supervisor(ECHO):
            await run.result()
        info = await run.describe()
    assert waited is None
    assert info.started_at is not None
    assert info.completed_at is not None
    assert info.created_at < info.started_at
    assert info.duration_s == (info.completed_at - info.started_at).total_seconds()


async def test_a_retry_that_succeeds_shows_no_error_and_its_attempt(store: SharedStore):
    @stage("flaky", retry=AT_ONCE)
    async def flaky(ctx: StageContext[Doc]) -> Doc:
        if ctx.attempt == 1:
            raise RetryAfter(0, "once more")
        return ctx.input

    workflow = WorkflowBuilder("flaky", input=Doc, output=Doc).pipe(flaky).build()
    async with store.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await run.result()
        info = await run.describe()
        assert info.stages is not None
        assert (info.stages[0].attempt, info.stages[0].error, info.error) == (2, None, None)
        causes = [event.cause for event in await run.history() if event.type == "stage.retrying"]
        assert causes == ["raised"]


async def test_logs_and_progress_of_a_running_body_can_be_read(store: SharedStore):
    gate = Gate()

    @stage("talk")
    async def talk(ctx: StageContext[Doc]) -> Doc:
        ctx.log("info", "begun", pages=3)
        ctx.progress(0.5, "half")
        await gate.admit(ctx)
        return ctx.input

    workflow = WorkflowBuilder("talking", input=Doc, output=Doc).pipe(talk).build()
    async with store.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))

        async def progress() -> float | None:
            stages = (await run.describe()).stages
            return None if stages is None else stages[0].progress

        assert await until(progress) == 0.5
        lines = await run.logs()
        assert [(line.level, line.message) for line in lines] == [("INFO", "begun"), ("PROGRESS", "half")]
        assert lines[0].fields == {"pages": 3}
        assert await run.logs(after=lines[0].id) == lines[1:]
        gate.open()


async def test_a_suspended_run_is_polled_until_it_is_ready(memory: SharedStore):
    answers: list[Ready[Doc] | NotReady | Failed] = [NotReady(), Ready(Doc(text="at last"))]

    @batch_stage("wait")
    async def wait(ctx: StageContext[Doc]) -> Suspend[Ticket] | Doc:
        return Suspend(state=Ticket(number=7), poll_interval=timedelta(milliseconds=20))

    @wait.check
    async def ready(state: Ticket, ctx: CheckContext) -> Ready[Doc] | NotReady | Failed:
        assert state.number == 7
        return answers.pop(0)

    workflow = WorkflowBuilder("waiting", input=Doc, output=Doc).pipe(wait).build()
    async with memory.supervisor(workflow, passivate_after=0.0) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        assert await run.result() == Doc(text="at last")
    assert answers == []


# -- events ------------------------------------------------------------------------------------------------------------


async def collected(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events if event.type not in ("log", "stage.progress")]


def gap_free(events: list[Event], first: int = 1) -> bool:
    return [event.seq for event in events] == list(range(first, first + len(events)))


async def test_events_are_the_history_and_then_what_happens_up_to_the_end(store: SharedStore):
    gate = Gate()
    workflow: Workflow[Doc, Doc] = WorkflowBuilder("two", input=Doc, output=Doc).pipe(left).pipe(gate.stage()).build()
    async with store.supervisor(workflow) as supervisor, store.client(workflow) as client:
        run = await supervisor.start(workflow, Doc(text="x"))
        watched: list[list[Event]] = []

        async def watch(process: Client, after: int) -> None:
            watched.append(await collected(process.run(run.id).events(after=after)))

        async with anyio.create_task_group() as tasks:
            for process, after in ((supervisor, 0), (client, 0), (client, 3)):
                tasks.start_soon(watch, process, after)
            await until(lambda: gate.entered)
            gate.open()
        history = list(await run.history())
        assert sorted(map(len, watched)) == [len(history) - 3, len(history), len(history)]
        assert all(events == history[-len(events) :] for events in watched)
        assert gap_free(history)
        assert history[-1].type == "run.completed"


async def test_events_of_a_run_that_has_ended_end_at_once(memory: SharedStore):
    async with memory.supervisor(ECHO) as supervisor:
        run = await supervisor.start(ECHO, Doc(text="x"))
        await run.result()
        events = await collected(run.events())
        assert events == await run.history()
        assert await collected(run.events(after=events[-2].seq)) == events[-1:]
        assert await collected(run.events(after=events[-1].seq)) == []


async def test_events_go_on_after_an_outage():
    broken, gate = BreakableStore(MemoryPersistence(SystemClock())), Gate()
    place, workflow = in_memory(broken), gate.workflow()
    async with place.supervisor(workflow), place.client(workflow) as client:
        run = await client.start(workflow, Doc(text="x"))
        seen: list[Event] = []
        async for event in run.events():
            seen.append(event)
            if event.type == "stage.started":
                broken.fail_next["load"] = 1
                gate.open()
    assert gap_free(seen)
    assert seen[-1].type == "run.completed"
    assert broken.fail_next["load"] == 0


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_events_end_with_a_run_that_does_not_complete(memory: SharedStore, end: str):
    gate = Gate()

    @stage("hold", retry=ONCE)
    async def hold(ctx: StageContext[Doc]) -> Doc:
        await gate.admit(ctx)
        raise LookupError

    workflow = WorkflowBuilder("ending", input=Doc, output=Doc).pipe(hold).build()
    async with memory.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        kinds: list[str] = []
        async for event in run.events():
            kinds.append(event.type)
            if event.type == "stage.started":
                await (run.cancel() if end == "cancelled" else anyio.lowlevel.checkpoint())
                gate.open()
        assert kinds[-1] == f"run.{end}"


async def test_lines_of_bodies_come_between_the_events(memory: SharedStore):
    gate = Gate()

    @stage("talk")
    async def talk(ctx: StageContext[Doc]) -> Doc:
        ctx.log("warning", "look")
        ctx.progress(0.25)
        await gate.admit(ctx)
        return ctx.input

    workflow = WorkflowBuilder("talking", input=Doc, output=Doc).pipe(talk).build()
    async with memory.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        seen: list[Any] = []
        async for event in run.events():
            seen.append(event)
            if event.type == "stage.progress":
                gate.open()
    lines = [event for event in seen if event.type in ("log", "stage.progress")]
    assert [(line.type, line.seq) for line in lines] == [("log", 3), ("stage.progress", 3)]
    assert (lines[0].level, lines[0].message, lines[1].progress) == ("WARN", "look", 0.25)


async def test_lines_that_are_known_already_come_in_order_of_time(memory: SharedStore):
    @stage("talk")
    async def talk(ctx: StageContext[Doc]) -> Doc:
        ctx.log("info", "look")
        return ctx.input

    workflow = WorkflowBuilder("talking", input=Doc, output=Doc).pipe(talk).build()
    async with memory.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await run.result()
        await until(run.logs)
        seen = [event async for event in run.events()]

    assert [event.type for event in seen[-4:]] == ["stage.started", "log", "stage.completed", "run.completed"]
    assert [event.seq for event in seen[-4:]] == [3, 3, 4, 5]


async def test_a_watcher_that_goes_away_disturbs_nobody(memory: SharedStore):
    gate = Gate()
    async with memory.supervisor(gate.workflow()) as supervisor:
        run = await supervisor.start("gated", Doc(text="x"))
        async for event in run.events():
            if event.type == "stage.started":
                break
        with anyio.move_on_after(0.05):
            async for _ in run.events(after=3):
                pytest.fail("nothing happens")
        gate.open()
        assert await run.result() == Doc(text="x")
