"""Executing runs without a process that lives: calls that do one thing and return.

A host opens no session, owns no run and starts no loop. Its maintenance hands due runs over to jobs (they are driven
by jobs from then on) and sweeps jobs whose holder has died; its other calls take a job, execute it and append what
follows, which enqueues what comes next. Everything is decided on the stored history and appended on the condition that
nobody was faster, so any number of processes may do any of it at the same time, beside supervisors or without.

The only thing that goes on during a call is the heartbeat of the job that it executes.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from datetime import timedelta
from typing import TypeVar

import anyio
import anyio.abc

from kernel.command import Command
from kernel.commands.claim_pending_runs import ClaimPendingRuns
from kernel.commands.execute_job import ExecuteJobResult
from kernel.commands.flush_outbox import FlushOutbox
from kernel.commands.reap_stale_leases import ReapStaleLeases
from kernel.commands.reap_stuck_runs import ReapStuckRuns, ReapStuckRunsResult
from kernel.dispatch import Kernel
from kernel.errors import EngineError, ErrorInfo, InvalidCommand, Unavailable
from kernel.journal import Teller
from kernel.ports.executor import Attempt
from kernel.ports.jobs import JobLease, LeasedJob
from kernel.publishing import record_of
from runtime.app import App, ServiceFactory
from runtime.bootstrap import Storage
from runtime.client import Client
from runtime.config import Settings
from runtime.executor import LocalExecutor
from runtime.job_attempt import attempt_job, hand_back_job, new_tokens, why_not_taken
from runtime.job_messages import JobMessage, JobResult, JobsProcessed, MaintenanceTick, check_count
from runtime.kernels import host_kernel, job_kernel
from runtime.logbook import LogBook
from runtime.metering import Metering
from runtime.narration import OutageLog, narrate_from_outside
from runtime.publishing import Parts
from runtime.recorded_steps import record_step
from runtime.scheduled_commands import dispatch_due
from telemetry.logs import EventLogger, get_logger

__all__ = ["ServerlessHost"]

logger: EventLogger = get_logger("leasehold.runtime")

T = TypeVar("T")

BEATS_PER_LEASE = 3
HAND_BACK_S = 5.0
END_GRACE_S = 0.25
REPAIR_EVERY = timedelta(minutes=1)


class ServerlessHost(Client):
    """Executes runs of an app call by call: `async with ServerlessHost(app, database="postgresql://…") as host`.

    It is also a client. Open it once per process, or per call; several may be open at the same time anywhere.
    `services` overrides factories of the app. Leaving waits for the calls that are under way.
    """

    def __init__(
        self,
        app: App,
        *,
        database: str | None = None,
        settings: Settings | None = None,
        services: Mapping[str, ServiceFactory] | None = None,
        storage: AbstractAsyncContextManager[Storage] | None = None,
    ) -> None:
        super().__init__(app, database=database, settings=settings, storage=storage)
        self._overrides = dict(services or {})
        self._services: Mapping[str, object] = {}
        self._sinks = Parts(())
        self._service_stack = AsyncExitStack()
        self._executor: LocalExecutor | None = None
        self._logbook: LogBook | None = None
        self._attempts: Kernel | None = None
        self._metering: Metering | None = None
        self._calls = 0
        self._idle = anyio.Event()

    # -- what can be called --------------------------------------------------------------------------------------------

    async def handle_job(self, message: JobMessage) -> JobResult:
        """Execute one job, keep its lease meanwhile, and return when what became of it is recorded.

        The same message may come twice, at the same time or later: one of them executes, the other is a ghost. That
        the run was cancelled is learnt with the next heartbeat of the job, within `renew` (3 s), which interrupts the
        body then; what it returns before counts for nothing.
        Raises: Unavailable, when the database cannot be reached; then nothing was begun, or it is found and repeated;
        InvalidCommand, when it is no message.
        """
        given: object = message
        if not isinstance(given, JobMessage):
            hint = "Make one of what was received: JobMessage(**data)."
            raise InvalidCommand(
                f"handle_job takes a JobMessage, not {type(given).__name__}.", field="message", hint=hint
            )
        with self._call():
            job = await self._taken(message)
            if job is None:
                reason = await why_not_taken(message.run_id, message.stage_id, self.storage)
                error = f'Job "{message.job_id}" was not executed: {reason}'
                return JobResult(
                    outcome="failed", ghost=True, error=ErrorInfo(type="Ghost", message=error, retryable=False)
                )
            result = await self._attempt(job, attempt=message.attempt)
            return JobResult(
                outcome=result.outcome,
                error=result.error,
                ghost=result.ghost,
                retryable=result.retryable,
                jobs=await self._messages(result.job_ids),
            )

    async def process_available_jobs(self, max_jobs: int = 1) -> JobsProcessed:
        """Take jobs out of our queues and execute them, one after the other, until there are none or it was enough.

        Raises: Unavailable, and never zero instead; InvalidCommand, when `max_jobs` is no number from 1 on.
        """
        check_count(max_jobs, "max_jobs")
        succeeded = failed = 0
        with self._call():
            while succeeded + failed < max_jobs:
                tokens = new_tokens(self.storage.ids, 1)
                taken = await self.storage.jobs.dequeue(
                    self._settings.queues, self.app.known(), tokens, holder=self._settings.lease
                )
                if not taken:
                    break
                result = await self._attempt(taken[0])
                succeeded += result.outcome != "failed"
                failed += result.outcome == "failed"
        return JobsProcessed(processed=succeeded + failed, succeeded=succeeded, failed=failed)

    async def run_maintenance_tick(self, *, max_claims: int = 100) -> MaintenanceTick:
        """Hand due runs over to jobs, sweep what processes that died have left, dispatch and publish what is owed.

        Call it every few seconds. At most `max_claims` runs are handed over, as many scheduled commands dispatched, and
        each sink gets as many events at least, if there are.

        Each step is on its own: what goes wrong with one is in `errors`, and the others are done.
        Raises: Unavailable, when the database cannot be reached; InvalidCommand, when `max_claims` is no number from 1
        on.
        """
        check_count(max_claims, "max_claims")
        errors: dict[str, str] = {}
        with self._call():
            claimed = await self._step(ClaimPendingRuns(dispatch="jobs", max_claims=max_claims), errors)
            reaped = await self._step(ReapStaleLeases(), errors)
            repaired = await self._repair(errors)
            dispatched = await self._dispatch_scheduled(max_claims)
            published = await self._step(FlushOutbox(max_events=max_claims), errors)
            handed = () if claimed is None else tuple(job_id for run in claimed.claimed for job_id in run.job_ids)
            waiting = await self._messages(handed + (() if reaped is None else reaped.job_ids))
            if self._metering is not None:
                await self._metering.look_now_and_then()
        return MaintenanceTick(
            claimed=0 if claimed is None else len(claimed.claimed),
            released=0 if reaped is None else reaped.released,
            repaired=0 if repaired is None else repaired.healed + repaired.failed,
            dispatched=dispatched,
            published=0 if published is None else published.published,
            jobs=waiting,
            errors=errors,
        )

    # -- opening and closing -------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._services = await self._service_stack.enter_async_context(self.app.open_services(self._overrides))
        self._sinks = Parts(await self._service_stack.enter_async_context(self.app.open_sinks()))
        await super()._open()
        await self._check_blobs()
        if records := [record_of(each) for each in self._sinks.subscriptions()]:
            # What is appended from now on is owed to them, whoever comes to publish it.
            await self.storage.persistence.register_sinks(records)

    def _make_kernel(self, storage: Storage) -> Kernel:
        self._logbook = LogBook(store=storage.persistence)
        self._executor = LocalExecutor(
            services=self._services,
            threads=self._settings.threads,
            processes=self._settings.processes,
            payload_bytes_max=self._settings.payload_bytes_max,
            logs=self._logbook,
            blobs=storage.blobs,
            steps=self,
            clock=storage.clock,
        )
        executor = self._watched_executor(self._executor)
        journals, limits, around = self._foreign_journals(storage), self._limits(), self._around
        self._attempts = job_kernel(storage, self.app, executor, limits, journals=journals, around=around)
        return host_kernel(storage, self.app, executor, limits, sinks=self._sinks, journals=journals, around=around)

    def _tellers(self) -> Sequence[Teller]:
        return (*super()._tellers(), narrate_from_outside)

    async def _start_services(self, tasks: anyio.abc.TaskGroup) -> None:
        await super()._start_services(tasks)
        assert self._logbook is not None
        tasks.start_soon(self._serve, "logbook", self._logbook.run)
        assert self._executor is not None
        tasks.start_soon(self._serve, "executor", self._executor.run_services)
        if self._meters is not None:
            known = [workflow.id for workflow in self.app.workflows]
            self._metering = Metering(self._meters, self.storage, known, self._settings.queues)
            self._service_stack.enter_context(self._metering.offered())

    @contextmanager
    def _call(self) -> Generator[None]:
        """A call under way, which leaving waits for."""
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    async def _stop_services(self, *, at_once: bool) -> None:
        while self._calls and not at_once:
            self._idle = anyio.Event()
            await self._idle.wait()

    async def _close(self, *, at_once: bool) -> None:
        try:
            await super()._close(at_once=at_once)
        finally:
            with anyio.CancelScope(shield=True):
                await self._service_stack.aclose()

    # -- one job -------------------------------------------------------------------------------------------------------

    async def record_step(self, attempt: Attempt, /, *, position: int, name: str, result: bytes) -> bool:
        """Record a step of a body that runs here; False when its attempt has been superseded."""
        return await record_step(self.kernel.ports, attempt, position=position, name=name, result=result)

    async def _taken(self, message: JobMessage) -> LeasedJob | None:
        """The job of a message, leased to this call or by who sent it.

        Nothing is taken under a token that came with a message: an attempt that was lost under it may have a frozen
        process, which would end by it what others have begun since.
        """
        jobs = self.storage.jobs
        if message.token is not None:
            named = JobLease(message.run_id, message.stage_id, message.token)
            job = await jobs.find_leased(named)
            if job is None or not job.polls:
                return job
            # No attempt begins with a check, and shows that the message was delivered before: who can give up the lease
            # that it names asks, under one of its own.
            if not await jobs.release(named):
                return None
        (token,) = new_tokens(self.storage.ids, 1)
        return await jobs.take(message.run_id, message.stage_id, token, holder=self._settings.lease)

    async def _messages(self, job_ids: Collection[str]) -> tuple[JobMessage, ...]:
        """Messages for those of these jobs that wait; nobody may have asked for them, so trouble costs only them."""
        if not job_ids:
            return ()
        runs = dict.fromkeys(job_id.partition("/")[0] for job_id in job_ids)
        try:
            found = await self.storage.jobs.jobs_of(*runs)
        except Unavailable:
            return ()
        return tuple(
            JobMessage(job_id=job_id, run_id=job.run_id, stage_id=job.stage_id, due_at=job.due_at)
            for job in found
            if job.token is None and (job_id := f"{job.run_id}/{job.stage_id}") in job_ids
        )

    async def _attempt(self, job: LeasedJob, *, attempt: int | None = None) -> ExecuteJobResult:
        """Execute a job under its lease; when that is lost, the body is interrupted and its result a ghost."""
        assert self._attempts is not None
        result: ExecuteJobResult | None = None
        failure: EngineError | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_lease, job, tasks.cancel_scope)
                try:
                    async with self._working():
                        result = await attempt_job(job, self._attempts, attempt=attempt)
                except EngineError as error:
                    # Raised below, and not in an exception group.
                    failure = error
                tasks.cancel_scope.cancel()
        except anyio.get_cancelled_exc_class():
            # The platform takes the call away: what it had begun counts in no budget.
            with anyio.move_on_after(HAND_BACK_S, shield=True):
                await hand_back_job(job.lease, self._attempts)
            raise
        if failure is not None:
            raise failure
        if result is not None:
            return result
        reason = f'The lease on stage "{job.lease.stage_id}" of run "{job.lease.run_id}" was lost meanwhile'
        return ExecuteJobResult(
            outcome="failed", ghost=True, error=ErrorInfo(type="Ghost", message=reason, retryable=False)
        )

    async def _keep_lease(self, job: LeasedJob, scope: anyio.CancelScope) -> None:
        """Prolong the lease; cancel the attempt when it is lost, or can no longer be trusted."""
        lease_s = self._settings.lease.total_seconds()
        outage = OutageLog("lease.renewal_failed", "lease.renewed_again")
        trusted_until = anyio.current_time() + lease_s
        while True:
            # So often, too, it is learnt here that the run was cancelled.
            await anyio.sleep(min(lease_s / BEATS_PER_LEASE, self._settings.renew.total_seconds()))
            sent_at = anyio.current_time()
            try:
                held = await self.storage.jobs.heartbeat([job.lease], lease=self._settings.lease)
            except Unavailable as error:
                outage.failed(error, run_id=job.lease.run_id)
                if anyio.current_time() < trusted_until:
                    continue
                held = ()
            if job.lease not in held:
                # Perhaps because its end has been recorded just now, and the answer is on its way.
                await anyio.sleep(END_GRACE_S)
                logger.warning("job.withdrawn", run_id=job.lease.run_id, stage_id=job.lease.stage_id)
                scope.cancel()
                return
            outage.worked(run_id=job.lease.run_id)
            trusted_until = sent_at + lease_s

    async def _repair(self, errors: dict[str, str]) -> ReapStuckRunsResult | None:
        """Look for stuck runs when it is time; of all processes one does it."""
        whoever = self.storage.ids.append_id()
        if await self.storage.persistence.take_chore(ReapStuckRuns.type, whoever, every=REPAIR_EVERY):
            return await self._step(ReapStuckRuns(), errors)
        return None

    async def _dispatch_scheduled(self, limit: int) -> int:
        """Dispatch the scheduled commands that are due; what becomes of each is logged and kept with it."""
        due = self.storage.scheduler
        return 0 if due is None else await dispatch_due(self.kernel, due, limit=limit)

    async def _step(self, command: Command[T], errors: dict[str, str]) -> T | None:
        try:
            return await self.kernel.dispatch(command)
        except Unavailable:
            raise
        except EngineError as error:
            logger.exception("maintenance.failed", command=command.type, error=type(error).__name__)
            errors[command.type] = str(error)
            return None
