"""Claiming in a supervisor: when to take due runs, how many, and what becomes of one that nobody here can read.

Theory of operation. One loop asks the store, and only when there is a reason: a heartbeat or a hint tells that
something may be due, the next known due moment has come, the last claim was answered in full, or an actor has left
while others wait. Reasons are not counted; a claim answers all of them. One that finds nothing is followed by a rest,
which doubles while that goes on.

How much is taken is bounded by what can be executed here, so that runs stay in the store, where any process may take
them, until there is room. A process without room waits until half of those who wait for slots have had their turn, or
for a while, and then takes a few all the same.

What is taken is folded and begun at once. A claim whose answer was lost is not repeated: the store knows whose its runs
are, a heartbeat tells of those that nobody here drives (strays), and they are adopted as if the answer had come.

It knows neither what actors do with their runs nor how the session is kept; room, checks under way and the session are
its host's, and are looked at anew at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Protocol

import anyio
import anyio.lowlevel

from kernel.errors import Conflict, EngineError, Unavailable
from kernel.journal import fold_stored
from kernel.model.facts import NewerHistory
from kernel.model.run import RunState
from kernel.ports.clock import Clock
from kernel.ports.ids import Ids
from kernel.ports.persistence import Append, Appends, Beat, Claimed, Claims, Histories, Lease
from runtime.actor import RunActor
from runtime.session import Session
from runtime.slots import Slots
from telemetry.logs import EventLogger, get_logger
from telemetry.metrics import Meters

__all__ = ["ClaimHost", "RunClaimer"]

logger: EventLogger = get_logger("leasehold.runtime")

CLAIM_MAX = 100
"""Runs taken at a time, so that a crowd of due runs is shared among processes and histories come in bounded reads."""
TAKE_AT_ONCE = 10
CLAIM_REST_MIN_S = 0.02
CLAIM_REST_MAX_S = 0.25
"""The rest after a hint led to nothing doubles between these: hints of a busy neighbour must not become a load."""
FULL_REST_S = 1.0
FULL_TAKE = 10
"""A process that is full takes so many all the same, after such a rest: not everything that is due needs a body."""


class ClaimStore(Claims, Histories, Appends, Protocol):
    """What claiming needs of the store."""


class ClaimHost(Protocol):
    """What the claimer needs of its supervisor."""

    @property
    def session(self) -> Session | None:
        """The session that takes runs; None while there is none."""
        ...

    @property
    def actors(self) -> Mapping[str, RunActor]:
        """The actors of this process by run id."""
        ...

    @property
    def polls(self) -> int:
        """How many checks of suspended stages are under way."""
        ...

    def is_here(self, run_id: str) -> bool:
        """Whether the run has its actor, or is being created to have one."""
        ...

    def begin(self, run: Claimed, state: RunState) -> None:
        """Begin the actor of a run that is ours, with the state that its history leads to."""
        ...


class RunClaimer:
    """Takes runs for one process; `run` is its loop."""

    def __init__(
        self,
        host: ClaimHost,
        store: ClaimStore,
        clock: Clock,
        ids: Ids,
        *,
        max_runs: int,
        max_checks: int,
        bodies: Slots,
        meters: Meters | None = None,
        skip: Callable[[float], None] | None = None,
    ) -> None:
        self._host = host
        self._store = store
        self._clock = clock
        self._ids = ids
        self._max_runs = max_runs
        self._max_checks = max_checks
        self._bodies = bodies
        self._meters = meters
        # For tests: what moves the clock to the moment at which the next run is due, instead of a wait.
        self._skip = skip
        self._draining = False
        self._wanted = False
        self._timer = anyio.Event()
        self._vacancy = anyio.Event()
        self._next_due_at: datetime | None = None
        self.backlog: int = 0
        """Due runs that the store has told of and that may still be there."""
        self.claimed: int = 0
        """Runs taken by claims until now."""

    # -- what others may do --------------------------------------------------------------------------------------------

    def want(self) -> None:
        """Claim soon: something may be due."""
        self._wanted = True
        self._timer.set()

    def expect(self, due_at: datetime | None) -> None:
        """Claim at this moment, if it is the next one at which something falls due."""
        if due_at is not None and (self._next_due_at is None or due_at < self._next_due_at):
            self._next_due_at = due_at
            self._timer.set()

    def heard(self, beat: Beat) -> None:
        """A heartbeat has told what there is."""
        self.backlog = beat.due
        if beat.due and self._has_room():
            self.want()
        self.expect(beat.next_due_at)

    def hinted(self) -> None:
        """Something has happened somewhere."""
        if self._has_room():
            self.want()

    def vacated(self, due_at: datetime | None) -> None:
        """An actor has left, whose run falls due at `due_at` if it is to be driven again."""
        self._vacancy.set()
        if self.backlog:
            self.want()
        self.expect(due_at)

    def drain(self) -> None:
        """Claim nothing more; what the store says is ours is still adopted, to be handed back."""
        self._draining = True

    async def adopt(self, run_ids: Collection[str]) -> None:
        """Take runs that the store says are ours and that nobody drives, such as a claim whose answer was lost."""
        session = self._host.session
        for run_id in run_ids:
            try:
                stored = await self._store.load(run_id)
            except EngineError as error:
                logger.warning("run.adoption_failed", run_id=run_id, error=str(error))
                continue
            head = stored.head
            if session is not None and head.owner == session.id and not self._host.is_here(run_id):
                logger.warning("run.adopted", run_id=run_id)
                await self._take(Claimed(lease=Lease(session.id, head.claim), previous_owner=None, history=stored))

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Claim whenever something may be due and there is room; rest after a hint that led to nothing.

        Raises: Unavailable; run it again then.
        """
        rest_s = CLAIM_REST_MIN_S
        while True:
            await self._until_wanted()
            if self._capacity() <= 0:
                await self._until_vacant()
            taken = await self._claim_once()
            rest_s = CLAIM_REST_MIN_S if taken else min(rest_s * 2, CLAIM_REST_MAX_S)
            if not taken:
                await anyio.sleep(rest_s)

    async def _until_wanted(self) -> None:
        """Return when a claim is wanted or the next run falls due."""
        while not self._wanted:
            wait_s = None
            if self._next_due_at is not None:
                wait_s = (self._next_due_at - self._clock.now()).total_seconds()
                if wait_s > 0 and self._skip is not None:
                    self._skip(wait_s)
                    break
                if wait_s <= 0:
                    break
            self._timer = anyio.Event()
            with anyio.move_on_after(wait_s):
                await self._timer.wait()
        self._next_due_at = None
        self._wanted = False

    def _has_room(self) -> bool:
        return not self._draining and len(self._host.actors) < self._max_runs

    def _capacity(self) -> int:
        """How many runs to take: as many as can execute and be looked at, and as many again that wait behind them.

        More would wait here while another process has nothing to do.
        """
        bodies = self._bodies
        return min(2 * bodies.total - bodies.used - bodies.waiting, 2 * self._max_checks - self._host.polls)

    async def _until_vacant(self) -> None:
        """Return when half of those that wait have had their turn, so that runs come in batches, or after a rest."""
        with anyio.move_on_after(FULL_REST_S):
            while self._bodies.waiting > self._bodies.total // 2 or self._host.polls > self._max_checks:
                self._vacancy = anyio.Event()
                await self._vacancy.wait()

    async def _claim_once(self) -> int:
        session = self._host.session
        room = self._max_runs - len(self._host.actors)
        if session is None or not session.trusted or self._draining or room <= 0:
            return 0
        capacity = self._capacity()
        limit = min(room, CLAIM_MAX, capacity if capacity > 0 else FULL_TAKE)
        try:
            claimed = await self._store.claim(session.id, limit)
        except Conflict:
            return 0
        except Unavailable:
            # The answer is lost, but the runs may have been taken.
            session.reread()
            raise
        self.claimed += len(claimed)
        if self._meters is not None:
            for run in claimed:
                if run.waited is not None:
                    self._meters.claimed(run.waited.total_seconds())
        taken_over = sum(run.previous_owner is not None for run in claimed)
        if taken_over:
            logger.warning("runs.taken_over", session_id=session.id, runs=taken_over)
        for taken, run in enumerate(claimed, start=1):
            await self._take(run)
            if taken % TAKE_AT_ONCE == 0:
                # Everybody else gets a turn: a hundred that begin in the same one would be late for it together.
                await anyio.lowlevel.checkpoint()
        # Twice, so that with any scheduler all of them have looked for room before more is taken.
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        if len(claimed) == limit:
            self.want()
        else:
            self.backlog = 0
        return len(claimed)

    # -- one run -------------------------------------------------------------------------------------------------------

    async def _take(self, run: Claimed) -> None:
        known = self._host.actors.get(run.history.head.run_id)
        if known is not None and known.lease == run.lease:
            # The heartbeat has told of this claim before its own answer came, or the other way round.
            return
        try:
            state = fold_stored(run.history)
        except EngineError as error:
            await self._refuse(run, error)
            return
        self._host.begin(run, state)

    async def _refuse(self, run: Claimed, error: EngineError) -> None:
        """A history that cannot be read here: leave the run to a newer release, or take it out of circulation."""
        head, now = run.history.head, self._clock.now()
        if newer := isinstance(error, NewerHistory):
            logger.warning("run.left_to_newer_release", run_id=head.run_id, reason=str(error))
        else:
            logger.error("run.parked", run_id=head.run_id, error=type(error).__name__, reason=str(error))
        append = Append(
            mode="release" if newer else "park",
            run_id=head.run_id,
            append_id=self._ids.append_id(),
            expected=head.seq,
            seq=head.seq,
            at=now,
            head=replace(head.head, wake_at=now) if newer else head.head,
            lease=run.lease,
            parked_reason=None if newer else f"undecidable: {error}",
        )
        try:
            await self._store.append(append)
        except EngineError as refused:
            logger.warning("run.parking_failed", run_id=head.run_id, error=str(refused))
