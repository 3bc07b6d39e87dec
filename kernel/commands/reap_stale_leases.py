"""`lease.reapStale`: condemn sessions whose lease has ended, so that their runs can be taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from kernel.command import Command
from kernel.errors import InvalidCommand
from kernel.ports.persistence import Sessions

__all__ = ["ReapStaleLeases", "ReapStaleLeasesPorts", "ReapStaleLeasesResult", "reap_stale_leases"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReapStaleLeasesResult:
    """How many leases were ended."""

    released: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReapStaleLeases(Command[ReapStaleLeasesResult]):
    """Condemn up to `max_sessions` sessions that have not renewed in time, by the database's clock."""

    type: ClassVar[str] = "lease.reapStale"

    max_sessions: int = 100

    def __post_init__(self) -> None:
        """Refuse bounds that make no sense."""
        if self.max_sessions < 1:
            raise InvalidCommand(f"max_sessions must be at least 1, got {self.max_sessions}.", field="max_sessions")


class ReapStaleLeasesPorts(Protocol):
    """What reaping touches."""

    @property
    def sessions(self) -> Sessions:
        """Where the leases are."""
        ...


async def reap_stale_leases(command: ReapStaleLeases, ports: ReapStaleLeasesPorts) -> ReapStaleLeasesResult:
    """Condemn; the runs stay where they are until somebody claims them.

    Atomic per session and idempotent: a condemned session is never condemned twice, and never lives again.
    """
    return ReapStaleLeasesResult(released=len(await ports.sessions.condemn_expired(command.max_sessions)))
