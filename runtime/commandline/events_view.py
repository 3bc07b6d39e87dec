"""Events and log lines as people read them, one line each.

Used by `history`, `logs` and while `start --wait` waits. Payloads are shown short: an event's line says what happened,
`show` says what came out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import assert_never, cast

from kernel.events import (
    AnnotationCreated,
    Event,
    Log,
    RunCancelled,
    RunCompleted,
    RunCreated,
    RunFailed,
    RunOwnerChanged,
    RunRerun,
    RunStarted,
    StageCancelled,
    StageCompleted,
    StageFailed,
    StageProgress,
    StageRetrying,
    StageScheduled,
    StageSkipped,
    StageStarted,
    StageSuspended,
    StepRecorded,
)
from kernel.ports.persistence import LogLine
from runtime.commandline.layout import Cell, Line, Span, line, printable
from runtime.commandline.times import clock, duration, in_future

__all__ = ["event_detail", "event_name", "event_stage", "log_line", "short_json", "stage_label"]

_STYLES = {
    "run.completed": "green",
    "stage.completed": "green",
    "run.failed": "red",
    "stage.failed": "red",
    "stage.retrying": "yellow",
    "run.owner_changed": "yellow",
    "run.cancelled": "yellow",
    "stage.cancelled": "yellow",
    "stage.suspended": "magenta",
}
_LEVELS = {"ERROR": "red", "WARN": "yellow", "DEBUG": "dim", "PROGRESS": "cyan"}


def event_name(event: Event) -> Span:
    """The event's type."""
    return Span(event.type, _STYLES.get(event.type, ""))


def event_stage(event: Event) -> str:
    """Which stage an event is about, with execution and attempt where they are not the first."""
    stage_id: str | None = getattr(event, "stage_id", None)
    if stage_id is None or isinstance(event, RunFailed):
        return ""
    execution, attempt = getattr(event, "execution", 1), getattr(event, "attempt", 1)
    return stage_label(stage_id, execution, attempt)


def stage_label(stage_id: str, execution: int | None, attempt: int | None) -> str:
    """A stage with the numbers that say more than "the first"."""
    numbers = [
        *([f"execution {execution}"] if (execution or 1) > 1 else []),
        *([f"attempt {attempt}"] if (attempt or 1) > 1 else []),
    ]
    return f"{stage_id} ({', '.join(numbers)})" if numbers else stage_id


def event_detail(event: Event, now: datetime) -> Cell:
    """What else there is to say about an event, in a few words."""
    match event:
        case RunCreated():
            return f"{event.workflow_id} version {event.workflow_version}"
        case RunStarted():
            return f"by session {event.owner}" if event.owner else ""
        case RunOwnerChanged():
            return printable(" · ".join([f"to session {event.owner}", *([event.cause] if event.cause else [])]))
        case RunCompleted():
            return " · ".join(_totals(event))
        case RunFailed():
            where = f" (stage {event.stage_id})" if event.stage_id else ""
            return Span(printable(f"{event.error.type}: {event.error.message}{where}"), "red")
        case RunCancelled():
            return printable(event.reason or "")
        case RunRerun():
            return f"from {event.from_stage_id}, again: {', '.join(event.discarded)}"
        case StageScheduled():
            queue = f"queue {event.queue}" if event.queue else ""
            return queue if event.due_at is None else f"{queue} {in_future(event.due_at, now)}".strip()
        case StageCompleted():
            return " · ".join([duration(event.duration_s), *_metrics(event)])
        case StageFailed():
            return Span(printable(f"{event.error.type}: {event.error.message}"), "red")
        case StageRetrying():
            delay = max((event.due_at - event.at).total_seconds(), 0.0)
            wait = f"again after {duration(delay)}" if delay > 0 else "again at once"
            return line(
                Span(printable(f"{event.error.type}: {event.error.message}"), "yellow"), f" · {event.cause}, {wait}"
            )
        case StageSuspended():
            return f"next look at {clock(event.next_poll_at)}"
        case StageSkipped():
            return event.reason
        case StepRecorded():
            return f"step {event.position + 1}, {printable(event.name)}"
        case AnnotationCreated():
            by = f" by {printable(event.actor)}" if event.actor else ""
            return f"{event.scope}: {printable(event.key)} = {short_json(event.value, 60)}{by}"
        case StageProgress():
            return f"{event.progress:.0%} {printable(event.message)}".rstrip()
        case Log():
            return _said(event.message, event.fields)
        case StageStarted() | StageCancelled():
            return ""
    # Of a new kind of event the type checkers say here that it has no case above.
    assert_never(event)


def _totals(event: RunCompleted) -> list[str]:
    parts = [duration(event.duration_s)]
    if float(event.total_cost):
        parts.append(f"{event.total_cost} USD")
    if event.total_tokens:
        parts.append(f"{event.total_tokens:,} tokens")
    return parts


def _metrics(event: StageCompleted) -> list[str]:
    return [f"{printable(name)} {value:g}" for name, value in event.metrics.items()]


def log_line(entry: LogLine) -> Line:
    """One line of a body's log: time, level, stage, message, fields."""
    stage = "" if entry.stage_id is None else stage_label(entry.stage_id, entry.execution, entry.attempt)
    message, fields = entry.message, dict[str, object](entry.fields)
    if entry.level == "PROGRESS":
        message = f"{float(str(fields.pop('progress', 0))):.0%} {message}".rstrip()
        details = fields.pop("details", None)
        fields = dict(cast("dict[str, object]", details)) if isinstance(details, dict) else {}
    return line(
        Span(clock(entry.at), "dim"),
        " ",
        Span(f"{entry.level:<8}", _LEVELS.get(entry.level, "")),
        " ",
        Span(stage, "bold"),
        "  " if stage else "",
        _said(message, fields),
    )


def _said(message: str, fields: Mapping[str, object]) -> Line:
    rest = " ".join(f"{printable(name)}={_field(value)}" for name, value in fields.items())
    return line(printable(message), Span(f"  {rest}", "cyan") if rest else "")


def _field(value: object) -> str:
    if isinstance(value, str):
        shown = printable(value)
        return shown if shown and " " not in shown else json.dumps(shown, ensure_ascii=False)
    return short_json(value, 200)


def short_json(value: object, length: int) -> str:
    """A JSON value on one line; cut in the middle of nothing important."""
    text = printable(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= length else text[: length - 1] + "…"
