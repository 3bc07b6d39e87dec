"""Spans of commands: the middleware around a kernel's dispatch.

A command's span is sent when the command is over, because only then is it known to which run's trace it belongs: whose
history its handler read. Its id is drawn beforehand, so that what happens inside can name it as parent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kernel.command import Command
from kernel.commands.create_run import CreateRun, CreateRunResult
from kernel.commands.execute_job import ExecuteJob, ExecuteJobResult
from kernel.errors import LeaseLost
from kernel.ports.clock import Clock
from kernel.ports.ids import Ids
from telemetry import names
from telemetry.failures import failure_of_error, failure_of_info
from telemetry.faults import passed_over
from telemetry.run_trace import RunTrace, Traceparent, attempt_ids, own_trace_id, root_id, run_trace, to_ns
from telemetry.scope import SCOPE, Scope
from telemetry.spans import AttributeValue, Failure, SpanRef, current_ref, end_span

if TYPE_CHECKING:
    from telemetry.tracing import Tracing

__all__ = ["CommandSpans"]

Handle = Callable[[Command[Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a command ended: the name of it for the span, and what went wrong."""

    outcome: str
    failure: Failure | None = None
    run_id: str | None = None


class CommandSpans:
    """Middleware of kernels; `clock` and `ids` are those of their store."""

    def __init__(self, tracing: Tracing, clock: Clock, ids: Ids) -> None:
        self._tracing = tracing
        self._clock = clock
        self._ids = ids

    def around(self, command: Command[Any], handle: Handle) -> Awaitable[Any]:
        """Carry out a command as a span."""
        if isinstance(command, CreateRun):
            return self._create(command, handle)
        outer = SCOPE.get()
        run_id: str | None = getattr(command, "run_id", None)
        known = None if outer is None or run_id is None else outer.runs.get(run_id)
        if known is not None and not known.sampled:
            return handle(command)
        scope = Scope()
        if outer is not None:
            scope.session_id, scope.lost = outer.session_id, outer.lost
        if known is not None:
            scope.runs[known.run_id] = known
        return self._observe(command, handle, scope, run_id)

    def _create(self, command: CreateRun, handle: Handle) -> Awaitable[Any]:
        """A run's trace begins here, or goes on: where it comes from is stored with the run."""
        caller, carrier = current_ref(), command.trace_context
        run_id = command.run_id or self._ids.run_id(self._clock.now())
        if command.run_id is None:
            command = replace(command, run_id=run_id)
        if carrier is None and caller is not None:
            carrier = {"traceparent": str(Traceparent(caller.trace_id, caller.span_id, caller.sampled))}
        if carrier is None:
            # Asked before anything is made for the run, because it is the answer for nearly every one. Nobody needs to
            # be told: who drives a run of which the task that created it has no word knows that it is not sampled.
            sampled = self._tracing.samples(run_id, command.workflow_id)
            # Stored is only what nobody else would come to by asking again.
            if not sampled and self._tracing.spans.repeatable:
                return handle(command)
            carrier = {"traceparent": str(Traceparent(own_trace_id(run_id), root_id(run_id), sampled))}
        command = replace(command, trace_context=carrier, root_span_id=f"{root_id(run_id):016x}")
        trace = run_trace(
            run_id,
            command.workflow_id,
            command.workflow_version or "",
            began_at=self._clock.now(),
            carrier=carrier,
            sample=self._tracing.spans.decide,
        )
        return self._create_in_trace(command, handle, trace, caller)

    async def _create_in_trace(
        self, command: CreateRun, handle: Handle, trace: RunTrace, caller: SpanRef | None
    ) -> Any:
        scope = Scope(runs={trace.run_id: trace})
        if trace.sampled or (caller is not None and caller.sampled):
            return await self._observe(command, handle, scope, trace.run_id)
        # Who drives it shall know that it is not sampled.
        before = SCOPE.set(scope)
        try:
            return await handle(command)
        finally:
            SCOPE.reset(before)

    async def _observe(self, command: Command[Any], handle: Handle, scope: Scope, run_id: str | None) -> Any:
        caller, start_ns = current_ref(), self._tracing.now_ns()
        if caller is not None and not caller.sampled:
            caller = None
        token = command.token if isinstance(command, ExecuteJob) else None
        span_id = self._tracing.spans.new_id() if token is None else attempt_ids(token)[0]
        scope.run_id = run_id
        scope.command = SpanRef(0 if caller is None or isinstance(command, ExecuteJob) else caller.trace_id, span_id)
        before = SCOPE.set(scope)
        try:
            result = await handle(command)
        except BaseException as error:
            SCOPE.reset(before)
            if not (isinstance(error, LeaseLost) or await self._is_for_others(command, scope)):
                self._send(command, scope, _raised(error, run_id), caller, start_ns)
            # It may have ended a run before it was interrupted.
            await self._tracing.send_roots(scope)
            raise
        SCOPE.reset(before)
        ghost = isinstance(result, ExecuteJobResult) and result.ghost
        if not (ghost and await self._is_for_others(command, scope)):
            self._send(command, scope, _returned(result, run_id), caller, start_ns)
        await self._tracing.send_roots(scope)
        return result

    async def _is_for_others(self, command: Command[Any], scope: Scope) -> bool:
        """Whether somebody else tells of an attempt that did not end here: whoever has recorded, or will, its loss."""
        if scope.lost():
            return True
        run_id = scope.run_id
        if not isinstance(command, ExecuteJob) or command.token is None or run_id is None:
            return False
        known = scope.runs.get(run_id)
        return known is not None and known.sampled and await self._tracing.is_lost(run_id, command.token)

    def _send(self, command: Command[Any], scope: Scope, ended: _Ended, caller: SpanRef | None, start_ns: int) -> None:
        try:
            self._send_spans(command, scope, ended, caller, start_ns)
        except Exception as error:  # noqa: BLE001 - the command is over, whatever can be told of it
            passed_over(error)

    def _send_spans(
        self, command: Command[Any], scope: Scope, ended: _Ended, caller: SpanRef | None, start_ns: int
    ) -> None:
        for body in scope.bodies:
            body.span.set_attribute(names.OUTCOME, ended.outcome)
            end_span(body.span, end_ns=body.end_ns, failure=body.failure)
        runs = scope.runs
        if isinstance(command, CreateRun) and not scope.born:
            # It was refused, or an earlier run answers to the key: nobody will send a root of the one that was minted.
            # Of one in a transaction of the caller's nobody knows yet, nor of one whose creator was interrupted; who
            # drives that shares this scope, so nothing is taken out of it.
            runs = {}
        trace = None if ended.run_id is None else runs.get(ended.run_id)
        parent, links = _place(command, scope.over, runs, trace, caller)
        assert scope.command is not None
        span_id = scope.command.span_id
        if ended.outcome == "superseded" and not scope.bodies:
            # Such as a message that was delivered twice: the id belongs to the attempt that its token has.
            span_id = self._tracing.spans.new_id()
        if parent is None and not links:
            scope.command = None
            return
        if trace is not None and parent == SpanRef(trace.trace_id, trace.span_id):
            # A root covers its children, and a run exists from the moment that it was decided to.
            start_ns = max(start_ns, to_ns(trace.began_at))
        span = self._tracing.spans.start(
            command.type,
            trace_id=None if parent is None else parent.trace_id,
            span_id=span_id,
            parent_id=None if parent is None else parent.span_id,
            start_ns=start_ns,
            attributes={
                **({} if trace is None else self._tracing.attributes(trace, scope.session_id)),
                **_stage_of(command, scope),
                names.OUTCOME: ended.outcome,
            },
            links=links,
        )
        end_ns = max(self._tracing.now_ns(), start_ns)
        end_span(span, end_ns=end_ns, failure=ended.failure)
        if (outer := SCOPE.get()) is not None:
            outer.busy_until_ns = max(outer.busy_until_ns, end_ns)


