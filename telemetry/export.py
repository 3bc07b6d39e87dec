"""Sending traces and metrics to where the standard OTEL_* variables say; for the command line, which owns its process.

A program that embeds the engine sets up OpenTelemetry itself, and the engine uses what it finds.

Theory of operation. Nothing is set up, or even imported, unless a variable asks for it. Spans and metrics are sent by
threads of the SDK, in batches, from bounded queues, so that no run waits for a collector; what does not fit is dropped.
A collector that is away is said once and said again when it answers (`Deliveries`): what the SDK and its exporters say
of every single failure is kept from the log, and the last of it becomes the reason that we give. Leaving sends what is
left for a few seconds, and then leaves.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kernel.errors import InvalidCommand
from telemetry import names
from telemetry.deliveries import Deliveries
from telemetry.metrics import Meters, use_meters
from telemetry.otel_environment import OtelEnvironment, Protocol, Signal, read_environment

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader, MetricsData
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.sampling import Sampler

    from telemetry.histograms import HistogramFeed

__all__ = ["check_libraries", "configure_export", "flush", "is_exporting", "shutdown"]

LEAVE_S = 3.0
"""How long the end of a process may wait for its last spans to be sent."""
LEAVE_UNANSWERED_S = 0.5
"""The same when the collector has not answered before."""
LOOK_S = 0.05
VARIABLE = re.compile(r"\bOTEL_[A-Z0-9_]+")
PROMETHEUS_EXTRA = 'pip install "leasehold[prometheus]"'


@dataclass(slots=True)
class _Exporting:
    """What this process has set up."""

    deliveries: Deliveries
    tracer: TracerProvider | None = None
    meter: MeterProvider | None = None
    endpoints: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    abort: list[Callable[[], object]] = field(default_factory=list[Callable[[], object]])


_exporting: _Exporting | None = None


def is_exporting() -> bool:
    """Whether this process has been set up, and has not been shut down."""
    return _exporting is not None


def configure_export(
    *,
    prometheus: tuple[str, int] | None = None,
    worker: int | None = None,
    told_by_parent: bool = False,
    counts: bool = True,
) -> bool:
    """Export as the process's OTEL_* variables say; returns whether anything is. Only the first call has an effect.

    `prometheus` is a host and a port on which metrics are served as text besides; `worker` is our number among those
    that serve theirs beside us, for the error that says whose port cannot be had. With `told_by_parent` nothing is said
    of collectors that are away: this is the child of a process that sends to the same ones. Unless it `counts`, only
    the program's own metrics are sent, and none of ours.
    Raises: InvalidCommand, naming the variable: a value that cannot be used, or one that needs an extra.
    """
    global _exporting  # noqa: PLW0603 - OpenTelemetry's providers are the process's, and so is this
    if _exporting is not None:
        return True
    environment = read_environment(os.environ, serves_metrics=prometheus is not None)
    if environment.traces is None and environment.metrics is None and prometheus is None:
        return False
    exporting = _Exporting(deliveries=Deliveries(told_by_parent=told_by_parent))
    try:
        resource = _resource(environment)
        if environment.traces is not None:
            exporting.tracer = _tracer_provider(environment, environment.traces, resource, exporting)
        if environment.metrics is not None or prometheus is not None:
            exporting.meter = _meter_provider(environment, resource, prometheus, exporting, worker, counts=counts)
    except (ValueError, RuntimeError, OSError) as error:
        raise _not_set_up(error) from error
    _exporting = exporting
    return True


def check_libraries(environment: OtelEnvironment) -> None:
    """Whether what these variables ask for is installed, without importing it. Raises: InvalidCommand."""
    for name, signal in (("TRACES", environment.traces), ("METRICS", environment.metrics)):
        if signal is None or "otlp" not in signal.exporters:
            continue
        library = f"opentelemetry.exporter.otlp.proto.{'grpc' if signal.protocol == 'grpc' else 'http'}"
        try:
            found = find_spec(library)
        except ImportError:  # not even what it is part of
            found = None
        if found is None:
            raise _not_installed(f"OTEL_{name}_EXPORTER", signal.protocol, library)


def _not_set_up(error: Exception) -> InvalidCommand:
    """What the SDK says of a variable that is not among those which we check."""
    named = VARIABLE.search(str(error))
    return InvalidCommand(
        f"OpenTelemetry cannot be set up as the OTEL_ variables say: {type(error).__name__}: {error}",
        field=None if named is None else named[0],
        hint="Correct or unset the variable (env | grep OTEL_), or switch exporting off: OTEL_SDK_DISABLED=true.",
    )


def flush(timeout_s: float = LEAVE_S) -> bool:
    """Send what has gathered, for so long at most; whether that was long enough."""
    exporting = _exporting
    if exporting is None:
        return True
    providers = [provider for provider in (exporting.tracer, exporting.meter) if provider is not None]

    def work() -> None:
        for provider in providers:
            provider.force_flush(int(timeout_s * 1000))

    return _bounded(work, timeout_s)


def shutdown() -> None:
    """Send what is left, for a few seconds at most, and stop; what is recorded afterwards goes nowhere. Idempotent."""
    global _exporting
    exporting, _exporting = _exporting, None
    if exporting is None:
        return
    use_meters(None)

    def work() -> None:
        for provider in (exporting.tracer, exporting.meter):
            if provider is not None:
                provider.shutdown()

    deliveries = exporting.deliveries
    if not _bounded(work, LEAVE_S, hopeless=lambda: deliveries.troubled):
        for endpoint, signal in exporting.endpoints[:1]:
            deliveries.gave_up(endpoint, signal)
        for abort in exporting.abort:
            # From a thread of its own again: an exporter may wait for the very request that hangs.
            _bounded(abort, 0.1)
    deliveries.say_dropped()


def _bounded(work: Callable[[], object], timeout_s: float, *, hopeless: Callable[[], bool] = lambda: False) -> bool:
    """Do it in a thread that nobody has to wait for; whether it was done in time, or soon if it is hopeless."""

    def calmly() -> None:
        with suppress(Exception):
            work()

    thread = threading.Thread(target=calmly, name="leasehold-telemetry", daemon=True)
    thread.start()
    began = time.monotonic()
    while thread.is_alive() and time.monotonic() < began + (LEAVE_UNANSWERED_S if hopeless() else timeout_s):
        thread.join(LOOK_S)
    return not thread.is_alive()


# -- what is said of this process -------------------------------------------------------------------------------------


def _resource(environment: OtelEnvironment) -> Resource:
    """Who we are; what OTEL_RESOURCE_ATTRIBUTES says of it counts."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    own: dict[str, str | int] = {
        "service.name": environment.service_name or "leasehold",
        "service.version": _version(),
        "service.instance.id": str(uuid4()),
        "process.pid": os.getpid(),
        "host.name": platform.node(),
    }
    given = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in own.items() if name not in given})


