"""One run, one trace: whoever creates, drives, polls, cancels or repeats it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from anyio import sleep_forever
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import StatusCode
from structlog.testing import LogCapture

from kernel import (
    CheckContext,
    IdempotencyKeyReused,
    InvalidInput,
    NotReady,
    Ready,
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
from runtime import App, Client
from telemetry.run_trace import own_trace_id, root_id, to_ns
from telemetry.tracing import Tracing
from tests.runtime.gates import Doc, Gate
from tests.runtime.shared_store import SharedStore, dead_owner, lose_lease, until
from tests.telemetry.trees import Sent, check_whole

pytestmark = pytest.mark.anyio

SOON = timedelta(milliseconds=1)


def user_span(name: str) -> Any:
    return trace.get_tracer("user").start_as_current_span(name)


@stage("fetch")
async def fetch(ctx: StageContext[Doc]) -> Doc:
    with user_span("GET"):
        return ctx.input


@stage("render")
def render(ctx: StageContext[Doc]) -> Doc:
    with user_span("write"):
        return Doc(text=ctx.input.text.upper())


two_stages = WorkflowBuilder("two", input=Doc, output=Doc).pipe(fetch).pipe(render).build()


def failing(times: int, *, attempts: int = 3) -> Workflow[Doc, Doc]:
    calls = [0]

    @stage("flaky", retry=RetryPolicy(max_attempts=attempts, initial_interval=SOON))
    async def flaky(ctx: StageContext[Doc]) -> Doc:
        calls[0] += 1
        if calls[0] <= times:
            raise ValueError("not yet")
        return ctx.input

    return WorkflowBuilder("failing", input=Doc, output=Doc).pipe(flaky).build()


def gated(gate: Gate) -> Workflow[Doc, Doc]:
    return WorkflowBuilder("gated", input=Doc, output=Doc).pipe(gate.stage("wait")).build()


async def test_a_run_is_one_trace_with_its_commands_bodies_and_what_they_did(store: SharedStore, sent: Sent):
    async with store.supervisor(two_stages) as supervisor:
        run = await supervisor.start(two_stages, Doc(text="a"))
        await run.result()

    assert sent.tree(run.id) == [
        ["run.create", []],
        ["job.execute", [["stage fetch", [["GET", []]]]]],
        ["job.execute", [["stage render", [["write", []]]]]],
    ]
    check_whole(sent.of(run.id))
    root = sent.root(run.id)
    assert root.name == "run two"
    assert root.parent is None
    said = dict(root.attributes or {})
    assert said.pop("leasehold.session.id")
    assert said == {
        "leasehold.run.id": run.id,
        "leasehold.workflow.id": "two",
        "leasehold.workflow.version": "1",
        "leasehold.outcome": "completed",
    }


async def test_a_body_says_which_attempt_of_which_stage_it_is(store: SharedStore, sent: Sent):
    async with store.supervisor(two_stages) as supervisor:
        run = await supervisor.start(two_stages, Doc(text="a"))
        await run.result()
        session_id = supervisor.stats().session_id

    for name in ("stage fetch", "job.execute"):
        said = dict(sent.named(name)[0].attributes or {})
        assert said == {
            "leasehold.run.id": run.id,
            "leasehold.workflow.id": "two",
            "leasehold.workflow.version": "1",
            "leasehold.stage.id": "fetch",
            "leasehold.stage.execution": 1,
            "leasehold.stage.attempt": 1,
            "leasehold.session.id": session_id,
            "leasehold.outcome": "completed",
        }


async def test_the_creators_span_is_the_parent_of_the_run(store: SharedStore, sent: Sent):
    async with store.supervisor(two_stages) as supervisor:
        with user_span("request") as span:
            run = await supervisor.start(two_stages, Doc(text="a"))
        await run.result()

    root = sent.root(run.id)
    assert root.parent is not None
    assert root.parent.span_id == span.get_span_context().span_id
    assert root.context.trace_id == span.get_span_context().trace_id
    create = sent.named("run.create")[0]
    assert create.parent is not None
    assert create.parent.span_id == span.get_span_context().span_id


async def test_the_trace_goes_on_in_whatever_process_executes_the_run(store: SharedStore, sent: Sent):
    async with store.client(two_stages) as client:
        with user_span("request") as span:
            run = await client.start(two_stages, Doc(text="a"))
    async with store.supervisor(two_stages) as supervisor:
        await supervisor.run(run.id).result()

    assert sent.root(run.id).context.trace_id == span.get_span_context().trace_id
    names = [name for name, _ in sent.tree(run.id)]
    assert names == ["job.execute", "job.execute"]


async def test_what_else_a_task_has_in_its_context_when_it_starts_a_run_is_nothing_of_the_runs(
    memory: SharedStore, sent: Sent
):
    async with memory.supervisor(two_stages) as supervisor:
        with user_span("first"):
            first = await supervisor.start(two_stages, Doc(text="a"))
        second = await supervisor.start(two_stages, Doc(text="b"))
        await first.result()
        await second.result()

    assert sent.root(first.id).context.trace_id != sent.root(second.id).context.trace_id


async def test_a_failed_attempt_has_its_exception_and_the_run_tells_of_the_retry(store: SharedStore, sent: Sent):
    workflow = failing(1)
    async with store.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="a"))
        await run.result()

    first, second = sorted(sent.named("stage flaky"), key=lambda span: span.start_time or 0)
    assert first.status.status_code is StatusCode.ERROR
    assert (first.attributes or {})["leasehold.outcome"] == "retrying"
    said = dict(first.events[0].attributes or {})
    assert (said["exception.type"], said["exception.message"]) == ("ValueError", "not yet")
    assert "flaky" in str(said["exception.stacktrace"])
    assert (second.attributes or {})["leasehold.outcome"] == "completed"
    event = sent.root(run.id).events[0]
    assert event.name == "stage.retrying"
    assert dict(event.attributes or {})["exception.type"] == "ValueError"
    assert sent.root(run.id).status.status_code is StatusCode.UNSET


async def test_the_root_of_a_failed_run_has_its_error(store: SharedStore, sent: Sent):
    workflow = failing(1, attempts=1)
    async with store.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="a"))
        with pytest.raises(RunFailed):
            await run.result()

    root = sent.root(run.id)
    assert root.status.status_code is StatusCode.ERROR
    assert (root.attributes or {})["leasehold.outcome"] == "failed"
    assert [event.name for event in root.events] == ["exception"]
    assert (sent.named("stage flaky")[0].attributes or {})["leasehold.outcome"] == "failed"


def batched() -> Workflow[Doc, Doc]:
    """Suspends, and is ready at the second look."""
    looks = [0]

    @batch_stage("batch", output=Doc)
    async def batch(ctx: StageContext[Doc]) -> Suspend[Doc]:
        return Suspend(state=Doc(text="job"), poll_interval=SOON)

    @batch.check
    async def look(state: Doc, ctx: CheckContext) -> Ready[Doc] | NotReady:
        looks[0] += 1
        with user_span("GET"):
            return Ready(Doc(text="done")) if looks[0] > 1 else NotReady()

    return WorkflowBuilder("batched", input=Doc, output=Doc).pipe(batch).build()


async def test_looks_at_a_suspended_stage_are_spans_and_the_suspension_an_event(store: SharedStore, sent: Sent):
    workflow = batched()
    async with store.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="a"))
        await run.result()

    check_looks(sent, run.id)


@pytest.mark.parametrize("by", ["calls of a host", "a supervisor that serves its queue"])
async def test_looks_that_jobs_make_are_spans_of_the_same_trace_and_the_last_one_sends_the_root(
    store: SharedStore, sent: Sent, by: str
):
    workflow = batched()
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(store.host(workflow))
        run = await host.start(workflow, Doc(text="a"))
        await host.run_maintenance_tick()
        if by == "calls of a host":
            while (await run.describe()).status != "COMPLETED":
                await host.process_available_jobs(10)
        else:
            await stack.enter_async_context(store.supervisor(workflow, queues=("default",)))
            await run.result()

    check_looks(sent, run.id)


async def test_user_code_of_a_look_that_a_host_makes_is_sampled_as_its_run_is(
    memory: SharedStore, sampled_by: Callable[[Sampler], Sent]
):
    sent = sampled_by(ParentBased(ALWAYS_OFF))
    workflow = batched()
    async with memory.host(workflow) as host:
        run = await host.start(workflow, Doc(text="a"))
        await host.run_maintenance_tick()
        while (await run.describe()).status != "COMPLETED":
            await host.process_available_jobs(10)

    assert [span.name for span in sent.spans] == []


def check_looks(sent: Sent, run_id: str) -> None:
    checks = sorted(sent.named("check batch"), key=lambda span: span.start_time or 0)
    assert [(span.attributes or {})["leasehold.outcome"] for span in checks] == ["not_ready", "ready"]
    assert ["check batch", [["GET", []]]] in sent.tree(run_id)
    assert "stage.suspended" in [event.name for event in sent.root(run_id).events]
    assert (sent.named("stage batch")[0].attributes or {})["leasehold.outcome"] == "suspended"
    check_whole(sent.of(run_id))


async def test_the_owner_of_a_run_sends_its_root_when_a_process_that_does_not_trace_cancels_it(
    store: SharedStore, sampled_by: Callable[[Sampler], Sent]
):
    gate = Gate()
    workflow = gated(gate)
    async with store.client(workflow) as client:
        sent = sampled_by(ALWAYS_ON)
        async with store.supervisor(workflow) as supervisor:
            run = await supervisor.start(workflow, Doc(text="a"))
            await until(lambda: gate.entered)
            await client.run(run.id).cancel("enough")
            await until(lambda: supervisor.stats().actors == 0)

        described = await client.run(run.id).describe()

    root, (execute,) = sent.root(run.id), sent.named("job.execute")
    assert (root.attributes or {})["leasehold.outcome"] == "cancelled"
    # It covers what had been interrupted by then.
    assert root.end_time in (to_ns(described.completed_at), execute.end_time)
    assert execute.parent is not None
    assert execute.parent.span_id == root.context.span_id


async def test_a_run_that_ended_without_its_owner_who_died_has_its_root_from_whoever_takes_it_over(
    store: SharedStore, sent: Sent
):
    workflow = gated(Gate())
    async with store.client(workflow) as client:
        run = await client.start(workflow, Doc(text="a"))
        async with dead_owner(client):
            await client.run(run.id).cancel()
        assert not sent.named("run gated")

        async with store.supervisor(workflow):
            await until(lambda: sent.named("run gated"))
        described = await run.describe()

    root, (cancel,) = sent.root(run.id), sent.named("run.cancel")
    assert root.end_time == to_ns(described.completed_at)
    assert cancel.parent is not None
    assert cancel.parent.span_id == root.context.span_id


async def test_a_cancelled_run_is_one_trace_with_the_command_that_cancelled_it(store: SharedStore, sent: Sent):
    gate = Gate()
    workflow = gated(gate)
    async with store.supervisor(workflow) as supervisor, store.client(workflow) as client:
        run = await supervisor.start(workflow, Doc(text="a"))
        await until(lambda: gate.entered)
        await client.run(run.id).cancel("enough")
        with pytest.raises(RunCancelled):
            await run.result()
        await until(lambda: sent.named("stage wait"))

    assert (sent.root(run.id).attributes or {})["leasehold.outcome"] == "cancelled"
    cancel = sent.named("run.cancel")[0]
    assert cancel.parent is not None
    assert cancel.parent.span_id == root_id(run.id)


async def test_a_rerun_is_a_second_root_in_the_same_trace(store: SharedStore, sent: Sent):
    async with store.supervisor(two_stages) as supervisor:
        run = await supervisor.start(two_stages, Doc(text="a"))
        await run.result()
        await run.rerun_from("render")
        await run.result()
        await until(lambda: len(sent.named("run two")) == 2)

    first = sent.root(run.id)
    second = next(span for span in sent.named("run two") if span is not first)
    assert second.context.trace_id == first.context.trace_id
    assert [link.context.span_id for link in second.links] == [first.context.span_id]
    assert "run.rerun" in [event.name for event in second.events]
    below = [span for span in sent.of(run.id) if span.parent and span.parent.span_id == second.context.span_id]
    assert "job.execute" in {span.name for span in below}


async def test_commands_on_somebody_elses_run_are_in_the_callers_trace_and_linked_to_the_run(
    memory: SharedStore, sent: Sent
):
    gate = Gate()
    workflow = gated(gate)
    async with memory.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="a"))
        await until(lambda: gate.entered)
        with user_span("request") as span:
            await run.cancel()
        with pytest.raises(RunCancelled):
            await run.result()

    cancel = sent.named("run.cancel")[0]
    assert cancel.context.trace_id == span.get_span_context().trace_id
    assert [link.context.span_id for link in cancel.links] == [root_id(run.id)]


async def test_a_run_that_jobs_drive_is_one_trace_too(store: SharedStore, sent: Sent):
    async with store.client(two_stages) as client:
        run = await client.start(two_stages, Doc(text="a"))
    async with store.host(two_stages) as host:
        await host.run_maintenance_tick()
        while (await host.process_available_jobs()).processed:
            pass

    spans = sent.of(run.id)
    assert [name for name, _ in sent.tree(run.id) if name == "job.execute"] == ["job.execute"] * 2
    assert sent.root(run.id).name == "run two"
    check_whole(spans)


async def test_an_append_is_linked_to_the_commands_that_it_carries(postgres: SharedStore, sent: Sent):
    async with postgres.supervisor(two_stages) as supervisor:
        run = await supervisor.start(two_stages, Doc(text="a"))
        await run.result()

    jobs = {span.context.span_id for span in sent.named("job.execute")}
    linked = {link.context.span_id for span in sent.named("append") for link in span.links}
    assert jobs <= linked
    assert all((span.attributes or {})["leasehold.append.rows"] == 1 for span in sent.named("append"))


@pytest.mark.parametrize("sampler", [ALWAYS_OFF, ParentBased(TraceIdRatioBased(0.0))], ids=["off", "none"])
async def test_of_a_run_that_is_not_sampled_nothing_is_sent_not_even_by_user_code(
    memory: SharedStore, sampled_by: Callable[[Sampler], Sent], sampler: Sampler
):
    sent = sampled_by(sampler)
    async with memory.supervisor(two_stages) as supervisor:
        run = await supervisor.start(two_stages, Doc(text="a"))
        await run.result()

    assert sent.spans == ()


async def test_user_code_of_a_run_that_is_not_sampled_begins_no_trace_of_its_own(
    memory: SharedStore, sampled_by: Callable[[Sampler], Sent]
):
    class RunsAreNot(Sampler):
        def should_sample(self, parent_context, trace_id, name, *args: Any, **named: Any) -> Any:
            inner = ALWAYS_OFF if name.startswith("run ") else ALWAYS_ON
            return inner.should_sample(parent_context, trace_id, name, *args, **named)

        def get_description(self) -> str:
            return "RunsAreNot"

    sent = sampled_by(ParentBased(RunsAreNot()))
    async with memory.supervisor(two_stages) as supervisor:
        run = await supervisor.start(two_stages, Doc(text="a"))
        await run.result()

    assert sent.spans == ()


async def test_the_ids_of_a_run_that_is_not_sampled_are_passed_on_all_the_same(
    store: SharedStore, sampled_by: Callable[[Sampler], Sent]
):
    found: list[trace.SpanContext] = []

    @stage("look")
    async def look(ctx: StageContext[Doc]) -> Doc:
        found.append(trace.get_current_span().get_span_context())
        return ctx.input

    sampled_by(ALWAYS_OFF)
    looking = WorkflowBuilder("looking", input=Doc, output=Doc).pipe(look).build()
    async with store.client(looking) as client:
        claimed = await client.start(looking, Doc(text="a"))
    async with store.supervisor(looking) as supervisor:
        await supervisor.run(claimed.id).result()
        created = await supervisor.start(looking, Doc(text="b"))
        await created.result()

    assert [(one.trace_id, one.span_id) for one in found] == [
        (own_trace_id(run.id), root_id(run.id)) for run in (claimed, created)
    ]
    assert not any(one.trace_flags.sampled for one in found)


@pytest.mark.parametrize("answer", [ALWAYS_ON, ALWAYS_OFF], ids=["yes", "no"])
async def test_the_sampler_is_asked_once_of_a_run_by_whoever_creates_and_drives_it(
    memory: SharedStore, sampled_by: Callable[[Sampler], Sent], answer: Sampler
):
    asked: list[str] = []

    class Counting(Sampler):
        def should_sample(self, parent_context, trace_id, name, *args: Any, **named: Any) -> Any:
            asked.append(name)
            return answer.should_sample(parent_context, trace_id, name, *args, **named)

        def get_description(self) -> str:
            return "Counting"

    sent = sampled_by(ParentBased(Counting()))
    plain = WorkflowBuilder("plain", input=Doc, output=Doc).pipe(Gate(opened=True).stage("pass")).build()
    async with memory.supervisor(plain) as supervisor:
        run = await supervisor.start(plain, Doc(text="a"))
        await run.result()

    assert asked == ["run plain"]
    assert bool(sent.named("run plain")) is (answer is ALWAYS_ON)


async def test_creator_and_worker_agree_which_runs_are_sampled(
    store: SharedStore, sampled_by: Callable[[Sampler], Sent]
):
    sent = sampled_by(ParentBased(TraceIdRatioBased(0.5)))
    async with store.client(two_stages) as client:
        runs = [await client.start(two_stages, Doc(text=str(number))) for number in range(12)]
    created = {(span.attributes or {})["leasehold.run.id"] for span in sent.named("run.create")}
    async with store.supervisor(two_stages) as supervisor:
        for run in runs:
            await supervisor.run(run.id).result()

    assert {(span.attributes or {})["leasehold.run.id"] for span in sent.named("run two")} == created
    for run in runs:
        check_whole(sent.of(run.id))


async def test_a_repeated_start_under_one_key_does_not_invent_a_run(memory: SharedStore, sent: Sent):
    async with memory.supervisor(two_stages) as supervisor:
        first = await supervisor.start(two_stages, Doc(text="a"), idempotency_key="k")
        again = await supervisor.start(two_stages, Doc(text="a"), idempotency_key="k")
        await first.result()

    assert again.id == first.id
    assert {(span.attributes or {}).get("leasehold.run.id") for span in sent.spans} <= {first.id, None}
    assert not any(span.links for span in sent.named("run.create"))
    for one in {span.context.trace_id for span in sent.spans}:
        check_whole([span for span in sent.spans if span.context.trace_id == one])


async def test_no_payload_is_in_a_trace(store: SharedStore, sent: Sent):
    async with store.supervisor(two_stages) as supervisor:
        run = await supervisor.start(two_stages, Doc(text="confidential"), metadata={"a": "confidential"})
        await run.result()

    assert len(sent.of(run.id)) > 5
    assert "confidential" not in " ".join(span.to_json() for span in sent.spans).lower()


async def test_payloads_are_in_the_trace_where_they_are_asked_for_and_redacted_first(memory: SharedStore, sent: Sent):
    seen: list[str] = []

    def redact(name: str, value: Any) -> Any:
        seen.append(name)
        return {**value, "text": "***"} if name == "run.input" else value

    app = App(workflows=[two_stages], redact=redact)
    async with memory.supervisor(app, capture_payloads=True) as supervisor:
        run = await supervisor.start(two_stages, Doc(text="a"))
        await run.result()

    said = dict(sent.named("stage render")[0].attributes or {})
    assert said["leasehold.run.input"] == '{"text": "***"}'
    assert said["leasehold.stage.output"] == '{"text": "A"}'
    assert set(seen) == {"run.input", "stage.output"}


class Broken(SpanProcessor):
    """A processor of the program's that raises in one of its methods."""

    def __init__(self, where: str) -> None:
        self._where = where

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self._where == "on_start":
            raise RuntimeError("a defect of the program's")

    def on_end(self, span: Any) -> None:
        if self._where == "on_end":
            raise RuntimeError("a defect of the program's")


