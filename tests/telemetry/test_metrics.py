"""Everything is counted once, wherever it happens, under documented names and never by run."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from kernel import RetryPolicy, RunFailed, StageContext, WorkflowBuilder, stage
from runtime import App
from telemetry import names
from telemetry.metrics import Meters, find_meters, use_meters
from tests.runtime.gates import Doc, Gate
from tests.runtime.shared_store import SharedStore, until
from tests.telemetry.metered import Metered, set_up

pytestmark = pytest.mark.anyio

SOON = timedelta(milliseconds=1)
UNBOUNDED = {names.RUN_ID, names.SESSION_ID, names.STAGE_ATTEMPT, names.STAGE_EXECUTION}


@stage("copy")
async def copy(ctx: StageContext[Doc]) -> Doc:
    return ctx.input


@stage("render", queue="renders")
async def render(ctx: StageContext[Doc]) -> Doc:
    return ctx.input


copying = WorkflowBuilder("copying", input=Doc, output=Doc).pipe(copy).build()
rendering = WorkflowBuilder("rendering", input=Doc, output=Doc).pipe(copy).pipe(render).build()


def failing() -> Any:
    @stage("flaky", retry=RetryPolicy(max_attempts=2, initial_interval=SOON))
    async def flaky(ctx: StageContext[Doc]) -> Doc:
        raise ValueError("not today")

    return WorkflowBuilder("failing", input=Doc, output=Doc).pipe(flaky).build()


def holding(gate: Gate) -> Any:
    return WorkflowBuilder("held", input=Doc, output=Doc).pipe(gate.stage()).build()


# -- what is counted ---------------------------------------------------------------------------------------------------


async def test_a_run_is_counted_once_with_its_stages_and_commands(metered: Metered, store: SharedStore) -> None:
    async with store.supervisor(copying) as supervisor:
        await (await supervisor.start(copying, Doc(text="a"))).result()

        assert metered.points(names.RUNS_STARTED) == {("copying",): 1}
        assert metered.points(names.RUNS_COMPLETED) == {("copying",): 1}
        assert metered.points(names.RUN_DURATION) == {("copying", "completed"): 1}
        assert metered.points(names.STAGE_DURATION) == {("copying", "copy"): 1}
        # The result is known a moment before the command that recorded it returns.
        await until(lambda: ("job.execute", "completed") in metered.points(names.COMMAND_DURATION))
        assert metered.points(names.COMMAND_DURATION)["run.create", "ok"] == 1


async def test_a_run_that_a_client_creates_is_started_and_claimed_once(metered: Metered, store: SharedStore) -> None:
    async with store.client(copying) as client, store.supervisor(copying):
        await (await client.start(copying, Doc(text="a"))).result()

        assert metered.points(names.RUNS_STARTED) == metered.points(names.RUNS_COMPLETED) == {("copying",): 1}
        assert metered.points(names.CLAIM_LATENCY) == {(): 1}


async def test_who_was_opened_before_the_program_metered_is_not_counted(store: SharedStore) -> None:
    async with store.supervisor(copying) as early:
        made = set_up(own_histograms=True)
        use_meters(made.meters)
        try:
            async with store.client(copying):
                await (await early.start(copying, Doc(text="a"))).result()
        finally:
            use_meters(None)

    # Half of its numbers would be worse than none.
    assert not any(made.points(name) for name in (names.RUNS_STARTED, names.RUNS_COMPLETED, names.COMMAND_DURATION))


async def test_counters_are_there_before_there_is_anything_to_count(metered: Metered, memory: SharedStore) -> None:
    async with memory.supervisor(App(workflows=[copying, rendering])):
        await until(lambda: metered.points(names.RUNS_STARTED))

        for name in (names.RUNS_STARTED, names.RUNS_COMPLETED, names.RUNS_FAILED, names.RUNS_CANCELLED):
            assert metered.points(name) == {("copying",): 0, ("rendering",): 0}
        assert metered.points(names.LEASES_LOST) == {(): 0}


async def test_what_other_hosts_do_for_a_run_is_counted_where_it_is_done(metered: Metered, memory: SharedStore) -> None:
    async with memory.supervisor(rendering, queues=("renders",)) as supervisor:
        await (await supervisor.start(rendering, Doc(text="a"))).result()
        await until(lambda: metered.points(names.RUNS_COMPLETED) == {("rendering",): 1})

        assert metered.points(names.STAGE_DURATION) == {("rendering", "copy"): 1, ("rendering", "render"): 1}


async def test_retries_and_failures_are_counted_by_stage(metered: Metered, store: SharedStore) -> None:
    workflow = failing()
    async with store.supervisor(workflow) as supervisor:
        with pytest.raises(RunFailed):
            await (await supervisor.start(workflow, Doc(text="a"))).result()

        assert metered.points(names.STAGES_RETRIED) == {("failing", "flaky", "raised"): 1}
        assert metered.points(names.STAGES_FAILED) == {("failing", "flaky"): 1}
        assert metered.points(names.RUNS_FAILED) == {("failing",): 1}
        assert metered.points(names.RUN_DURATION) == {("failing", "failed"): 1}


# -- the session and the store -----------------------------------------------------------------------------------------


async def test_the_lease_and_the_loop_are_measured_by_heartbeats(metered: Metered, store: SharedStore) -> None:
    async with store.supervisor(copying):
        await until(lambda: metered.points(names.LOOP_LAG))

        renewals = metered.points(names.LEASE_RENEWALS)
        assert set(renewals) == {("ok",)}
        assert metered.points(names.LEASE_RENEWAL_DURATION)[()] >= 1


async def test_batches_of_appends_are_measured(metered: Metered, postgres: SharedStore) -> None:
    async with postgres.supervisor(copying) as supervisor:
        await (await supervisor.start(copying, Doc(text="a"))).result()

        assert metered.points(names.APPEND_DURATION)["ok",] == metered.points(names.APPEND_BATCH_SIZE)[()] >= 2
        assert metered.points(names.HINTS_OUTAGES) == {(): 0}
        assert metered.points(names.HINTS_SILENCE)[()] < 20


async def test_what_waits_in_the_store_is_told_and_so_is_that_nothing_does(
    metered: Metered, store: SharedStore
) -> None:
    async with store.client(App(workflows=[copying, rendering])) as client:
        await client.start(rendering, Doc(text="a"))
        async with store.supervisor(copying):
            await until(lambda: metered.points(names.UNKNOWN_WORKFLOW))

            assert metered.points(names.RUNS_RUNNABLE) == {("copying",): 0, ("rendering",): 1}
            assert metered.points(names.UNKNOWN_WORKFLOW) == {(): 1}
            assert metered.points(names.OLDEST_RUNNABLE_AGE)[()] > 0
            assert metered.points(names.JOBS_WAITING) == metered.points(names.OLDEST_JOB_AGE) == {("default",): 0}
            assert metered.points(names.OUTBOX_LAG) == metered.points(names.DEAD_LETTERS) == {(): 0}


async def test_supervisors_of_one_process_add_up_and_what_they_share_does_not(
    metered: Metered, memory: SharedStore
) -> None:
    gate = Gate()
    held = holding(gate)
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(memory.supervisor(held)) for _ in range(2)]
        for supervisor in (first, second):
            await supervisor.start(held, Doc(text="a"))
        await until(lambda: sum(each.stats().bodies for each in (first, second)) == 2)

        assert metered.points(names.ACTORS) == {(): 2}
        gate.open()


# -- how it is offered ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_histograms", [True, False])
def test_every_documented_metric_is_an_instrument_of_that_kind_unit_and_meaning(own_histograms: bool) -> None:  # noqa: FBT001
    metered = set_up(own_histograms=own_histograms)
    fill(metered.meters)

    metrics = metered.metrics()

    assert {name.name for name in names.METRICS} == set(metrics)
    kinds = {"counter": "Sum", "gauge": "Gauge", "histogram": "Histogram"}
    for name in names.METRICS:
        metric = metrics[name.name]
        assert (metric.unit, metric.description) == (name.unit, name.meaning)
        assert type(metric.data).__name__ == kinds[name.kind]
        assert {tuple(point.attributes or {}) for point in metric.data.data_points} == {name.attributes}
        if name.kind == "histogram":
            assert all(tuple(point.explicit_bounds) == name.bounds for point in metric.data.data_points)


def fill(meters: Meters) -> None:
    """One of each."""
    for name in names.METRICS:
        key = tuple("x" for _ in name.attributes)
        if name.kind == "gauge" or name in {names.HINTS_OUTAGES, names.SPANS_DROPPED}:
            meters.watch(lambda name=name, key=key: [(name, key, 1.0)])
    for tally in vars(meters).values():
        if hasattr(tally, "add"):
            tally.add(tuple("x" for _ in tally.name.attributes))
        elif hasattr(tally, "record"):
            tally.record(0.5, tuple("x" for _ in getattr(tally, "name", getattr(tally, "_name", None)).attributes))


def test_no_metric_has_an_attribute_without_end() -> None:
    assert not [name.name for name in names.METRICS if UNBOUNDED & set(name.attributes)]


def test_a_histogram_has_each_value_in_its_bucket() -> None:
    metered = set_up(own_histograms=True)
    for waited_s in (0.0005, 0.002, 0.002, 99.0):
        metered.meters.claimed(waited_s)

    [point] = metered.metrics()["leasehold.claim.latency"].data.data_points

    assert (point.bucket_counts[0], point.bucket_counts[1], point.bucket_counts[-1]) == (1, 2, 1)
    assert (point.count, point.sum, point.min, point.max) == (4, pytest.approx(99.0045), 0.0005, 99.0)


def test_a_process_whose_program_meters_nothing_has_no_meters_and_imports_nothing() -> None:
    code = (
        "import sys; import runtime; from telemetry.metrics import find_meters; assert find_meters() is None; "
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)

    assert find_meters() is None


def test_a_program_s_own_meter_provider_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.metrics import _internal

    reader = InMemoryMetricReader()
    monkeypatch.setattr(_internal, "_METER_PROVIDER", MeterProvider([reader], shutdown_on_exit=False))

    try:
        meters = find_meters()
        assert meters is not None
        meters.lease_lost()
        assert "leasehold.lease.losses" in Metered(meters, reader, None).metrics()
    finally:
        use_meters(None)
