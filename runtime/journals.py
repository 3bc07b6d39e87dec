"""Journals of a process that has actors: a run that lives here is decided by its actor, every other one from outside.

Also where a run may be born owned: when there is room and nothing else waits, the first append creates it, takes it
and starts its first stages, and its actor begins with what was decided.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol, TypeVar

from kernel.errors import EngineError, LeaseLost
from kernel.journal import append_of
from kernel.model.draft import Decision, Moment
from kernel.model.facts import StageStarted
from kernel.model.run import RunState
from kernel.model.stage import Body
from kernel.ports.clock import Clock
from kernel.ports.ids import Ids
from kernel.ports.journals import Create, Decide, Journals
from kernel.ports.persistence import Append, Appends, KeyRecord, Lease, NewRun
from runtime.actor import RunActor
from runtime.mailbox import ActorGone
from runtime.slots import Slots

__all__ = ["Household", "RoutedJournals"]

R = TypeVar("R")

FIRST_CLAIM = 1
"""The claim counter of a run that was created by its owner."""


class Household(Protocol):
    """What the journals need of the supervisor whose actors they route to."""

    @property
    def actors(self) -> Mapping[str, RunActor]:
        """The actors of this process by run id."""
        ...

    def expect(self, run_id: str) -> None:
        """An owned creation of this run is under way: it may be ours, but nobody has to look for its actor."""
        ...

    def settle(self, run_id: str) -> None:
        """It has come to nothing."""
        ...

    def session_with_room(self) -> str | None:
        """The session that may own one more new run now, or None: no room, or others have waited longer."""
        ...

    def await_creation(
        self, append: Append, lease: Lease, decision: Decision[object], started: Collection[str]
    ) -> None:
        """Learn in the background what became of a creation whose caller was cancelled, and `adopt` the run."""
        ...

    def adopt(self, lease: Lease, decision: Decision[object], started: Collection[str]) -> None:
        """Begin the actor of a run that was created owned; `started` are the tokens of the attempts it holds."""
        ...


class RoutedJournals:
    """`Journals` for a supervisor."""

    def __init__(
        self, household: Household, foreign: Journals, store: Appends, clock: Clock, ids: Ids, bodies: Slots
    ) -> None:
        self._household = household
        self._foreign = foreign
        self._store = store
        self._clock = clock
        self._ids = ids
        self._bodies = bodies

    async def create(self, run_id: str, decide: Create[R], /, *, new: NewRun, key: KeyRecord | None) -> R:
        """Begin a history, as its owner when there is room."""
        session_id = self._household.session_with_room()
        now = self._clock.now()
        if session_id is None or (new.run_at is not None and new.run_at > now):
            return await self._foreign.create(run_id, decide, new=new, key=key)
        moment = Moment(
            now=now,
            append_id=self._ids.append_id(),
            session=session_id,
            starts=self._bodies.available(),
            passes_on=True,
        )
        decision = decide(moment)
        started = [fact.token for fact in decision.facts if isinstance(fact, StageStarted)]
        if not started:
            return await self._foreign.create(run_id, decide, new=new, key=key)
        lease = Lease(session_id, FIRST_CLAIM)
        append = append_of(decision, moment, mode="create", expected=0, lease=lease, new=new, key=key)
        self._bodies.reserve(len(started))
        self._household.expect(run_id)
        try:
            await self._store.append(append)
        except LeaseLost:
            # The session ended just now: the run is whoever's claims it.
            self._household.settle(run_id)
            self._bodies.release(len(started))
            return await self._foreign.create(run_id, decide, new=new, key=key)
        except EngineError:
            self._household.settle(run_id)
            self._bodies.release(len(started))
            raise
        except BaseException:
            # Cancelled, but what is sent is sent, and nobody else would drive a run that is ours.
            self._household.await_creation(append, lease, decision, started)
            raise
        self._household.adopt(lease, decision, started)
        return decision.result

    async def record(self, run_id: str, decide: Decide[R], /, *, ends_attempt: bool = False) -> R:
        """Decide where the run lives."""
        while True:
            actor = self._household.actors.get(run_id)
            if actor is None:
                return await self._foreign.record(run_id, decide, ends_attempt=ends_attempt)
            try:
                result: R = await actor.ask(decide, ends_attempt=ends_attempt)
            except ActorGone:
                continue
            return result

    async def reopen(self, run_id: str, decide: Decide[R], /, *, key: KeyRecord | None = None) -> R:
        """Decide on what the store has, whoever is still about to give the run back here."""
        result = await self._foreign.reopen(run_id, decide, key=key)
        actor = self._household.actors.get(run_id)
        if actor is not None:
            actor.look()
        return result

    async def hand_over(self, state: RunState, decide: Decide[R], /) -> R:
        """Decide on what was read: nobody drives it, nor will we."""
        return await self._foreign.hand_over(state, decide)

    async def payloads(self, run_id: str, bodies: Collection[Body], /) -> Mapping[Body, bytes]:
        """From the actor's memory when the run lives here."""
        actor = self._household.actors.get(run_id)
        if actor is None:
            return await self._foreign.payloads(run_id, bodies)
        return await actor.payloads(bodies)