def _version() -> str:
    try:
        return version_of("leasehold")
    except PackageNotFoundError:
        return "unknown"  # run from a checkout that is not installed


# -- traces ------------------------------------------------------------------------------------------------------------


def _tracer_provider(
    environment: OtelEnvironment, signal: Signal, resource: Resource, exporting: _Exporting
) -> TracerProvider:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    # Not at exit: an SDK that leaves by itself waits for a collector that does not answer.
    provider = TracerProvider(resource=resource, sampler=_sampler(environment), shutdown_on_exit=False)
    for kind in signal.exporters:
        exporter: SpanExporter
        if kind == "otlp":
            exporter = _span_exporter(signal.protocol)
            _watch_spans(exporter, signal, exporting)
        else:
            exporter = ConsoleSpanExporter(out=sys.stderr)
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=environment.span_delay_ms))
    trace.set_tracer_provider(provider)
    return provider


def _sampler(environment: OtelEnvironment) -> Sampler:
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, TraceIdRatioBased

    words = environment.sampler.removeprefix("parentbased_")
    known: dict[str, Sampler] = {
        "always_on": ALWAYS_ON,
        "always_off": ALWAYS_OFF,
        "traceidratio": TraceIdRatioBased(environment.sampler_ratio),
    }
    return known[words] if words == environment.sampler else ParentBased(known[words])


def _span_exporter(protocol: Protocol) -> SpanExporter:
    try:
        if protocol == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

            return GrpcExporter()
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return HttpExporter()
    except ImportError as error:
        raise _not_installed("OTEL_TRACES_EXPORTER", protocol, error.name) from error


def _watch_spans(exporter: SpanExporter, signal: Signal, exporting: _Exporting) -> None:
    from opentelemetry.sdk.trace.export import SpanExportResult

    send, deliveries = exporter.export, exporting.deliveries

    def export(spans: Sequence[Any]) -> SpanExportResult:
        try:
            result = send(spans)
        except Exception as error:  # noqa: BLE001 - an exporter may raise anything, and its thread must go on
            deliveries.failed(signal.endpoint, "traces", lost=len(spans), error=error)
            return SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            deliveries.worked(signal.endpoint, "traces")
        else:
            deliveries.failed(signal.endpoint, "traces", lost=len(spans))
        return result

    exporter.export = export  # type: ignore[method-assign]
    exporting.endpoints.append((signal.endpoint, "traces"))
    exporting.abort.append(exporter.shutdown)


