"""Runs and their stages as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from kernel.unreadable import Unreadable
from runtime.commandline.events_view import short_json
from runtime.commandline.layout import Cell, Column, Line, Span, bar, cut, fields, line, printable, table
from runtime.commandline.times import ago, date_and_clock, duration, in_future
from runtime.info import FailureInfo, RunInfo, StageInfo

__all__ = [
    "RUN_COLUMNS",
    "error_text",
    "progress_lines",
    "run_lines",
    "run_row",
    "short_id",
    "stage_lines",
    "status_span",
]

_STYLES = {
    "PENDING": "dim",
    "RUNNING": "cyan",
    "SUSPENDED": "magenta",
    "COMPLETED": "green",
    "FAILED": "red",
    "CANCELLED": "yellow",
    "SKIPPED": "dim",
}
_SIGNS = {
    "PENDING": "·",
    "RUNNING": "▸",
    "SUSPENDED": "◦",
    "COMPLETED": "✓",
    "FAILED": "✗",
    "CANCELLED": "⊘",
    "SKIPPED": "-",
}
_PAYLOAD_LENGTH = 2000
_KEY_CELLS = 60
_STEPS_MAX = 10
_ARTIFACTS_CELLS = 200

RUN_COLUMNS = (
    Column("RUN"),
    Column("WORKFLOW"),
    Column("STATUS"),
    Column("WAITING FOR"),
    Column("CREATED", right=True, leaves=2),
    Column("DURATION", right=True, leaves=1),
    Column("KEY", leaves=3, most=32),
    Column("ERROR", flexible=True),
)


def short_id(run_id: str) -> str:
    """The last eight characters: the first ones of ids minted together are the same."""
    return run_id[-8:]


def status_span(status: str) -> Span:
    """A status in its colour."""
    return Span(status, _STYLES.get(status, ""))


def error_text(error: FailureInfo | None) -> str:
    """An error on one line."""
    return "" if error is None else printable(f"{error.type}: {error.message}")


def run_row(info: RunInfo, now: datetime) -> Sequence[Cell]:
    """A run's row under `RUN_COLUMNS`."""
    return (
        Span(short_id(info.id), "bold"),
        printable(f"{info.workflow_id} {info.workflow_version}"),
        status_span(info.status),
        _waiting_in_short(info, now),
        ago(info.created_at, now),
        _run_duration(info, now),
        printable(info.idempotency_key or ""),
        Span(error_text(info.error), "red"),
    )


def _is_parked(info: RunInfo) -> bool:
    return info.waiting_for is not None and info.waiting_detail is not None


def _run_duration(info: RunInfo, now: datetime) -> str:
    if info.duration_s is not None:
        return duration(info.duration_s)
    return (
        ""
        if info.started_at is None or info.ended or _is_parked(info)
        else duration((now - info.started_at).total_seconds())
    )


def run_lines(info: RunInfo, now: datetime, *, full: bool = False, width: int | None = None) -> list[Line]:
    """Everything about one run; its table of stages within `width` cells."""
    lines = [
        _heading(info),
        *fields(_facts(info, now, full=full)),
    ]
    if info.stages:
        lines += [(), *stage_lines(info, now, width=width), *_step_lines(info.stages, full=full)]
    if kept := _artifacts(info):
        lines += [(), line(Span("artifacts", "dim"), "  ", kept if full else cut(line(kept), _ARTIFACTS_CELLS))]
    if info.error is not None:
        where = f" (stage {info.error.stage_id})" if info.error.stage_id else ""
        lines += [(), line(Span("error", "dim"), "  ", Span(error_text(info.error), "red"), where)]
        if full and info.error.traceback:
            lines += [line("  ", printable(each)) for each in info.error.traceback.splitlines()]
        elif info.error.traceback:
            lines.append(line(Span("       --full shows where it was raised", "dim")))
    if info.status == "COMPLETED":
        lines += [(), line(Span("output", "dim"), "  ", _payload(info.output, full=full))]
    return lines


def _artifacts(info: RunInfo) -> str:
    """What each stage kept beside its result, by name."""
    kept = [(stage.id, ", ".join(stage.artifacts)) for stage in info.stages or () if stage.artifacts]
    return printable("; ".join(f"{stage_id}: {names}" for stage_id, names in kept))


