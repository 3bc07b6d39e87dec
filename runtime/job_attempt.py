"""One job that was taken, done: executed or polled, and whatever goes wrong with it put in order.

Shared by everybody who takes jobs: a supervisor, whose leases rest on its session, and hosts without one, which keep
theirs by heartbeats. Keeping the lease is their affair, and so is interrupting this when it is lost.
"""

from __future__ import annotations

from datetime import timedelta

from kernel.commands.execute_job import ExecuteJob, ExecuteJobResult
from kernel.commands.reap_stale_leases import settle_job
from kernel.dispatch import Kernel
from kernel.errors import (
    Conflict,
    EngineError,
    ErrorInfo,
    InvalidCommand,
    RunNotFound,
    StageNotFound,
    Unavailable,
    WorkflowNotFound,
)
from kernel.job_work import work_job
from kernel.journal import fold_stored
from kernel.model.facts import CorruptHistory
from kernel.model.ids import attempt_token
from kernel.parking import park_unowned
from kernel.ports.ids import Ids
from kernel.ports.jobs import JobLease, LeasedJob
from runtime.batch import hand_back
from runtime.bootstrap import Storage
from telemetry.logs import EventLogger, get_logger

__all__ = ["attempt_job", "give_up_job", "hand_back_job", "new_tokens", "why_not_taken"]

logger: EventLogger = get_logger("leasehold.runtime")

UNDECIDABLE_DELAY = timedelta(seconds=30)
"""A job that cannot be executed here, and whose run cannot be parked, is tried again after so long."""


def new_tokens(ids: Ids, count: int) -> list[str]:
    """Tokens for leases to be taken, each of them new."""
    seed = ids.append_id()
    return [attempt_token(seed, number) for number in range(count)]


async def attempt_job(job: LeasedJob, kernel: Kernel, *, attempt: int | None = None) -> ExecuteJobResult:
    """Do what the job stands for; what became of it is recorded when this returns, and the lease is given up.

    Cancelled, the lease is kept, and whoever cancelled says what becomes of it. Raises: Unavailable, when it could not
    be given up; it ends by itself then. InvalidCommand, when no attempt can have such a number; the job is available.
    """
    lease = job.lease
    try:
        command = ExecuteJob(run_id=lease.run_id, stage_id=lease.stage_id, attempt=attempt, token=lease.token)
    except InvalidCommand:
        # That is the caller's mistake, and nothing that the run should wait for a human for.
        await give_up_job(lease, kernel, spare=True)
        raise
    try:
        result = await work_job(job, command, kernel.ports, kernel.dispatch)
    except Conflict as error:
        return _ghost(error)
    except (RunNotFound, StageNotFound, WorkflowNotFound) as error:
        # Nothing is wrong with the run: it is not there, or it is for others, who know its workflow.
        await give_up_job(lease, kernel, spare=True)
        return _ghost(error)
    except Unavailable:
        raise
    except EngineError as error:
        await _set_aside(lease, error, kernel)
        return _ghost(error)
    except Exception as error:
        logger.exception("job.broken", run_id=lease.run_id, stage_id=lease.stage_id, error=type(error).__name__)
        await give_up_job(lease, kernel)
        return ExecuteJobResult(
            outcome="failed", error=ErrorInfo(type=type(error).__name__, message=str(error)), retryable=True
        )
    if result.ghost:
        # An attempt that runs under this lease is that of a message which was delivered twice.
        await give_up_job(lease, kernel, spare=True)
    return result


async def why_not_taken(run_id: str, stage_id: str, storage: Storage) -> str:
    """Why nothing of this stage could be executed, as the end of a sentence; for people, and true a moment ago.

    Raises: Unavailable.
    """
    try:
        stored = await storage.persistence.load(run_id, bodies=False)
        state = fold_stored(stored)
    except RunNotFound:
        return "its run does not exist"
    except CorruptHistory as error:
        return str(error)
    stage = state.stages.get(stage_id)
    if stage is None:
        return f"its workflow has no such stage, but {', '.join(state.stages)}"
    if stored.head.parked_reason is not None:
        return f"its run is parked ({stored.head.parked_reason})"
    if state.ended:
        return f"its run is {state.status}"
    job = next((job for job in await storage.jobs.jobs_of(run_id) if job.stage_id == stage_id), None)
    if job is None:
        return f"the stage is {stage.status}, and nothing of it is queued"
    if job.token is not None:
        return "somebody has it" if job.held else "whoever had it is gone, which the next tick takes note of"
    if job.due_at > storage.clock.now():
        return f"it is not due before {job.due_at.isoformat()}"
    return "it waits, and is not leased under the token of the message (any more)"


async def give_up_job(lease: JobLease, kernel: Kernel, *, session_id: str | None = None, spare: bool = False) -> None:
    """See to it that a job that nobody executes is executed by somebody; nothing when the lease is not held."""
    jobs = kernel.ports.jobs
    assert jobs is not None
    await settle_job(lease, jobs, kernel.ports, session_id=session_id, spare=spare)


async def hand_back_job(lease: JobLease, kernel: Kernel) -> None:
    """End an attempt that a drain interrupted without counting it; what had not begun is simply available again."""
    jobs = kernel.ports.jobs
    assert jobs is not None
    await kernel.ports.journals.record(lease.run_id, hand_back(lease.stage_id, lease.token), ends_attempt=True)
    await jobs.release(lease)


async def _set_aside(lease: JobLease, error: EngineError, kernel: Kernel) -> None:
    """The run cannot be decided here: park it if nobody owns it, so that a human sees it, and free the job."""
    ports = kernel.ports
    assert ports.jobs is not None
    head = (await ports.store.load(lease.run_id, bodies=False)).head
    parked = await park_unowned(head, error, ports)
    logger.error(
        "run.parked" if parked else "job.undecidable",
        run_id=lease.run_id,
        stage_id=lease.stage_id,
        error=type(error).__name__,
        reason=str(error),
    )
    await ports.jobs.release(lease, delay=timedelta(0) if parked else UNDECIDABLE_DELAY)


def _ghost(error: EngineError) -> ExecuteJobResult:
    found = ErrorInfo(type=type(error).__name__, message=str(error), retryable=False)
    return ExecuteJobResult(outcome="failed", ghost=True, error=found)
