"""`run.claimPending`: a session takes due runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from kernel.command import Command
from kernel.errors import InvalidCommand
from kernel.ports.persistence import Claims

__all__ = ["ClaimPendingRuns", "ClaimPendingRunsPorts", "ClaimPendingRunsResult", "ClaimedRun", "claim_pending_runs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRun:
    """A run that the session now owns. `job_ids` are the jobs enqueued with it; none when an actor executes."""

    run_id: str
    workflow_id: str
    job_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimPendingRunsResult:
    """The runs taken, in no particular order."""

    claimed: Sequence[ClaimedRun]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimPendingRuns(Command[ClaimPendingRunsResult]):
    """Take up to `max_claims` due runs for a session, of the workflows that the session was opened with."""

    type: ClassVar[str] = "run.claimPending"

    session_id: str
    max_claims: int = 10

    def __post_init__(self) -> None:
        """Refuse bounds that make no sense."""
        if self.max_claims < 1:
            raise InvalidCommand(f"max_claims must be at least 1, got {self.max_claims}.", field="max_claims")


class ClaimPendingRunsPorts(Protocol):
    """What claiming touches."""

    @property
    def claims(self) -> Claims:
        """Where runs are taken from."""
        ...


async def claim_pending_runs(command: ClaimPendingRuns, ports: ClaimPendingRunsPorts) -> ClaimPendingRunsResult:
    """Take runs; no event is written until the new owner does something.

    Atomic per run: two sessions never get the same one. Repeated, it takes further runs. Interrupted after the
    claim, the session owns runs that nobody drives until it reads what it owns (`Beat.adrift`) or is condemned.
    """
    taken = await ports.claims.claim(command.session_id, command.max_claims)
    return ClaimPendingRunsResult(
        claimed=tuple(
            ClaimedRun(run_id=run.history.head.run_id, workflow_id=run.history.head.workflow_id) for run in taken
        )
    )
