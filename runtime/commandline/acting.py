"""Commands that change one run from outside: `cancel`, `rerun`, `poll` and `unpark`. They need no app either.

What is said afterwards is read without payloads: the command is done, and a bucket that is away must not make it look
like a failure.
"""

from __future__ import annotations

from runtime.client import Client
from runtime.commandline.failures import DONE, FAILED
from runtime.commandline.invocation import Cancel, Poll, Rerun, Unpark
from runtime.commandline.layout import Span, printable
from runtime.commandline.looking import describe
from runtime.commandline.opening import Context, find_run, open_client
from runtime.commandline.runs_view import short_id, status_span
from runtime.commandline.screen import Screen
from runtime.info import RunInfo

__all__ = ["cancel_run", "poll_run", "rerun_run", "unpark_run"]


async def cancel_run(command: Cancel, context: Context) -> int:
    """Cancel the run, or say how it had ended already."""
    async with open_client(context) as client:
        handle = await find_run(client, command.run)
        cancelled = await handle.cancel(command.reason)
        info = await describe(client, handle, payloads=False)
    screen = context.screen
    if screen.as_json:
        screen.json({"run_id": handle.id, "cancelled": cancelled, "status": info.status})
    elif cancelled:
        screen.line(f"Run {short_id(handle.id)} of {info.workflow_id} is cancelled.")
    else:
        screen.note(
            f"Nothing to cancel: run {short_id(handle.id)} had already ended, it is ", status_span(info.status), "."
        )
    return DONE if cancelled else FAILED


async def rerun_run(command: Rerun, context: Context) -> int:
    """Begin the run again at the stage; one that cannot be rerun is an error that says why."""
    async with open_client(context, blobs=True) as client:
        handle = await find_run(client, command.run)
        result = await handle.rerun_from(
            command.from_stage, keep_completed=command.keep_completed, idempotency_key=command.key
        )
        info = await describe(client, handle, payloads=False)
        obstacle = await _obstacle(client, info)
    screen = context.screen
    if screen.as_json:
        screen.json(
            {
                "run_id": handle.id,
                "from_stage_id": result.from_stage_id,
                "discarded": list(result.discarded),
                "status": info.status,
                "waiting_for": info.waiting_for,
            }
        )
    else:
        does = "begins again" if obstacle is None else "is to begin again"
        again = printable(", ".join(result.discarded))
        screen.line(f"Run {short_id(handle.id)} of {info.workflow_id} {does}: {again}.")
        _note(screen, obstacle)
    return DONE


async def poll_run(command: Poll, context: Context) -> int:
    """Have the suspended stages looked at by whoever drives the run; that none is suspended is an answer too."""
    async with open_client(context) as client:
        handle = await find_run(client, command.run)
        stages = await handle.poll()
        info = await describe(client, handle, payloads=False)
        obstacle = await _obstacle(client, info)
    screen = context.screen
    if screen.as_json:
        answer = {"run_id": handle.id, "polled": list(stages), "status": info.status, "waiting_for": info.waiting_for}
        screen.json(answer)
    elif stages:
        does = "is looked at now" if obstacle is None else "is to be looked at"
        screen.line(f"Run {short_id(handle.id)} {does}: {printable(', '.join(stages))}.")
        _note(screen, obstacle)
    else:
        screen.note(
            f"Nothing to look at: no stage of run {short_id(handle.id)} is suspended, it is ",
            status_span(info.status),
            ".",
        )
    return DONE


async def _obstacle(client: Client, info: RunInfo) -> str | None:
    """Why nobody goes on with the run at once, and what to do about it; None when somebody does, or it has ended."""
    if info.ended or info.owner is not None:
        return None
    if info.waiting_detail is not None:
        return f"It is parked ({info.waiting_detail}). When that is mended: leasehold unpark {short_id(info.id)}"
    match info.waiting_for:
        case "newer_release":
            return "Only a newer release of Leasehold can read it: update the processes that execute it."
        case "poll" | "queue":
            return "The next process that serves its queue takes it, or the next call of a host that executes jobs."
        case _:
            pass
    if (info.workflow_id, info.workflow_version) in await client.storage.persistence.live_workflows():
        return None
    known = f'"{info.workflow_id}" version "{info.workflow_version}"'
    return f"No process that knows {known} is running; the next one takes it. Start one: leasehold up"


def _note(screen: Screen, obstacle: str | None) -> None:
    if obstacle is not None:
        screen.note(Span("note: ", "yellow"), printable(obstacle))


async def unpark_run(command: Unpark, context: Context) -> int:
    """Give the run back to whoever can drive it, or say that it was not parked."""
    async with open_client(context) as client:
        handle = await find_run(client, command.run)
        unparked = await handle.unpark()
    screen = context.screen
    if screen.as_json:
        screen.json({"run_id": handle.id, "unparked": unparked})
    elif unparked:
        screen.line(f"Run {short_id(handle.id)} is given back: the next process with room will try it again.")
    else:
        screen.note(f"Nothing to do: run {short_id(handle.id)} is not parked.")
    return DONE if unparked else FAILED
