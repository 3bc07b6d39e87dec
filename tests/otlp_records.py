"""Spans and metric points as they left a process: what a request of OTLP says, as plain data.

Decoded with the protocol's own classes, so that a test sees what any collector would. Knows neither how a request
arrived nor which names the engine uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric, ResourceMetrics
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanEvent:
    """`at` is in nanoseconds since the epoch."""

    name: str
    at: int
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanLink:
    trace_id: str
    span_id: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Ids are lower-case hexadecimal, of 32 and 16 digits; `parent_id` is None at the root. Times as in `SpanEvent`.

    `kind` is INTERNAL, SERVER, CLIENT, PRODUCER or CONSUMER; `status` is UNSET, OK or ERROR.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: str
    start: int
    end: int
    attributes: Mapping[str, Any]
    status: str
    status_message: str
    events: tuple[SpanEvent, ...]
    links: tuple[SpanLink, ...]
    resource: Mapping[str, Any]
    scope: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One data point of one metric: what it said at `time` for these attributes.

    `kind` is counter, updown, gauge, histogram or exponential_histogram. `value` is the sum of a histogram; `count`,
    `bounds` and `buckets` (one more than bounds; those at and above zero when exponential) are empty for what is none.
    """

    name: str
    kind: str
    unit: str
    description: str
    attributes: Mapping[str, Any]
    value: float
    count: int
    bounds: tuple[float, ...]
    buckets: tuple[int, ...]
    cumulative: bool
    start: int
    time: int
    resource: Mapping[str, Any]
    scope: str


def spans_of(resources: Iterable[trace_pb2.ResourceSpans]) -> Iterator[Span]:
    """In the order in which they were sent."""
    for resource in resources:
        about = attributes_of(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield _span(span, about, scope.scope.name)


def points_of(resources: Iterable[ResourceMetrics]) -> Iterator[Point]:
    """In the order in which they were sent; a metric without data points has none."""
    for resource in resources:
        about = attributes_of(resource.resource.attributes)
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                yield from _points(metric, about, scope.scope.name)


def attributes_of(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _span(span: trace_pb2.Span, resource: Mapping[str, Any], scope: str) -> Span:
    return Span(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex() or None,
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=attributes_of(span.attributes),
        status=trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        status_message=span.status.message,
        events=tuple(
            SpanEvent(name=event.name, at=event.time_unix_nano, attributes=attributes_of(event.attributes))
            for event in span.events
        ),
        links=tuple(
            SpanLink(
                trace_id=link.trace_id.hex(), span_id=link.span_id.hex(), attributes=attributes_of(link.attributes)
            )
            for link in span.links
        ),
        resource=resource,
        scope=scope,
    )


def _points(metric: Metric, resource: Mapping[str, Any], scope: str) -> Iterator[Point]:
    which = metric.WhichOneof("data")
    if which is None:
        return
    data = getattr(metric, which)
    # A gauge is neither a difference nor a total.
    cumulative = (
        getattr(data, "aggregation_temporality", None) == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    )
    kind = ("counter" if data.is_monotonic else "updown") if which == "sum" else which
    for point in data.data_points:
        is_histogram = which.endswith("histogram")
        buckets = (
            point.positive.bucket_counts if which == "exponential_histogram" else getattr(point, "bucket_counts", ())
        )
        yield Point(
            name=metric.name,
            kind=kind,
            unit=metric.unit,
            description=metric.description,
            attributes=attributes_of(point.attributes),
            value=point.sum if is_histogram else getattr(point, point.WhichOneof("value") or "as_double"),
            count=point.count if is_histogram else 0,
            bounds=tuple(getattr(point, "explicit_bounds", ())),
            buckets=tuple(buckets),
            cumulative=cumulative,
            start=point.start_time_unix_nano,
            time=point.time_unix_nano,
            resource=resource,
            scope=scope,
        )


def _value(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return tuple(_value(each) for each in value.array_value.values)
        case "kvlist_value":
            return attributes_of(value.kvlist_value.values)
        case kind:
            return getattr(value, kind)
