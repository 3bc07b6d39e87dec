"""What being watched costs: the same runs by two supervisors of one process, of which telemetry watches the second.

One was opened before the program set up telemetry and the other after it, and they take turns, so that what the
machine does beside them, and what one process costs more than another, meets both. A pair of which neither is watched
says how far apart two can be that are the same. Spans and metrics go the whole way through the SDK, in batches and
encoded as they would be sent; only nobody receives them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from runtime.bench import workflows
from runtime.bench.laboratory import Laboratory, Measurement
from runtime.bench.messages import Message
from runtime.bench.processes import BenchProcess
from runtime.bench.workflows import pipeline
from runtime.bootstrap import open_storage
from runtime.config import Settings
from runtime.supervisor import Supervisor
from telemetry.metrics import Meters, use_meters

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["Watched", "measure_watched", "open_watched"]

WITHIN_S = 300.0
RUNS_PER_TURN = 25
"""A virtual machine may run twice as fast for a second, and then again not: both turns of a pair shall be in the same
mood. Of two supervisors that are the same, 150 such pairs differed by 0.5 %, 40 pairs of four times the length by 3 %.
"""
RATIOS: dict[str, float | None] = {"not_at_all": None, "1_percent": 0.01, "all": 1.0}


async def measure_watched(lab: Laboratory) -> Measurement:
    """One repetition: processor time of the process per run with telemetry, and what it is to that without."""
    cpu_ms_per_run: dict[str, dict[str, float]] = {}
    ratios: dict[str, float] = {}
    for name, ratio in RATIOS.items():
        await lab.empty()
        async with lab.process("rivals", sampled=ratio) as rivals:
            await _take_turns(lab, rivals, lab.sizes.warm_up)
            turns = await _take_turns(lab, rivals, lab.sizes.runs)
            await rivals.leave()
        bare_s, watched_s = sum(turns["bare"]), sum(turns["watched"])
        runs = RUNS_PER_TURN * len(turns["bare"])
        cpu_ms_per_run[name] = {"bare": 1000 * bare_s / runs, "watched": 1000 * watched_s / runs}
        ratios[f"ratio_{name}"] = watched_s / bare_s
    return {"cpu_ms_per_run": cpu_ms_per_run, **ratios}


async def _take_turns(lab: Laboratory, rivals: BenchProcess, runs: int) -> Message:
    return await rivals.ask(
        "take-turns",
        workflow=pipeline.id,
        runs=RUNS_PER_TURN,
        at_once=lab.database.settings.max_bodies,
        turns=max(runs // RUNS_PER_TURN, 1),
        within_s=WITHIN_S,
    )


class Watched(NamedTuple):
    """A supervisor of a program that traces, and what has all that is to be sent be sent now."""

    supervisor: Supervisor
    flush: Callable[[], object]


@asynccontextmanager
async def open_watched(settings: Settings, schema: str, ratio: float | None) -> AsyncGenerator[Watched]:
    """Set up telemetry for this share of the runs, and open a supervisor; with None, like any other."""
    flush = (lambda: None) if ratio is None else _set_up_telemetry(ratio)
    storage = open_storage(settings, schema=schema)
    async with Supervisor(workflows.app(), settings=settings, storage=storage) as supervisor:
        yield Watched(supervisor, flush)


def _set_up_telemetry(ratio: float) -> Callable[[], object]:
    """Trace this share of the runs of who is opened from now on, and count everything, for nobody."""
    from opentelemetry import metrics, trace
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    class ToNobody(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            encode_spans(spans).SerializeToString()
            return SpanExportResult.SUCCESS

    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(ratio)))
    provider.add_span_processor(BatchSpanProcessor(ToNobody()))
    trace.set_tracer_provider(provider)
    meter_provider = MeterProvider(metric_readers=[InMemoryMetricReader()])
    # As the command line has it.
    use_meters(Meters(meter_provider, own_histograms=True))
    metrics.set_meter_provider(meter_provider)
    return provider.force_flush
