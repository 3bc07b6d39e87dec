"""Commands that wait for their time: scheduling and cancelling them, and handing them out when they are due.

Two slices, because who schedules and who dispatches are different people: a kernel only adds and removes, a host takes
what is due. Commands cross as the JSON that `kernel.dispatch.parse_command` reads, so a store knows none of them.

A command that is due is *taken* under a lease and is somebody else's again when the lease ends: it is dispatched at
least once, and by one process at a time. Time is the store's own. An adapter must pass `adapters/conformance/store/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

__all__ = ["FAILED_KEPT", "CommandSchedule", "DueCommands", "ScheduledCommand", "Scheduler", "TakenCommand"]

FAILED_KEPT = timedelta(days=30)
"""How long a command that failed is kept for people; the next one that fails has older ones forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledCommand:
    """A command to be dispatched at or after `due_at`.

    `key` is unique among those that wait, `schedule_id` (a UUID) among all that were ever scheduled. With a
    `workflow_id` only a process that knows the workflow can dispatch it.
    """

    key: str
    schedule_id: str
    due_at: datetime
    command: bytes
    workflow_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenCommand:
    """A command that somebody is dispatching; `schedule_id` and `tries` (from 1) are the token of the lease."""

    key: str
    schedule_id: str
    tries: int
    command: bytes


class Scheduler(Protocol):
    """Adding and removing."""

    async def schedule(self, command: ScheduledCommand, /) -> None:
        """Keep a command; one that has its key is replaced, in whatever state. Repeating it is safe until it is due.

        Raises: PayloadRefused, Unavailable.
        """
        ...

    async def cancel(self, key: str, /) -> bool:
        """Remove a command that waits; False when there is none, or when it is being dispatched or has failed by now.

        Those two stay as they are: a dispatch goes on, and is repeated when time may mend what went wrong with it; a
        failure is evidence. Raises: Unavailable.
        """
        ...


class DueCommands(Protocol):
    """Handing out. What is reported of a command that has meanwhile been replaced, removed or retaken does nothing."""

    async def take_due(self, workflow_ids: Sequence[str], limit: int, /, *, lease: timedelta) -> Sequence[TakenCommand]:
        """Take up to `limit` commands that are due, the oldest first, for so long.

        Those that need a workflow which is not among `workflow_ids` are left. Raises: Unavailable.
        """
        ...

    async def postpone(self, taken: TakenCommand, delay: timedelta, /, *, error: str | None = None) -> bool:
        """Make it due again after `delay`; False when it is not ours any more.

        Without an `error` we go on with it, and the lease lasts so much longer. Raises: Unavailable.
        """
        ...

    async def settle(self, taken: TakenCommand, /, *, error: str | None = None) -> None:
        """Dispatched: forget it. With an `error` it stays as failed, for people, and is never due again.

        Commands that failed more than `FAILED_KEPT` ago are forgotten then. Raises: Unavailable.
        """
        ...


class CommandSchedule(Scheduler, DueCommands, Protocol):
    """Both."""
