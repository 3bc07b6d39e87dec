"""No run, command or call is harmed by being measured, whatever goes wrong with the measuring."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import View
from structlog.testing import LogCapture

from kernel import StageContext, WorkflowBuilder, stage
from kernel.errors import InvalidCommand
from runtime.metering import Metering
from telemetry import names
from telemetry.metrics import Meters, use_meters
from tests.runtime.gates import Doc
from tests.runtime.shared_store import SharedStore, until
from tests.telemetry.metered import Metered

pytestmark = pytest.mark.anyio


@stage("copy")
async def copy(ctx: StageContext[Doc]) -> Doc:
    return ctx.input


copying = WorkflowBuilder("copying", input=Doc, output=Doc).pipe(copy).build()


class BrokenReservoir:
    asked = 0

    def offer(self, *_: Any, **__: Any) -> None:
        BrokenReservoir.asked += 1
        raise RuntimeError("of the program's")

    def collect(self, *_: Any) -> list[Any]:
        return []


def broken_reservoirs(_aggregation: Any) -> Callable[..., Any]:
    return lambda **_: BrokenReservoir()


@pytest.fixture
def broken() -> Iterator[None]:
    """The program's own meter provider, of which every recording raises."""
    view = View(instrument_name="leasehold.*", exemplar_reservoir_factory=broken_reservoirs)
    readers = [InMemoryMetricReader()]
    provider = MeterProvider(readers, shutdown_on_exit=False, views=[view], exemplar_filter=AlwaysOnExemplarFilter())
    use_meters(Meters(provider))
    BrokenReservoir.asked = 0
    yield
    assert BrokenReservoir.asked
    use_meters(None)


@pytest.mark.usefixtures("broken")
async def test_a_meter_provider_that_raises_harms_no_run_of_a_supervisor(memory: SharedStore, log: LogCapture) -> None:
    async with memory.supervisor(copying) as supervisor, memory.client(copying) as client:
        for starting in (supervisor, client):
            run = await starting.start(copying, Doc(text="a"))
            assert (await run.result(timeout=10)).text == "a"
        await until(lambda: supervisor.stats().actors == 0)

    assert "actor.crashed" not in [line["event"] for line in log.entries]


@pytest.mark.usefixtures("broken")
async def test_a_meter_provider_that_raises_harms_no_run_of_a_host(memory: SharedStore) -> None:
    async with memory.host(copying) as host:
        run = await host.start(copying, Doc(text="a"))
        await host.run_maintenance_tick()
        assert (await host.process_available_jobs(5)).succeeded == 1

        assert (await run.describe()).status == "COMPLETED"


async def refused() -> Any:
    raise InvalidCommand("permission denied for table jobs")


async def test_a_tick_does_its_work_although_the_backlog_cannot_be_measured(
    metered: Metered, memory: SharedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory.host(copying) as host:
        await host.start(copying, Doc(text="a"))
        monkeypatch.setattr(host.storage.persistence, "backlog", refused)

        tick = await host.run_maintenance_tick()

    assert (tick.claimed, len(tick.jobs), tick.errors) == (1, 1, {})
    assert metered.points(names.RUNS_RUNNABLE) == {}


async def test_an_answer_that_never_came_makes_old_numbers_no_younger(
    metered: Metered, memory: SharedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    async with memory.client(copying) as client:
        metering = Metering(metered.meters, client.storage, ["copying"], [], now_s=lambda: now_s)
        with metering.offered():
            await metering.look()
            monkeypatch.setattr(client.storage.persistence, "backlog", anyio.sleep_forever)
            for at_s in (30.0, 61.0):
                now_s = at_s
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await metering.look_now_and_then()

            assert metered.points(names.RUNS_RUNNABLE) == {}
