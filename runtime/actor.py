"""One active run, driven: the task that holds its state, decides, appends as its owner and executes its stages.

Theory of operation. The loop asks `plan(state, now, held)` what comes next, turns the answer into requests, adds the
requests that others have posted, decides them one after the other on the state as it grows, and makes all of it one
append. Only after the commit is anything acted upon: bodies are spawned, callers are answered. So what an observer
learns is never ahead of what a crash would leave.

An attempt is *held* from the moment its start is decided until its task has ended. A body task dispatches
`job.execute` with its token; the end of the attempt arrives in the mailbox as a request like any other, which is why
two hundred children that end together are one append. When the state no longer has a held token RUNNING (a cancel, a
failed sibling), the task's scope is cancelled; the body's `finally` blocks run and its result meets a token that is
superseded.

The run is given up in three ways: it ends, it is released (nothing to do soon, or the process drains), or its lease
is lost. In each the mailbox is closed in the same step as the actor leaves the directory, and what was still queued
is handed back to be routed again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from typing import Any, Protocol

import anyio
import anyio.abc

from kernel.commands.create_run import find_fault
from kernel.commands.execute_job import ExecuteJob, definition_of
from kernel.commands.reap_stuck_runs import history_too_long
from kernel.errors import (
    DefinitionChanged,
    EngineError,
    LeaseLost,
    RunNotFound,
    StaleVersion,
    Unavailable,
)
from kernel.journal import append_of, fetch_payloads, fold_stored, inline_bodies
from kernel.model.draft import Moment
from kernel.model.facts import Fact, NewerHistory, RunCancelled, RunOwnerChanged, decode_facts
from kernel.model.head import head_of
from kernel.model.machine import Status
from kernel.model.plan import Done, Lost, Poll, Start, Transition, WaitUntil, due, plan
from kernel.model.retry import RetryPolicy
from kernel.model.run import RunState
from kernel.model.stage import Body
from kernel.ports.blobs import BlobStore
from kernel.ports.clock import Clock
from kernel.ports.ids import Ids
from kernel.ports.journals import Decide
from kernel.ports.persistence import Append, Appends, Histories, Lease, Mode, StoredHistory
from kernel.ports.registry import WorkflowRegistry
from runtime.batch import Batch, fail, hand_back, lose, start, transition
from runtime.mailbox import ActorGone, Ask, Mailbox
from runtime.narration import narrate
from runtime.raised import MESSAGE_LENGTH_MAX
from runtime.slots import Slots
from runtime.storable_text import storable_text
from telemetry.logs import EventLogger, get_logger
from telemetry.metrics import Meters

__all__ = ["ActorHost", "RunActor", "Wait"]

logger: EventLogger = get_logger("leasehold.runtime")

Wait = Callable[[Mailbox, float | None], Awaitable[None]]
"""Wait for a mailbox's bell, for at most so many seconds (None: for ever)."""

UNAVAILABLE_RETRY_S = 0.5
SUSPECT_LOSSES = 2
"""From this many losses on an attempt is suspected of killing its process, and runs beside no other suspect."""


