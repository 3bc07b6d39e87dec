"""Commands that wait for their time, in the same tables as the runs.

Of the functions each is one transaction over `Tables`; the class gives way to other tasks around them, as every call
of the store does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime, timedelta
from heapq import nsmallest
from typing import Protocol, TypeVar

from adapters.memory.payloads import check_scheduled, check_text
from adapters.memory.tables import Tables, Waiting
from kernel.ports.scheduler import FAILED_KEPT, ScheduledCommand, TakenCommand

__all__ = ["MemoryScheduler", "next_due"]

T = TypeVar("T")


class InTurn(Protocol):
    """How a piece of work becomes one call of the store."""

    def __call__(self, work: Callable[[Tables, datetime], T], /) -> Awaitable[T]: ...


class MemoryScheduler:
    """`kernel.ports.scheduler.CommandSchedule`; part of a `MemoryPersistence`."""

    def __init__(self, in_turn: InTurn) -> None:
        self._in_turn = in_turn

    async def schedule(self, command: ScheduledCommand, /) -> None:
        check_scheduled(command)

        def keep(tables: Tables, _now: datetime) -> None:
            waiting = tables.scheduled.get(command.key)
            # The same scheduling sent again leaves what has become of it meanwhile alone.
            if waiting is None or waiting.command.schedule_id != command.schedule_id:
                tables.scheduled[command.key] = Waiting(command=command, due_at=command.due_at)

        await self._in_turn(keep)

    async def cancel(self, key: str, /) -> bool:
        def remove(tables: Tables, now: datetime) -> bool:
            waiting = tables.scheduled.get(key)
            if waiting is None:
                return False
            waits = waiting.state == "waiting" or (waiting.state == "taken" and waiting.due_at <= now)
            if waits:
                del tables.scheduled[key]
            return waits

        return await self._in_turn(remove)

    async def take_due(self, workflow_ids: Sequence[str], limit: int, /, *, lease: timedelta) -> Sequence[TakenCommand]:
        known = set(workflow_ids)

        def take(tables: Tables, now: datetime) -> Sequence[TakenCommand]:
            due = [waiting for waiting in _open(tables, known) if waiting.due_at <= now]
            chosen = nsmallest(limit, due, key=lambda waiting: waiting.due_at)
            return [_taken(waiting, now + lease) for waiting in chosen]

        return await self._in_turn(take)

    async def postpone(self, taken: TakenCommand, delay: timedelta, /, *, error: str | None = None) -> bool:
        check_text(error or "", "error")

        def delayed(tables: Tables, now: datetime) -> bool:
            waiting = _ours(tables, taken)
            if waiting is None:
                return False
            waiting.due_at = now + delay
            if error is not None:
                waiting.state, waiting.error = "waiting", error
            return True

        return await self._in_turn(delayed)

    async def settle(self, taken: TakenCommand, /, *, error: str | None = None) -> None:
        check_text(error or "", "error")

        def end(tables: Tables, now: datetime) -> None:
            waiting = _ours(tables, taken)
            if waiting is None:
                return
            if error is None:
                del tables.scheduled[taken.key]
            else:
                waiting.state, waiting.error = "failed", error
                _forget(tables, now)

        await self._in_turn(end)


def next_due(tables: Tables, workflow_ids: Collection[str]) -> datetime | None:
    """When the next command is due that a process which knows these workflows could dispatch."""
    return min((waiting.due_at for waiting in _open(tables, workflow_ids)), default=None)


def _open(tables: Tables, workflow_ids: Collection[str]) -> Sequence[Waiting]:
    return [
        waiting
        for waiting in tables.scheduled.values()
        if waiting.state != "failed"
        and (waiting.command.workflow_id is None or waiting.command.workflow_id in workflow_ids)
    ]


def _forget(tables: Tables, now: datetime) -> None:
    """Remove what failed long ago."""
    for key, waiting in list(tables.scheduled.items()):
        if waiting.state == "failed" and waiting.due_at < now - FAILED_KEPT:
            del tables.scheduled[key]


def _taken(waiting: Waiting, until: datetime) -> TakenCommand:
    waiting.state, waiting.due_at = "taken", until
    waiting.tries += 1
    command = waiting.command
    return TakenCommand(key=command.key, schedule_id=command.schedule_id, tries=waiting.tries, command=command.command)


def _ours(tables: Tables, taken: TakenCommand) -> Waiting | None:
    """The row, while it is the one that was taken."""
    waiting = tables.scheduled.get(taken.key)
    if waiting is None or waiting.state != "taken":
        return None
    same = (waiting.command.schedule_id, waiting.tries) == (taken.schedule_id, taken.tries)
    return waiting if same else None
