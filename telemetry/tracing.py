"""One run, one trace: spans around commands, bodies, checks and appends, made by wrapping dispatch and the ports.

Theory of operation. Which trace a run belongs to is stored with it or follows from its id (`telemetry.run_trace`), so
every process that touches it agrees. Spans are sent when what they tell is durable: a command's and its body's when
its outcome is recorded, the run's root by whoever owns the run when it ends, or else by whoever ends it. What a process
had in flight when its lease was lost it never sends; whoever records that loss sends those spans, under the ids that
follow from the attempt's token, with the begin that the history has and the loss as their end.

A run that is not sampled is driven by ports that nobody watches, and so pays for its beginning only: the question, and
a context that tells user code. The history comes first: when something about a trace goes wrong, that is said, and
the run goes on.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, cast

import anyio
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider

from kernel.commands.execute_job import ExecuteJob
from kernel.dispatch import Middleware
from kernel.model.facts import CorruptHistory
from kernel.ports.clock import Clock
from kernel.ports.executor import Executor
from kernel.ports.ids import Ids
from kernel.ports.journals import Journals
from kernel.ports.persistence import Append, HeadRow, Lease, Persistence, StoredHistory
from telemetry import names
from telemetry.append_spans import AppendSpans
from telemetry.command_spans import CommandSpans
from telemetry.failures import failure_of_info
from telemetry.faults import passed_over
from telemetry.logs import EventLogger, get_logger
from telemetry.privacy import NOTHING, Privacy
from telemetry.run_trace import RunTrace, attempt_ids, own_trace_id, run_trace, to_ns
from telemetry.scope import SCOPE, Scope, never
from telemetry.spans import AttributeValue, SpanRef, Spans, context_of, end_span, own_root_context
from telemetry.tales import RootEvent, is_eventful, is_loss_recorded, lost_attempts, present_trace, root_events
from telemetry.watched_executor import WatchedExecutor
from telemetry.watched_store import WatchedJournals, WatchedPersistence

__all__ = ["Driving", "Tracing"]

logger: EventLogger = get_logger("leasehold.telemetry")


Drive: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

LOOK_S = 2.0
"""So long a trace waits for what the history says."""


class Tracing:
    """What watches one client, supervisor or host: `clock` and `ids` are those of its store, `now_ns` its time.

    Raises: TypeError, for a provider whose spans are not those of the SDK.
    """

    def __init__(
        self,
        provider: TracerProvider,
        store: Persistence,
        *,
        clock: Clock,
        ids: Ids,
        privacy: Privacy = NOTHING,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.spans: Spans = Spans(provider)
        self.appends: AppendSpans = AppendSpans(self.spans)
        self.now_ns: Callable[[], int] = now_ns
        self.privacy: Privacy = privacy
        self.middleware: Middleware = CommandSpans(self, clock, ids).around
        self.unwatched: Persistence = store
        """The store as it was given."""
        self.store: Persistence = cast("Persistence", WatchedPersistence(store, self))
        """The store, watched."""

    def watch_executor(self, executor: Executor) -> Executor:
        """The executor, watched."""
        return cast("Executor", WatchedExecutor(executor, self))

    def watch_journals(self, journals: Journals) -> Journals:
        """The journals, watched; wanted where commands are decided in another task than they are dispatched in."""
        return cast("Journals", WatchedJournals(journals))

    # -- runs ----------------------------------------------------------------------------------------------------------

    def samples(self, run_id: str, workflow_id: str) -> bool:
        """Whether the program's sampler wants the trace of a run that has no creator's span."""
        return self.spans.decide(own_trace_id(run_id), workflow_id)

    def trace_of(self, head: HeadRow, *, sample: Callable[[int, str], bool] | None = None) -> RunTrace:
        """The trace of a stored run, as it was created."""
        return run_trace(
            head.run_id,
            head.workflow_id,
            head.workflow_version,
            began_at=head.created_at,
            carrier=head.trace_context,
            sample=sample or self.spans.decide,
        )

    def met(self, stored: StoredHistory, scope: Scope) -> None:
        """A history has been read, from its beginning or from where it had been read before."""
        run_id = stored.head.run_id
        trace = scope.runs.get(run_id) or self.trace_of(stored.head)
        scope.runs[run_id] = present_trace(trace, stored)
        if not trace.sampled:
            return
        if is_eventful(row.events for row in stored.rows):
            scope.eventful.add(run_id)
        if stored.head.head.completed_at is not None:
            scope.over.add(run_id)

    def attributes(self, trace: RunTrace, session_id: str | None) -> dict[str, AttributeValue]:
        """What every span of a run has."""
        found: dict[str, AttributeValue] = {
            names.RUN_ID: trace.run_id,
            names.WORKFLOW_ID: trace.workflow_id,
            names.WORKFLOW_VERSION: trace.workflow_version,
        }
        if session_id is not None:
            found[names.SESSION_ID] = session_id
        return found

    def driving(self, run_id: str, lease: Lease, stored: StoredHistory | None) -> Driving:
        """What goes around the task of an actor; `stored` is what was claimed.

        Of a run that is created here the scope of its creator knows, in which this is called.
        """
        try:
            if stored is None:
                # Its creator has no word of a run that is not sampled.
                trace = None if (outer := SCOPE.get()) is None else outer.runs.get(run_id)
            else:
                trace = self._trace_to_take_over(run_id, stored)
            if trace is None:
                return Driving(self, own_root_context(run_id))
            scope = Scope(runs={run_id: trace}, session_id=lease.session_id)
            if stored is not None:
                self.met(stored, scope)
            root = SpanRef(trace.trace_id, scope.runs[run_id].span_id, trace.sampled)
            return Driving(self, context_of(root), scope if trace.sampled else None)
        except Exception as error:  # noqa: BLE001 - no run waits because it cannot be traced
            passed_over(error)
            return Driving(self, own_root_context(run_id))

    def _trace_to_take_over(self, run_id: str, stored: StoredHistory) -> RunTrace | None:
        """The trace of a run that was claimed; None when it has no creator's span and no sampling."""
        if stored.head.trace_context is not None:
            return self.trace_of(stored.head)
        # The program's sampler is asked once: it may count.
        return self.trace_of(stored.head, sample=_yes) if self.samples(run_id, stored.head.workflow_id) else None

    @asynccontextmanager
    async def working(self, session_id: str | None = None, *, lost: Callable[[], bool] = never) -> AsyncGenerator[None]:
        """Around a job: what is done inside is noted, by this session if any, and the end of its run sends its root.

        `lost` says whether nothing counts any more.
        """
        scope = Scope(session_id=session_id, lost=lost)
        before = SCOPE.set(scope)
        try:
            yield
        finally:
            SCOPE.reset(before)
            await self.send_roots(scope)

    def begin_afresh(self) -> None:
        """What the current task does from here on has nothing to do with the span in which it was begun."""
        SCOPE.set(None)
        otel_context.attach(Context())

    async def send_roots(self, scope: Scope) -> None:
        """Send the roots of the runs that have ended in this scope, also when it is being left in a hurry."""
        ended, scope.ended = scope.ended, {}
        for run_id, append in ended.items():
            trace = scope.runs[run_id]
            events = await self._events_of(trace) if run_id in scope.eventful else ()
            try:
                self._send_root(trace, append, scope, events)
            except Exception as error:  # noqa: BLE001 - the run has ended, whatever can be told of it
                passed_over(error)

    async def _events_of(self, trace: RunTrace) -> Sequence[RootEvent]:
        """What the root has to tell; nothing, if that cannot be read soon: the root is worth more than its events."""
        stored = await self._looked_up(trace.run_id)
        try:
            return () if stored is None else root_events(stored, since=trace.began_at)
        except CorruptHistory as error:
            passed_over(error)
            return ()

    def _send_root(self, trace: RunTrace, append: Append, scope: Scope, events: Sequence[RootEvent]) -> None:
        head, ended_ns = append.head, to_ns(append.head.completed_at or append.at)
        # What others have ended goes on for a moment here, and a root covers what is below it.
        until_ns = self.now_ns() if head.completed_at == append.at else scope.busy_until_ns
        span = self.spans.start(
            names.RUN.of(trace.workflow_id),
            trace_id=trace.trace_id,
            span_id=trace.span_id,
            parent_id=trace.parent_id,
            start_ns=to_ns(trace.began_at),
            attributes={
                **self.attributes(trace, scope.session_id),
                names.OUTCOME: head.status.value.lower(),
            },
            links=() if trace.first_id is None else (SpanRef(trace.trace_id, trace.first_id),),
        )
        for event in events:
            span.add_event(event.name, event.attributes, timestamp=event.at_ns)
        failure = None if head.error is None else failure_of_info(head.error.error)
        end_span(span, end_ns=max(until_ns, ended_ns), failure=failure, at_ns=ended_ns)

    async def has_ended(self, append: Append) -> bool:
        """Whether this append has ended its run, which nobody owns; no, when that is not known soon. Raises nothing."""
        stored = await self._looked_up(append.run_id)
        return stored is not None and stored.head.head.completed_at == append.at and stored.head.owner is None

    async def is_lost(self, run_id: str, token: str) -> bool:
        """Whether the loss of this attempt has been recorded; yes, if that cannot be known soon.

        A store that does not answer is the reason for which leases are lost. Raises nothing.
        """
        stored = await self._looked_up(run_id)
        return stored is None or is_loss_recorded(stored, token)

    async def _looked_up(self, run_id: str) -> StoredHistory | None:
        """The history, also for a task that is being cancelled; None, if it cannot be had soon."""
        try:
            with anyio.fail_after(LOOK_S, shield=True):
                return await self.unwatched.load(run_id, bodies=False)
        except Exception as error:  # noqa: BLE001 - a trace is not worth more
            logger.warning("trace.incomplete", run_id=run_id, error=f"{type(error).__name__}: {error}")
            return None

    async def attempts_lost(self, append: Append, trace: RunTrace) -> None:
        """An append has recorded that attempts went down with their process: send the spans that it cannot send.

        Raises: EngineError, when the history cannot be read.
        """
        stored = await self.unwatched.load(append.run_id, bodies=False)
        end_ns = to_ns(append.at)
        for lost in lost_attempts(stored, since_seq=append.expected):
            job_id, body_id = attempt_ids(lost.token)
            attributes = {
                **self.attributes(trace, lost.session_id),
                names.STAGE_ID: lost.stage_id,
                names.STAGE_EXECUTION: lost.execution,
                names.STAGE_ATTEMPT: lost.attempt,
                names.OUTCOME: "lost",
            }
            job, body = (ExecuteJob.type, job_id, trace.span_id), (names.STAGE.of(lost.stage_id), body_id, job_id)
            for name, span_id, parent_id in (job, body):
                span = self.spans.start(
                    name,
                    trace_id=trace.trace_id,
                    span_id=span_id,
                    parent_id=parent_id,
                    start_ns=to_ns(lost.began_at),
                    attributes=attributes,
                )
                end_span(span, end_ns=end_ns, failure=failure_of_info(lost.error))


class Driving:
    """Around the task of an actor: what happens inside belongs to its run, and the end of the run sends its root.

    Of a run that is not `sampled` nothing is noted; only user code shall know, or it would begin traces of its own.
    """

    __slots__ = ("_root", "_scope", "_tracing", "sampled")

    def __init__(self, tracing: Tracing, root: Context, scope: Scope | None = None) -> None:
        self._tracing = tracing
        self._root = root
        self._scope = scope
        self.sampled: bool = scope is not None
        """Whether the run is."""

    def around(self, drive: Drive, *, lost: Callable[[], bool]) -> Coroutine[Any, Any, None]:
        """Drive the run, for the rest of the task; `lost` says whether its lease has been lost."""
        # For the rest of the task, so nothing is set back.
        SCOPE.set(self._scope)
        otel_context.attach(self._root)
        return drive() if self._scope is None else self._drive(drive, self._scope, lost)

    async def _drive(self, drive: Drive, scope: Scope, lost: Callable[[], bool]) -> None:
        scope.lost = lost
        try:
            await drive()
        finally:
            await self._tracing.send_roots(scope)


def _yes(_trace_id: int, _workflow_id: str) -> bool:
    return True
