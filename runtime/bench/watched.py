"""What being watched costs: the same runs in a process without telemetry, with 1 % of runs sampled, and with all.

Each is a process of its own that starts its runs itself. They take turns, many times in every repetition, so that what
the machine does beside them meets all of them. Spans and metrics go the whole way through the SDK, in batches and
encoded as they would be sent; only nobody receives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from runtime.bench.laboratory import Laboratory, Measurement
from runtime.bench.processes import BenchProcess
from runtime.bench.workflows import pipeline
from telemetry.metrics import Meters, use_meters

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["measure_watched", "set_up_telemetry"]

WITHIN_S = 300.0
SLICES = 10
RATIOS: dict[str, float | None] = {"off": None, "sampled_1_percent": 0.01, "sampled_all": 1.0}


async def measure_watched(lab: Laboratory) -> Measurement:
    """One repetition: processor time of the process per run, and what it is to that without telemetry."""
    await lab.empty()
    async with AsyncExitStack() as stack:
        workers = {
            name: await stack.enter_async_context(lab.process("worker", sampled=ratio))
            for name, ratio in RATIOS.items()
        }
        used_s = dict.fromkeys(workers, 0.0)
        for worker in workers.values():
            await _busy(lab, worker, lab.sizes.warm_up)
        for _ in range(SLICES):
            for name, worker in workers.items():
                used_s[name] += await _busy(lab, worker, lab.sizes.runs // SLICES)
        for worker in workers.values():
            await worker.leave()
    runs = lab.sizes.runs // SLICES * SLICES
    return {
        "cpu_ms_per_run": {name: 1000 * each / runs for name, each in used_s.items()},
        "ratio_1_percent": used_s["sampled_1_percent"] / used_s["off"],
        "ratio_all": used_s["sampled_all"] / used_s["off"],
    }


async def _busy(lab: Laboratory, worker: BenchProcess, runs: int) -> float:
    """Seconds of processor time for so many runs, while the other processes wait."""
    before_s = float((await worker.ask("usage"))["cpu_s"])
    at_once = lab.database.settings.max_bodies
    await worker.ask("keep-busy", workflow=pipeline.id, runs=runs, at_once=at_once, within_s=WITHIN_S)
    return float((await worker.ask("usage"))["cpu_s"]) - before_s


def set_up_telemetry(ratio: float) -> None:
    """Trace this share of the runs of this process, and count everything, for nobody."""
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
