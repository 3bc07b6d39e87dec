"""`lease.reapStale`: end the leases that have not been renewed: sessions are condemned, job attempts are lost.

The runs of a condemned session stay where they are until somebody claims them, who then records what was lost. A job
has nobody who would: its lease is taken over by whoever finds it ended, who appends the loss and so makes the job
available again, after the retry policy's delay, until `max_lost`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Literal, Protocol

from kernel.command import Command
from kernel.commands.execute_job import definition_of
from kernel.errors import Conflict, EngineError, InvalidCommand, Unavailable
from kernel.model.attempts import lose_attempt
from kernel.model.draft import Decision, Draft, Moment
from kernel.model.ids import attempt_token
from kernel.model.jobs import jobs_of
from kernel.model.run import RunState
from kernel.ports.ids import Ids
from kernel.ports.jobs import JobLease, JobTransport
from kernel.ports.journals import Journals
from kernel.ports.persistence import Sessions
from kernel.ports.registry import WorkflowRegistry

__all__ = ["ReapStaleLeases", "ReapStaleLeasesPorts", "ReapStaleLeasesResult", "reap_stale_leases", "settle_job"]

SWEEP_LEASE = timedelta(seconds=30)
"""For so long whoever sweeps a job has it for itself; the append takes milliseconds, and may have to be repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReapStaleLeasesResult:
    """How many leases were ended, of sessions and of jobs; `job_ids` are the jobs among them (run id/stage id).

    Most of those wait again, some until later; a few are no more, because their run has ended or failed by it.
    """

    released: int
    job_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReapStaleLeases(Command[ReapStaleLeasesResult]):
    """End the leases of up to `max_sessions` sessions and `max_jobs` jobs, by the database's clock."""

    type: ClassVar[str] = "lease.reapStale"

    max_sessions: int = 100
    max_jobs: int = 100

    def __post_init__(self) -> None:
        """Refuse bounds that make no sense."""
        for name, bound in (("max_sessions", self.max_sessions), ("max_jobs", self.max_jobs)):
            if bound < 1:
                raise InvalidCommand(f"{name} must be at least 1, got {bound}.", field=name)


class SettlePorts(Protocol):
    """What giving up a job touches."""

    @property
    def journals(self) -> Journals:
        """Where losses are recorded."""
        ...

    @property
    def registry(self) -> WorkflowRegistry:
        """Which workflows are known, and how often their attempts may be lost."""
        ...


class ReapStaleLeasesPorts(SettlePorts, Protocol):
    """What reaping touches; without `jobs`, only sessions."""

    @property
    def sessions(self) -> Sessions:
        """Where the leases of sessions are."""
        ...

    @property
    def jobs(self) -> JobTransport | None:
        """Where the leases of jobs are."""
        ...

    @property
    def ids(self) -> Ids:
        """Where tokens come from."""
        ...


async def reap_stale_leases(command: ReapStaleLeases, ports: ReapStaleLeasesPorts) -> ReapStaleLeasesResult:
    """Condemn sessions, and record what became of the jobs whose lease has ended.

    Atomic per lease and idempotent: a condemned session is never condemned twice, and never lives again; a job is swept
    by one process at a time, and what its former holder still sends is refused. Interrupted, it is swept again later.
    """
    released = len(await ports.sessions.condemn_expired(command.max_sessions))
    jobs, swept = ports.jobs, list[str]()
    if jobs is not None:
        seed = ports.ids.append_id()
        tokens = [attempt_token(seed, number) for number in range(command.max_jobs)]
        for expired in await jobs.take_expired(ports.registry.known(), tokens, lease=SWEEP_LEASE):
            lease = expired.job.lease
            if await settle_job(lease, jobs, ports, session_id=expired.previous_session):
                released += 1
                swept.append(f"{lease.run_id}/{lease.stage_id}")
    return ReapStaleLeasesResult(released=released, job_ids=tuple(swept))


async def settle_job(
    lease: JobLease,
    jobs: JobTransport,
    ports: SettlePorts,
    *,
    session_id: str | None = None,
    delay: timedelta = timedelta(0),
    spare: bool = False,
) -> bool:
    """Give up a job that is leased and that nobody executes (any more); False when it is not held after all.

    What had begun is lost, in session `session_id`; what had not is available again, after the `delay`; what the run
    knows nothing of is deleted. With `spare`, an attempt that runs under this very lease is left alone.
    """

    def decide(state: RunState, moment: Moment) -> Decision[Literal["spared", "lost", "waits", "gone"]]:
        draft = Draft(state, moment)
        job = jobs_of(state).get(lease.stage_id)
        if not isinstance(job, str):
            return draft.decided("gone" if job is None else "waits")
        if spare and job == lease.token:
            return draft.decided("spared")
        draft.lease = lease
        policy = definition_of(state, ports.registry).get_stage(lease.stage_id).retry
        lose_attempt(draft, lease.stage_id, policy, owner=session_id)
        return draft.decided("lost")

    try:
        found = await ports.journals.record(lease.run_id, decide, ends_attempt=True)
    except (Conflict, Unavailable):
        return False
    except EngineError:
        # It cannot be decided here. The lease ends in a while, and somebody looks again.
        return False
    match found:
        case "lost":
            return True
        case "spared":
            return False
        case "waits":
            return await jobs.release(lease, delay=delay)
        case "gone":
            return await jobs.discard(lease)