@pytest.mark.parametrize("where", ["on_start", "on_end"])
async def test_a_span_processor_that_raises_harms_no_run(memory: SharedStore, sent: Sent, log: LogCapture, where: str):
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(Broken(where))
    plain = WorkflowBuilder("plain", input=Doc, output=Doc).pipe(Gate(opened=True).stage("pass")).build()
    async with memory.supervisor(plain) as supervisor:
        run = await supervisor.start(plain, Doc(text="a"))
        assert (await run.result()).text == "a"
        history = [event.type for event in await run.history()]

    assert history.count("stage.started") == 1
    assert len([entry for entry in log.entries if entry["event"] == "telemetry.failed"]) <= 1


async def test_a_sampler_that_raises_harms_no_run(memory: SharedStore, sampled_by: Callable[[Sampler], Sent]):
    class Defect(Sampler):
        def should_sample(self, *args: Any, **named: Any) -> Any:
            raise RuntimeError("a defect of the program's")

        def get_description(self) -> str:
            return "Defect"

    sent = sampled_by(Defect())
    plain = WorkflowBuilder("plain", input=Doc, output=Doc).pipe(Gate(opened=True).stage("pass")).build()
    async with memory.client(plain) as client:
        run = await client.start(plain, Doc(text="a"))
    async with memory.supervisor(plain) as supervisor:
        await supervisor.run(run.id).result()

    assert sent.spans == ()


