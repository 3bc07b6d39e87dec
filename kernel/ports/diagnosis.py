"""What a store tells of itself to whoever asks why something does not work; it is looked at, and never changed.

A store gives its checks as data: a name, and a function that looks and answers with a finding. Whoever examines runs
all of them, each within a deadline, and a check that fails is a finding like any other. Beside them stands what the
explanation of one run needs and no decision does: who drives runs, and what sinks have not taken.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, TypeAlias

from kernel.errors import EngineError

__all__ = ["Check", "CheckSkipped", "CheckStatus", "Finding", "Inspection", "SessionSeen", "SessionState", "SinkDebt"]

CheckStatus: TypeAlias = Literal["ok", "warning", "problem", "skipped"]
"""A problem keeps the engine from working, or waits for a human; a warning costs speed, or may become a problem."""

SessionState: TypeAlias = Literal["live", "expiring", "dead"]


class CheckSkipped(EngineError):
    """A check could not be made, for a reason that another check tells or that is none to worry about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a check found, and what to do about it.

    `found` is a sentence or two with figures and units; `details` are lines below it, one per thing. `figures` has the
    same for machines: JSON values, durations in seconds (`…_s`), sizes in bytes. `error` is why the check itself
    failed.
    """

    status: CheckStatus
    found: str
    advice: str | None = None
    details: Sequence[str] = ()
    figures: Mapping[str, Any] = field(default_factory=dict[str, Any])
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """A name, and what looks. Raises: CheckSkipped, or whatever went wrong while looking."""

    name: str
    look: Callable[[], Awaitable[Finding]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSeen:
    """A session as its row says; `runs` and `jobs` are what it owns and leases, counted up to a bound.

    `workflows` are the (id, version) pairs that its process knows. `seen_at` is the store's time of the look.
    """

    id: str
    name: str
    hostname: str
    pid: int | None
    renewed_at: datetime
    lease: timedelta
    lease_expires_at: datetime
    condemned_at: datetime | None
    queues: Sequence[str]
    workflows: Sequence[tuple[str, str]]
    runs: int
    jobs: int
    seen_at: datetime

    @property
    def state(self) -> SessionState:
        """Whether it may work: an expiring one has less than a third of its lease left, which renewals prevent."""
        if self.condemned_at is not None or self.lease_expires_at <= self.seen_at:
            return "dead"
        return "expiring" if self.lease_expires_at - self.seen_at < self.lease / 3 else "live"

    @property
    def ended_at(self) -> datetime:
        """When a dead one lost its right."""
        return min(self.condemned_at or self.lease_expires_at, self.lease_expires_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkDebt:
    """What one sink has not taken of one run: events that are owed to it, and dead letters.

    `due_at`, `tries` and `error` are those of the delivery; `dead_error` is the latest refusal.
    """

    sink: str
    owed: int
    due_at: datetime | None
    tries: int
    error: str | None
    dead: int
    dead_error: str | None


class Inspection(Protocol):
    """What explains one run beside its own history. All of it raises: Unavailable."""

    async def sessions(self) -> Sequence[SessionSeen]:
        """The sessions that the store remembers, the latest renewed first; those that ended long ago are forgotten."""
        ...

    async def debts(self, run_id: str, /) -> Sequence[SinkDebt]:
        """The sinks that are owed something of this run, or refused some of it for good, by name."""
        ...
