"""Spans of appends: one for each statement that carried appends of sampled runs, linked to the commands in it.

The committer says when a statement was sent and answered; which runs and commands its appends belong to is known only
to those who asked, so they leave word here while they wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kernel.ports.persistence import Append
from telemetry import names
from telemetry.run_trace import RunTrace, to_ns
from telemetry.scope import Scope
from telemetry.spans import SpanRef, Spans, end_span

__all__ = ["AppendSpans"]


@dataclass(slots=True)
class _Batch:
    """A statement that has been answered, and whether its span was sent."""

    start_ns: int
    end_ns: int
    rows: int
    refs: Sequence[SpanRef]
    sent: bool = False


@dataclass(slots=True)
class _Waiting:
    """An append that is on its way: its span's parent, the commands in it, its run, and what carried it."""

    parent: SpanRef
    links: Sequence[SpanRef]
    trace: RunTrace
    batch: _Batch | None = None


class AppendSpans:
    """The appends of sampled runs that are on their way."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._waiting: dict[str, _Waiting] = {}

    def sending(self, append: Append, scope: Scope, trace: RunTrace) -> None:
        """An append is handed to the store."""
        links = tuple(scope.links.pop(append.run_id, ()))
        parent = SpanRef(trace.trace_id, trace.span_id)
        command = scope.command
        if command is not None and scope.run_id == append.run_id and command.trace_id in (0, trace.trace_id):
            parent = SpanRef(trace.trace_id, command.span_id)
        self._waiting[append.append_id] = _Waiting(parent, links, trace)

    def sent(self, appends: Sequence[Append], start_ns: int, end_ns: int, error: BaseException | None) -> None:
        """One statement has carried these appends, of sampled runs and others; it is told when one has been done.

        One that failed is not told: its appends are sent again, or their commands tell what became of them.
        """
        ours = [found for append in appends if (found := self._waiting.get(append.append_id)) is not None]
        if not ours or error is not None:
            return
        refs = [ref for each in ours for ref in (*each.links, each.parent)]
        batch = _Batch(start_ns, end_ns, len(appends), refs)
        for each in ours:
            each.batch = batch

    def answered(self, append: Append, *, done: bool) -> None:
        """The store has answered it, or nobody waits for it any more; what was refused has no span to be below."""
        waiting = self._waiting.pop(append.append_id, None)
        batch = None if waiting is None else waiting.batch
        if waiting is None or batch is None or batch.sent or not done:
            return
        batch.sent = True
        start_ns = max(batch.start_ns, to_ns(waiting.trace.began_at))
        span = self._spans.start(
            names.APPEND.name,
            trace_id=waiting.parent.trace_id,
            parent_id=waiting.parent.span_id,
            start_ns=start_ns,
            attributes={names.RUN_ID: waiting.trace.run_id, names.ROWS: batch.rows, names.OUTCOME: "ok"},
            links=[ref for ref in dict.fromkeys([*waiting.links, *batch.refs]) if ref != waiting.parent],
        )
        end_span(span, end_ns=max(batch.end_ns, start_ns))
