"""Dispatching commands that were scheduled, when they are due.

A supervisor hosts `ScheduledCommands`, which asks the store for nothing while nothing is due: its heartbeat tells when
the next command is. `dispatch_due` does the same once, for a host that lives for one call.

A command is dispatched under a lease that is prolonged while it lasts, so a process that dies leaves it to the next
one. What may go better later (no database, a conflict, a workflow or a command that only another release knows) is
tried again with growing delays; any other error is logged and kept with the command, and delays no other.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

import anyio
from pydantic_core import from_json

from kernel.dispatch import Kernel, parse_command
from kernel.errors import Conflict, InvalidCommand, Unavailable, WorkflowNotFound
from kernel.ports.scheduler import DueCommands, TakenCommand
from runtime.narration import OutageLog
from runtime.storable_text import storable_text
from telemetry.logs import EventLogger, get_logger

__all__ = ["ScheduledCommands", "dispatch_due"]

logger: EventLogger = get_logger("leasehold.runtime")

AT_ONCE = 32
"""Commands that a process dispatches at a time; one that lasts long must not hold up the others."""
LEASE = timedelta(seconds=10)
PROLONG_S = 3.0
BACKOFF_MAX_S = 60.0
STORE_RETRY_S = 1.0
REPORT_S = 2.0
ERROR_LENGTH_MAX = 2_000


class ScheduledCommands:
    """Dispatches what is due, from `run` until it is cancelled; what is then under way is somebody else's at once."""

    def __init__(self, kernel: Kernel, due: DueCommands) -> None:
        self._kernel = kernel
        self._due = due
        self._next_at: datetime | None = None
        self._running = 0
        self._stopped = False
        self._news = anyio.Event()
        self._outage = OutageLog("store.unavailable", "store.recovered")

    def expect(self, at: datetime | None) -> None:
        """The store says that the next command is due at this moment."""
        self._next_at = at
        self._news.set()

    def stop(self) -> None:
        """Take no more; what is being dispatched goes on."""
        self._stopped = True

    async def run(self) -> None:
        """Serve for ever."""
        async with anyio.create_task_group() as tasks:
            while True:
                await self._until_due()
                room = AT_ONCE - self._running
                # Before the store is asked: what it tells meanwhile is newer.
                self._next_at = None
                try:
                    taken = await self._due.take_due(_known(self._kernel), room, lease=LEASE)
                except Unavailable as error:
                    self._outage.failed(error, service="scheduled commands")
                    await anyio.sleep(STORE_RETRY_S)
                    self._next_at = self._kernel.ports.clock.now()
                    continue
                self._outage.worked()
                for command in taken:
                    self._running += 1
                    tasks.start_soon(self._dispatch, command)
                if len(taken) == room:
                    self._next_at = self._kernel.ports.clock.now()

    async def _until_due(self) -> None:
        """Return when something may be due and there is room for it."""
        while True:
            wait_s = math.inf
            if self._next_at is not None and self._running < AT_ONCE and not self._stopped:
                wait_s = (self._next_at - self._kernel.ports.clock.now()).total_seconds()
                if wait_s <= 0:
                    return
            self._news = anyio.Event()
            with anyio.move_on_after(wait_s):
                await self._news.wait()

    async def _dispatch(self, taken: TakenCommand) -> None:
        try:
            await _dispatch_one(self._kernel, self._due, taken)
        finally:
            self._running -= 1
            self._news.set()


async def dispatch_due(kernel: Kernel, due: DueCommands, *, limit: int) -> int:
    """Dispatch up to `limit` commands that are due now, and return how many there were. Raises: Unavailable."""
    taken = await due.take_due(_known(kernel), limit, lease=LEASE)
    async with anyio.create_task_group() as tasks:
        for command in taken:
            tasks.start_soon(_dispatch_one, kernel, due, command)
    return len(taken)


def _known(kernel: Kernel) -> list[str]:
    return sorted({workflow_id for workflow_id, _ in kernel.ports.registry.known()})


async def _dispatch_one(kernel: Kernel, due: DueCommands, taken: TakenCommand) -> None:
    """Dispatch a command and report what became of it; cancelled before its end, give it back."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_prolong, due, taken)
        try:
            error, mendable = await _attempt(kernel, taken)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(REPORT_S, shield=True):
                await _report(due, taken, None, delay=timedelta(0))
            raise
        # What has been done should not be done again because somebody leaves just now.
        with anyio.move_on_after(REPORT_S, shield=True):
            delay = timedelta(seconds=min(2.0 ** min(taken.tries - 1, 10), BACKOFF_MAX_S)) if mendable else None
            await _report(due, taken, error, delay=delay)
        tasks.cancel_scope.cancel()


async def _attempt(kernel: Kernel, taken: TakenCommand) -> tuple[Exception | None, bool]:
    """The error of one dispatch, if any, and whether time may mend it."""
    try:
        command = parse_command(from_json(taken.command))
    except InvalidCommand as error:
        # It was readable where it was scheduled, which must have been in another release.
        return error, True
    try:
        await kernel.dispatch(command)
    except (Unavailable, Conflict, WorkflowNotFound) as error:
        return error, True
    except Exception as error:  # noqa: BLE001 - whatever a command raises is kept with it, and concerns no other
        return error, False
    return None, False


async def _prolong(due: DueCommands, taken: TakenCommand) -> None:
    held = True
    while held:
        await anyio.sleep(PROLONG_S)
        try:
            held = await due.postpone(taken, LEASE)
        except Unavailable:
            pass  # the next one may come in time, and what comes late is refused


async def _report(due: DueCommands, taken: TakenCommand, error: Exception | None, *, delay: timedelta | None) -> None:
    """Say what became of a command: due again after `delay`, else done with; what cannot be said its lease says."""
    kind = None if error is None else type(error).__name__
    reason = None if error is None else storable_text(f"{kind}: {error}", length_max=ERROR_LENGTH_MAX)
    if error is not None:
        say = logger.error if delay is None else logger.warning
        retry_s = None if delay is None else delay.total_seconds()
        say("command.failed", **_named(taken), key=taken.key, tries=taken.tries, error=kind, retry_s=retry_s)
    try:
        if delay is None:
            await due.settle(taken, error=reason)
        else:
            await due.postpone(taken, delay, error=reason)
    except Unavailable as unavailable:
        logger.warning("command.not_settled", **_named(taken), key=taken.key, error=str(unavailable))


def _named(taken: TakenCommand) -> dict[str, str]:
    """Which command it is and what it is about, as fields of the log; also of one of a newer release."""
    given = from_json(taken.command)
    found = {field: given.get(field) for field in ("type", "run_id", "workflow_id")}
    named = {field: value for field, value in found.items() if isinstance(value, str)}
    return {"command" if field == "type" else field: value for field, value in named.items()}
