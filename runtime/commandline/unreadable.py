"""What is said about payloads that could not be read: once, below whatever else there was to show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from kernel.events import Event
from kernel.unreadable import Unreadable
from runtime.commandline.failures import ELSEWHERE
from runtime.commandline.layout import Span, printable
from runtime.commandline.screen import Screen
from runtime.info import RunInfo

__all__ = ["note_unreadable", "payloads_of_events", "payloads_of_runs"]


def payloads_of_runs(runs: Iterable[RunInfo]) -> Iterable[object]:
    """Everything of these runs that may be a payload."""
    for info in runs:
        yield from (info.input, info.output, *(stage.output for stage in info.stages or ()))


def payloads_of_events(events: Iterable[Event]) -> Iterable[object]:
    """Everything of these events that may be a payload."""
    return (getattr(event, "output", None) for event in events)


def note_unreadable(screen: Screen, payloads: Iterable[object]) -> None:
    """Say why payloads could not be read, and what to try, if there are such."""
    reasons = list(dict.fromkeys(each.reason for payload in payloads for each in _unreadable(payload)))
    if not reasons:
        return
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    screen.note(Span("warning: ", "yellow"), f"payloads cannot be read: {printable(reasons[0])}{more}")
    for line in ELSEWHERE.splitlines():
        screen.note(line)


def _unreadable(payload: object) -> Iterable[Unreadable]:
    if isinstance(payload, Unreadable):
        yield payload
    elif isinstance(payload, Mapping):
        # The output of parallel stages, by their ids.
        parts = cast("Mapping[object, object]", payload).values()
        yield from (part for part in parts if isinstance(part, Unreadable))