def _place(
    command: Command[Any],
    over: Collection[str],
    runs: Mapping[str, RunTrace],
    trace: RunTrace | None,
    caller: SpanRef | None,
) -> tuple[SpanRef | None, Sequence[SpanRef]]:
    """The parent of a command's span and what it is linked to; neither, when nobody samples it."""
    if trace is None:
        # A command of no run in particular, such as a sweep, is a trace of its own when it met any that is sampled.
        return caller, [SpanRef(run.trace_id, run.span_id) for run in runs.values() if run.sampled]
    root = SpanRef(trace.trace_id, trace.span_id)
    if isinstance(command, ExecuteJob):
        # Always in its run's trace, because its body is; whose request it was executed in is a link.
        if not trace.sampled:
            return None, ()
        return root, () if caller is None or caller.trace_id == trace.trace_id else (caller,)
    if caller is not None:
        return caller, () if caller.trace_id == trace.trace_id or not trace.sampled else (root,)
    if not trace.sampled:
        return None, ()
    # A root covers its children, so what came after the end can only be linked to it.
    return (None, (root,)) if trace.run_id in over else (root, ())


def _returned(result: object, run_id: str | None) -> _Ended:
    match result:
        case ExecuteJobResult(ghost=True):
            return _Ended("superseded", run_id=run_id)
        case ExecuteJobResult(outcome="failed", retryable=retrying, error=error):
            failure = None if error is None else failure_of_info(error)
            return _Ended("retrying" if retrying else "failed", failure, run_id)
        case ExecuteJobResult(outcome=outcome):
            return _Ended(outcome, run_id=run_id)
        case CreateRunResult(run_id=created):
            return _Ended("ok", run_id=created)
        case _:
            return _Ended("ok", run_id=run_id)


def _raised(error: BaseException, run_id: str | None) -> _Ended:
    if isinstance(error, Exception):
        return _Ended(type(error).__name__, failure_of_error(error), run_id)
    return _Ended("interrupted", run_id=run_id)


def _stage_of(command: Command[Any], scope: Scope) -> Mapping[str, AttributeValue]:
    return {names.STAGE_ID: command.stage_id, **scope.attempt} if isinstance(command, ExecuteJob) else {}
