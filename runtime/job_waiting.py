"""What the jobs of a run say about why it waits, or that it does not.

A head tells nothing of who has taken which job. Whatever shows runs reads the jobs of those that may hang on one, in
one statement for all of them, and asks here. Pure, like `runtime.info`, which makes one word of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

from kernel.model.machine import ENDED
from kernel.ports.jobs import JobInfo
from kernel.ports.persistence import HeadRow

__all__ = ["jobs_wait", "may_hang_on_jobs", "waiting_queues"]


def may_hang_on_jobs(head: HeadRow, now: datetime) -> bool:
    """Whether the jobs of this run are worth reading: only they may move it now, as far as its head tells."""
    given = head.head
    if given.status in ENDED or head.parked_reason is not None:
        return False
    if given.phase == "queued":
        return True
    if head.owner is not None and head.owner_live:
        return False
    if given.phase == "running":
        return given.wake_at is None or given.wake_at > now
    return given.wake_at is None


def jobs_wait(head: HeadRow, jobs: Sequence[JobInfo] | None, *, now: datetime) -> Literal["executes", "queue"] | None:
    """Whether a job of the run executes, or waits in its queue; None when something else is to be said of the run.

    `jobs` None: they were not read. Of a run that nobody has to claim, an attempt that runs is a job's, so that the
    head alone nearly suffices; only the jobs tell that whoever had taken them is gone.
    """
    given = head.head
    if given.wake_at is not None and given.wake_at <= now:
        return None
    if given.phase == "running":
        if not jobs:
            # What a dead owner executed is interrupted, and waits to be taken over.
            return "executes" if head.owner is None else None
        if any(job.held for job in jobs):
            return "executes"
        return None if any(job.token is not None for job in jobs) else "queue"
    return "queue" if any(job.token is None and job.due_at <= now for job in jobs or ()) else None


def waiting_queues(jobs: Iterable[JobInfo] | None, *, unserved: bool = False) -> tuple[str, ...]:
    """The queues of the jobs that nobody has taken, or only those that no live session serves."""
    return tuple(sorted({job.queue for job in jobs or () if job.token is None and not (unserved and job.served)}))
