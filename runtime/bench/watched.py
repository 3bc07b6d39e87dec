"""What being watched costs: the same runs in a process without telemetry, with 1 % of runs sampled, and with all.

Each is a process of its own that starts its runs itself, one after the other in every repetition. Spans and metrics go
the whole way through the SDK, in batches and encoded as they would be sent; only nobody receives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from runtime.bench.laboratory import Laboratory, Measurement
from runtime.bench.workflows import pipeline
from telemetry.metrics import Meters, use_meters

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["measure_watched", "set_up_telemetry"]

WITHIN_S = 300.0
RATIOS: dict[str, float | None] = {"off": None, "sampled_1_percent": 0.01, "sampled_all": 1.0}


async def measure_watched(lab: Laboratory) -> Measurement:
    """One repetition: processor time of the process per run, and what it is to that without telemetry."""
    cpu_ms = {name: await _cpu_ms(lab, ratio) for name, ratio in RATIOS.items()}
    return {
        "cpu_ms_per_run": cpu_ms,
        "ratio_1_percent": cpu_ms["sampled_1_percent"] / cpu_ms["off"],
        "ratio_all": cpu_ms["sampled_all"] / cpu_ms["off"],
    }


async def _cpu_ms(lab: Laboratory, ratio: float | None) -> float:
    await lab.empty()
    runs, at_once = lab.sizes.runs, lab.database.settings.max_bodies
    async with lab.process("worker", sampled=ratio) as worker:
        await worker.ask("keep-busy", workflow=pipeline.id, runs=lab.sizes.warm_up, at_once=at_once)
        before = (await worker.ask("usage"))["cpu_s"]
        await worker.ask("keep-busy", workflow=pipeline.id, runs=runs, at_once=at_once, within_s=WITHIN_S)
        used_s = (await worker.ask("usage"))["cpu_s"] - before
        await worker.leave()
    return 1000 * float(used_s) / runs


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
