"""What an exporter sends to Jaeger is what its query API tells: the ground on which the other tests here stand."""

from __future__ import annotations

import opentelemetry.exporter.otlp.proto.grpc.trace_exporter as over_grpc
import opentelemetry.exporter.otlp.proto.http.trace_exporter as over_http
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags

from tests.jaeger.server import Jaeger
from tests.span_tree import as_text, tree_of

ELSEWHERE = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def exporter(jaeger: Jaeger, transport: str) -> SpanExporter:
    if transport == "grpc":
        return over_grpc.OTLPSpanExporter(jaeger.grpc_endpoint, insecure=True)
    return over_http.OTLPSpanExporter(f"{jaeger.http_endpoint}/v1/traces")


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_a_trace_is_found_as_it_was_sent(jaeger: Jaeger, transport: str) -> None:
    provider = TracerProvider(resource=Resource({"service.name": "tested"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter(jaeger, transport)))
    tracer = provider.get_tracer("tests")
    with tracer.start_as_current_span("outer", attributes={"n": 1, "yes": True}) as outer:
        inner = tracer.start_span("inner", links=[Link(ELSEWHERE)])
        inner.add_event("noticed", {"share": 0.5})
        inner.set_status(Status(StatusCode.ERROR, "broken"))
        inner.end()
    provider.shutdown()

    trace_id = f"{outer.get_span_context().trace_id:032x}"
    root = tree_of(jaeger.wait_for_trace(trace_id, lambda spans: len(spans) == 2))

    assert as_text([root], show=["n", "yes"]).splitlines() == [
        "outer  n=1  yes=True",
        "└─ inner  ERROR: broken",
        "      · noticed",
    ]
    child = root.find("inner").span
    assert (child.resource["service.name"], child.scope) == ("tested", "tests")
    assert [(int(link.trace_id, 16), int(link.span_id, 16)) for link in child.links] == [(0xABC, 0xDEF)]
    assert (child.events[0].attributes, root.span.start <= child.start <= child.end <= root.span.end) == (
        {"share": 0.5},
        True,
    )


def test_the_traces_of_an_attribute_are_found(jaeger: Jaeger) -> None:
    provider = TracerProvider(resource=Resource({"service.name": "searched"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter(jaeger, "http")))
    tracer = provider.get_tracer("tests")
    with tracer.start_as_current_span("root", attributes={"tested.run.id": "this"}) as root:
        tracer.start_span("child", attributes={"tested.run.id": "this"}).end()
    tracer.start_span("other", attributes={"tested.run.id": "that"}).end()
    provider.shutdown()

    trace_id = f"{root.get_span_context().trace_id:032x}"
    jaeger.wait_for_trace(trace_id, lambda spans: len(spans) == 2)

    assert jaeger.find_trace_ids("searched", {"tested.run.id": "this"}) == {trace_id}


def test_a_trace_that_nobody_sent_has_no_spans(jaeger: Jaeger) -> None:
    assert jaeger.find_trace("1" * 32) == ()
    with pytest.raises(AssertionError, match="only"):
        jaeger.wait_for_trace("1" * 32, lambda spans: len(spans) > 0, timeout_s=0.1)
