"""Attempts that are not executed by their run's own actor: taking them out of a queue, and keeping the lease on them.

A job appears, becomes available again and disappears with the appends of its run (`Append.jobs`), in the same
transaction: enqueueing, completing, suspending, failing and cancelling are appends and have no call here. What is left
is the lease. Whoever takes a job gives it a token of its own choice; the attempt is started and ended under it, and
every call names it and is refused when the job is leased under another one, or not at all.

A lease is a session's, and lasts as long as that does, or it has a length and is kept by heartbeats. One that has
ended is not simply available: the attempt may have been started, and its loss belongs into the history. So it is taken
by a sweeper (`take_expired`), who appends the loss, or gives it back when nothing had begun.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, TypeAlias

from kernel.model.jobs import JobLease

__all__ = ["Definition", "ExpiredJob", "Holder", "JobInfo", "JobLease", "JobTransport", "LeasedJob"]

Definition: TypeAlias = tuple[str, str]
"""A workflow's id and version."""

Holder: TypeAlias = str | timedelta
"""On what a lease rests: a session's id, or the length for which it holds from its last heartbeat on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedJob:
    """A job that was taken. `polls`: its stage is suspended; `lost`: how many of its attempts died with a process."""

    lease: JobLease
    queue: str
    polls: bool = False
    lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiredJob:
    """A job whose lease has ended, now leased by a sweeper; `previous` held it, in this session if it was one's."""

    job: LeasedJob
    previous: JobLease
    previous_session: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """A job as it is stored; `token` None: it waits. `session_id` and `lease_until`: on what its lease rests.

    `held`: it is leased, and the lease has not ended. `served`: a session that lives serves its queue and knows its
    workflow; hosts, which are called, have none.
    """

    run_id: str
    stage_id: str
    queue: str
    priority: int
    due_at: datetime
    token: str | None
    session_id: str | None
    lease_until: datetime | None
    held: bool = False
    served: bool = False


class JobTransport(Protocol):
    """Jobs, as appends of the same store make them."""

    async def dequeue(
        self, queues: Sequence[str], definitions: Sequence[Definition], tokens: Sequence[str], /, *, holder: Holder
    ) -> Sequence[LeasedJob]:
        """Take the jobs that are due and come first, one per token.

        First come those of which `due_at` less ten seconds for each step of priority is the earliest, so nothing
        starves. Jobs of other definitions, of parked runs and of runs of a newer format stay.
        Raises: LeaseLost, when the holder is a session that has ended; Unavailable, and never an empty answer instead.
        """
        ...

    async def take(self, run_id: str, stage_id: str, token: str, /, *, holder: Holder) -> LeasedJob | None:
        """Take this very job if it waits and is due, or if it is leased under this token; None otherwise.

        The token is to be a new one, drawn by who calls; only a call that is sent again finds it leased already. Under
        one that an attempt has had no other can be started. Raises: as `dequeue`.
        """
        ...

    async def find_leased(self, lease: JobLease, /) -> LeasedJob | None:
        """The job while it is leased under this very token and its run can go on; None otherwise. Nothing is prolonged.

        Raises: Unavailable.
        """
        ...

    async def heartbeat(self, leases: Sequence[JobLease], /, *, lease: timedelta) -> Collection[JobLease]:
        """Prolong leases that have a length, and return those that are held still. Raises: Unavailable."""
        ...

    async def held_by(self, session_id: str, /) -> Sequence[LeasedJob]:
        """The jobs that are leased to this session, whether it knows or not. Raises: Unavailable."""
        ...

    async def release(self, lease: JobLease, /, *, delay: timedelta = timedelta(0)) -> bool:
        """Make a job available again of which nothing was recorded; False when the lease is not held.

        Raises: Unavailable.
        """
        ...

    async def discard(self, lease: JobLease, /) -> bool:
        """Delete a job that its run knows nothing of; False when the lease is not held. Raises: Unavailable."""
        ...

    async def take_expired(
        self, definitions: Sequence[Definition], tokens: Sequence[str], /, *, lease: timedelta
    ) -> Sequence[ExpiredJob]:
        """Take jobs whose lease has ended, by the store's clock, one per token. Raises: Unavailable."""
        ...

    async def jobs_of(self, *run_ids: str) -> Sequence[JobInfo]:
        """The jobs of these runs, by run and stage id. Raises: Unavailable."""
        ...
