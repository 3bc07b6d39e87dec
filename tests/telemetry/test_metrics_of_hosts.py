"""Runs that are driven by calls, without a process that lives, are counted and logged like any other."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import LogCapture

from kernel import StageContext, WorkflowBuilder, stage
from runtime import App, RunHandle, ServerlessHost
from runtime.metering import Metering
from telemetry import names
from telemetry.metrics import use_meters
from tests.runtime.gates import Doc, Gate
from tests.runtime.shared_store import SharedStore, create_in_sql, lose_lease, until
from tests.telemetry.metered import Metered

pytestmark = pytest.mark.anyio


@stage("copy")
async def copy(ctx: StageContext[Doc]) -> Doc:
    return ctx.input


copying = WorkflowBuilder("copying", input=Doc, output=Doc).pipe(copy).build()


async def work_off(host: ServerlessHost, run: RunHandle[Any]) -> str:
    """Call the host until the run has ended."""

    async def status() -> str | None:
        await host.run_maintenance_tick()
        await host.process_available_jobs(max_jobs=10)
        found = (await run.describe()).status
        return found if found in ("COMPLETED", "FAILED", "CANCELLED") else None

    return await until(status)


async def test_a_run_that_only_calls_drive_is_counted_like_any_other(metered: Metered, store: SharedStore) -> None:
    async with store.host(copying) as host:
        run = await host.start(copying, Doc(text="a"))
        assert await work_off(host, run) == "COMPLETED"

        assert metered.points(names.RUNS_STARTED) == metered.points(names.RUNS_COMPLETED) == {("copying",): 1}
        assert metered.points(names.STAGE_DURATION) == {("copying", "copy"): 1}


async def test_a_run_whose_input_is_refused_when_it_is_handed_over_is_counted_and_logged(
    metered: Metered, postgres: SharedStore, log: LogCapture
) -> None:
    async with postgres.host(copying) as host:
        assert postgres.url is not None
        run = host.run(await create_in_sql(postgres.url, "copying", {"text": [1]}))
        assert await work_off(host, run) == "FAILED"

        assert metered.points(names.RUNS_FAILED) == {("copying",): 1}
    assert [line["run_id"] for line in log.entries if line["event"] == "run.failed"] == [run.id]


async def test_an_attempt_that_a_hand_over_finds_lost_is_counted_as_retried(
    metered: Metered, memory: SharedStore, log: LogCapture
) -> None:
    # In memory nothing hints its supervisor at the run, which it would take again.
    gate = Gate()
    held = WorkflowBuilder("held", input=Doc, output=Doc).pipe(gate.stage()).build()
    use_meters(None)
    async with memory.supervisor(held) as dying:
        run = await dying.start(held, Doc(text="a"))
        await until(lambda: gate.entered)
        await lose_lease(dying)
        use_meters(metered.meters)
        async with memory.host(held) as host:
            await host.run_maintenance_tick()
            gate.open()
            assert await work_off(host, run) == "COMPLETED"

            # It began, and was counted, elsewhere.
            assert metered.points(names.RUNS_STARTED) == {("held",): 0}
            assert metered.points(names.STAGES_RETRIED) == {("held", "hold", "lost"): 1}
    assert ("stage.retrying", "lost") in [(line["event"], line.get("cause")) for line in log.entries]
    assert ("run.completed", run.id) in [(line["event"], line.get("run_id")) for line in log.entries]


async def test_a_tick_tells_what_waits_in_the_store_and_that_nothing_does(metered: Metered, store: SharedStore) -> None:
    other = WorkflowBuilder("other", input=Doc, output=Doc).pipe(copy).build()
    async with store.client(App(workflows=[other])) as client, store.host(copying) as host:
        await client.start(other, Doc(text="a"))
        assert metered.points(names.RUNS_RUNNABLE) == {}

        await host.run_maintenance_tick()

        assert metered.points(names.RUNS_RUNNABLE) == {("copying",): 0, ("other",): 1}
        assert metered.points(names.UNKNOWN_WORKFLOW) == {(): 1}
        assert metered.points(names.OLDEST_RUNNABLE_AGE)[()] > 0
        assert metered.points(names.OUTBOX_LAG) == metered.points(names.DEAD_LETTERS) == {(): 0}
    assert metered.points(names.RUNS_RUNNABLE) == {}


async def test_jobs_that_wait_are_told_by_queue(metered: Metered, store: SharedStore) -> None:
    @stage("render", queue="gpu")
    async def render(ctx: StageContext[Doc]) -> Doc:
        return ctx.input

    rendering = WorkflowBuilder("rendering", input=Doc, output=Doc).pipe(render).build()
    async with store.host(rendering) as host:
        for text in ("a", "b"):
            await host.start(rendering, Doc(text=text))

        await host.run_maintenance_tick()

        assert metered.points(names.JOBS_WAITING) == {("default",): 0, ("gpu",): 2}
        assert metered.points(names.OLDEST_JOB_AGE)["gpu",] > 0


async def test_the_store_is_asked_every_fifteen_seconds_and_what_is_older_than_a_minute_is_not_told(
    metered: Metered, memory: SharedStore
) -> None:
    now_s = 0.0
    async with memory.client(copying) as client:
        metering = Metering(metered.meters, client.storage, ["copying"], ["default"], now_s=lambda: now_s)
        with metering.offered():
            await metering.look_now_and_then()
            await client.start(copying, Doc(text="a"))
            now_s = 14.9
            await metering.look_now_and_then()
            assert metered.points(names.RUNS_RUNNABLE) == {("copying",): 0}
            now_s = 15.0
            await metering.look_now_and_then()
            assert metered.points(names.RUNS_RUNNABLE) == {("copying",): 1}
            now_s = 75.1
            assert metered.points(names.RUNS_RUNNABLE) == metered.points(names.OUTBOX_LAG) == {}