def progress_lines(info: RunInfo, now: datetime, *, width: int) -> list[Line]:
    """What changes while one waits for a run."""
    rows = fields([("run", info.id), ("waiting for", _waiting(info, now)), ("duration", _run_duration(info, now))])
    return [_heading(info), *rows, (), *stage_lines(info, now, width=width)]


def _heading(info: RunInfo) -> Line:
    sign = _SIGNS["PENDING" if _is_parked(info) else info.status]
    return line(
        Span(sign + " ", _STYLES[info.status]),
        Span(printable(info.workflow_id), "bold"),
        f" version {printable(info.workflow_version)}  ",
        status_span(info.status),
        "  (parked)" if _is_parked(info) else "",
    )


def _payload(value: object, *, full: bool) -> Cell:
    if isinstance(value, Unreadable):
        return Span(f"unreadable: {printable(value.reason)}", "yellow")
    return short_json(value, 10**9 if full else _PAYLOAD_LENGTH)


def _facts(info: RunInfo, now: datetime, *, full: bool) -> list[tuple[str, Cell]]:
    created = f"{date_and_clock(info.created_at)}  ({ago(info.created_at, now)})"
    started = "" if info.started_at is None else date_and_clock(info.started_at)
    # A rerun has started long after the creation, and did not wait for so long.
    rerun = any(stage.execution > 1 for stage in info.stages or ())
    queued = 0.0 if info.started_at is None or rerun else (info.started_at - info.created_at).total_seconds()
    if queued >= 1:
        started += f"  (after {duration(queued)})"
    key = printable(info.idempotency_key or "")
    return [
        ("run", info.id),
        ("waiting for", _waiting(info, now)),
        ("reason", printable(info.cancel_reason or "")),
        ("created", created),
        ("started", started),
        ("duration", _run_duration(info, now)),
        ("priority", "" if info.priority == 5 else str(info.priority)),
        ("key", key if full else cut(line(key), _KEY_CELLS)),
        ("metadata", short_json(dict(info.metadata), 200) if info.metadata else ""),
        ("owner", "" if info.owner is None or info.ended else f"session {info.owner}"),
        ("trace", info.trace_id),
        ("cost", f"{info.total_cost:f} USD" if info.total_cost else ""),
        ("tokens", f"{info.total_tokens:,}" if info.total_tokens else ""),
        ("input", "" if info.stages is None else _payload(info.input, full=full)),
    ]


_SHORT_REASONS = {
    "claim": "a process",
    "queue": "its queue",
    "capacity": "room",
    "unknown_workflow": "a process that knows it",
    "newer_release": "a newer release",
}


def _waiting_in_short(info: RunInfo, now: datetime) -> str:
    """What a row has room for; the words of `waiting_for` where they say it."""
    if info.waiting_for is None:
        return ""
    if info.waiting_for == "queue" and info.waiting_queues:
        return f"queue {', '.join(map(printable, info.waiting_queues))}"
    words = _SHORT_REASONS.get(info.waiting_for, info.waiting_for.replace("_", " "))
    if info.waiting_for == "delayed_until" and info.run_at is not None:
        return f"its time, {in_future(info.run_at, now)}"
    return f"you: {words}" if _is_parked(info) else words


_REASONS = {
    "claim": "a process with room for it (is one running? leasehold up)",
    "retry": "its next attempt",
    "poll": "something outside",
    "queue": "somebody who serves its queue",
    "capacity": "its process: room for another body there, unless it has died (leasehold explain)",
    "unknown_workflow": "a process that knows this workflow and version: none of those that run does",
    "newer_release": "a newer release of Leasehold: it was written by one",
}


def _waiting(info: RunInfo, now: datetime) -> Cell:
    if info.waiting_for is None:
        return ""
    if info.waiting_detail is not None:
        return line(Span(printable(info.waiting_detail), "yellow"), "  (when it is mended: leasehold unpark)")
    if info.waiting_for == "delayed_until" and info.run_at is not None:
        return f"{date_and_clock(info.run_at)}  ({in_future(info.run_at, now)})"
    reason = _REASONS.get(info.waiting_for, info.waiting_for.replace("_", " "))
    if info.waiting_for == "queue" and info.waiting_queues:
        reason = _waiting_in_queues(info)
    return line(Span(reason, "yellow"), _when(info, now))


