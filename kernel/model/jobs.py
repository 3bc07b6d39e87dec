"""Which attempts are executed from a queue, and what an append changes about the rows that stand for them.

A stage's attempts are *jobs* when the stage names a queue, or when the whole run is driven by jobs. What is queued is
computed from the state, like everything else: an append carries the difference between what the states before and
after it have queued. So a retry makes its job available again, and whatever ends a stage withdraws its job, without
any decision that says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from kernel.model.machine import Status
from kernel.model.run import RunState
from kernel.model.stage import StageState

__all__ = ["DEFAULT_QUEUE", "JobChanges", "JobLease", "QueuedJob", "job_changes", "jobs_of", "queue_of"]

DEFAULT_QUEUE = "default"
"""Where the stages of a run that is driven by jobs are queued when they name no queue."""


@dataclass(frozen=True, slots=True)
class JobLease:
    """The right to execute one job, from taking it out of its queue until its end; the token is the attempt's too."""

    run_id: str
    stage_id: str
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedJob:
    """A job that waits to be taken, from `due_at` on (None: at once).

    `polls`: the stage is suspended, and its check is to be asked. `lost` counts the attempts that went down with
    their process.
    """

    stage_id: str
    queue: str
    due_at: datetime | None = None
    polls: bool = False
    lost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobChanges:
    """What an append does to its run's jobs: `put` makes them available (again), `drop` takes them out.

    With a `lease`, the append is refused unless that job is leased under that token.
    """

    put: tuple[QueuedJob, ...] = ()
    drop: tuple[str, ...] = ()
    lease: JobLease | None = None


def queue_of(state: RunState, stage: StageState) -> str | None:
    """The queue from which this stage's attempts are executed; None when the run's owner executes them."""
    queue = stage.plan.queue
    return DEFAULT_QUEUE if queue is None and state.drive == "jobs" else queue


def jobs_of(state: RunState) -> Mapping[str, QueuedJob | str]:
    """The jobs of this state by stage id: one that waits, or the token under which one is being executed."""
    if state.status is not Status.RUNNING or state.group == 0:
        return {}
    jobs = ((stage.id, _job_of(state, stage)) for stage in state.in_group(state.group) if stage.active)
    return {stage_id: job for stage_id, job in jobs if job is not None}


def _job_of(state: RunState, stage: StageState) -> QueuedJob | str | None:
    queue = queue_of(state, stage)
    if queue is None:
        return None
    if stage.status is Status.RUNNING:
        return stage.token
    if stage.status is Status.PENDING:
        return QueuedJob(stage_id=stage.id, queue=queue, due_at=stage.due_at, lost=stage.lost)
    if state.drive != "jobs":
        return None  # the owner polls
    return QueuedJob(stage_id=stage.id, queue=queue, due_at=stage.poll_at, polls=True)


def job_changes(before: RunState | None, after: RunState, lease: JobLease | None) -> JobChanges | None:
    """What becomes of the jobs between two states of a run; None when nothing does.

    A job that is taken and started stays where it is: its lease goes on until the attempt ends.
    """
    if after.drive != "jobs" and not after.plan.has_queues:
        return None
    old: Mapping[str, QueuedJob | str] = {} if before is None else jobs_of(before)
    new = jobs_of(after)
    put = tuple(job for stage_id, job in new.items() if isinstance(job, QueuedJob) and old.get(stage_id) != job)
    drop = tuple(stage_id for stage_id in old if stage_id not in new)
    return JobChanges(put=put, drop=drop, lease=lease) if put or drop or lease is not None else None