async def test_a_root_that_cannot_be_sent_harms_nobody(
    memory: SharedStore, sent: Sent, monkeypatch: pytest.MonkeyPatch
):
    def defect(*_args: Any) -> None:
        raise RuntimeError("a defect of ours")

    monkeypatch.setattr(Tracing, "_send_root", defect)
    async with memory.supervisor(two_stages) as supervisor:
        first = await supervisor.start(two_stages, Doc(text="a"))
        await first.result()
        await until(lambda: supervisor.stats().actors == 0)
        second = await supervisor.start(two_stages, Doc(text="b"))
        assert (await second.result()).text == "B"


async def test_a_provider_that_is_disabled_is_none(memory: SharedStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider())
    async with memory.supervisor(two_stages) as supervisor:
        run = await supervisor.start(two_stages, Doc(text="a"))
        assert (await run.result()).text == "A"


async def test_a_start_that_is_refused_leaves_no_span_without_its_parent(store: SharedStore, sent: Sent):
    async with store.client(two_stages) as client:
        first = await client.start(two_stages, Doc(text="a"), idempotency_key="k")
        await client.start(two_stages, Doc(text="a"), idempotency_key="k")
        with pytest.raises(IdempotencyKeyReused):
            await client.start(two_stages, Doc(text="b"), idempotency_key="k")
        with pytest.raises(InvalidInput):
            await client.start("two", {"text": 1})

    assert {span.context.trace_id for span in sent.spans} == {span.context.trace_id for span in sent.of(first.id)}
    assert len(sent.named("run.create")) == 1


