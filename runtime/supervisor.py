"""The supervisor: a process's session, its actors, and what keeps them supplied.

It is a client that also executes: it opens a session, has due runs claimed while there is room (`runtime.claiming`),
gives each an actor in its task group, and hands everything back when it leaves. `async with Supervisor(app)` embeds it
in any anyio program; the command line adds signal handlers, logging and nothing else.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from contextvars import copy_context
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from kernel.commands.execute_job import ExecuteJob
from kernel.commands.poll_suspended_stages import poll_stage
from kernel.commands.reap_stuck_runs import ReapStuckRuns
from kernel.dispatch import Kernel, Middleware
from kernel.ending import Ending, ending_of_state
from kernel.errors import EngineError, LeaseLost, Unavailable
from kernel.journal import Teller, inline_bodies
from kernel.model.draft import Decision
from kernel.model.facts import Fact
from kernel.model.run import RunState
from kernel.ports.blobs import BlobStore
from kernel.ports.executor import Attempt, Executor
from kernel.ports.journals import Journals
from kernel.ports.persistence import Append, Beat, Claimed, Lease, SessionInfo, StoredHistory
from kernel.ports.registry import WorkflowRegistry
from runtime.actor import ActorHost, RunActor, Wait
from runtime.app import AcceptingChanges, App, ServiceFactory
from runtime.bootstrap import Storage
from runtime.claiming import RunClaimer
from runtime.client import Client
from runtime.config import Settings
from runtime.executor import LocalExecutor
from runtime.job_worker import JobWorker
from runtime.journals import RoutedJournals
from runtime.kernels import host_kernel, job_kernel
from runtime.logbook import LogBook
from runtime.mailbox import Mailbox
from runtime.metering import Metering, standing
from runtime.narration import narrate_from_outside
from runtime.patience import PatientBlobs
from runtime.publishing import Parts, Publisher
from runtime.recorded_steps import record_step
from runtime.scheduled_commands import ScheduledCommands
from runtime.session import Session, SessionTiming
from runtime.slots import Slots
from telemetry.logs import EventLogger, bind_run, get_logger
from telemetry.metrics import timed

__all__ = ["Stats", "Supervisor"]

if TYPE_CHECKING:
    from telemetry.tracing import Driving

logger: EventLogger = get_logger("leasehold.runtime")

REOPEN_S = 0.5
REPAIR_EVERY_S = 60.0
REPAIR_EARLY = 0.9
"""The chore is due again a little before whoever had it last asks again, so that it need not wait another round."""
LEAVE_S = 5.0
"""How long handing back and closing may take once nothing runs any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What a supervisor is doing. Counts are since it was opened; `degraded` says why it cannot work, if it cannot."""

    session_id: str | None
    actors: int
    bodies: int
    bodies_waiting: int
    jobs_processed: int
    claims: int
    abandoned_threads: int
    uptime_s: float
    degraded: str | None
    draining: bool


class Supervisor(Client):
    """Executes the runs of an app: `async with Supervisor(app, database="postgresql://…") as supervisor`.

    `services` overrides factories of the app; `accept_changes` goes on with runs whose definition changed under their
    version instead of parking them; `wait` replaces how actors wait, and `skip` moves the clock to when the
    next job or run is due, for tests that skip time. Leaving drains: nothing more is claimed, running bodies get
    `drain_grace`, what is then left is interrupted and handed back without counting, and the session is closed.

    Trouble with the database never cancels the caller: the supervisor degrades, retries and says so (`stats()`).
    """

    def __init__(
        self,
        app: App,
        *,
        database: str | None = None,
        settings: Settings | None = None,
        services: Mapping[str, ServiceFactory] | None = None,
        accept_changes: bool = False,
        storage: AbstractAsyncContextManager[Storage] | None = None,
        wait: Wait | None = None,
        skip: Callable[[float], None] | None = None,
    ) -> None:
        super().__init__(app, database=database, settings=settings, storage=storage)
        self._wait = wait or _wait
        self._skip = skip
        self._accept_changes = accept_changes
        self._registry: WorkflowRegistry = AcceptingChanges(app) if accept_changes else app
        self._overrides = dict(services or {})
        self._services: Mapping[str, object] = {}
        self._service_stack = AsyncExitStack()
        self._actors: dict[str, RunActor] = {}
        self._session: Session | None = None
        self._bodies = Slots(self._settings.max_bodies)
        self._suspects = Slots(1)
        self._polls = 0
        self._jobs = 0
        self._degraded: str | None = "starting"
        self._draining = False
        self._idle = anyio.Event()
        self._unborn: set[str] = set()
        self._interrupting = False
        self._closing = False
        self._actor_tasks: anyio.abc.TaskGroup | None = None
        self._host: ActorHost | None = None
        self._unwatched_host: ActorHost | None = None
        self._logbook: LogBook | None = None
        self._executor: LocalExecutor | None = None
        self._scheduled: ScheduledCommands | None = None
        self._worker: JobWorker | None = None
        self._claimer: RunClaimer | None = None
        self._opened_at = 0.0
        self._context = copy_context()
        self._ready = anyio.Event()
        self._sinks = Parts(())
        self._publisher: Publisher | None = None

    # -- opening -------------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._opened_at = time.monotonic()
        self._context = copy_context()
        self._services = await self._service_stack.enter_async_context(self.app.open_services(self._overrides))
        self._sinks = Parts(await self._service_stack.enter_async_context(self.app.open_sinks()))
        await super()._open()
        await self._check_blobs()
        # The first session is part of opening, so that a failure to get one is the caller's to see.
        await self._open_session()
        assert self._tasks is not None
        self._tasks.start_soon(self._serve, "session", self._keep_session)
        self._tasks.start_soon(self._serve, "claims", self._claims_here.run)
        self._tasks.start_soon(self._serve, "repairs", self._repair_runs)
        self._tasks.start_soon(self._serve, "jobs", self._jobs_here.run)
        await self._open_publisher(self._tasks)

    async def _open_publisher(self, tasks: anyio.abc.TaskGroup) -> None:
        """Nothing is published, looked for or marked by a process without sinks."""
        if not self._sinks.subscriptions():
            return
        publisher = Publisher(
            self._sinks.subscriptions(), self.kernel.ports, poll_s=self._settings.poll_interval.total_seconds()
        )
        await publisher.register()
        self._publisher = publisher
        for name, service in publisher.services():
            tasks.start_soon(self._serve, name, service)

    def _make_kernel(self, storage: Storage) -> Kernel:
        self._logbook = LogBook(store=storage.persistence)
        self._executor = LocalExecutor(
            services=self._services,
            threads=self._settings.threads,
            processes=self._settings.processes,
            checks=self._settings.max_checks,
            payload_bytes_max=self._settings.payload_bytes_max,
            logs=self._logbook,
            blobs=storage.blobs,
            steps=self,
            clock=storage.clock,
        )
        journals, patient = self._make_journals(storage), PatientBlobs(storage.blobs)
        executor: Executor = self._executor
        if self._tracing is not None:
            # A run that is not sampled is driven as if nobody traced: nothing is cheaper.
            bare = replace(storage, persistence=self._tracing.unwatched)
            kernel = self._kernel_with(bare, self._make_journals(bare), executor, patient, timed(None, self._meters))
            self._unwatched_host = self._make_host(kernel)
            journals, executor = self._tracing.watch_journals(journals), self._tracing.watch_executor(executor)
        self._host = self._make_host(self._kernel_with(storage, journals, executor, patient, self._around))
        self._worker = self._make_worker(storage, journals, executor, patient)
        self._claimer = RunClaimer(
            self,
            storage.persistence,
            storage.clock,
            storage.ids,
            max_runs=self._settings.max_runs,
            max_checks=self._settings.max_checks,
            bodies=self._bodies,
            meters=self._meters,
            skip=self._skip,
        )
        return self._kernel_with(storage, journals, executor, storage.blobs, self._around)

    def _make_host(self, kernel: Kernel) -> ActorHost:
        ports = kernel.ports
        return ActorHost(
            store=ports.store,
            blobs=ports.blobs,
            clock=ports.clock,
            ids=ports.ids,
            registry=ports.registry,
            bodies=self._bodies,
            suspects=self._suspects,
            passivate_after_s=self._settings.passivate_after.total_seconds(),
            history_warn=self._settings.history_events_max // 2,
            history_max=self._settings.history_events_max,
            wait=self._wait,
            dispatch=partial(self._execute, kernel),
            check=partial(self._check, kernel),
            left=self._left,
            meters=self._meters,
        )

    def _make_worker(self, storage: Storage, journals: Journals, executor: Executor, patient: BlobStore) -> JobWorker:
        kernel = job_kernel(
            storage,
            self._registry,
            executor,
            self._limits(),
            journals=journals,
            blobs=patient,
            around=self._around,
        )
        queues = self._settings.queues
        named = {stage.queue for workflow in self.app.workflows for stage in workflow.stages}
        return JobWorker(
            self,
            kernel,
            storage.jobs,
            storage.clock,
            storage.ids,
            queues=queues,
            served=not named.isdisjoint(queues),
            bodies=self._bodies,
            suspects=self._suspects,
            idle=self._idled,
            working=self._working,
            skip=self._skip,
        )

    @property
    def _jobs_here(self) -> JobWorker:
        assert self._worker is not None
        return self._worker

    @property
    def _claims_here(self) -> RunClaimer:
        assert self._claimer is not None
        return self._claimer

    @property
    def lease_session(self) -> str | None:
        """The session on which the leases of jobs rest, while it is trusted."""
        session = self._session
        return session.id if session is not None and session.trusted else None

    def hurry(self) -> None:
        """Have a heartbeat soon."""
        if self._session is not None:
            self._session.hurry()

    def _idled(self) -> None:
        self._mark_busy()
        self._idle.set()

    def _kernel_with(
        self, storage: Storage, journals: Journals, executor: Executor, blobs: BlobStore, around: Middleware | None
    ) -> Kernel:
        return host_kernel(
            storage,
            self._registry,
            executor,
            self._limits(),
            sinks=self._sinks,
            journals=journals,
            blobs=blobs,
            around=around,
        )

    def _tellers(self) -> Sequence[Teller]:
        return (*super()._tellers(), self._narrate)

    def _narrate(self, state: RunState, facts: Sequence[Fact]) -> None:
        narrate_from_outside(state, facts, session_id=self.lease_session)

    def _make_journals(self, storage: Storage) -> Journals:
        return RoutedJournals(
            self, self._foreign_journals(storage), storage.persistence, storage.clock, storage.ids, self._bodies
        )

    async def _start_services(self, tasks: anyio.abc.TaskGroup) -> None:
        await super()._start_services(tasks)
        assert self._logbook is not None
        tasks.start_soon(self._serve, "logbook", self._logbook.run)
        assert self._executor is not None
        tasks.start_soon(self._serve, "executor", self._executor.run_services)
        if self.storage.scheduler is not None:
            self._scheduled = ScheduledCommands(self.kernel, self.storage.scheduler)
            tasks.start_soon(self._serve, "scheduled commands", self._scheduled.run)
        if self._meters is not None:
            known = [workflow.id for workflow in self.app.workflows]
            metering = Metering(
                self._meters, self.storage, known, self._settings.queues, own=lambda: standing(self.stats())
            )
            tasks.start_soon(self._serve, "metrics", metering.run)
        self._actor_tasks = tasks
        self._jobs_here.spawn_in(tasks)

    # -- what claiming needs -------------------------------------------------------------------------------------------

    @property
    def session(self) -> Session | None:
        """The session under which this process holds its runs; None while there is none."""
        return self._session

    @property
    def polls(self) -> int:
        """How many checks of suspended stages are under way."""
        return self._polls

    def is_here(self, run_id: str) -> bool:
        """Whether the run has its actor here, or is being created to have one."""
        return run_id in self._actors or run_id in self._unborn

    def begin(self, run: Claimed, state: RunState) -> None:
        """Begin the actor of a run that was claimed."""
        inline = inline_bodies(run.history.rows)
        host, watching = self._host_for(state.run_id, run.lease, run.history)
        actor = RunActor(host, run.lease, state, inline, previous_owner=run.previous_owner)
        self._spawn(actor, watching)

    # -- what the journals need ----------------------------------------------------------------------------------------

    @property
    def actors(self) -> Mapping[str, RunActor]:
        """The actors of this process by run id."""
        return self._actors

    def expect(self, run_id: str) -> None:
        """An owned creation of this run is under way."""
        self._unborn.add(run_id)

    def settle(self, run_id: str) -> None:
        """The creation has come to an end; the run has its actor, or is not ours."""
        self._unborn.discard(run_id)
        self._idle.set()

    def session_with_room(self) -> str | None:
        """Our session, when one more new run may be born here: there is room and nobody has waited longer."""
        session = self._session
        if session is None or self._draining or not session.trusted:
            return None
        if self._claims_here.backlog > 0 or len(self._actors) + len(self._unborn) >= self._settings.max_runs:
            return None
        return session.id

    def await_creation(
        self, append: Append, lease: Lease, decision: Decision[object], started: Collection[str]
    ) -> None:
        """Adopt a run whose creator was cancelled, once it is certain that it exists."""
        if self._actor_tasks is not None:
            self._actor_tasks.start_soon(self._await_creation, append, lease, decision, started)

    async def _await_creation(
        self, append: Append, lease: Lease, decision: Decision[object], started: Collection[str]
    ) -> None:
        with anyio.CancelScope(shield=True) as scope:
            self._background.add(scope)
            try:
                # Sent again: the store recognises it, and answers what became of it.
                await self.storage.persistence.append(append)
            except EngineError as error:
                self.settle(append.run_id)
                self._bodies.release(len(started))
                logger.warning("run.not_created", run_id=append.run_id, error=str(error))
            else:
                self.adopt(lease, decision, started)
        self._background.discard(scope)

    def adopt(self, lease: Lease, decision: Decision[object], started: Collection[str]) -> None:
        """Begin the actor of a run that was created owned."""
        host, watching = self._host_for(decision.state.run_id, lease)
        actor = RunActor(host, lease, decision.state, decision.bodies, held=started)
        self._spawn(actor, watching)
        self.settle(decision.state.run_id)
        if self._meters is not None:
            self._meters.told(decision.state, decision.facts)

    # -- actors --------------------------------------------------------------------------------------------------------

    def _host_for(
        self, run_id: str, lease: Lease, stored: StoredHistory | None = None
    ) -> tuple[ActorHost, Driving | None]:
        """What an actor works with; `stored` is the history that was claimed, None for a run that is created here."""
        assert self._host is not None
        if self._tracing is None or self._unwatched_host is None:
            return self._host, None
        watching = self._tracing.driving(run_id, lease, stored)
        return self._host if watching.sampled else self._unwatched_host, watching

    def _spawn(self, actor: RunActor, watching: Driving | None) -> None:
        """Begin an actor."""
        assert self._actor_tasks is not None
        self._actors[actor.run_id] = actor
        if self._session is None or self._session.id != actor.lease.session_id:
            # The session ended while the run was on its way here.
            actor.abandon()
        elif self._draining:
            actor.drain()
            if self._interrupting:
                actor.interrupt()
        self._mark_busy()
        # In the supervisor's own context: a run has nothing to do with the request or task that happened to begin it.
        self._context.run(self._begin_task, self._actor_tasks, actor, watching)

    def _begin_task(self, tasks: anyio.abc.TaskGroup, actor: RunActor, watching: Driving | None) -> None:
        tasks.start_soon(self._drive, actor, watching)

    async def _drive(self, actor: RunActor, watching: Driving | None) -> None:
        bind_run(actor.run_id, actor.state.workflow_id, actor.lease.session_id)
        if watching is None:
            await actor.run()
        else:
            await watching.around(actor.run, lost=lambda: actor.lost)

    def _left(self, actor: RunActor) -> None:
        if self._actors.get(actor.run_id) is actor:
            del self._actors[actor.run_id]
        self._mark_busy()
        self._claims_here.vacated(actor.due_at)
        if not self._actors:
            self._idle.set()

    def _mark_busy(self) -> None:
        if self._session is not None:
            self._session.set_busy(busy=bool(self._actors or self._jobs_here.running))

    async def _execute(self, kernel: Kernel, command: ExecuteJob) -> object:
        result = await kernel.dispatch(command)
        self._jobs += 1
        return result

    async def record_step(self, attempt: Attempt, *, position: int, name: str, result: bytes) -> bool:
        """Record a step of a body that runs here; False when its attempt has been superseded."""
        return await record_step(self.kernel.ports, attempt, position=position, name=name, result=result)

    async def _check(self, kernel: Kernel, run_id: str, stage_id: str) -> object:
        self._polls += 1
        try:
            return await poll_stage(run_id, stage_id, kernel.ports)
        finally:
            self._polls -= 1

    async def ended(self, run_id: str) -> Ending:
        """Wait for the run's end; one that ends here is known at once, without asking the store."""
        actor = self._actors.get(run_id)
        if actor is not None:
            await actor.until_ended()
            if actor.state.ended and not actor.behind:
                return ending_of_state(actor.state, actor.inline)
        return await super().ended(run_id)

    # -- the session ---------------------------------------------------------------------------------------------------

    async def _open_session(self) -> None:
        info = SessionInfo(name=self._settings.name, hostname=platform.node(), pid=os.getpid())
        persistence = self.storage.persistence
        # The lease counts from before it was asked for, as far as we can know.
        asked_at = time.monotonic()
        session_id = await persistence.open_session(
            info, self.app.known(), lease=self._settings.lease, queues=self._settings.queues
        )
        timing = SessionTiming(
            lease=self._settings.lease, renew=self._settings.renew, max_blocked=self._settings.max_blocked
        )
        self._session = Session(session_id, persistence.heartbeat(session_id), timing, asked_at, self._meters)
        self._degraded = None
        fingerprints = [(w.id, w.version, None if self._accept_changes else w.fingerprint) for w in self.app.workflows]
        returned = await persistence.unpark_workflows(fingerprints)
        if returned:
            logger.info("runs.unparked", session_id=session_id, runs=returned)
        logger.info("session.opened", session_id=session_id, workflows=len(self.app.workflows))

    async def _keep_session(self) -> None:
        """Hold a session for ever: when it is lost, cancel what ran under it, then open another."""
        while True:
            if self._session is None and not self._closing:
                await self._open_session()
            session = self._session
            if session is None:
                await anyio.sleep_forever()  # it is leaving, and `_stop` ends this
            else:
                await session.run(self._on_beat, self._on_loss)

    def _on_loss(self) -> None:
        """The lease is over: nothing may execute under it from now on."""
        session, self._session = self._session, None
        if session is None:
            return
        self._degraded = "lease lost"
        abandoned = list(self._actors.values())
        for actor in abandoned:
            actor.abandon()
        self._jobs_here.abandon()
        if self._meters is not None:
            self._meters.lease_lost()
        logger.error("lease.lost", session_id=session.id, actors=len(abandoned))

    def _on_beat(self, beat: Beat) -> None:
        self._degraded = None
        self._claims_here.heard(beat)
        if self._scheduled is not None:
            self._scheduled.expect(beat.next_command_at)
        self._jobs_here.heard(beat)
        for run_id in beat.attention:
            actor = self._actors.get(run_id)
            if actor is not None:
                actor.look()
        owned = {*beat.attention, *(run_id for run_id, _claim in beat.adrift)}
        strays = owned - self._actors.keys() - self._unborn
        if strays and self._tasks is not None:
            self._tasks.start_soon(self._claims_here.adopt, strays)

    def _hinted(self, *, news: bool) -> None:
        super()._hinted(news=news)
        if self._publisher is not None:
            self._publisher.hint()
        if not news:
            return
        self._jobs_here.hinted()
        self._claims_here.hinted()
        if self._actors and self._session is not None:
            self._session.hurry()

    # -- repairs -------------------------------------------------------------------------------------------------------

    async def _repair_runs(self) -> None:
        """Look for stuck runs now and then; of all processes one does it, whichever asks first when it is time."""
        while True:
            session = self._session
            if session is not None and not self._draining:
                every = timedelta(seconds=REPAIR_EVERY_S * REPAIR_EARLY)
                if await self.storage.persistence.take_chore(ReapStuckRuns.type, session.id, every=every):
                    result = await self.kernel.dispatch(ReapStuckRuns())
                    if result.healed or result.failed:
                        logger.warning("runs.repaired", healed=result.healed, failed=result.failed)
                        self._claims_here.want()
            await anyio.sleep(REPAIR_EVERY_S)

    # -- leaving -------------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Stop claiming, let bodies finish within `drain_grace`, hand back the rest; returns when nothing is left.

        Leaving the `async with` does this too. Cancelling it cuts the grace short, and so does being cancelled inside.
        """
        self._stop_taking()
        try:
            with anyio.move_on_after(self._settings.drain_grace.total_seconds()):
                await self._until_idle()
        finally:
            await self._hand_back()

    def _stop_taking(self) -> None:
        self._draining = True
        if self._scheduled is not None:
            self._scheduled.stop()
        self._claims_here.drain()
        for actor in tuple(self._actors.values()):
            actor.drain()
        self._jobs_here.drain()

    async def _hand_back(self) -> None:
        """Interrupt what still executes, and release every run."""
        self._interrupting = True
        for actor in tuple(self._actors.values()):
            actor.interrupt()
        self._jobs_here.interrupt()
        with anyio.move_on_after(LEAVE_S, shield=True):
            await self._until_idle()

    async def _until_idle(self) -> None:
        # With creations under way: what one has started must be handed back, and not be lost with the session.
        while self._actors or self._unborn or self._jobs_here.running:
            if self._idle.is_set():
                # Never replaced while somebody waits for it.
                self._idle = anyio.Event()
            await self._idle.wait()

    async def _stop_services(self, *, at_once: bool) -> None:
        try:
            if at_once:
                self._stop_taking()
                await self._hand_back()
            else:
                await self.drain()
                if self._publisher is not None:
                    await self._publisher.finish(LEAVE_S)
        finally:
            with anyio.CancelScope(shield=True):
                await self._give_up_session()

    async def _give_up_session(self) -> None:
        self._closing = True
        session, self._session = self._session, None
        for actor in tuple(self._actors.values()):
            actor.abandon()
        if self._worker is not None:
            self._worker.abandon()
        if session is not None:
            with anyio.move_on_after(LEAVE_S):
                try:
                    await self.storage.persistence.close_session(session.id)
                except (Unavailable, LeaseLost) as error:
                    logger.warning("session.not_closed", session_id=session.id, error=str(error))

    async def _close(self, *, at_once: bool) -> None:
        try:
            await super()._close(at_once=at_once)
        finally:
            with anyio.CancelScope(shield=True):
                await self._service_stack.aclose()

    def stats(self) -> Stats:
        """What it is doing now; any thread may ask."""
        return Stats(
            session_id=None if self._session is None else self._session.id,
            actors=len(self._actors),
            bodies=self._bodies.used,
            bodies_waiting=self._bodies.waiting,
            jobs_processed=self._jobs + (0 if self._worker is None else self._worker.processed),
            claims=0 if self._claimer is None else self._claimer.claimed,
            abandoned_threads=0 if self._executor is None else self._executor.abandoned_threads,
            uptime_s=time.monotonic() - self._opened_at,
            degraded=self._degraded,
            draining=self._draining,
        )


async def _wait(mailbox: Mailbox, seconds: float | None) -> None:
    await mailbox.wait(seconds)
