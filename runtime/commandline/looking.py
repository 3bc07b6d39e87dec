"""Commands that only look: `runs`, `show`, `history`, `logs`. They know runs by what the store says, not by the app."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import anyio

from kernel.errors import InvalidCommand, RunNotFound
from kernel.events import event_json
from kernel.model.facts import CorruptHistory
from kernel.model.ids import is_run_id
from kernel.model.machine import ENDED
from kernel.ports.persistence import LogLine
from runtime.client import Client
from runtime.commandline.events_view import event_detail, event_name, event_stage, log_line
from runtime.commandline.failures import DONE
from runtime.commandline.invocation import History, Logs, Runs, Show
from runtime.commandline.layout import Column, Span
from runtime.commandline.opening import Context, find_chosen_run, find_run, open_client
from runtime.commandline.runs_view import RUN_COLUMNS, run_lines, run_row
from runtime.commandline.screen import Screen
from runtime.commandline.times import clock, duration
from runtime.commandline.unreadable import note_unreadable, payloads_of_events, payloads_of_runs
from runtime.description import describe_run
from runtime.info import RunInfo, run_info, run_json, time_json
from runtime.run_handle import RunHandle

__all__ = ["describe", "list_runs", "print_run", "show_history", "show_logs", "show_run"]

FOLLOW_S = 0.25
"""How often a followed log is read."""
LAST_LINES_S = 1.5
"""A process writes the last lines of a run's log shortly after the run's end."""


async def list_runs(command: Runs, context: Context) -> int:
    """One page of runs, newest first."""
    if command.after is not None and not is_run_id(command.after):
        raise InvalidCommand(
            f'--after: "{command.after}" is no cursor.',
            field="after",
            hint='The cursor of the next page is "next" in the JSON of this one.',
        )
    async with open_client(context, blobs=command.full) as client:
        page = await client.list_runs(
            status=command.status, workflow=command.workflow, limit=command.limit, after=command.after
        )
        runs: Sequence[RunInfo] = page.items
        if command.full:
            runs = [await describe(client, client.run(info.id)) for info in runs]
        now = client.storage.clock.now()
    screen = context.screen
    note_unreadable(screen, payloads_of_runs(runs))
    if screen.as_json:
        screen.json({"runs": [run_json(info, full=command.full) for info in runs], "next": page.next})
        return DONE
    if command.full:
        for info in runs:
            screen.lines([*run_lines(info, now, full=True, width=screen.width), ()])
    elif runs:
        screen.table(RUN_COLUMNS, [run_row(info, now) for info in runs])
    else:
        screen.note(_none_found(command))
    if page.next is not None:
        screen.note(Span(f"More: --after {page.next}", "dim"))
    return DONE


def _none_found(command: Runs) -> str:
    if command.after is not None:
        return "No more runs."
    wanted = [
        *([f"status {command.status}"] if command.status is not None else []),
        *([f'workflow "{command.workflow}"'] if command.workflow is not None else []),
    ]
    if wanted:
        return f"No runs of {' and '.join(wanted)}."
    return "No runs yet. Start one: leasehold start WORKFLOW --input JSON"


async def show_run(command: Show, context: Context) -> int:
    """Everything about one run."""
    async with open_client(context, blobs=True) as client:
        info = await describe(client, await find_chosen_run(client, command.run, command.key))
        now = client.storage.clock.now()
    print_run(context.screen, info, now=now, full=command.full)
    return DONE


def print_run(screen: Screen, info: RunInfo, *, now: datetime, full: bool = False) -> None:
    """The run on standard output: one JSON object, or lines for people."""
    if screen.as_json:
        screen.json(run_json(info, full=full))
    else:
        screen.lines(run_lines(info, now, full=full, width=screen.width))
    note_unreadable(screen, payloads_of_runs([info]))


async def describe(client: Client, handle: RunHandle[object], *, payloads: bool = True) -> RunInfo:
    """The run with its stages; when its history cannot be read, what its head says. Raises: RunNotFound."""
    try:
        return await describe_run(client, handle.id, payloads=payloads)
    except CorruptHistory:
        head = (await client.storage.persistence.heads([handle.id]))[handle.id]
        return run_info(head, now=client.storage.clock.now())


# -- history -----------------------------------------------------------------------------------------------------------

_EVENT_COLUMNS = (
    Column("SEQ", right=True),
    Column("TIME", leaves=1),
    Column("AFTER", right=True, leaves=2),
    Column("EVENT"),
    Column("STAGE"),
    Column("DETAIL", flexible=True),
)


async def show_history(command: History, context: Context) -> int:
    """The events of a run, in order."""
    async with open_client(context, blobs=True) as client:
        events = await (await find_run(client, command.run)).history()
        now = client.storage.clock.now()
    screen = context.screen
    note_unreadable(screen, payloads_of_events(events))
    if screen.as_json:
        for event in events:
            screen.json(json.loads(event_json(event)))
        return DONE
    first = events[0].at
    rows = [
        (
            Span(str(event.seq), "dim"),
            clock(event.at),
            Span(duration((event.at - first).total_seconds()), "dim"),
            event_name(event),
            event_stage(event),
            event_detail(event, now),
        )
        for event in events
    ]
    screen.table(_EVENT_COLUMNS, rows, wrap=True)
    return DONE


# -- logs --------------------------------------------------------------------------------------------------------------


async def show_logs(command: Logs, context: Context) -> int:
    """What the stages of a run logged; followed until the run has ended and its last lines are written."""
    async with open_client(context) as client:
        handle = await find_run(client, command.run)
        last = await _print_lines(handle, 0, context.screen, with_progress=command.follow)
        while command.follow and not await _is_over(client, handle.id):
            await anyio.sleep(FOLLOW_S)
            last = await _print_lines(handle, last, context.screen, with_progress=True)
        if command.follow:
            last = await _print_lines(handle, last, context.screen, with_progress=True)
    if last == 0 and not context.screen.as_json:
        context.screen.note(Span("Nothing was logged.", "dim"))
    return DONE


async def _print_lines(handle: RunHandle[object], after: int, screen: Screen, *, with_progress: bool) -> int:
    """Print every line that is there above `after`, and return the id of the last one."""
    while entries := await handle.logs(after=after):
        for entry in entries:
            if screen.as_json:
                screen.json(log_json(entry))
            elif with_progress or entry.level != "PROGRESS":
                screen.line(log_line(entry))
        after = entries[-1].id
    return after


async def _is_over(client: Client, run_id: str) -> bool:
    heads = await client.storage.persistence.heads([run_id])
    if run_id not in heads:
        raise RunNotFound(run_id)
    head = heads[run_id].head
    if head.status not in ENDED or head.completed_at is None:
        return False
    return (client.storage.clock.now() - head.completed_at).total_seconds() > LAST_LINES_S


def log_json(entry: LogLine) -> dict[str, Any]:
    """A line of a body's log as JSON."""
    return {
        "id": entry.id,
        "at": time_json(entry.at),
        "level": entry.level,
        "message": entry.message,
        "stage_id": entry.stage_id,
        "execution": entry.execution,
        "attempt": entry.attempt,
        "fields": dict(entry.fields),
    }
