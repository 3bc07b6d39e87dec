"""Jobs: what appends make of them, and who has taken which.

A job that nobody has taken has no token. What an append says of the jobs of its run is done in the same call as the
append; the leases are taken, kept and given up here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from heapq import nsmallest

from adapters.memory.tables import PRIORITY_STEP, Job, Run, Session, Tables
from kernel.errors import JobLost, LeaseLost
from kernel.model.facts import FORMAT
from kernel.model.jobs import JobChanges, JobLease
from kernel.ports.jobs import Definition, ExpiredJob, Holder, JobInfo, LeasedJob
from kernel.ports.persistence import QueueBacklog

__all__ = [
    "beat",
    "change",
    "check_lease",
    "dequeue",
    "discard",
    "find_leased",
    "held_by",
    "infos",
    "outlook",
    "release",
    "take",
    "take_expired",
]


def check_lease(tables: Tables, changes: JobChanges | None) -> None:
    """Refuse an append in the name of a lease that is not held. Raises: JobLost."""
    if changes is not None and changes.lease is not None and _held(tables, changes.lease) is None:
        raise JobLost(changes.lease.run_id, changes.lease.stage_id, token=changes.lease.token)


def change(tables: Tables, run: Run, changes: JobChanges | None, now: datetime) -> bool:
    """Put and drop jobs of a run, and return whether one of them can be taken now."""
    if changes is None:
        return False
    for stage_id in changes.drop:
        _remove(tables, run.run_id, stage_id)
    for queued in changes.put:
        _remove(tables, run.run_id, queued.stage_id)
        tables.jobs[run.run_id, queued.stage_id] = Job(
            run_id=run.run_id,
            stage_id=queued.stage_id,
            queue=queued.queue,
            due_at=queued.due_at or now,
            polls=queued.polls,
            lost=queued.lost,
        )
    return any(queued.due_at is None or queued.due_at <= now for queued in changes.put)


def _remove(tables: Tables, run_id: str, stage_id: str) -> None:
    job = tables.jobs.pop((run_id, stage_id), None)
    if job is not None:
        _let_go(tables, job)


def _let_go(tables: Tables, job: Job) -> None:
    session = None if job.session_id is None else tables.sessions.get(job.session_id)
    job.token = job.session_id = job.lease_until = None
    if session is not None:
        session.jobs -= 1
        tables.forget_if_done(session)


def _lease(tables: Tables, job: Job, token: str, holder: Holder, now: datetime) -> LeasedJob:
    _let_go(tables, job)
    job.token = token
    if isinstance(holder, str):
        job.session_id = holder
        tables.sessions[holder].jobs += 1
    else:
        job.lease_until = now + holder
    return _leased(job)


def _leased(job: Job) -> LeasedJob:
    assert job.token is not None
    lease = JobLease(job.run_id, job.stage_id, job.token)
    return LeasedJob(lease=lease, queue=job.queue, polls=job.polls, lost=job.lost)


def _held(tables: Tables, lease: JobLease) -> Job | None:
    job = tables.jobs.get((lease.run_id, lease.stage_id))
    return job if job is not None and job.token == lease.token else None


def _check_holder(tables: Tables, holder: Holder, now: datetime) -> None:
    if isinstance(holder, str) and tables.find_live(holder, now) is None:
        raise LeaseLost(None, session_id=holder)


def _order(tables: Tables, job: Job) -> tuple[datetime, str, str]:
    return job.due_at - tables.runs[job.run_id].new.priority * PRIORITY_STEP, job.run_id, job.stage_id


def _may_be_taken(tables: Tables, job: Job, definitions: Collection[Definition]) -> bool:
    run = tables.runs[job.run_id]
    return run.definition in definitions and run.format <= FORMAT and run.parked_reason is None


def dequeue(
    tables: Tables,
    queues: Collection[str],
    definitions: Collection[Definition],
    tokens: Sequence[str],
    holder: Holder,
    now: datetime,
) -> Sequence[LeasedJob]:
    """Lease the jobs that come first. Raises: LeaseLost."""
    _check_holder(tables, holder, now)
    ready = (
        job
        for job in tables.jobs.values()
        if job.token is None and job.due_at <= now and job.queue in queues and _may_be_taken(tables, job, definitions)
    )
    chosen = nsmallest(len(tokens), ready, key=lambda job: _order(tables, job))
    return tuple(_lease(tables, job, token, holder, now) for job, token in zip(chosen, tokens, strict=False))


def waiting(tables: Tables, now: datetime) -> Mapping[str, QueueBacklog]:
    """By queue, what is due and nobody has."""
    found: dict[str, list[datetime]] = {}
    for job in tables.jobs.values():
        if job.due_at <= now and not _is_held(tables, job, now) and tables.runs[job.run_id].parked_reason is None:
            found.setdefault(job.queue, []).append(_free_since(tables, job, now))
    return {queue: QueueBacklog(jobs=len(due), oldest_age=now - min(due)) for queue, due in found.items()}


def take(tables: Tables, run_id: str, stage_id: str, token: str, holder: Holder, now: datetime) -> LeasedJob | None:
    """Lease one job, if it is there to be taken. Raises: LeaseLost."""
    _check_holder(tables, holder, now)
    job = tables.jobs.get((run_id, stage_id))
    if job is None or not _can_go_on(tables, run_id):
        return None
    if job.token == token:
        return _leased(job)
    return _lease(tables, job, token, holder, now) if job.token is None and job.due_at <= now else None


def find_leased(tables: Tables, lease: JobLease) -> LeasedJob | None:
    """The job that is leased under this token, unless its run is set aside."""
    job = _held(tables, lease)
    if job is None or not _can_go_on(tables, lease.run_id):
        return None
    return _leased(job)


def _can_go_on(tables: Tables, run_id: str) -> bool:
    return tables.runs[run_id].parked_reason is None and tables.runs[run_id].format <= FORMAT


def beat(tables: Tables, leases: Iterable[JobLease], now: datetime, *, lease: timedelta) -> Collection[JobLease]:
    """Prolong the leases with a length, and return all that are held."""
    held: set[JobLease] = set()
    for one in leases:
        job = _held(tables, one)
        if job is None:
            continue
        held.add(one)
        if job.lease_until is not None:
            job.lease_until = now + lease
    return held


def held_by(tables: Tables, session_id: str) -> Sequence[LeasedJob]:
    """The jobs of a session."""
    return tuple(_leased(job) for job in tables.jobs.values() if job.session_id == session_id)


def release(tables: Tables, lease: JobLease, delay: timedelta, now: datetime) -> bool:
    """Make the job available again."""
    job = _held(tables, lease)
    if job is None:
        return False
    _let_go(tables, job)
    if delay:
        job.due_at = max(job.due_at, now + delay)
    return True


def discard(tables: Tables, lease: JobLease) -> bool:
    """Delete the job."""
    if _held(tables, lease) is None:
        return False
    _remove(tables, lease.run_id, lease.stage_id)
    return True


def _expired(tables: Tables, definitions: Collection[Definition], now: datetime) -> Iterable[Job]:
    for job in tables.jobs.values():
        if job.token is None or tables.runs[job.run_id].definition not in definitions:
            continue
        if job.session_id is None:
            ended = job.lease_until is not None and job.lease_until < now
        else:
            session = tables.sessions.get(job.session_id)
            ended = session is None or session.condemned
        if ended:
            yield job


def take_expired(
    tables: Tables, definitions: Collection[Definition], tokens: Sequence[str], lease: timedelta, now: datetime
) -> Sequence[ExpiredJob]:
    """Take over leases that have ended."""
    found: list[ExpiredJob] = []
    for job, token in zip(list(_expired(tables, definitions, now)), tokens, strict=False):
        assert job.token is not None
        previous, session_id = JobLease(job.run_id, job.stage_id, job.token), job.session_id
        leased = _lease(tables, job, token, lease, now)
        found.append(ExpiredJob(job=leased, previous=previous, previous_session=session_id))
    return tuple(found)


def infos(tables: Tables, run_ids: Collection[str], now: datetime) -> Sequence[JobInfo]:
    """The jobs of these runs as they are stored."""
    return tuple(
        JobInfo(
            run_id=job.run_id,
            stage_id=job.stage_id,
            queue=job.queue,
            priority=tables.runs[job.run_id].new.priority,
            due_at=job.due_at,
            token=job.token,
            session_id=job.session_id,
            lease_until=job.lease_until,
            held=_is_held(tables, job, now),
            served=_is_served(tables, job, now),
        )
        for job in sorted(tables.jobs.values(), key=lambda job: (job.run_id, job.stage_id))
        if job.run_id in run_ids
    )


def _free_since(tables: Tables, job: Job, now: datetime) -> datetime:
    if job.token is None:
        return job.due_at
    if job.session_id is not None:
        # One that was closed has ended before its lease would have; since when is not written down.
        return min(tables.sessions[job.session_id].expires_at, now)
    return job.lease_until or job.due_at


def _is_held(tables: Tables, job: Job, now: datetime) -> bool:
    if job.session_id is not None:
        return tables.find_live(job.session_id, now) is not None
    return job.lease_until is not None and job.lease_until > now


def _is_served(tables: Tables, job: Job, now: datetime) -> bool:
    definition = tables.runs[job.run_id].definition
    return any(
        session.live(now) and job.queue in session.queues and definition in session.definitions
        for session in tables.sessions.values()
    )


def outlook(tables: Tables, session: Session, now: datetime) -> tuple[bool, bool, datetime | None]:
    """Whether the session could take a job now, whether the lease of one has ended, and when the next one is due."""
    waiting = [
        job
        for job in tables.jobs.values()
        if job.token is None and job.queue in session.queues and _may_be_taken(tables, job, session.definitions)
    ]
    due = any(job.due_at <= now for job in waiting)
    next_at = min((job.due_at for job in waiting if job.due_at > now), default=None)
    return due, any(True for _ in _expired(tables, session.definitions, now)), next_at
