"""Executing jobs in a supervisor: taking them out of the queues that its process serves, as long as it has room.

Theory of operation. A job's lease here is the process's session, so nothing has to be renewed for it. One loop does
everything that asks the store: it takes jobs, looks whether those that execute are still leased (a cancelled run's are
not), and sweeps those whose holder has died. It is woken by heartbeats, which tell whether there is anything to do, by
hints, and by the clock. Hints say nothing of what has happened, so they are a reason to look for jobs only while jobs
are about: a process that never meets one asks for none.

Each job is a task beside the actors, in the same slots. It outlives trouble of the loop, and ends by itself, by the
loss of its lease, or by a drain, which hands it back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Protocol

import anyio
import anyio.abc

from kernel.commands.reap_stale_leases import ReapStaleLeases
from kernel.dispatch import Kernel
from kernel.errors import Conflict, EngineError
from kernel.ports.clock import Clock
from kernel.ports.ids import Ids
from kernel.ports.jobs import JobLease, JobTransport, LeasedJob
from kernel.ports.persistence import Beat
from runtime.actor import SUSPECT_LOSSES
from runtime.job_attempt import attempt_job, give_up_job, hand_back_job, new_tokens
from runtime.slots import Slots
from telemetry.logs import EventLogger, bind_run, get_logger

__all__ = ["JobHost", "JobWorker"]

logger: EventLogger = get_logger("leasehold.runtime")

TAKE_MAX = 20
"""Jobs taken at a time, so that several processes share a crowd of them."""
REST_MIN_S = 0.02
REST_MAX_S = 0.25
"""The rest after a look that found nothing doubles between these."""
LOOK_REST_S = 0.25
"""So often at most a process asks whether its jobs are still leased."""
ABOUT_S = 10.0
"""For so long after the last job every hint is a reason to look for another one."""
SUSPECT_DELAY = timedelta(seconds=1)


class JobHost(Protocol):
    """What the worker needs of its supervisor."""

    @property
    def lease_session(self) -> str | None:
        """The session that may take jobs now; None while there is none, or it cannot be trusted."""
        ...

    def hurry(self) -> None:
        """Have a heartbeat soon, which tells when the next job is due."""
        ...


class Working(Protocol):
    """What goes around a job that a session does; `lost` says whether its lease is."""

    def __call__(self, session_id: str, *, lost: Callable[[], bool]) -> AbstractAsyncContextManager[None]: ...


class JobWorker:
    """The jobs of one process; `run` is its loop, `spawn_in` the task group of the jobs."""

    def __init__(
        self,
        host: JobHost,
        kernel: Kernel,
        jobs: JobTransport,
        clock: Clock,
        ids: Ids,
        *,
        queues: Sequence[str],
        served: bool,
        bodies: Slots,
        suspects: Slots,
        idle: Callable[[], None],
        working: Working,
        skip: Callable[[float], None] | None = None,
    ) -> None:
        self._host = host
        self._kernel = kernel
        self._jobs = jobs
        self._clock = clock
        self._ids = ids
        self._queues = queues
        self._bodies = bodies
        self._suspects = suspects
        self._idle = idle
        self._working = working
        # For tests: what moves the clock to the moment at which the next job is due, instead of a wait.
        self._skip = skip
        # Whether a workflow of ours has a stage in a queue that we serve.
        self._served = served
        self._tasks: anyio.abc.TaskGroup | None = None
        self._running: dict[JobLease, anyio.CancelScope] = {}
        # Those that the last look found leased to nobody here.
        self._missed: set[JobLease] = set()
        self._draining = False
        self._about_until = 0.0
        self._take_wanted = False
        self._look_wanted = False
        self._sweep_wanted = False
        self._strays_wanted = False
        self._looked_at = 0.0
        self._next_job_at: datetime | None = None
        self._bell = anyio.Event()
        self.processed: int = 0

    # -- what others may do --------------------------------------------------------------------------------------------

    @property
    def running(self) -> Collection[JobLease]:
        """The leases of the jobs that execute here."""
        return self._running.keys()

    def spawn_in(self, tasks: anyio.abc.TaskGroup) -> None:
        """Where the tasks of jobs live; they must outlive the loop."""
        self._tasks = tasks

    def heard(self, beat: Beat) -> None:
        """A heartbeat has told what there is."""
        self._take_wanted = self._take_wanted or beat.jobs_due
        self._sweep_wanted = self._sweep_wanted or beat.jobs_lost
        self._look_wanted = self._look_wanted or bool(self._running)
        if beat.next_job_at is not None:
            self._next_job_at = beat.next_job_at
        if beat.jobs_due or beat.jobs_lost or beat.next_job_at is not None or self._running:
            self.wake()

    def hinted(self) -> None:
        """Something has happened somewhere."""
        if self._running:
            self._look_wanted = True
        if self._served or anyio.current_time() < self._about_until:
            self._take_wanted = True
        if self._look_wanted or self._take_wanted:
            self.wake()

    def wake(self) -> None:
        """Let the loop look again at what is wanted."""
        self._bell.set()

    def drain(self) -> None:
        """Take nothing more."""
        self._draining = True
        self._bodies.leave(self._wanted_again)

    def interrupt(self) -> None:
        """Cancel what executes; with `drain` before, it is handed back uncounted."""
        for scope in self._running.values():
            scope.cancel()

    def abandon(self) -> None:
        """The session is over, and every lease with it: cancel what executes and write nothing more of it."""
        running, self._running = self._running, {}
        for scope in running.values():
            scope.cancel()

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Do what is wanted, for ever. Raises: Unavailable; run it again then."""
        rest_s = REST_MIN_S
        while True:
            await self._until_wanted()
            session_id = self._host.lease_session
            if session_id is None:
                await anyio.sleep(REST_MAX_S)
                continue
            if self._strays_wanted or self._may_look():
                await self._look(session_id)
            if self._sweep_wanted:
                self._sweep_wanted = False
                await self._kernel.dispatch(ReapStaleLeases())
                self._take_wanted = True
            if self._take_wanted:
                taken = await self._take(session_id)
                rest_s = REST_MIN_S if taken else min(rest_s * 2, REST_MAX_S)
                if not taken:
                    await anyio.sleep(rest_s)

    async def _until_wanted(self) -> None:
        while True:
            if self._draining:
                self._take_wanted = self._sweep_wanted = False
            waits: list[float] = []
            if self._next_job_at is not None:
                waits.append((self._next_job_at - self._clock.now()).total_seconds())
                if self._skip is not None and waits[0] > 0 and not self._take_wanted:
                    self._skip(waits[0])
                    waits[0] = 0.0
                if waits[0] <= 0:
                    self._next_job_at = None
                    self._take_wanted = not self._draining
            if self._take_wanted or self._sweep_wanted or self._strays_wanted or self._may_look():
                return
            if self._look_wanted:
                waits.append(self._looked_at + LOOK_REST_S - anyio.current_time())
            self._bell = anyio.Event()
            with anyio.move_on_after(max(min(waits), 0.0) if waits else None):
                await self._bell.wait()

    def _may_look(self) -> bool:
        return self._look_wanted and anyio.current_time() >= self._looked_at + LOOK_REST_S

    async def _look(self, session_id: str) -> None:
        """Interrupt what is no longer leased to us; give up what is and that nobody here knows of."""
        self._look_wanted = self._strays_wanted = False
        before = set(self._running)
        held = {job.lease for job in await self._jobs.held_by(session_id)}
        self._looked_at = anyio.current_time()
        # Not at the first look: perhaps its end has been recorded just now, and the answer is on its way.
        missed, self._missed = self._missed, before - held
        for lease in self._missed & self._running.keys():
            scope = self._running[lease]
            if lease in missed and not scope.cancel_called:
                logger.info("job.withdrawn", run_id=lease.run_id, stage_id=lease.stage_id)
                scope.cancel()
            self._look_wanted = self._look_wanted or not scope.cancel_called
        for lease in held - before - self._running.keys():
            # Such as one that was taken although the answer was lost.
            await give_up_job(lease, self._kernel, session_id=session_id)
            self._take_wanted = True

    async def _take(self, session_id: str) -> int:
        """Take as many jobs as there is room for, and begin them."""
        room = min(self._bodies.available(self._wanted_again), TAKE_MAX)
        self._take_wanted = False
        if room <= 0:
            self._bodies.wait(self._wanted_again)
            return 0
        self._bodies.leave(self._wanted_again)
        # Reserved before the wait, so that an actor cannot count on the same slots.
        self._bodies.reserve(room)
        taken: Sequence[LeasedJob] = ()
        try:
            tokens = new_tokens(self._ids, room)
            known = self._kernel.ports.registry.known()
            taken = await self._jobs.dequeue(self._queues, known, tokens, holder=session_id)
        except Conflict:
            return 0
        except BaseException:
            # The answer is lost, but jobs may have been taken.
            self._strays_wanted = True
            raise
        finally:
            self._bodies.release(room - len(taken))
        if taken:
            self._about_until = anyio.current_time() + ABOUT_S
        for job in taken:
            self._begin(job, session_id)
        self._take_wanted = self._take_wanted or len(taken) == room
        return len(taken)

    def _wanted_again(self) -> None:
        self._take_wanted = True
        self.wake()

    def _begin(self, job: LeasedJob, session_id: str) -> None:
        assert self._tasks is not None
        scope = anyio.CancelScope()
        self._running[job.lease] = scope
        if self._host.lease_session != session_id:
            # The session ended while the job was on its way here.
            self._running.pop(job.lease)
            scope.cancel()
        self._tasks.start_soon(self._work, job, session_id, scope)

    # -- one job -------------------------------------------------------------------------------------------------------

    async def _work(self, job: LeasedJob, session_id: str, scope: anyio.CancelScope) -> None:
        bind_run(job.lease.run_id, session_id=session_id)
        # Shielded, because whoever cancels the embedding program must not take a job away before it is handed back.
        with anyio.CancelScope(shield=True):
            async with self._working(session_id, lost=lambda: job.lease not in self._running):
                await self._attempt(job, scope)

    async def _attempt(self, job: LeasedJob, scope: anyio.CancelScope) -> None:
        suspect = job.lost >= SUSPECT_LOSSES
        try:
            if suspect and self._suspects.available() <= 0:
                # A process executes one of those that may kill it at a time.
                await self._put_off(job)
                suspect = False
                return
            if suspect:
                self._suspects.reserve(1)
            with scope:
                result = await attempt_job(job, self._kernel)
                self.processed += 1
                if result.retryable or result.next_poll_at is not None:
                    self._host.hurry()
            if scope.cancelled_caught and self._draining and job.lease in self._running:
                await hand_back_job(job.lease, self._kernel)
        except EngineError as error:
            logger.warning("job.left", run_id=job.lease.run_id, stage_id=job.lease.stage_id, error=str(error))
            self._strays_wanted = True
        finally:
            if suspect:
                self._suspects.release()
            self._end(job)

    async def _put_off(self, job: LeasedJob) -> None:
        await self._jobs.release(job.lease, delay=SUSPECT_DELAY)

    def _end(self, job: LeasedJob) -> None:
        self._running.pop(job.lease, None)
        # Whoever ended one may have made room, or the next one, available.
        self._about_until = anyio.current_time() + ABOUT_S
        self._take_wanted = not self._draining
        self._bodies.release()
        self.wake()
        if not self._running:
            self._idle()
