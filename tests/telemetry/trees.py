"""What was sent, as trees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from telemetry.run_trace import root_id


class Sent:
    """The spans that an exporter was given."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def of(self, run_id: str) -> list[ReadableSpan]:
        """The spans of the traces to which spans of this run belong, without user code's of other traces."""
        traces = {span.context.trace_id for span in self.spans if _said(span).get("leasehold.run.id") == run_id}
        assert len(traces) <= 1, "a run is one trace"
        return [span for span in self.spans if span.context.trace_id in traces]

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def root(self, run_id: str) -> ReadableSpan:
        found = [span for span in self.spans if span.context.span_id == root_id(run_id)]
        assert len(found) == 1, "a root is sent once"
        return found[0]

    def tree(self, run_id: str, *, without: Sequence[str] = ("append",)) -> list[Any]:
        """Names below the root, nested as [name, [children]], in order of their beginnings."""
        return _below(self.root(run_id), [span for span in self.of(run_id) if span.name not in without])


def _below(span: ReadableSpan, spans: Sequence[ReadableSpan]) -> list[Any]:
    mine = [other for other in spans if other.parent and other.parent.span_id == span.context.span_id]
    return [[child.name, _below(child, spans)] for child in sorted(mine, key=lambda child: child.start_time or 0)]


def _said(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def check_whole(spans: Sequence[ReadableSpan]) -> None:
    """Every span's parent is there, ids are used once, and roots cover what is below them."""
    by_id = {span.context.span_id: span for span in spans}
    assert len(by_id) == len(spans), "an id is used twice"
    for span in spans:
        above = span
        while above.parent is not None:
            assert above.parent.span_id in by_id, f"the parent of {above.name} is missing"
            above = by_id[above.parent.span_id]
        assert span.start_time is not None
        assert span.end_time is not None
        assert above.start_time is not None
        assert above.end_time is not None
        assert above.start_time <= span.start_time, f"{above.name} begins after {span.name}"
        assert above.end_time >= span.end_time, f"{above.name} ends before {span.name}"
