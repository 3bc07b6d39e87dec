"""One run, one trace, where two processes had the same attempt, and where creators and cancellers give up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler
from opentelemetry.trace import StatusCode

from kernel import StageContext, WorkflowBuilder, stage
from kernel.ports.jobs import JobTransport
from runtime import Supervisor
from telemetry.run_trace import root_id
from tests.runtime.gates import Doc, Gate
from tests.runtime.shared_store import LateAnswers, SharedStore, in_memory, lose_lease, until
from tests.telemetry.trees import Sent, check_whole

pytestmark = pytest.mark.anyio


def user_span(name: str) -> Any:
    return trace.get_tracer("user").start_as_current_span(name)


def outcomes(sent: Sent, name: str) -> list[str]:
    return sorted(str((span.attributes or {})["leasehold.outcome"]) for span in sent.named(name))


class Unheard:
    """The jobs of a process whose heartbeats never arrive."""

    def __init__(self, jobs: JobTransport) -> None:
        self._jobs = jobs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jobs, name)

    async def heartbeat(self, *_leases: Any, **_named: Any) -> Any:
        await anyio.sleep_forever()


@pytest.mark.parametrize(
    "queue, told",
    [(None, {"run.owner_changed", "stage.retrying"}), ("default", {"stage.retrying"})],
    ids=["actor", "job"],
)
async def test_what_a_lost_lease_had_in_flight_is_sent_once_by_whoever_takes_it_over(
    store: SharedStore, sent: Sent, queue: str | None, told: set[str]
):
    gate = Gate()
    workflow = gate.workflow(stage_id="wait", queue=queue)
    async with store.supervisor(workflow) as loser:
        run = await loser.start(workflow, Doc(text="a"))
        await until(lambda: gate.entered)
        session = await lose_lease(loser)
        async with store.supervisor(workflow) as other:
            await until(lambda: len(gate.entered) == 2)
            gate.open()
            await other.run(run.id).result()

    check_whole(sent.of(run.id))
    assert outcomes(sent, "stage wait") == outcomes(sent, "job.execute") == ["completed", "lost"]
    lost = next(span for span in sent.named("stage wait") if (span.attributes or {})["leasehold.outcome"] == "lost")
    assert (lost.attributes or {})["leasehold.session.id"] == session
    assert all((span.attributes or {})["leasehold.session.id"] for span in sent.named("job.execute"))
    assert lost.status.status_code is StatusCode.ERROR
    assert told <= {event.name for event in sent.root(run.id).events}


async def test_a_host_that_takes_over_from_a_dead_supervisor_goes_on_with_its_trace(store: SharedStore, sent: Sent):
    gate = Gate()
    workflow = gate.workflow(stage_id="wait")
    async with store.supervisor(workflow) as loser:
        run = await loser.start(workflow, Doc(text="a"))
        await until(lambda: gate.entered)
        await lose_lease(loser)
        # What claims for itself again would take the run back.
        loser._claims_here.drain()
        gate.open()
        async with store.host(workflow) as host:

            async def ended() -> bool:
                await host.run_maintenance_tick()
                await host.process_available_jobs()
                return (await run.describe()).completed_at is not None

            await until(ended)

    check_whole(sent.of(run.id))
    assert outcomes(sent, "stage wait") == ["completed", "lost"]


async def test_a_drained_attempt_is_interrupted_and_goes_on_elsewhere_in_the_same_trace(store: SharedStore, sent: Sent):
    gate = Gate()
    workflow = gate.workflow(stage_id="wait")
    async with store.supervisor(workflow, drain_grace=0.01) as first:
        run = await first.start(workflow, Doc(text="a"))
        await until(lambda: gate.entered)
    gate.open()
    async with store.supervisor(workflow) as second:
        await second.run(run.id).result()

    check_whole(sent.of(run.id))
    assert outcomes(sent, "stage wait") == ["completed", "interrupted"]


async def test_a_host_whose_lease_ran_out_does_not_tell_of_the_attempt_too(store: SharedStore, sent: Sent):
    gate = Gate()
    workflow = gate.workflow(stage_id="wait", queue="default")
    async with store.host(workflow, lease=0.5, renew=0.2) as loser, store.host(workflow) as other:
        run = await loser.start(workflow, Doc(text="a"))
        await loser.run_maintenance_tick()
        loser._storage = replace(loser.storage, jobs=cast("JobTransport", Unheard(loser.storage.jobs)))

        async def reaped() -> bool:
            await other.run_maintenance_tick()
            return "stage.retrying" in [event.type for event in await run.history()]

        async def ended() -> bool:
            await other.run_maintenance_tick()
            await other.process_available_jobs()
            return (await run.describe()).completed_at is not None

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(loser.process_available_jobs)
            await until(lambda: gate.entered)
            await until(reaped)
            gate.open()
        await until(ended)

    check_whole(sent.of(run.id))
    assert outcomes(sent, "stage wait") == ["completed", "lost"]


async def test_a_body_is_in_its_runs_trace_whoever_asked_for_jobs_to_be_processed(memory: SharedStore, sent: Sent):
    workflow = Gate(opened=True).workflow(stage_id="wait", queue="default")
    async with memory.host(workflow) as host:
        run = await host.start(workflow, Doc(text="a"))
        with user_span("request") as request:
            await host.run_maintenance_tick()
            await host.process_available_jobs()

    check_whole(sent.of(run.id))
    (executed,) = sent.named("job.execute")
    assert executed.parent is not None
    assert executed.parent.span_id == root_id(run.id)
    assert [link.context.span_id for link in executed.links] == [request.get_span_context().span_id]


async def test_a_body_may_print_its_span_whether_the_run_is_sampled_or_not(
    memory: SharedStore, sampled_by: Callable[[Sampler], Sent]
):
    printed: list[str] = []

    @stage("look")
    async def look(ctx: StageContext[Doc]) -> Doc:
        printed.append(repr(trace.get_current_span()))
        return ctx.input

    sampled_by(ALWAYS_OFF)
    looking = WorkflowBuilder("looking", input=Doc, output=Doc).pipe(look).build()
    async with memory.supervisor(looking) as supervisor:
        run = await supervisor.start(looking, Doc(text="a"))
        await run.result()

    assert f"{root_id(run.id):016x}" in printed[0]


@pytest.mark.parametrize("around", [nullcontext, lambda: user_span("request")], ids=["alone", "in a request"])
async def test_a_run_whose_creator_was_cancelled_before_the_answer_is_one_whole_trace(
    sent: Sent, around: Callable[[], AbstractContextManager[Any]]
):
    store = LateAnswers()
    workflow = WorkflowBuilder("plain", input=Doc, output=Doc).pipe(Gate(opened=True).stage("pass")).build()

    async def start(supervisor: Supervisor) -> None:
        with around():
            await supervisor.start(workflow, Doc(text="a"))

    async with in_memory(store).supervisor(workflow) as supervisor:
        store.late = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start, supervisor)
            await store.stored.wait()
            tasks.cancel_scope.cancel()
        (found,) = (await supervisor.list_runs()).items
        await supervisor.run(found.id).result()

    spans = sent.of(found.id)
    assert sent.root(found.id) in spans
    assert all(span.parent is None or span.parent.span_id in {one.context.span_id for one in spans} for span in spans)
    assert outcomes(sent, "stage pass") == ["completed"]


async def test_a_run_that_was_cancelled_has_its_root_although_the_caller_gave_up(sent: Sent):
    store = LateAnswers()
    workflow = WorkflowBuilder("plain", input=Doc, output=Doc).pipe(Gate(opened=True).stage("pass")).build()
    async with in_memory(store).client(workflow) as client:
        run = await client.start(workflow, Doc(text="a"), run_at=datetime.now(UTC) + timedelta(hours=1))
        store.late = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run.cancel)
            await store.stored.wait()
            tasks.cancel_scope.cancel()

    check_whole(sent.of(run.id))
    assert outcomes(sent, "run plain") == ["cancelled"]


async def test_a_sampler_that_changes_its_mind_is_not_asked_again_about_a_run(
    store: SharedStore, sampled_by: Callable[[Sampler], Sent]
):
    class First(Sampler):
        def __init__(self) -> None:
            self.asked = 0

        def should_sample(self, parent_context, trace_id, name, *args: Any, **named: Any) -> Any:
            self.asked += 1
            inner = ALWAYS_OFF if self.asked == 1 else ALWAYS_ON
            return inner.should_sample(parent_context, trace_id, name, *args, **named)

        def get_description(self) -> str:
            return "First"

    sampler = First()
    sent = sampled_by(ParentBased(sampler))
    workflow = WorkflowBuilder("plain", input=Doc, output=Doc).pipe(Gate(opened=True).stage("pass")).build()
    async with store.client(workflow) as client:
        run = await client.start(workflow, Doc(text="a"))
    async with store.supervisor(workflow) as supervisor:
        await supervisor.run(run.id).result()

    assert sampler.asked == 1
    assert sent.of(run.id) == []


@pytest.mark.parametrize("where", ["still here", "only stored"])
async def test_what_is_asked_of_a_run_that_has_ended_is_linked_to_its_root_and_not_below_it(
    store: SharedStore, sent: Sent, where: str
):
    workflow = WorkflowBuilder("plain", input=Doc, output=Doc).pipe(Gate(opened=True).stage("pass")).build()
    async with store.supervisor(workflow) as supervisor:
        run = await supervisor.start(workflow, Doc(text="a"))
        await run.result()
        if where == "still here":
            assert not await run.cancel("late")
    if where == "only stored":
        async with store.client(workflow) as client:
            assert not await client.run(run.id).cancel("late")

    whole = [span for span in sent.spans if span.context.trace_id == sent.root(run.id).context.trace_id]
    check_whole(whole)
    (late,) = sent.named("run.cancel")
    assert late not in whole
    assert [link.context.span_id for link in late.links] == [root_id(run.id)]
