"""Doing what a job that was taken stands for: an attempt, or the check of a suspended stage.

Both end the job with what they append, under the token of its lease. Whoever calls keeps that lease alive meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kernel.commands.execute_job import ExecuteJob, ExecuteJobPorts, ExecuteJobResult
from kernel.commands.poll_suspended_stages import poll_stage
from kernel.errors import ErrorInfo
from kernel.model.draft import Decision
from kernel.model.jobs import QueuedJob, jobs_of
from kernel.model.machine import Status
from kernel.model.run import RunState
from kernel.ports.jobs import LeasedJob

__all__ = ["work_job"]


async def work_job(
    job: LeasedJob,
    command: ExecuteJob,
    ports: ExecuteJobPorts,
    dispatch: Callable[[ExecuteJob], Awaitable[ExecuteJobResult]],
) -> ExecuteJobResult:
    """Execute or poll, and say how it ended; a *ghost* has changed nothing, and the job may be leased still.

    `dispatch` carries out the `command`, which is under the token of the job's lease.
    Raises: as `job.execute`; never because of what the command asks for, which was refused when it was made.
    """
    lease = job.lease
    if not job.polls:
        return await dispatch(command)
    if await poll_stage(lease.run_id, lease.stage_id, ports, lease=lease) is None:
        message = f'Stage "{lease.stage_id}" of run "{lease.run_id}" no longer waits for what was checked'
        return ExecuteJobResult(
            outcome="failed", ghost=True, error=ErrorInfo(type="Ghost", message=message, retryable=False)
        )
    state: RunState = await ports.journals.record(
        lease.run_id, lambda state, _moment: Decision(result=state, state=state)
    )
    stage = state.stages[lease.stage_id]
    queued = tuple(f"{lease.run_id}/{job.stage_id}" for job in jobs_of(state).values() if isinstance(job, QueuedJob))
    if stage.status is Status.COMPLETED:
        return ExecuteJobResult(outcome="completed", job_ids=queued)
    if stage.status is Status.SUSPENDED and stage.suspension is not None:
        return ExecuteJobResult(outcome="suspended", next_poll_at=stage.suspension.next_poll_at, job_ids=queued)
    retryable = stage.status is Status.PENDING
    return ExecuteJobResult(outcome="failed", error=stage.error, retryable=retryable, job_ids=queued)