async def test_a_look_that_its_process_did_not_survive_is_made_again_as_the_same_look(store: SharedStore, sent: Sent):
    begun = [0]

    @batch_stage("batch", output=Doc)
    async def batch(ctx: StageContext[Doc]) -> Suspend[Doc]:
        return Suspend(state=Doc(text="job"), poll_interval=SOON)

    @batch.check
    async def look(state: Doc, ctx: CheckContext) -> Ready[Doc]:
        with user_span("GET"):
            begun[0] += 1
        if begun[0] == 1:
            await sleep_forever()
        return Ready(Doc(text="done"))

    workflow = WorkflowBuilder("batched", input=Doc, output=Doc).pipe(batch).build()
    async with store.supervisor(workflow) as loser:
        run = await loser.start(workflow, Doc(text="a"))
        await until(lambda: begun[0] == 1)
        ends = sent.named("check batch")
        await lose_lease(loser)
        async with store.supervisor(workflow) as other:
            await other.run(run.id).result()

    assert ends == []
    assert len(sent.named("GET")) == 2
    looks = {span.context.span_id for span in sent.named("check batch")}
    assert {span.parent.span_id for span in sent.named("GET") if span.parent} == looks
    assert len(looks) == 1


async def test_values_that_pydantic_quotes_are_taken_out_of_what_is_told_of_an_error(store: SharedStore, sent: Sent):
    @stage("strict", retry=RetryPolicy(max_attempts=2, initial_interval=SOON))
    async def strict(ctx: StageContext[Doc]) -> Doc:
        return Doc.model_validate({"text": {"card": ctx.input.text}})

    workflow = WorkflowBuilder("strict", input=Doc, output=Doc).pipe(strict).build()
    async with store.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="confidential"))
        with pytest.raises(RunFailed, match="confidential"):
            await run.result()

    told = " ".join(span.to_json() for span in sent.spans)
    assert "Input should be a valid string" in told
    assert "confidential" not in told


async def test_clients_that_close_stop_watching(memory: SharedStore, sent: Sent):
    async with memory.client(two_stages) as client:
        assert isinstance(client, Client)
        run = await client.start(two_stages, Doc(text="a"))
    assert [span.name for span in sent.of(run.id)] == ["run.create"]


async def test_a_run_in_the_callers_own_transaction_is_traced(postgres: SharedStore, sent: Sent, anyio_backend: str):
    if anyio_backend != "asyncio":
        pytest.skip("a caller's connection speaks asyncio")
    async with postgres.supervisor(two_stages) as supervisor:
        connection = await asyncpg.connect(postgres.url)
        try:
            with user_span("request") as span:
                async with connection.transaction():
                    run = await supervisor.start(two_stages, Doc(text="a"), connection=connection)
        finally:
            await connection.close()
        await run.result()

    assert sent.root(run.id).context.trace_id == span.get_span_context().trace_id
