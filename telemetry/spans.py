"""Sending spans whose ids are known beforehand, through the OpenTelemetry SDK that the process has set up.

The SDK draws ids at random and decides about sampling span by span. Both are decided for a run as a whole here, so this
project's own tracer is given ids and asked to record; span processors, exporters and limits are the program's.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from telemetry.faults import passed_over
from telemetry.names import RUN, SCOPE
from telemetry.run_trace import own_trace_id, root_id

__all__ = ["Failure", "SpanRef", "Spans", "context_of", "current_ref", "end_span", "own_root_context"]

BUILT_IN = re.compile(r"(?:ParentBased\{root:)?(AlwaysOnSampler|AlwaysOffSampler|TraceIdRatioBased\{(.+?)\})")
"""How the samplers of the SDK describe themselves (OpenTelemetry specification, Trace SDK, Built-in samplers)."""

(SPAN_KEY,) = trace.set_span_in_context(trace.INVALID_SPAN, Context())
"""Under which a context has its current span. The API tells nobody, but a context with nothing else in it does."""

AttributeValue = str | int | float | bool | Sequence[str]


@dataclass(frozen=True, slots=True)
class SpanRef:
    """A span of a trace, as parent or link."""

    trace_id: int
    span_id: int
    sampled: bool = True


@dataclass(frozen=True, slots=True)
class Failure:
    """What is recorded of an error: its class, its message and, where there is one, its traceback without variables."""

    type: str
    message: str
    traceback: str | None = None


class Spans:
    """Starts sampled spans. Plain calls that never wait.

    Raises: TypeError for a provider whose spans are not those of the SDK.
    """

    def __init__(self, provider: TracerProvider) -> None:
        tracer = provider.get_tracer(SCOPE)
        if not isinstance(tracer, Tracer):
            raise TypeError(f"{type(tracer).__name__} is not a tracer of the OpenTelemetry SDK.")
        self._tracer = tracer
        self._sampler = provider.sampler
        self._bound = _bound_of(self._sampler)
        self.repeatable: bool = self._bound is not None
        """Whether the sampler gives the same answer about a trace whoever asks, and however often."""
        # A provider has one tracer for a scope, which several of these may share.
        given = tracer.id_generator
        self._ids = given if isinstance(given, _GivenIds) else _GivenIds()
        tracer.id_generator = self._ids
        tracer.sampler = ALWAYS_ON

    def decide(self, trace_id: int, workflow_id: str) -> bool:
        """Whether the program's sampler wants a trace that begins with a run of this workflow."""
        if self._bound is not None:
            return trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < self._bound
        try:
            found = self._sampler.should_sample(Context(), trace_id, RUN.of(workflow_id), SpanKind.INTERNAL, {}, ())
        except Exception as error:  # noqa: BLE001 - the program's own
            passed_over(error)
            return False
        return found.decision is Decision.RECORD_AND_SAMPLE

    def new_id(self) -> int:
        """A random span id."""
        return self._ids.generate_span_id()

    def start(
        self,
        name: str,
        *,
        trace_id: int | None = None,
        span_id: int | None = None,
        parent_id: int | None = None,
        start_ns: int | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
        links: Iterable[SpanRef] = (),
    ) -> Span:
        """Begin a span; without a trace id it begins a trace of its own, without a span id it gets a random one.

        Where a processor of the program's raises, that is said, and the span is one that records nothing.
        """
        context = Context()
        if trace_id is not None and parent_id is not None:
            context = context_of(SpanRef(trace_id, parent_id))
        self._ids.give(trace_id, span_id)
        try:
            return self._tracer.start_span(
                name,
                context,
                attributes=dict(attributes or {}),
                links=[Link(_span_context(link)) for link in links],
                start_time=start_ns,
            )
        except Exception as error:  # noqa: BLE001 - the program's own
            passed_over(error)
            return trace.INVALID_SPAN


def _bound_of(sampler: Sampler) -> int | None:
    """Below which trace ids begin that one of the SDK's samplers wants, so that it need not be asked; None for others.

    To be asked is a fifth of what a run pays that might have been traced and is not.
    """
    if type(sampler) not in (ParentBased, StaticSampler, TraceIdRatioBased):
        return None
    try:
        found = BUILT_IN.match(sampler.get_description())
    except Exception as error:  # noqa: BLE001 - the program's own may be inside of it
        passed_over(error)
        return None
    if found is None:
        return None
    rate = {"AlwaysOnSampler": 1.0, "AlwaysOffSampler": 0.0}.get(found[1])
    return TraceIdRatioBased.get_bound_for_rate(float(found[2]) if rate is None else rate)


class _GivenIds(RandomIdGenerator):
    """Gives out the ids of the next span, and random ones where none are given."""

    def __init__(self) -> None:
        self._next = threading.local()

    def give(self, trace_id: int | None, span_id: int | None) -> None:
        self._next.ids = (trace_id, span_id)

    def generate_trace_id(self) -> int:
        trace_id, _ = getattr(self._next, "ids", (None, None))
        return trace_id or super().generate_trace_id()

    def generate_span_id(self) -> int:
        _, span_id = getattr(self._next, "ids", (None, None))
        self._next.ids = (None, None)
        return span_id or super().generate_span_id()


def end_span(span: Span, *, end_ns: int, failure: Failure | None = None, at_ns: int | None = None) -> None:
    """End a span at this moment; a failure becomes its status and its `exception` event. Raises nothing."""
    if failure is not None:
        said = {"exception.type": failure.type, "exception.message": failure.message}
        if failure.traceback is not None:
            said["exception.stacktrace"] = failure.traceback
        span.add_event("exception", said, timestamp=at_ns or end_ns)
        span.set_status(Status(StatusCode.ERROR, f"{failure.type}: {failure.message}"))
    try:
        span.end(end_ns)
    except Exception as error:  # noqa: BLE001 - the program's own
        passed_over(error)


def current_ref() -> SpanRef | None:
    """The current span of the caller, whoever made it; None when there is none."""
    # By ourselves, for the many who have none.
    span = otel_context.get_current().get(SPAN_KEY)
    if span is None or not isinstance(span, Span):
        return None
    current = span.get_span_context()
    return SpanRef(current.trace_id, current.span_id, current.trace_flags.sampled) if current.is_valid else None


def context_of(ref: SpanRef) -> Context:
    """A context in which a span of another process, or of another task, is the current one."""
    return trace.set_span_in_context(NonRecordingSpan(_span_context(ref)), Context())


def own_root_context(run_id: str) -> Context:
    """A context in which the root of a run is the current span, of a run that has its own trace and is not sampled."""
    return Context({SPAN_KEY: _UnsampledRoot(run_id)})


class _UnsampledRoot(NonRecordingSpan):
    """Its ids are derived when somebody asks: nearly every run has one of these, and most are never asked."""

    def __init__(self, run_id: str) -> None:
        # Not that of the base class, which wants the ids.
        self._run_id = run_id

    def get_span_context(self) -> SpanContext:
        """The ids, which say that the run is not sampled."""
        return _span_context(SpanRef(own_trace_id(self._run_id), root_id(self._run_id), sampled=False))

    def __repr__(self) -> str:
        return f"NonRecordingSpan({self.get_span_context()!r})"


def _span_context(ref: SpanRef) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if ref.sampled else TraceFlags.DEFAULT)
    return SpanContext(ref.trace_id, ref.span_id, is_remote=True, trace_flags=flags)
