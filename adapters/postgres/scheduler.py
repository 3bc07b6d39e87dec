"""Commands that wait for their time: rows of `scheduled_commands`, handed out under short leases.

A row's `due_at` is when somebody should look at it next: when its command is due, when a lease ends, or when it is to
be tried again. So one index finds all that there is to do, and the death of who dispatches needs no notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from adapters.postgres.connections import Line
from adapters.postgres.failures import mapped
from adapters.postgres.payloads import is_storable, json_text, plain_text
from adapters.postgres.statements import Schema, statement
from kernel.ports.scheduler import FAILED_KEPT, ScheduledCommand, TakenCommand

__all__ = ["ScheduledCommands"]

FORGOTTEN_MAX = 100
"""By one command that fails; more than one, so that the table shrinks when failures become rarer."""


class ScheduledCommands:
    """`kernel.ports.scheduler.CommandSchedule`."""

    def __init__(self, line: Line, schema: Schema) -> None:
        self._line = line
        self._sql = {
            name: statement(f"command_{name}", schema)
            for name in ("schedule", "cancel", "take", "postpone", "settle", "forget")
        }

    async def schedule(self, command: ScheduledCommand) -> None:
        row = (
            plain_text(command.key, "key"),
            command.schedule_id,
            command.due_at,
            plain_text(command.workflow_id or "", "workflow_id"),
            json_text(command.command, "Scheduled command", "command"),
        )
        with mapped("schedule a command"):
            await self._line.fetch("schedule a command", self._sql["schedule"], *row)

    async def cancel(self, key: str) -> bool:
        if not is_storable(key):
            return False
        with mapped("cancel a scheduled command"):
            # Sent again after a lost answer it would find nothing, and say so.
            rows = await self._line.fetch("cancel a scheduled command", self._sql["cancel"], key, repeat=False)
        return bool(rows)

    async def take_due(self, workflow_ids: Sequence[str], limit: int, lease: timedelta) -> Sequence[TakenCommand]:
        with mapped("take scheduled commands"):
            # What a lost answer has taken is due again when its lease ends.
            rows = await self._line.fetch(
                "take scheduled commands", self._sql["take"], list(workflow_ids), limit, lease, repeat=False
            )
        return [
            TakenCommand(
                key=row["key"],
                schedule_id=row["schedule_id"],
                tries=row["tries"],
                command=row["command"].encode(),
            )
            for row in rows
        ]

    async def postpone(self, taken: TakenCommand, delay: timedelta, error: str | None) -> bool:
        reason = None if error is None else plain_text(error, "error")
        with mapped("postpone a scheduled command"):
            rows = await self._line.fetch(
                "postpone a scheduled command", self._sql["postpone"], *_token(taken), delay, reason
            )
        return bool(rows)

    async def settle(self, taken: TakenCommand, error: str | None) -> None:
        reason = None if error is None else plain_text(error, "error")
        with mapped("settle a scheduled command"):
            await self._line.fetch("settle a scheduled command", self._sql["settle"], *_token(taken), reason)
            if reason is not None:
                await self._line.fetch(
                    "forget failed commands", self._sql["forget"], FAILED_KEPT, FORGOTTEN_MAX, repeat=False
                )


def _token(taken: TakenCommand) -> tuple[str, str, int]:
    return taken.key, taken.schedule_id, taken.tries
