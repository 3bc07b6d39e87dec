"""Commands that change one run from outside: `cancel`, `rerun`, `poll` and `unpark`. They need no app either."""

from __future__ import annotations

from runtime.commandline.failures import DONE, FAILED
from runtime.commandline.invocation import Cancel, Poll, Rerun, Unpark
from runtime.commandline.layout import printable
from runtime.commandline.looking import describe
from runtime.commandline.opening import Context, find_run, open_client
from runtime.commandline.runs_view import short_id, status_span

__all__ = ["cancel_run", "poll_run", "rerun_run", "unpark_run"]


async def cancel_run(command: Cancel, context: Context) -> int:
    """Cancel the run, or say how it had ended already."""
    async with open_client(context) as client:
        handle = await find_run(client, command.run)
        cancelled = await handle.cancel(command.reason)
        info = await describe(client, handle)
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
        info = await describe(client, handle)
    screen = context.screen
    if screen.as_json:
        screen.json(
            {
                "run_id": handle.id,
                "from_stage_id": result.from_stage_id,
                "discarded": list(result.discarded),
                "status": info.status,
            }
        )
    else:
        again = printable(", ".join(result.discarded))
        screen.line(f"Run {short_id(handle.id)} of {info.workflow_id} begins again: {again}.")
    return DONE


async def poll_run(command: Poll, context: Context) -> int:
    """Have the suspended stages looked at by whoever drives the run; that none is suspended is an answer too."""
    async with open_client(context) as client:
        handle = await find_run(client, command.run)
        stages = await handle.poll()
        info = await describe(client, handle)
    screen = context.screen
    if screen.as_json:
        screen.json({"run_id": handle.id, "polled": list(stages), "status": info.status})
    elif stages:
        screen.line(f"Run {short_id(handle.id)} is looked at now: {printable(', '.join(stages))}.")
    else:
        screen.note(
            f"Nothing to look at: no stage of run {short_id(handle.id)} is suspended, it is ",
            status_span(info.status),
            ".",
        )
    return DONE


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
