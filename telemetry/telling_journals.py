"""Journals whose decisions are told to whoever counts or logs them, once they are durable.

A wrapper, because only here it is known both what was decided and that it was appended. It is for what is decided from
outside of an actor; what an actor decides it tells by itself, and so it does with the end of its run that others have
brought about: whoever counts that a run began counts that it ended, also when a process without meters cancels it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias, TypeVar

from kernel.model.draft import Decision, Moment
from kernel.model.facts import Fact, RunCancelled
from kernel.model.run import RunState
from kernel.model.stage import Body
from kernel.ports.journals import Create, Decide, Journals
from kernel.ports.persistence import KeyRecord, NewRun

__all__ = ["Teller", "telling"]

R = TypeVar("R")

Teller: TypeAlias = Callable[[RunState, Sequence[Fact]], None]
"""Is given facts that have become durable, and the state that they led to; of all processes one is given each fact."""


def telling(journals: Journals, *tellers: Teller) -> Journals:
    """The same journals, for these to be told."""
    return _TellingJournals(journals, tellers) if tellers else journals


class _Made:
    """The decision of one call; of several, made because of conflicts, the last one counts."""

    def __init__(self) -> None:
        self.decision: Decision[object] | None = None
        self.attended = False

    def noting_create(self, decide: Create[R]) -> Create[R]:
        def note(moment: Moment) -> Decision[R]:
            self.decision = decision = decide(moment)
            return decision

        return note

    def noting(self, decide: Decide[R]) -> Decide[R]:
        def note(state: RunState, moment: Moment) -> Decision[R]:
            self.attended = moment.attended
            self.decision = decision = decide(state, moment)
            return decision

        return note


class _TellingJournals:
    def __init__(self, journals: Journals, tellers: Sequence[Teller]) -> None:
        self._journals = journals
        self._tellers = tellers

    async def create(self, run_id: str, decide: Create[R], /, *, new: NewRun, key: KeyRecord | None) -> R:
        """`Journals.create`."""
        made = _Made()
        result = await self._journals.create(run_id, made.noting_create(decide), new=new, key=key)
        self._tell(made)
        return result

    async def record(self, run_id: str, decide: Decide[R], /, *, ends_attempt: bool = False) -> R:
        """`Journals.record`."""
        made = _Made()
        result = await self._journals.record(run_id, made.noting(decide), ends_attempt=ends_attempt)
        self._tell(made)
        return result

    async def reopen(self, run_id: str, decide: Decide[R], /, *, key: KeyRecord | None = None) -> R:
        """`Journals.reopen`."""
        made = _Made()
        result = await self._journals.reopen(run_id, made.noting(decide), key=key)
        self._tell(made)
        return result

    async def hand_over(self, state: RunState, decide: Decide[R], /) -> R:
        """`Journals.hand_over`."""
        made = _Made()
        result = await self._journals.hand_over(state, made.noting(decide))
        self._tell(made)
        return result

    async def payloads(self, run_id: str, bodies: Collection[Body], /) -> Mapping[Body, bytes]:
        """`Journals.payloads`."""
        return await self._journals.payloads(run_id, bodies)

    def _tell(self, made: _Made) -> None:
        if made.decision is None:
            return
        facts = made.decision.facts
        if made.attended:
            facts = tuple(fact for fact in facts if not isinstance(fact, RunCancelled))
        for tell in self._tellers:
            tell(made.decision.state, facts)
