"""The executor, watched for tracing: a span for each body and each check, current while user code runs.

What user code does inside (HTTP requests, model calls, spans of its own) nests under it: coroutines and worker threads
inherit the current span, and a child interpreter is told its `traceparent`.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.trace import Span
from pydantic_core import to_json

from kernel.model.attempts import Raised
from kernel.ports.executor import (
    Attempt,
    BodyCompleted,
    BodyOutcome,
    BodySuspended,
    CheckAttempt,
    CheckFailed,
    CheckNotReady,
    CheckOutcome,
    CheckRaised,
    CheckReady,
    Executor,
)
from telemetry import names
from telemetry.failures import failure_of_error, failure_of_info
from telemetry.run_trace import RunTrace, attempt_ids, look_id
from telemetry.scope import SCOPE, Body, Scope
from telemetry.spans import Failure, SpanRef, context_of, end_span

if TYPE_CHECKING:
    from telemetry.tracing import Tracing

__all__ = ["WatchedExecutor"]


class WatchedExecutor:
    """An `Executor` whose calls are spans."""

    def __init__(self, executor: Executor, tracing: Tracing) -> None:
        self._executor = executor
        self._tracing = tracing

    def run(self, attempt: Attempt, /) -> Coroutine[Any, Any, BodyOutcome]:
        """`Executor.run`."""
        scope = SCOPE.get()
        trace = None if scope is None else scope.runs.get(attempt.run_id)
        if scope is None or trace is None:
            return self._executor.run(attempt)
        return self._run(attempt, scope, trace)

    async def _run(self, attempt: Attempt, scope: Scope, trace: RunTrace) -> BodyOutcome:
        if not trace.sampled:
            with _current_root(trace):
                return await self._executor.run(attempt)
        scope.attempt = stage_attributes(attempt)
        _, body_id = attempt_ids(attempt.token)
        parent_id = trace.span_id if scope.command is None else scope.command.span_id
        span = self._start(
            names.STAGE.of(attempt.stage.id), attempt, trace, scope, span_id=body_id, parent_id=parent_id
        )
        if self._tracing.privacy.capture:
            self._record(span, {"run.input": attempt.input, "stage.config": _config_of(attempt)})
        try:
            with _current(span):
                outcome = await self._executor.run(attempt)
        except BaseException as error:
            failure = failure_of_error(error) if isinstance(error, Exception) else None
            scope.bodies.append(Body(span, self._tracing.now_ns(), failure))
            raise
        ended_ns, failure = self._tracing.now_ns(), None
        match outcome:
            case BodyCompleted():
                self._record(span, {"stage.output": outcome.output})
            case BodySuspended():
                self._record(span, {"stage.state": outcome.state})
            case Raised():
                failure = failure_of_info(outcome.error)
        scope.bodies.append(Body(span, ended_ns, failure))
        return outcome

    def check(self, check: CheckAttempt, /) -> Coroutine[Any, Any, CheckOutcome]:
        """`Executor.check`."""
        scope = SCOPE.get()
        trace = None if scope is None else scope.runs.get(check.run_id)
        if scope is None or trace is None:
            return self._executor.check(check)
        return self._check(check, scope, trace)

    async def _check(self, check: CheckAttempt, scope: Scope, trace: RunTrace) -> CheckOutcome:
        if not trace.sampled:
            with _current_root(trace):
                return await self._executor.check(check)
        # One that its process did not survive is made again as the same look, and so finds what was sent of it.
        look = look_id(check.run_id, check.stage.id, check.execution, check.look)
        span = self._start(names.CHECK.of(check.stage.id), check, trace, scope, span_id=look, parent_id=trace.span_id)
        outcome, failure = "interrupted", None
        try:
            with _current(span):
                answer = await self._executor.check(check)
        except Exception as error:
            outcome, failure = type(error).__name__, failure_of_error(error)
            raise
        else:
            if isinstance(answer, CheckReady):
                self._record(span, {"stage.output": answer.output})
            outcome, failure = _told(answer)
            return answer
        finally:
            span.set_attribute(names.OUTCOME, outcome)
            end_span(span, end_ns=self._tracing.now_ns(), failure=failure)

    def _record(self, span: Span, payloads: Mapping[names.PayloadName, bytes | None]) -> None:
        """Note these payloads, by name, as far as somebody has asked for them."""
        privacy = self._tracing.privacy
        if not privacy.capture:
            return
        for name, payload in payloads.items():
            text = None if payload is None else privacy.captured(name, payload)
            if text is not None:
                span.set_attribute(f"{names.SCOPE}.{name}", text)

    def _start(
        self,
        name: str,
        attempt: Attempt | CheckAttempt,
        trace: RunTrace,
        scope: Scope,
        *,
        span_id: int | None = None,
        parent_id: int,
    ) -> Span:
        return self._tracing.spans.start(
            name,
            trace_id=trace.trace_id,
            span_id=span_id,
            parent_id=parent_id,
            start_ns=self._tracing.now_ns(),
            attributes={**self._tracing.attributes(trace, scope.session_id), **stage_attributes(attempt)},
        )


def _config_of(attempt: Attempt) -> bytes | None:
    given = attempt.config.get(attempt.stage.id)
    return None if given is None else to_json(given)


def stage_attributes(attempt: Attempt | CheckAttempt) -> Mapping[str, str | int]:
    """Which stage, execution and attempt."""
    return {
        names.STAGE_ID: attempt.stage.id,
        names.STAGE_EXECUTION: attempt.execution,
        names.STAGE_ATTEMPT: attempt.number,
    }


@contextmanager
def _current(span: Span) -> Generator[None]:
    token = otel_context.attach(otel_trace.set_span_in_context(span))
    try:
        yield
    finally:
        otel_context.detach(token)


@contextmanager
def _current_root(trace: RunTrace) -> Generator[None]:
    """Let user code know that nobody samples this run, so that its own spans are not sampled either."""
    token = otel_context.attach(context_of(SpanRef(trace.trace_id, trace.span_id, sampled=False)))
    try:
        yield
    finally:
        otel_context.detach(token)


def _told(answer: CheckOutcome) -> tuple[str, Failure | None]:
    match answer:
        case CheckReady():
            return "ready", None
        case CheckNotReady():
            return "not_ready", None
        case CheckFailed():
            return "failed", failure_of_info(answer.error)
        case CheckRaised():
            return "raised", failure_of_info(answer.error)
