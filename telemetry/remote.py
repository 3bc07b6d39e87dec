"""The current span, handed to a child interpreter, so that what user code does there nests under its body.

The child exports by itself, as the standard OTEL_* variables that it inherits say; without them it only knows the span.
A collector that is away is away for the parent too, and it is the parent who says so, if it exports.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress

from kernel.errors import InvalidCommand
from telemetry.run_trace import Traceparent, parse_traceparent

__all__ = ["current_traceparent", "is_exporting", "leave", "prepare", "within"]


def current_traceparent() -> str | None:
    """The caller's current span as a W3C header; None when there is none, or this process traces nothing."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from telemetry.spans import current_ref

    found = current_ref()
    return None if found is None else str(Traceparent(found.trace_id, found.span_id, found.sampled))


def is_exporting() -> bool:
    """In a parent: whether it sends by the same variables as its children."""
    export = sys.modules.get("telemetry.export")
    return export is not None and bool(export.is_exporting())


_prepared = False


def prepare(traceparent: str | None, *, told_by_parent: bool = False) -> None:
    """In a child: set up sending, before the first body of a sampled run. What is wrong with it the parent has said.

    With `told_by_parent` that is also so of a collector that is away.
    """
    global _prepared  # noqa: PLW0603 - what sends is the process's
    found = None if traceparent is None else parse_traceparent(traceparent)
    if found is None or not found.sampled or _prepared:
        return
    _prepared = True
    from telemetry.export import configure_export

    with suppress(InvalidCommand):
        # Of what it counts nothing would be news, under an identity that ends with the interpreter.
        configure_export(told_by_parent=told_by_parent, counts=False)


def leave(timeout_s: float | None = None) -> None:
    """In a child that is about to end: send what is left, for a moment, or at most so long."""
    if (export := sys.modules.get("telemetry.export")) is not None:
        if timeout_s is None:
            export.shutdown()
        else:
            export.flush(timeout_s)


@contextmanager
def within(traceparent: str | None) -> Generator[None]:
    """Around user code whose span is in another process."""
    found = None if traceparent is None else parse_traceparent(traceparent)
    if found is None:
        yield
        return
    from opentelemetry import context

    from telemetry.spans import SpanRef, context_of

    token = context.attach(context_of(SpanRef(found.trace_id, found.span_id, found.sampled)))
    try:
        yield
    finally:
        context.detach(token)
