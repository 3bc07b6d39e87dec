"""What stands where a kernel wants an executor and nothing is to be executed: in a client."""

from __future__ import annotations

from kernel.errors import InvalidCommand
from kernel.ports.executor import Attempt, BodyOutcome, CheckAttempt, CheckOutcome

__all__ = ["NoExecutor"]


class NoExecutor:
    """`kernel.ports.executor.Executor` that refuses every attempt."""

    async def run(self, attempt: Attempt, /) -> BodyOutcome:
        """Raise InvalidCommand."""
        raise _not_here(attempt.stage.id)

    async def check(self, check: CheckAttempt, /) -> CheckOutcome:
        """Raise InvalidCommand."""
        raise _not_here(check.stage.id)


def _not_here(stage_id: str) -> InvalidCommand:
    return InvalidCommand(
        f'A Client does not execute stage "{stage_id}".',
        field="executor",
        hint="Use a Supervisor, or give the Kernel an executor.",
    )