def _waiting_in_queues(info: RunInfo) -> str:
    """In which queues its jobs wait, and that nobody who lives serves them; a host that is called may still do."""
    named = ", ".join(f'"{printable(queue)}"' for queue in info.waiting_queues)
    who = f"somebody who serves queue {named}"
    if not info.unserved_queues:
        return who
    names = ",".join(map(printable, info.unserved_queues))
    return f"{who}: no process that lives does (leasehold up --queues {names})"


def _when(info: RunInfo, now: datetime) -> str:
    moments = [at for stage in info.stages or () for at in (stage.retry_at, stage.next_poll_at) if at is not None]
    return f", {in_future(min(moments), now)}" if moments and info.waiting_for in {"retry", "poll"} else ""


# -- stages ------------------------------------------------------------------------------------------------------------

_STAGE_COLUMNS = (
    Column("", right=True),
    Column("STAGE"),
    Column("STATUS"),
    Column("ATTEMPT", right=True, leaves=2),
    Column("DURATION", right=True, leaves=1),
    Column("DETAIL", flexible=True),
)
_NOBODY_EXECUTES = {"claim", "unknown_workflow", "newer_release"}


def stage_lines(info: RunInfo, now: datetime, *, width: int | None = None) -> list[Line]:
    """A table of the run's stages; those of one group have the same number."""
    # Its history says RUNNING until whoever takes the run next finds that the attempt is lost.
    halted = _is_parked(info) or info.waiting_for in _NOBODY_EXECUTES
    rows = [
        _halted_row(stage) if halted and stage.status == "RUNNING" else _stage_row(stage, now)
        for stage in info.stages or ()
    ]
    return table(_STAGE_COLUMNS, rows, width=width)


def _step_lines(stages: Sequence[StageInfo], *, full: bool) -> list[Line]:
    """The recorded steps of each stage that has some; of many the last ones."""
    lines: list[Line] = []
    for stage in stages:
        shown = stage.steps if full else stage.steps[-_STEPS_MAX:]
        if shown:
            more = f"{len(stage.steps) - len(shown)} before, " if len(shown) < len(stage.steps) else ""
            names = ", ".join(printable(name) for name in shown)
            lines.append(line(Span("steps", "dim"), f"  {printable(stage.id)}: {more}{names}"))
    return [(), *lines] if lines else []


def _halted_row(stage: StageInfo) -> Sequence[Cell]:
    name = line(Span(_SIGNS["PENDING"] + " ", "dim"), printable(stage.id))
    return (Span(str(stage.group), "dim"), name, Span("interrupted", "yellow"), _attempt(stage), "", "")


def _stage_row(stage: StageInfo, now: datetime) -> Sequence[Cell]:
    return (
        Span(str(stage.group), "dim"),
        line(Span(_SIGNS[stage.status] + " ", _STYLES[stage.status]), printable(stage.id)),
        status_span(stage.status),
        _attempt(stage),
        _stage_duration(stage, now),
        _stage_detail(stage, now),
    )


def _attempt(stage: StageInfo) -> str:
    if stage.attempt == 0:
        return ""
    return str(stage.attempt) if stage.execution == 1 else f"{stage.execution}.{stage.attempt}"


def _stage_duration(stage: StageInfo, now: datetime) -> str:
    if stage.duration_s is not None:
        return duration(stage.duration_s)
    return "" if stage.started_at is None else duration((now - stage.started_at).total_seconds())


def _stage_detail(stage: StageInfo, now: datetime) -> Cell:
    if stage.status == "RUNNING":
        return "" if stage.progress is None else line(bar(stage.progress, 20, "cyan"), f" {stage.progress:.0%}")
    if stage.status == "SUSPENDED" and stage.next_poll_at is not None:
        until = "" if stage.max_wait_until is None else f", at most until {date_and_clock(stage.max_wait_until)}"
        return f"looks again {in_future(stage.next_poll_at, now)}{until}"
    error = Span(error_text(stage.error), "red" if stage.status == "FAILED" else "yellow")
    if stage.status == "PENDING" and stage.retry_at is not None:
        return line(f"again {in_future(stage.retry_at, now)}", ": " if error.text else "", error)
    if stage.status == "PENDING" and stage.queue is not None:
        return f"queue {stage.queue}"
    return error