# -- metrics -----------------------------------------------------------------------------------------------------------


def _meter_provider(
    environment: OtelEnvironment,
    resource: Resource,
    prometheus: tuple[str, int] | None,
    exporting: _Exporting,
    worker: int | None,
    *,
    counts: bool,
) -> MeterProvider:
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader

    from telemetry.histograms import HistogramFeed

    feeds: list[HistogramFeed] = []
    readers: list[MetricReader] = []
    signal = environment.metrics
    for kind in () if signal is None else signal.exporters:
        assert signal is not None
        exporter: MetricExporter
        feeds.append(feed := HistogramFeed(deltas=environment.metric_deltas and kind == "otlp"))
        if kind == "otlp":
            exporter = _metric_exporter(signal.protocol)
            exporting.endpoints.append((signal.endpoint, "metrics"))
            exporting.abort.append(partial(_stop, exporter))
        else:
            exporter = ConsoleMetricExporter(out=sys.stderr)
        _watch_metrics(exporter, feed, signal if kind == "otlp" else None, exporting)
        readers.append(PeriodicExportingMetricReader(exporter))
    if prometheus is not None:
        feeds.append(feed := HistogramFeed())
        readers.append(_prometheus_reader(*prometheus, feed, worker))
    provider = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
    if counts:
        meters = Meters(provider, own_histograms=True)
        for feed in feeds:
            feed.of(meters.distributions)
        if exporting.tracer is not None:
            meters.watch(lambda: [(names.SPANS_DROPPED, (), float(exporting.deliveries.dropped))])
        use_meters(meters)
    metrics.set_meter_provider(provider)
    return provider


def _metric_exporter(protocol: Protocol) -> MetricExporter:
    try:
        if protocol == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

            return GrpcExporter()
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

        return HttpExporter()
    except ImportError as error:
        raise _not_installed("OTEL_METRICS_EXPORTER", protocol, error.name) from error


def _watch_metrics(exporter: MetricExporter, feed: HistogramFeed, signal: Signal | None, exporting: _Exporting) -> None:
    from opentelemetry.sdk.metrics.export import MetricExportResult

    # Its further arguments have no types.
    send: Callable[..., MetricExportResult] = exporter.export  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    deliveries = exporting.deliveries

    def export(metrics_data: MetricsData, timeout_millis: float = 10_000, **more: Any) -> MetricExportResult:
        try:
            result = send(feed.added(metrics_data), timeout_millis=timeout_millis, **more)
        except Exception as error:
            if signal is None:
                raise
            deliveries.failed(signal.endpoint, "metrics", error=error)
            return MetricExportResult.FAILURE
        if signal is not None and result is MetricExportResult.SUCCESS:
            deliveries.worked(signal.endpoint, "metrics")
        elif signal is not None:
            deliveries.failed(signal.endpoint, "metrics")
        return result

    exporter.export = export  # type: ignore[method-assign]


def _stop(exporter: Any) -> None:
    exporter.shutdown()


def _prometheus_reader(host: str, port: int, feed: HistogramFeed, worker: int | None) -> MetricReader:
    """A reader that serves what it reads. Raises: InvalidCommand, when it cannot."""
    try:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from prometheus_client import start_http_server
    except ImportError as error:
        message = f"--metrics-port needs a library that is not installed ({error.name})."
        raise InvalidCommand(message, field="metrics_port", hint=f"Install it: {PROMETHEUS_EXTRA}.") from error

    class Reader(PrometheusMetricReader):
        def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **more: Any) -> None:
            data = feed.added(metrics_data)
            super()._receive_metrics(data, timeout_millis, **more)  # pyright: ignore[reportUnknownMemberType]

    try:
        start_http_server(port, addr=host)
    except OSError as error:
        whose = "Metrics" if worker is None else f"The metrics of worker {worker}"
        message = f"{whose} cannot be served on {host}:{port}: {error.strerror or error}."
        hint = "Choose another --metrics-port; with --workers each has one of its own, counted upwards from there."
        raise InvalidCommand(message, field="metrics_port", hint=hint) from error
    return Reader()


def _not_installed(variable: str, protocol: Protocol, library: str | None) -> InvalidCommand:
    package = "opentelemetry-exporter-otlp-proto-grpc" if protocol == "grpc" else '"leasehold[otlp]"'
    other = " It can also send over http/protobuf: OTEL_EXPORTER_OTLP_PROTOCOL." if protocol == "grpc" else ""
    return InvalidCommand(
        f"{variable} is otlp over {protocol}, and a library for that is not installed ({library}).",
        field=variable,
        hint=f"Install it: pip install {package}.{other} Or switch it off: {variable}=none.",
    )