class ActorStore(Appends, Histories, Protocol):
    """What an actor needs of the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorHost:
    """What the actors of one process share.

    A history of more than `history_warn` events is worth a warning, and one of more than `history_max` ends its run.
    `wait` waits for a mailbox's bell, at most so many seconds; `dispatch` carries out `job.execute`; `check` polls one
    suspended stage (run id, stage id); `left` is told when an actor is gone.
    """

    store: ActorStore
    blobs: BlobStore
    clock: Clock
    ids: Ids
    registry: WorkflowRegistry
    bodies: Slots
    suspects: Slots
    passivate_after_s: float
    history_warn: int
    history_max: int
    wait: Wait
    dispatch: Callable[[ExecuteJob], Awaitable[object]]
    check: Callable[[str, str], Awaitable[object]]
    left: Callable[[RunActor], None]
    meters: Meters | None


class RunActor:
    """The owner of one run for as long as its lease holds; `run` is its task."""

    def __init__(
        self,
        host: ActorHost,
        lease: Lease,
        state: RunState,
        inline: Mapping[int, bytes],
        *,
        previous_owner: str | None = None,
        held: Collection[str] = (),
    ) -> None:
        self.run_id: str = state.run_id
        self.lease = lease
        self.state: RunState = state
        self._ended: anyio.Event | None = None
        self._host = host
        self.inline: dict[int, bytes] = dict(inline)
        self._previous_owner = previous_owner
        self._mailbox = Mailbox()
        self._held: dict[str, anyio.CancelScope] = {token: anyio.CancelScope() for token in held}
        self._passed_on: set[str] = set()
        self._suspects: set[str] = set()
        self._polling: dict[str, anyio.CancelScope] = {}
        self._room = 0
        self._queued = False
        self._committing = False
        self._ended_here = False
        self._stale = False
        self._draining = False
        self._interrupted = False
        self._gone = False
        # Shielded, because whoever cancels the embedding program must not take the runs away before they are handed
        # back: `interrupt` and `abandon` end what executes here.
        self._scope = anyio.CancelScope(shield=True)

    # -- what others may do, from any task of the event loop -----------------------------------------------------

    async def ask(self, decide: Decide[Any], *, ends_attempt: bool = False) -> Any:
        """Have something decided and appended. Raises: ActorGone, and whatever deciding and appending raise."""
        if not ends_attempt and not self._committing and not self._stale and self._mailbox.closed is None:
            # Deciding is pure, so what changes nothing needs no turn in the queue.
            decision = decide(self.state, Moment(now=self._host.clock.now(), append_id=""))
            if not decision.changes:
                return decision.result
        ask = Ask(decide, ends_attempt=ends_attempt)
        self._mailbox.post(ask)
        return await ask.reply()

    async def payloads(self, bodies: Collection[Body]) -> Mapping[Body, bytes]:
        """The raw JSON of these bodies; inline ones are at hand."""
        return await fetch_payloads(self.run_id, bodies, self.inline, self._host.blobs)

    async def until_ended(self) -> None:
        """Return when the run has ended here or the actor has left it."""
        if not self.state.ended and self._mailbox.closed is None:
            self._ended = self._ended or anyio.Event()
            await self._ended.wait()

    def nudge(self) -> None:
        """Look again at what comes next."""
        self._mailbox.ring()

    def look(self) -> None:
        """Somebody else has appended to the run: read that before anything else."""
        self._stale = True
        self._mailbox.ring()

    def drain(self) -> None:
        """Start nothing more, and give the run back when what is running has ended."""
        self._draining = True
        self._mailbox.ring()

    def interrupt(self) -> None:
        """Cancel what is running, and what is about to; with `drain` before, attempts are handed back uncounted."""
        self._interrupted = True
        for token, scope in self._held.items():
            # What has been recorded already has nothing left but to learn of it.
            if token not in self._passed_on:
                scope.cancel()
        for scope in self._polling.values():
            scope.cancel()

    def abandon(self) -> None:
        """The lease is lost: cancel everything and write nothing more."""
        self._gone = True
        self._leave()
        self._scope.cancel()

    @property
    def due_at(self) -> datetime | None:
        """When the run must be looked at again, once nobody drives it."""
        return due(self.state)

    @property
    def behind(self) -> bool:
        """Whether somebody else has appended what was not read yet."""
        return self._stale

    @property
    def lost(self) -> bool:
        """Whether the lease is lost, or is as good as lost."""
        return self._gone

    @property
    def held(self) -> Collection[str]:
        """Tokens of the attempts that execute here."""
        return self._held.keys()

    # -- the task --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Drive the run until it ends, is released, or is lost. Never raises for one run's trouble."""
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    for token in tuple(self._held):
                        self._spawn(tasks, token)
                    await self._drive(tasks)
                    # Ended, released or lost: whatever still executes is superseded, and nobody asks here any more.
                    self._leave()
                    self.interrupt()
        except Exception as error:
            logger.exception("actor.crashed", run_id=self.run_id, error=type(error).__name__)
        finally:
            self._leave()

    async def _drive(self, tasks: anyio.abc.TaskGroup) -> None:
        try:
            # One that has ended is only given back, whatever became of its definition.
            workflow = None if self.state.ended else definition_of(self.state, self._host.registry)
            if workflow is not None and self.state.status is Status.PENDING and not self.state.checked:
                payloads = await self.payloads([self.state.input])
                fault = find_fault(workflow, payloads[self.state.input], self.state.config)
                if fault is not None:
                    # It quotes names from the payload, which SQL has stored without asking whether we could.
                    message = storable_text(fault.message, length_max=MESSAGE_LENGTH_MAX)
                    while not self.state.ended:
                        await self._commit(tasks, [Ask(fail(replace(fault, message=message)), own=True)])
            while not self._gone and await self._step(tasks):
                pass
        except (LeaseLost, RunNotFound):
            self._gone = True
        except NewerHistory:
            # Who cannot read a run has nothing to say of it; the supervisor finds it a stray and gives it back.
            pass
        except EngineError as error:
            await self._park(error)

    async def _step(self, tasks: anyio.abc.TaskGroup) -> bool:
        """Look once, and act or wait; False when the actor has nothing left to do with the run."""
        if self._ended_here:
            # The append that ended it gave it back too: what others want with it now, such as a rerun, is not ours.
            return False
        while self._stale:
            await self._reload()
        # Taken last: what is taken is answered, so nothing may wait or go wrong before it is decided.
        asks = self._mailbox.take_all()
        try:
            now = self._host.clock.now()
            steps = plan(self.state, now, self._held)
            own = self._own_asks(steps) if self.state.seq <= self._host.history_max else self._end_of_overlong()
        except Exception as error:
            for ask in asks:
                ask.fail(error if isinstance(error, EngineError) else ActorGone())
            raise
        if own or asks:
            await self._commit(tasks, [*own, *asks])
            return self._mailbox.closed is None
        if Done() in steps:
            # Somebody else ended it and left it ours, so that we would notice.
            if not await self._release():
                return True
            self._tell([RunCancelled()] if self.state.status is Status.CANCELLED else ())
            return False
        for step in steps:
            if isinstance(step, Poll) and step.stage_id not in self._polling and not self._draining:
                self._polling[step.stage_id] = anyio.CancelScope()
                tasks.start_soon(self._poll, step.stage_id)
        busy = bool(self._held or self._polling)
        if self._draining and not busy:
            return not await self._release()
        wake_s = min(((s.at - now).total_seconds() for s in steps if isinstance(s, WaitUntil)), default=None)
        queued = any(isinstance(step, Start | Transition) for step in steps)
        if not busy and not queued and (wake_s is None or wake_s > self._host.passivate_after_s):
            return not await self._release()
        await self._host.wait(self._mailbox, wake_s)
        return True

    def _own_asks(self, steps: Collection[object]) -> list[Ask]:
        """The steps of the plan as requests to decide; starts only as far as there is room."""
        asks: list[Ask] = []
        starts: list[str] = []
        suspects: list[str] = []
        begins = False
        for step in steps:
            match step:
                case Lost(stage_id, token):
                    owner = self._previous_owner or self.state.owner
                    asks.append(Ask(lose(stage_id, token, self._policy(stage_id), owner), own=True))
                case Transition():
                    # A run begins when there is room for its first body: both are one append then.
                    begins = self._begins_with_bodies()
                    if not begins and not self._draining:
                        asks.append(Ask(transition, own=True))
                case Start(stage_id):
                    (suspects if self._is_suspect(stage_id) else starts).append(stage_id)
                case _:
                    pass
        if self._draining:
            suspects = starts = []
            begins = False
        starts += self._chosen(suspects)
        wanted = len(starts) or int(begins)
        self._room = self._room_for(wanted) if wanted or self._queued else 0
        if starts and self._room:
            asks.append(Ask(start(starts[: self._room]), own=True))
        if begins and self._room:
            asks.append(Ask(transition, own=True))
        return asks

    def _end_of_overlong(self) -> list[Ask]:
        if self.state.ended:
            return []
        return [Ask(fail(history_too_long(self.state.seq, events_max=self._host.history_max)), own=True)]

    def _begins_with_bodies(self) -> bool:
        return self.state.status is Status.PENDING and any(s.queue is None for s in self.state.plan.group(1).stages)

    def _room_for(self, wanted: int) -> int:
        """How many bodies may start now; for as long as it is fewer than wanted, this actor stands in the queue."""
        bodies = self._host.bodies
        room = bodies.available(self.nudge) if wanted else 0
        self._queued = wanted > room
        if self._queued:
            bodies.wait(self.nudge)
        else:
            # Who cannot start anything must not stand in the way of others.
            bodies.leave(self.nudge)
        return room

    def _is_suspect(self, stage_id: str) -> bool:
        return self.state.stages[stage_id].lost >= SUSPECT_LOSSES

    def _chosen(self, suspects: list[str]) -> list[str]:
        """Those suspects that may start now: this process executes one at a time."""
        room = self._host.suspects.available(self.nudge) if suspects else 0
        if len(suspects) > room:
            self._host.suspects.wait(self.nudge)
        else:
            self._host.suspects.leave(self.nudge)
        return suspects[:room]

    def _policy(self, stage_id: str) -> RetryPolicy:
        workflow = definition_of(self.state, self._host.registry)
        policy: RetryPolicy = workflow.get_stage(stage_id).retry
        return policy

    # -- deciding and appending --------------------------------------------------------------------------------------

    async def _commit(self, tasks: anyio.abc.TaskGroup, asks: list[Ask]) -> None:
        """Decide all requests on the state as it grows, append once, then act and answer."""
        self._committing = True
        try:
            await self._commit_until_settled(tasks, asks)
        except BaseException as error:
            # Nobody may wait for ever for an actor that is leaving.
            reason = error if isinstance(error, EngineError) else self._mailbox.closed or ActorGone()
            for ask in asks:
                ask.fail(reason)
            raise
        finally:
            self._committing = False

    async def _commit_until_settled(self, tasks: anyio.abc.TaskGroup, asks: list[Ask]) -> None:
        while True:
            batch = self._decide(asks)
            if not batch.decision.changes:
                batch.answer()
                return
            # Reserved before the wait, so that two actors cannot both count on the same slot.
            reserved = len(batch.started) - len(batch.returned)
            suspects = len(self._suspects_of(batch))
            self._host.bodies.reserve(reserved)
            self._host.suspects.reserve(suspects)
            try:
                leaves = self._leaves_with(batch, asks)
                append = append_of(
                    batch.decision,
                    batch.moment,
                    mode="release" if leaves else None,
                    expected=self.state.seq,
                    lease=self.lease,
                )
                await self._append(append)
            except BaseException as error:
                # Also when cancelled: whether it lands or not, nothing of it will execute here.
                self._host.bodies.release(reserved)
                self._host.suspects.release(suspects)
                if isinstance(error, StaleVersion):
                    await self._reload()
                    # What it asked of itself it asks anew, of what it has read now and of the room there is now.
                    asks = [ask for ask in asks if not ask.own]
                    if not asks:
                        return
                    continue
                if not isinstance(error, EngineError) or isinstance(error, LeaseLost | RunNotFound):
                    raise
                if len(asks) > 1:
                    # One of them cannot be kept; the others have nothing to do with it.
                    for ask in asks:
                        if self._mailbox.closed is None:
                            await self._commit_until_settled(tasks, [ask])
                        else:
                            ask.fail(self._mailbox.closed)
                    return
                # What the actor asks of itself it would only ask again: such a run cannot be decided.
                if asks[0].own:
                    raise
                asks[0].fail(error)
                return
            self._adopt(tasks, batch)
            if leaves:
                self._leave()
            return

    def _leaves_with(self, batch: Batch, asks: Collection[Ask]) -> bool:
        """Whether nothing is left to do soon once these looks are kept: then the run is given back with them.

        A run that waits is mostly looked at in vain, and this halves what that costs.
        """
        if batch.decision.facts or self._held or len(self._polling) > len(asks):
            return False
        now = batch.moment.now
        steps = plan(batch.decision.state, now, ())
        return all(isinstance(step, WaitUntil) and self._is_far(step, now) for step in steps)

    def _is_far(self, step: WaitUntil, now: datetime) -> bool:
        return (step.at - now).total_seconds() > self._host.passivate_after_s

    def _adopt(self, tasks: anyio.abc.TaskGroup, batch: Batch) -> None:
        """The batch is durable: hold its state, its attempts and its payloads, and answer its callers."""
        if self.state.seq <= self._host.history_warn <= batch.decision.state.seq:
            logger.warning("history.long", run_id=self.run_id, events=batch.decision.state.seq)
        self.state = batch.decision.state
        self._tell(batch.decision.facts)
        self.inline.update(batch.decision.bodies)
        self._previous_owner = None
        if self.state.ended:
            self._ended_here = True
            self._tell_ended()
        self._passed_on.update(batch.returned)
        for token in batch.started:
            self._held[token] = anyio.CancelScope()
            self._spawn(tasks, token)
            if self._interrupted:
                self._held[token].cancel()
        if len(batch.returned) > len(batch.started):
            self._host.bodies.wake()
        self._cancel_superseded()
        batch.answer()

    def _decide(self, asks: list[Ask]) -> Batch:
        # Room that was found counts although others have queued up behind it; none of it outlives this decision.
        room, self._room = self._room or self._host.bodies.available(self.nudge), 0
        moment = Moment(
            now=self._host.clock.now(),
            append_id=self._host.ids.append_id(),
            session=self.lease.session_id,
            starts=0 if self._draining else room,
            passes_on=not self._draining,
        )
        batch = Batch(moment, self.state, self._held)
        if self._previous_owner is not None and self.state.status is Status.RUNNING:
            batch.add(RunOwnerChanged(owner=self.lease.session_id, previous=self._previous_owner))
        for ask in asks:
            batch.decide(ask)
        batch.close()
        return batch

    def _suspects_of(self, batch: Batch) -> list[str]:
        if not batch.started:
            return []
        stages = batch.decision.state.stages.values()
        return [s.id for s in stages if s.token in batch.started and s.lost >= SUSPECT_LOSSES]

    async def _append(self, append: Append) -> None:
        """Append, waiting out an unavailable store: nobody else may decide for this run meanwhile."""
        while True:
            try:
                await self._host.store.append(append)
            except Unavailable as error:
                logger.warning("store.unavailable", run_id=self.run_id, error=str(error))
                await anyio.sleep(UNAVAILABLE_RETRY_S)
            else:
                return

    async def _reload(self) -> None:
        """Fold in what others appended; what of ours it superseded is cancelled."""
        self._stale = False
        while True:
            try:
                stored = await self._host.store.load(self.run_id, after=self.state.seq)
            except Unavailable as error:
                logger.warning("store.unavailable", run_id=self.run_id, error=str(error))
                await anyio.sleep(UNAVAILABLE_RETRY_S)
                continue
            break
        if stored.head.seq < self.state.seq:
            # The store lost what it had acknowledged (a failover, a restore): nothing held here is worth keeping.
            raise LeaseLost(self.run_id, session_id=self.lease.session_id)
        was_cancelled = self.state.status is Status.CANCELLED
        self.state = fold_stored(stored, self.state)
        if not self.state.ended:
            # Whoever cancels a run that is owned leaves it to its owner to tell, who tells when it gives the run back.
            # This one has begun again before.
            told = [fact for fact in _facts_of(stored) if isinstance(fact, RunCancelled)]
            self._tell([RunCancelled(), *told] if was_cancelled else told)
        self.inline.update(inline_bodies(stored.rows))
        self._cancel_superseded()

    def _cancel_superseded(self) -> None:
        if not self._held:
            return
        running = {s.token for s in self.state.stages.values() if s.status is Status.RUNNING}
        for token, scope in self._held.items():
            if (token not in running or self.state.ended) and token not in self._passed_on:
                scope.cancel()

    async def _release(self) -> bool:
        """Give the run back for whoever claims it when it is due; False when somebody appended meanwhile."""
        return await self._let_go("release")

    async def _park(self, error: EngineError) -> None:
        """Take a run that cannot be decided out of circulation, visibly."""
        self.interrupt()
        logger.error("run.parked", run_id=self.run_id, error=type(error).__name__, reason=str(error))
        name = "definition_changed" if isinstance(error, DefinitionChanged) else "undecidable"
        await self._let_go("park", parked_reason=f"{name}: {error}")

    async def _let_go(self, mode: Mode, *, parked_reason: str | None = None) -> bool:
        append = Append(
            mode=mode,
            run_id=self.run_id,
            append_id=self._host.ids.append_id(),
            expected=self.state.seq,
            seq=self.state.seq,
            at=self._host.clock.now(),
            head=head_of(self.state),
            lease=self.lease,
            parked_reason=parked_reason,
        )
        try:
            await self._append(append)
        except StaleVersion:
            self._stale = True
            return False
        self._leave()
        return True

    def _leave(self) -> None:
        """Out of the directory and deaf, in one step without a wait."""
        if self._mailbox.closed is not None:
            return
        self._host.bodies.leave(self.nudge)
        self._host.suspects.leave(self.nudge)
        # A request that meets a lost lease must not find another way into the history.
        lost = LeaseLost(self.run_id, session_id=self.lease.session_id)
        self._mailbox.close(lost if self._gone else ActorGone())
        self._host.left(self)
        self._tell_ended()

    def _tell(self, facts: Sequence[Fact]) -> None:
        narrate(self.state, facts)
        if self._host.meters is not None:
            self._host.meters.told(self.state, facts)

    def _tell_ended(self) -> None:
        if self._ended is not None:
            self._ended.set()

    # -- bodies --------------------------------------------------------------------------------------------------------

    def _spawn(self, tasks: anyio.abc.TaskGroup, token: str) -> None:
        stage = next(s for s in self.state.stages.values() if s.token == token)
        if stage.lost >= SUSPECT_LOSSES:
            self._suspects.add(token)
        tasks.start_soon(self._attempt, stage.id, token)

    async def _attempt(self, stage_id: str, token: str) -> None:
        try:
            with self._held[token]:
                await self._host.dispatch(ExecuteJob(run_id=self.run_id, stage_id=stage_id, token=token))
        except LeaseLost:
            pass
        except Exception as error:
            logger.exception("attempt.broken", run_id=self.run_id, stage_id=stage_id, error=type(error).__name__)
        finally:
            self._drop(token)
        if self._draining and not self._gone:
            await self._hand_back(stage_id, token)

    def _drop(self, token: str) -> None:
        """The body's task is over: give back its slot, unless it was passed on."""
        if token in self._suspects:
            self._suspects.discard(token)
            self._host.suspects.release()
        passed_on = token in self._passed_on
        if passed_on:
            self._passed_on.discard(token)
        else:
            self._host.bodies.release()
        if self._draining:
            return
        del self._held[token]
        if not (passed_on and self._held):
            # With an attempt lost, or with nothing left to wait for, there is something new to plan.
            self._mailbox.ring()

    async def _hand_back(self, stage_id: str, token: str) -> None:
        """A drain interrupted this attempt: end it without counting it, before the run is released."""
        try:
            await self.ask(hand_back(stage_id, token))
        except (ActorGone, LeaseLost):
            pass
        finally:
            self._held.pop(token, None)
            self._mailbox.ring()

    async def _poll(self, stage_id: str) -> None:
        try:
            with self._polling[stage_id]:
                await self._host.check(self.run_id, stage_id)
        except LeaseLost:
            pass
        except Exception as error:
            logger.exception("check.broken", run_id=self.run_id, stage_id=stage_id, error=type(error).__name__)
            await anyio.sleep(UNAVAILABLE_RETRY_S)
        finally:
            del self._polling[stage_id]
            self._mailbox.ring()


def _facts_of(stored: StoredHistory) -> Iterable[Fact]:
    return chain.from_iterable(decode_facts(row.events, run_id=stored.head.run_id) for row in stored.rows)
