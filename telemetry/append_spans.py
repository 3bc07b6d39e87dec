"""Spans of appends: one for each statement that carried appends of sampled runs, linked to the commands in it.

The committer says when a statement was sent and answered; which runs and commands its appends belong to is known only
to those who asked, so they leave word here while they wait.
"""

from __future__ import annotations

from collections.abc import Sequence

from kernel.ports.persistence import Append
from telemetry import names
from telemetry.failures import failure_of_error
from telemetry.run_trace import RunTrace, to_ns
from telemetry.scope import Scope
from telemetry.spans import SpanRef, Spans, end_span

__all__ = ["AppendSpans"]


class AppendSpans:
    """The appends of sampled runs that are on their way."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._waiting: dict[str, tuple[SpanRef, Sequence[SpanRef], RunTrace]] = {}

    def sending(self, append: Append, scope: Scope, trace: RunTrace) -> None:
        """An append is handed to the store."""
        links = tuple(scope.links.pop(append.run_id, ()))
        parent = SpanRef(trace.trace_id, trace.span_id)
        command = scope.command
        if command is not None and scope.run_id == append.run_id and command.trace_id in (0, trace.trace_id):
            parent = SpanRef(trace.trace_id, command.span_id)
        self._waiting[append.append_id] = (parent, links, trace)

    def answered(self, append: Append) -> None:
        """The store has answered it, or nobody waits for it any more."""
        self._waiting.pop(append.append_id, None)

    def sent(self, appends: Sequence[Append], start_ns: int, end_ns: int, error: BaseException | None) -> None:
        """One statement has carried these appends, of sampled runs and others."""
        ours = [found for append in appends if (found := self._waiting.get(append.append_id)) is not None]
        if not ours:
            return
        parent, _, trace = ours[0]
        others = [other for other, _, _ in ours[1:]]
        commands = [link for _, links, _ in ours for link in links]
        start_ns = max(start_ns, to_ns(trace.began_at))
        span = self._spans.start(
            names.APPEND.name,
            trace_id=parent.trace_id,
            parent_id=parent.span_id,
            start_ns=start_ns,
            attributes={
                names.RUN_ID: trace.run_id,
                names.ROWS: len(appends),
                names.OUTCOME: "ok" if error is None else type(error).__name__,
            },
            links=dict.fromkeys([*commands, *others]),
        )
        end_span(span, end_ns=max(end_ns, start_ns), failure=None if error is None else failure_of_error(error))
