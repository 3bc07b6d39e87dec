"""The receiver that other tests look into: real exporters bring it everything, and it misbehaves as it is told."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import opentelemetry.exporter.otlp.proto.grpc.metric_exporter as grpc_metrics
import opentelemetry.exporter.otlp.proto.grpc.trace_exporter as grpc_traces
import opentelemetry.exporter.otlp.proto.http.metric_exporter as http_metrics
import opentelemetry.exporter.otlp.proto.http.trace_exporter as http_traces
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags

from tests.otlp_receiver import Mode, OtlpReceiver, otlp_receiver

BOTH = pytest.mark.parametrize("transport", ["http", "grpc"])
RESOURCE = Resource({"service.name": "tested"})


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with otlp_receiver() as receiver:
        yield receiver


def span_exporter(receiver: OtlpReceiver, transport: str, *, timeout_s: float = 10) -> SpanExporter:
    if transport == "grpc":
        return grpc_traces.OTLPSpanExporter(receiver.grpc_endpoint, insecure=True, timeout=timeout_s)
    return http_traces.OTLPSpanExporter(f"{receiver.http_endpoint}/v1/traces", timeout=timeout_s)


def metric_exporter(receiver: OtlpReceiver, transport: str) -> MetricExporter:
    if transport == "grpc":
        return grpc_metrics.OTLPMetricExporter(receiver.grpc_endpoint, insecure=True)
    return http_metrics.OTLPMetricExporter(f"{receiver.http_endpoint}/v1/metrics")


def send_a_span(exporter: SpanExporter, name: str = "alone") -> SpanExportResult:
    kept = InMemorySpanExporter()
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    provider.get_tracer("tests").start_span(name).end()
    try:
        return exporter.export(kept.get_finished_spans())
    finally:
        exporter.shutdown()


@BOTH
def test_a_span_arrives_with_all_that_was_said_of_it(receiver: OtlpReceiver, transport: str) -> None:
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(span_exporter(receiver, transport)))
    other = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    tracer = provider.get_tracer("tests")
    with tracer.start_as_current_span(
        "outer", attributes={"n": 1, "names": ["a", "b"]}, links=[Link(other, {"why": "it"})]
    ):
        inner = tracer.start_span("inner", start_time=1_000)
        inner.add_event("noticed", {"share": 0.5, "yes": True}, timestamp=1_500)
        inner.set_status(Status(StatusCode.ERROR, "broken"))
        inner.end(2_000)
    provider.shutdown()
    child, root = receiver.wait_until(lambda spans: len(spans) == 2)

    assert (child.trace_id, child.parent_id, root.parent_id) == (root.trace_id, root.span_id, None)
    assert (len(root.trace_id), len(root.span_id), root.kind, root.status) == (32, 16, "INTERNAL", "UNSET")
    assert root.attributes == {"n": 1, "names": ("a", "b")}
    assert [(int(link.trace_id, 16), int(link.span_id, 16), link.attributes) for link in root.links] == [
        (0xABC, 0xDEF, {"why": "it"})
    ]
    assert (child.name, child.start, child.end, child.status, child.status_message) == (
        "inner",
        1_000,
        2_000,
        "ERROR",
        "broken",
    )
    assert [(event.name, event.at, event.attributes) for event in child.events] == [
        ("noticed", 1_500, {"share": 0.5, "yes": True})
    ]
    assert (child.resource["service.name"], child.scope) == ("tested", "tests")
    assert {(arrival.transport, arrival.path) for arrival in receiver.arrivals} == {(transport, "/v1/traces")}


@BOTH
def test_metrics_arrive_as_points(receiver: OtlpReceiver, transport: str) -> None:
    reader = PeriodicExportingMetricReader(metric_exporter(receiver, transport), export_interval_millis=600_000)
    provider = MeterProvider([reader], RESOURCE, shutdown_on_exit=False)
    meter = provider.get_meter("tests")

    meter.create_counter("done", "1", "how many").add(3, {"kind": "a"})
    meter.create_up_down_counter("open").add(-2)
    meter.create_gauge("age", "s").set(1.5)
    meter.create_histogram("took", "s", explicit_bucket_boundaries_advisory=[1.0, 10.0]).record(4.0)
    provider.force_flush()
    points = {point.name: point for point in receiver.wait_until_points(lambda points: len(points) == 4)}
    provider.shutdown()

    done, took = points["done"], points["took"]
    assert (done.kind, done.value, done.unit, done.description) == ("counter", 3, "1", "how many")
    assert (done.attributes, done.cumulative, done.resource["service.name"]) == ({"kind": "a"}, True, "tested")
    assert (points["open"].kind, points["open"].value) == ("updown", -2)
    assert (points["age"].kind, points["age"].value, points["age"].unit) == ("gauge", 1.5, "s")
    assert (took.kind, took.value, took.count, took.bounds, took.buckets) == (
        "histogram",
        4.0,
        1,
        (1.0, 10.0),
        (0, 1, 0),
    )


@pytest.mark.parametrize("compression", [Compression.Gzip, Compression.Deflate], ids=lambda each: each.value)
def test_what_was_compressed_is_read(receiver: OtlpReceiver, compression: Compression) -> None:
    endpoint = f"{receiver.http_endpoint}/v1/traces"

    sent = send_a_span(http_traces.OTLPSpanExporter(endpoint, compression=compression))

    assert sent is SpanExportResult.SUCCESS
    assert [span.name for span in receiver.spans] == ["alone"]
    assert [arrival.encoding for arrival in receiver.arrivals] == [compression.value]


def test_grpc_may_be_compressed_too(receiver: OtlpReceiver) -> None:
    exporter = grpc_traces.OTLPSpanExporter(receiver.grpc_endpoint, insecure=True, compression=grpc.Compression.Gzip)

    assert send_a_span(exporter) is SpanExportResult.SUCCESS
    assert [span.name for span in receiver.spans] == ["alone"]


@BOTH
def test_a_refused_span_is_lost_and_the_next_arrives_at_the_same_port(receiver: OtlpReceiver, transport: str) -> None:
    receiver.become(Mode.REFUSE)
    refused = send_a_span(span_exporter(receiver, transport, timeout_s=0.5), "lost")
    receiver.become(Mode.ACCEPT)
    accepted = send_a_span(span_exporter(receiver, transport), "next")

    assert (refused, accepted) == (SpanExportResult.FAILURE, SpanExportResult.SUCCESS)
    assert [span.name for span in receiver.spans] == ["next"]
    assert len(receiver.arrivals) == 1


@BOTH
def test_an_unavailable_receiver_keeps_nothing(receiver: OtlpReceiver, transport: str) -> None:
    receiver.become(Mode.UNAVAILABLE)

    assert send_a_span(span_exporter(receiver, transport, timeout_s=0.5)) is SpanExportResult.FAILURE
    assert receiver.arrivals[0].mode is Mode.UNAVAILABLE
    assert receiver.spans == ()


def test_an_unavailable_receiver_says_when_to_come_back(receiver: OtlpReceiver) -> None:
    receiver.become(Mode.UNAVAILABLE)
    receiver.retry_after_s = 7

    with pytest.raises(urllib.error.HTTPError) as http:
        urllib.request.urlopen(f"{receiver.http_endpoint}/v1/traces", data=b"", timeout=5)
    http.value.close()
    with (
        grpc.insecure_channel(f"127.0.0.1:{receiver.grpc_port}") as channel,
        pytest.raises(grpc.RpcError) as rpc,
    ):
        TraceServiceStub(channel).Export(ExportTraceServiceRequest(), timeout=5)

    assert (http.value.code, http.value.headers["Retry-After"]) == (503, "7")
    delay = RetryInfo.FromString(dict(rpc.value.trailing_metadata())["google.rpc.retryinfo-bin"])
    assert (rpc.value.code(), delay.retry_delay.seconds) == (grpc.StatusCode.UNAVAILABLE, 7)


@BOTH
def test_a_receiver_that_hangs_is_given_up_by_the_exporter(receiver: OtlpReceiver, transport: str) -> None:
    receiver.become(Mode.HANG)

    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(send_a_span, span_exporter(receiver, transport, timeout_s=0.5))
        receiver.wait_until_arrivals(lambda arrivals: len(arrivals) == 1)
        assert sending.result(timeout=10) is SpanExportResult.FAILURE

    assert receiver.spans == ()


@pytest.mark.parametrize(
    "path, kind, body, status",
    [
        ("/v1/traces", "application/x-protobuf", b"\xff", 400),
        ("/v1/traces", "application/json", b"{}", 415),
        ("/v1/anything", "application/x-protobuf", b"", 404),
    ],
)
def test_what_no_collector_takes_is_turned_away(
    receiver: OtlpReceiver, path: str, kind: str, body: bytes, status: int
) -> None:
    request = urllib.request.Request(f"{receiver.http_endpoint}{path}", data=body, headers={"Content-Type": kind})

    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=5)
    refused.value.close()

    assert refused.value.code == status


def test_waiting_in_vain_says_what_has_arrived(receiver: OtlpReceiver) -> None:
    send_a_span(span_exporter(receiver, "http"), "only this")

    with pytest.raises(AssertionError, match="only this"):
        receiver.wait_until(lambda spans: len(spans) == 2, timeout_s=0.05)


def test_what_is_forgotten_does_not_count_any_more(receiver: OtlpReceiver) -> None:
    send_a_span(span_exporter(receiver, "http"), "before")

    receiver.forget()
    send_a_span(span_exporter(receiver, "http"), "after")

    assert [span.name for span in receiver.spans] == ["after"]
