"""The instruments that users test their own workflows with."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import anyio
import pytest
from pydantic import BaseModel

from kernel import (
    CancelRun,
    CheckContext,
    CreateRun,
    Event,
    ExecuteJob,
    Failed,
    FlushOutbox,
    FlushOutboxResult,
    InvalidConfig,
    InvalidInput,
    InvalidOutput,
    InvalidStage,
    InvalidWorkflow,
    MissingOutput,
    NonRetryable,
    NotReady,
    Ready,
    RetryAfter,
    RetryPolicy,
    StageContext,
    StageResult,
    Suspend,
    WorkflowBuilder,
    batch_stage,
    plugin,
    stage,
)
from runtime.testing import (
    CollectingEventSink,
    FakeClock,
    InMemoryBlobStore,
    MemoryPersistence,
    check_stage,
    memory_kernel,
    run_stage,
    run_workflow,
)
from tests.runtime.gates import Doc, Shout, echo, three_stages

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)


class Batch(BaseModel):
    polls: int


@stage("flaky", retry=RetryPolicy(max_attempts=3, initial_interval=HOUR, max_interval=HOUR))
async def flaky(ctx: StageContext[Doc, Shout]) -> Doc:
    if ctx.attempt <= ctx.config.times:
        raise ConnectionError(f"attempt {ctx.attempt}")
    return Doc(text=f"{ctx.input.text} at attempt {ctx.attempt}")


@batch_stage("patient")
async def patient(ctx: StageContext[Doc, Shout]) -> Suspend[Batch] | Doc:
    return Suspend(state=Batch(polls=0), poll_interval=HOUR, max_wait=timedelta(days=2))


@patient.check
async def patient_ready(state: Batch, ctx: CheckContext[Shout]) -> Ready[Doc] | NotReady | Failed:
    if state.polls < 3:
        return NotReady(state=Batch(polls=state.polls + 1))
    return Ready(Doc(text=f"after {state.polls}"), metrics={"total_cost": 0.5})


FLAKY = WorkflowBuilder("flaky", input=Doc, output=Doc).pipe(flaky).build()
PATIENT = WorkflowBuilder("patient", input=Doc, output=Doc).pipe(patient).build()


# -- whole workflows ---------------------------------------------------------------------------------------------------


async def test_a_workflow_runs_to_its_end_and_tells_everything():
    finished = await run_workflow(echo(), Doc(text="ab"), config={"repeat": {"times": 2}})
    assert (finished.status, finished.output, finished.error) == ("COMPLETED", Doc(text="abab"), None)
    assert finished.stage("repeat").status == "COMPLETED"
    assert [event.seq for event in finished.events] == list(range(1, len(finished.events) + 1))
    assert [event.type for event in finished.events] == [
        "run.created",
        "run.started",
        "stage.started",
        "stage.completed",
        "run.completed",
    ]


async def test_hours_between_attempts_take_no_time_and_are_counted_by_the_clock():
    with anyio.fail_after(10):
        finished = await run_workflow(FLAKY, Doc(text="x"), config={"flaky": {"times": 2}})
    assert finished.output == Doc(text="x at attempt 3")
    started = [event.at for event in finished.events if event.type == "stage.started"]
    due = [event.due_at for event in finished.events if event.type == "stage.retrying"]
    assert len(started) == 3
    assert started[1:] >= due


async def test_hours_between_polls_take_no_time():
    with anyio.fail_after(10):
        finished = await run_workflow(PATIENT, Doc(text="x"))
    assert finished.output == Doc(text="after 3")
    assert finished.stage("patient").metrics == {"total_cost": 0.5}


async def test_a_failed_run_is_an_outcome_and_no_exception():
    finished = await run_workflow(FLAKY, Doc(text="x"), config={"flaky": {"times": 9}})
    assert (finished.status, finished.output) == ("FAILED", None)
    assert finished.error is not None
    assert (finished.error.type, finished.error.message) == ("ConnectionError", "attempt 3")
    assert finished.stage("flaky").attempt == 3


async def test_what_cannot_be_started_is_refused():
    with pytest.raises(InvalidInput):
        await run_workflow(echo(), {"txet": "x"})  # type: ignore[arg-type] - the mistake
    with pytest.raises(InvalidConfig):
        await run_workflow(echo(), Doc(text="x"), config={"repeat": {"times": "x"}})


async def test_services_are_made_for_the_run_and_closed():
    log: list[str] = []

    @asynccontextmanager
    async def greeter():
        log.append("open")
        yield "hello"
        log.append("closed")

    @stage("greet")
    async def greet(ctx: StageContext[Doc]) -> Doc:
        return Doc(text=ctx.service("greeter", str))

    workflow = WorkflowBuilder("greet", input=Doc, output=Doc).pipe(greet).build()
    finished = await run_workflow(workflow, Doc(text="x"), services={"greeter": greeter})
    assert (finished.output, log) == (Doc(text="hello"), ["open", "closed"])


# -- one body ----------------------------------------------------------------------------------------------------------


@stage("sum", timeout=timedelta(seconds=5))
async def add(ctx: StageContext[Doc, Shout]) -> Doc:
    step = await ctx.step("step", lambda: "!")
    await ctx.storage.put("seen", ctx.input.text.encode())
    stored = await ctx.storage.get("seen")
    ctx.log("info", "added")
    ctx.progress(1)
    return Doc(text=f"{stored.decode()}{ctx.require(flaky).text}{ctx.config.times}{ctx.attempt}{step}")


@stage("blocking")
def blocking(ctx: StageContext[Doc]) -> StageResult[Doc]:
    ctx.storage.blocking.put("k", {"n": 1})
    return StageResult(Doc(text=str(ctx.storage.blocking.get("k"))), metrics={"words": 2})


async def test_a_body_is_called_with_what_a_run_would_give_it():
    result = await run_stage(add, Doc(text="a"), config={"times": 4}, outputs={flaky: Doc(text="b")}, attempt=2)
    assert result == StageResult(Doc(text="ab42!"))
    by_id = await run_stage(add, Doc(text="a"), config=Shout(times=4), outputs={"flaky": Doc(text="b")})
    assert by_id == StageResult(Doc(text="ab41!"))


async def test_a_plain_function_is_called_in_a_thread_and_its_metrics_are_kept():
    result = await run_stage(blocking, Doc(text="x"))
    assert isinstance(result, StageResult)
    assert (result.output, result.metrics) == (Doc(text="{'n': 1}"), {"words": 2.0})


@pytest.mark.parametrize("error", [ValueError("plain"), NonRetryable("final"), RetryAfter(5, "later")])
async def test_what_a_body_raises_is_raised_as_it_is(error: Exception):
    @stage("raise")
    async def raising(ctx: StageContext[Doc]) -> Doc:
        raise error

    with pytest.raises(type(error)) as caught:
        await run_stage(raising, Doc(text="x"))
    assert caught.value is error


async def test_a_body_alone_is_held_to_its_schemas_and_its_timeout():
    @stage("slow", timeout=timedelta(milliseconds=10))
    async def slow(ctx: StageContext[Doc]) -> Doc:
        await anyio.sleep_forever()
        return ctx.input

    @stage("wrong")
    async def wrong(ctx: StageContext[Doc]) -> Doc:
        return {"txet": "x"}  # type: ignore[return-value] - the mistake

    with pytest.raises(TimeoutError):
        await run_stage(slow, Doc(text="x"))
    with pytest.raises(InvalidOutput):
        await run_stage(wrong, Doc(text="x"))
    with pytest.raises(InvalidInput):
        await run_stage(add, {"txet": "x"})  # type: ignore[arg-type] - the mistake
    with pytest.raises(InvalidConfig):
        await run_stage(add, Doc(text="x"), config={"tmies": 2, "times": "x"})
    with pytest.raises(MissingOutput):
        await run_stage(add, Doc(text="x"))


async def test_a_service_that_is_not_given_is_named():
    @stage("needy")
    async def needy(ctx: StageContext[Doc]) -> Doc:
        return Doc(text=ctx.service("http", str))

    with pytest.raises(InvalidStage, match='"http"'):
        await run_stage(needy, Doc(text="x"))
    result = await run_stage(needy, Doc(text="x"), services={"http": lambda: "client"})
    assert result == StageResult(Doc(text="client"))


async def test_a_batch_stage_suspends_and_resumes_and_its_check_answers():
    @batch_stage("embed")
    async def embed(ctx: StageContext[Doc, Shout, Batch]) -> Suspend[Batch] | Doc:
        if ctx.resume_state is not None:
            return Doc(text=f"resumed {ctx.resume_state.polls}")
        return Suspend(state=Batch(polls=0), poll_interval=HOUR)

    @embed.check
    def ready(state: Batch, ctx: CheckContext[Shout]) -> Ready[Doc] | NotReady | Failed:
        match state.polls:
            case 0:
                return NotReady(next_check_in=HOUR)
            case 1:
                return Failed("lost", retry=True)
            case _:
                return Ready(Doc(text=str(ctx.config.times)))

    suspended = await run_stage(embed, Doc(text="x"))
    assert suspended == Suspend(state=Batch(polls=0), poll_interval=HOUR)
    resumed = await run_stage(embed, Doc(text="x"), resume_state=Batch(polls=5))
    assert resumed == StageResult(Doc(text="resumed 5"))
    assert await check_stage(embed, Batch(polls=0)) == NotReady(next_check_in=HOUR)
    assert await check_stage(embed, Batch(polls=1)) == Failed("lost", retry=True)
    assert await check_stage(embed, Batch(polls=2), config={"times": 7}) == Ready(Doc(text="7"))


# -- the kernel by hand ------------------------------------------------------------------------------------------------


async def test_a_memory_kernel_carries_out_commands_and_runs_nothing_by_itself():
    clock = FakeClock()
    kernel = memory_kernel(workflows=[FLAKY], clock=clock)
    run_id = (await kernel.dispatch(CreateRun(workflow_id="flaky", input=Doc(text="x")))).run_id
    job = ExecuteJob(run_id=run_id, stage_id="flaky")
    first = await kernel.dispatch(job)
    assert (first.outcome, first.retryable, first.ghost) == ("failed", True, False)
    assert (await kernel.dispatch(job)).ghost  # it is not due
    clock.advance(HOUR)
    second = await kernel.dispatch(job)
    assert (second.outcome, second.output) == ("completed", {"text": "x at attempt 2"})
    assert (await kernel.ports.store.load(run_id)).head.head.status == "COMPLETED"


async def test_a_memory_kernel_has_services_steps_and_logs():
    opened: list[str] = []

    @asynccontextmanager
    async def name():
        opened.append("in")
        yield "Ada"
        opened.append("out")

    @stage("work")
    async def work(ctx: StageContext[Doc]) -> Doc:
        ctx.log("info", "working")
        return Doc(text=await ctx.step("name", lambda: ctx.service("name", str)))

    workflow = WorkflowBuilder("work", input=Doc, output=Doc).pipe(work).build()
    kernel = memory_kernel(workflows=[workflow], services={"name": name})
    run_id = (await kernel.dispatch(CreateRun(workflow_id="work", input=Doc(text="x")))).run_id
    result = await kernel.dispatch(ExecuteJob(run_id=run_id, stage_id="work"))
    assert (result.output, opened) == ({"text": "Ada"}, ["in", "out"])
    assert [line.message for line in await kernel.ports.store.read_logs(run_id)] == ["working"]
    assert b"step.recorded" in b"".join(row.events for row in (await kernel.ports.store.load(run_id)).rows)


async def test_two_memory_kernels_share_nothing_and_each_refuses_a_workflow_listed_twice():
    one, other = memory_kernel(workflows=[echo()]), memory_kernel(workflows=[echo()])
    run_id = (await one.dispatch(CreateRun(workflow_id="echo", input=Doc(text="x")))).run_id
    assert run_id not in await other.ports.store.heads([run_id])
    with pytest.raises(InvalidWorkflow, match=r'"echo".*positions 1 and 3'):
        memory_kernel(workflows=[echo(), echo("other"), echo()])


# -- the pieces --------------------------------------------------------------------------------------------------------


async def test_a_fake_clock_moves_only_when_told_to_and_never_back():
    clock = FakeClock()
    assert clock.now() == datetime(2025, 1, 1, tzinfo=UTC)
    clock.advance(90)
    clock.advance(HOUR)
    assert clock.now() == datetime(2025, 1, 1, 1, 1, 30, tzinfo=UTC)
    clock.set(datetime(2026, 1, 1, tzinfo=UTC))
    assert clock.now().year == 2026
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="aware"):
        clock.set(datetime(2026, 1, 1))  # noqa: DTZ001 - the mistake


async def test_the_memory_adapters_go_by_the_names_of_the_interface():
    blobs, clock = InMemoryBlobStore(), FakeClock()
    await blobs.put("k", b"v")
    assert await blobs.get("k") == b"v"
    assert await MemoryPersistence(clock).live_workflows() == []


# -- plugins and sinks -------------------------------------------------------------------------------------------------


async def test_plugins_have_been_told_when_a_run_has_finished() -> None:
    told: list[str] = []

    @plugin("audit", on=["stage.completed", "run.completed"])
    async def audit(event: Event) -> None:
        told.append(event.type)

    flow = three_stages([])
    finished = await run_workflow(flow, Doc(text="a"), plugins=[audit])

    assert finished.status == "COMPLETED"
    assert told == [*["stage.completed"] * 3, "run.completed"]


async def test_a_kernel_by_hand_flushes_to_a_sink_that_collects() -> None:
    sink, flow = CollectingEventSink(), three_stages([])
    kernel = memory_kernel([flow], event_sink=sink)
    await kernel.dispatch(CreateRun(workflow_id=flow.id, input=Doc(text="a")))
    assert len(sink) == 0

    sink.fail_next(ValueError("no"))
    assert (await kernel.dispatch(FlushOutbox())).published == 0
    assert await kernel.dispatch(FlushOutbox()) == FlushOutboxResult(published=0), "it is tried again after a second"


async def test_a_collecting_sink_keeps_events_by_type_until_it_is_cleared() -> None:
    sink, flow = CollectingEventSink(), three_stages([])
    kernel = memory_kernel([flow], event_sink=sink)
    run_id = (await kernel.dispatch(CreateRun(workflow_id=flow.id, input=Doc(text="a")))).run_id
    await kernel.dispatch(CancelRun(run_id=run_id))

    await kernel.dispatch(FlushOutbox())

    assert [event.type for event in sink.of_type("run.cancelled")] == ["run.cancelled"]
    assert [event.seq for event in sink.events] == list(range(1, len(sink) + 1))
    sink.clear()
    assert len(sink) == 0


@stage("rent", queue="gpu", retry=RetryPolicy(max_attempts=3, initial_interval=HOUR, max_interval=HOUR))
async def rent(ctx: StageContext[Doc]) -> Doc:
    if ctx.attempt < 3:
        raise ConnectionError("all are taken")
    return Doc(text=f"{ctx.input.text} at attempt {ctx.attempt}")


@batch_stage("lend", queue="loans")
async def lend(_ctx: StageContext[Doc]) -> Suspend[Batch] | Doc:
    return Suspend(state=Batch(polls=0), poll_interval=HOUR)


@lend.check
async def lent(state: Batch, _ctx: CheckContext) -> Ready[Doc] | NotReady:
    return NotReady(state=Batch(polls=state.polls + 1)) if state.polls < 3 else Ready(Doc(text="lent"))


async def test_stages_of_queues_are_executed_and_their_waits_skipped():
    workflow = WorkflowBuilder("queued", input=Doc, output=Doc).pipe(flaky).pipe(rent).pipe(lend).build()

    with anyio.fail_after(20):
        finished = await run_workflow(workflow, Doc(text="x"))

    assert (finished.status, finished.output) == ("COMPLETED", Doc(text="lent"))
    assert finished.stage("rent").attempt == 3
