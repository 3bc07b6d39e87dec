"""The store and the journals, watched for tracing: which runs a task meets, and which appends end them.

Only what concerns runs that are sampled is noted, and only inside of a scope; everything else is passed through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from kernel.model.draft import Decision, Moment
from kernel.model.run import RunState
from kernel.model.stage import Body
from kernel.ports.journals import Create, Decide, Journals
from kernel.ports.persistence import Append, KeyRecord, NewRun, Persistence, StoredHistory
from telemetry.faults import passed_over
from telemetry.logs import EventLogger, get_logger
from telemetry.run_trace import RunTrace
from telemetry.scope import SCOPE, Scope
from telemetry.spans import SpanRef
from telemetry.tales import is_eventful, is_lossy

if TYPE_CHECKING:
    from telemetry.tracing import Tracing

__all__ = ["WatchedJournals", "WatchedPersistence"]

logger: EventLogger = get_logger("leasehold.telemetry")

R = TypeVar("R")


def _ends(append: Append) -> bool:
    # Whoever ends a run says so by its moment; what is appended to an ended run leaves that alone.
    return append.head.completed_at == append.at


def _gives_back_what_has_ended(append: Append) -> bool:
    return append.mode == "release" and append.head.completed_at is not None


class WatchedPersistence:
    """A `Persistence` whose reads and appends are noticed."""

    def __init__(self, store: Persistence, tracing: Tracing) -> None:
        self._store = store
        self._tracing = tracing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def load(self, run_id: str, /, *, after: int = 0, bodies: bool = True) -> StoredHistory:
        """`Histories.load`; notes whose trace this is."""
        stored = await self._store.load(run_id, after=after, bodies=bodies)
        self._met(stored)
        return stored

    async def look_due(self, definitions: Sequence[tuple[str, str]], limit: int, /) -> Sequence[StoredHistory]:
        """`Claims.look_due`; notes the same."""
        found = await self._store.look_due(definitions, limit)
        for stored in found:
            self._met(stored)
        return found

    def _met(self, stored: StoredHistory) -> None:
        scope, run_id = SCOPE.get(), stored.head.run_id
        if scope is None or (run_id in scope.runs and not scope.runs[run_id].sampled):
            return
        try:
            self._tracing.met(stored, scope)
        except Exception as error:  # noqa: BLE001 - what was read is read, whatever can be told of it
            passed_over(error)

    def append(self, append: Append, /) -> Awaitable[bool]:
        """`Appends.append`; notes what it means for the trace, once it is durable."""
        scope = SCOPE.get()
        trace = None if scope is None else scope.runs.get(append.run_id)
        # Not a coroutine around a coroutine, for the many of which there is nothing to tell.
        if scope is None or trace is None or not trace.sampled:
            return self._store.append(append)
        return self._append(append, scope, trace)

    async def _append(self, append: Append, scope: Scope, trace: RunTrace) -> bool:
        if append.new is not None:
            trace = replace(trace, began_at=append.at, workflow_version=append.new.workflow_version)
            scope.runs[append.run_id] = trace
        appends = self._tracing.appends
        gives_back = _gives_back_what_has_ended(append)
        if not gives_back:
            # That comes after the end, and a root covers what is below it.
            appends.sending(append, scope, trace)
        done = False
        try:
            owned = await self._store.append(append)
            done = True
        except anyio.get_cancelled_exc_class():
            # Whoever ends a run sends its root, also when its caller gives up before the answer.
            if scope.command is not None and _ends(append) and await self._tracing.has_ended(append):
                scope.ended[append.run_id] = append
            raise
        finally:
            appends.answered(append, done=done)
        scope.born = scope.born or append.new is not None
        # What others have ended its owner tells, as soon as it gives the run back: its bodies may take long to end.
        if gives_back or (_ends(append) and not owned):
            scope.ended[append.run_id] = append
        if gives_back:
            await self._tracing.send_roots(scope)
        if append.events is not None:
            await self._noted(append, append.events, scope, trace)
        return owned

    async def _noted(self, append: Append, events: bytes, scope: Scope, trace: RunTrace) -> None:
        if not _ends(append):
            scope.over.discard(append.run_id)
        if is_eventful((events,)):
            scope.eventful.add(append.run_id)
        if is_lossy(events):
            try:
                await self._tracing.attempts_lost(append, trace)
            except Exception as error:  # noqa: BLE001 - the append is done, whatever can be told of it
                logger.warning("trace.incomplete", run_id=append.run_id, error=str(error))


class WatchedJournals:
    """`Journals` that remember which command asked, for the append that an actor makes in a task of its own."""

    def __init__(self, journals: Journals) -> None:
        self._journals = journals

    def create(
        self, run_id: str, decide: Create[R], /, *, new: NewRun, key: KeyRecord | None
    ) -> Coroutine[Any, Any, R]:
        """`Journals.create`."""
        return self._journals.create(run_id, decide, new=new, key=key)

    def record(self, run_id: str, decide: Decide[R], /, *, ends_attempt: bool = False) -> Coroutine[Any, Any, R]:
        """`Journals.record`."""
        return self._journals.record(run_id, _linked(run_id, decide), ends_attempt=ends_attempt)

    def reopen(self, run_id: str, decide: Decide[R], /, *, key: KeyRecord | None = None) -> Coroutine[Any, Any, R]:
        """`Journals.reopen`."""
        return self._journals.reopen(run_id, decide, key=key)

    def hand_over(self, state: RunState, decide: Decide[R], /) -> Coroutine[Any, Any, R]:
        """`Journals.hand_over`."""
        return self._journals.hand_over(state, decide)

    def payloads(self, run_id: str, bodies: Collection[Body], /) -> Coroutine[Any, Any, Mapping[Body, bytes]]:
        """`Journals.payloads`."""
        return self._journals.payloads(run_id, bodies)


def _linked(run_id: str, decide: Decide[R]) -> Decide[R]:
    """The same decision; taken in another task, it tells that task of the command, and the command of the run."""
    asking = SCOPE.get()
    if asking is None or asking.command is None:
        return decide
    known, command = asking.runs.get(run_id), asking.command
    if known is not None and not known.sampled:
        return decide

    def decide_and_tell(state: RunState, moment: Moment) -> Decision[R]:
        deciding = SCOPE.get()
        trace = None if deciding is None else deciding.runs.get(run_id)
        if deciding is not None and deciding is not asking and trace is not None:
            asking.runs.setdefault(run_id, trace)
            if state.ended:
                asking.over.add(run_id)
            if trace.sampled:
                ref = SpanRef(command.trace_id or trace.trace_id, command.span_id)
                deciding.links.setdefault(run_id, {})[ref] = None
        return decide(state, moment)

    return decide_and_tell
