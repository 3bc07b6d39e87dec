"""`start --wait`: watching a run to its end, on a terminal as a picture that is drawn anew, else a line per event.

Waiting is only watching: whatever ends it (Ctrl-C, a timeout, a database that is gone), the run goes on, and the last
line says so. A database that is away is waited out like everything else, as `RunHandle.result` does.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio

from kernel.errors import Unavailable
from kernel.events import StageProgress, StageScheduled
from runtime.client import Client
from runtime.commandline.database_watch import until_gone
from runtime.commandline.events_view import event_detail, event_name, event_stage
from runtime.commandline.failures import DONE, FAILED, TIMED_OUT, report
from runtime.commandline.layout import Span, line, printable
from runtime.commandline.looking import describe, print_run
from runtime.commandline.opening import Context
from runtime.commandline.runs_view import progress_lines, short_id
from runtime.commandline.screen import Draw
from runtime.commandline.times import clock
from runtime.info import RunInfo
from runtime.run_handle import RunHandle
from runtime.stream import EventStream
from telemetry.logs import configure_logging

__all__ = ["say_it_goes_on", "wait_for_end"]

T = TypeVar("T")

UNCLAIMED_S = 2.0
"""When nobody has taken a run for so long, whoever waits for it should know."""
DRAW_S = 0.4
RETRY_S = 0.5
LAST_LOOK_S = 2.0
"""How much longer than it was told the command may take, to show what became of the run."""
_EVENT_WIDTH = len("run.owner_changed")


async def wait_for_end(
    context: Context, client: Client, handle: RunHandle[Any], *, timeout_s: float | None = None
) -> int:
    """Show what happens until the run has ended, then the run; the exit code tells how it ended.

    After `timeout_s` it is shown as it is, if the database answers within two seconds. When what was stored is gone
    for good, the error that says so is told, and is the exit code.
    """
    # What is said meanwhile has a form then, and a place above what is drawn.
    configure_logging("json" if context.screen.as_json else context.settings.log_format, "warning")
    outage = _Outage(context)
    info: RunInfo | None = None
    gone: Unavailable | None = None

    async def leave_when_gone() -> None:
        nonlocal gone
        gone = await until_gone(client.storage)
        tasks.cancel_scope.cancel()

    with anyio.move_on_after(timeout_s):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave_when_gone)
            await _watch(context, client, handle, outage)
            info = await outage.outlast(lambda: describe(client, handle))
            tasks.cancel_scope.cancel()
    if gone is not None:
        return report(gone, context.screen)
    timed_out = info is None
    info = info or await _last_look(client, handle)
    if info is not None:
        print_run(context.screen, info, now=client.storage.clock.now())
    if info is None or (timed_out and not info.ended):
        but = "" if info is not None else ", and the database does not answer"
        say_it_goes_on(context, handle.id, f"Not finished after {timeout_s:g} s{but}")
        return TIMED_OUT
    return DONE if info.status == "COMPLETED" else FAILED


def say_it_goes_on(context: Context, run_id: str, why: str) -> None:
    """The last line of who stops waiting."""
    context.screen.note(f"{why}. The run goes on: leasehold show {short_id(run_id)}")


async def _last_look(client: Client, handle: RunHandle[Any]) -> RunInfo | None:
    with anyio.move_on_after(LAST_LOOK_S):
        try:
            return await describe(client, handle)
        except Unavailable:
            pass
    return None


class _Outage:
    """Says once that the database is away, and once that it is back."""

    def __init__(self, context: Context) -> None:
        self._screen = context.screen
        self._away = False

    def failed(self, error: Exception, /, **_fields: object) -> None:
        """It is away (still)."""
        if not self._away:
            self._away = True
            self._screen.note(
                Span("note: ", "yellow"),
                f"{printable(str(error).splitlines()[0])} Waiting until the database answers again.",
            )

    def worked(self, **_fields: object) -> None:
        """It answers (again)."""
        if self._away:
            self._away = False
            self._screen.note(Span("note: ", "yellow"), "the database answers again.")

    async def outlast(self, call: Callable[[], Awaitable[T]]) -> T:
        """What the call answers as soon as the database does."""
        while True:
            try:
                found = await call()
            except Unavailable as error:
                self.failed(error)
                await anyio.sleep(RETRY_S)
            else:
                self.worked()
                return found


async def _watch(context: Context, client: Client, handle: RunHandle[Any], outage: _Outage) -> None:
    async with _hint_if_unclaimed(context, client, handle):
        with context.screen.live() as draw:
            if draw is None:
                await _tell_events(context, client, handle, outage)
            else:
                await _draw_until_ended(client, handle, draw, outage)


async def _tell_events(context: Context, client: Client, handle: RunHandle[Any], outage: _Outage) -> None:
    """A line per event, for logs and for terminals without live areas."""
    async for event in EventStream(client, handle.id, after=0, outage=outage):
        if isinstance(event, StageScheduled | StageProgress):
            continue
        now = client.storage.clock.now()
        name = event_name(event)
        blank = " " * (_EVENT_WIDTH - len(name.text))
        parts = [part for part in (event_stage(event), event_detail(event, now)) if part]
        tail = line(*(cell for part in parts for cell in ("  ", part)))
        context.screen.note(Span(clock(event.at), "dim"), "  ", name, blank if parts else "", tail)


async def _draw_until_ended(client: Client, handle: RunHandle[Any], draw: Draw, outage: _Outage) -> None:
    """The run's stages, drawn anew while they change."""
    while True:
        info = await outage.outlast(lambda: describe(client, handle))
        draw(progress_lines(info, client.storage.clock.now(), width=shutil.get_terminal_size().columns))
        if info.ended:
            return
        head = (await outage.outlast(lambda: client.storage.persistence.heads([handle.id])))[handle.id]
        with anyio.move_on_after(DRAW_S):
            await client.watch.moved(handle.id, after=head.seq)


@asynccontextmanager
async def _hint_if_unclaimed(context: Context, client: Client, handle: RunHandle[Any]) -> AsyncGenerator[None]:
    """Say it once when nobody seems to be there who could execute the run."""

    async def look() -> None:
        await anyio.sleep(UNCLAIMED_S)
        try:
            info = await describe(client, handle)
        except Unavailable:
            # A hint must not end the wait; what waits finds out by itself whether the database comes back.
            return
        if info.waiting_for in {"claim", "unknown_workflow"}:
            who = f'that knows "{info.workflow_id}" version "{info.workflow_version}" '
            context.screen.note(
                Span("note: ", "yellow"),
                f"no process {who}has taken the run yet. Start one in another terminal: leasehold up",
            )

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()
