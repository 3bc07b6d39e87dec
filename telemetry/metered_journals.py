"""Journals whose decisions are counted once they are durable: those that are made from outside of an actor.

A wrapper, because only here it is known both what was decided and that it was appended; what an actor decides it tells
by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

from kernel.model.draft import Decision, Moment
from kernel.model.run import RunState
from kernel.model.stage import Body
from kernel.ports.journals import Create, Decide, Journals
from kernel.ports.persistence import KeyRecord, NewRun
from telemetry.metrics import Meters

__all__ = ["metered"]

R = TypeVar("R")


def metered(journals: Journals, meters: Meters | None) -> Journals:
    """The same journals, counted if somebody meters."""
    return journals if meters is None else _MeteredJournals(journals, meters)


class _MeteredJournals:
    def __init__(self, journals: Journals, meters: Meters) -> None:
        self._journals = journals
        self._meters = meters

    async def create(self, run_id: str, decide: Create[R], /, *, new: NewRun, key: KeyRecord | None) -> R:
        """`Journals.create`."""
        made: list[Decision[R]] = []

        def note(moment: Moment) -> Decision[R]:
            made[:] = [decide(moment)]
            return made[0]

        result = await self._journals.create(run_id, note, new=new, key=key)
        self._tell(made)
        return result

    async def record(self, run_id: str, decide: Decide[R], /, *, ends_attempt: bool = False) -> R:
        """`Journals.record`."""
        made: list[Decision[R]] = []
        result = await self._journals.record(run_id, _noting(decide, made), ends_attempt=ends_attempt)
        self._tell(made)
        return result

    async def reopen(self, run_id: str, decide: Decide[R], /, *, key: KeyRecord | None = None) -> R:
        """`Journals.reopen`."""
        made: list[Decision[R]] = []
        result = await self._journals.reopen(run_id, _noting(decide, made), key=key)
        self._tell(made)
        return result

    async def payloads(self, run_id: str, bodies: Collection[Body], /) -> Mapping[Body, bytes]:
        """`Journals.payloads`."""
        return await self._journals.payloads(run_id, bodies)

    def _tell(self, made: list[Decision[R]]) -> None:
        for decision in made:
            self._meters.told(decision.state, decision.facts)


def _noting(decide: Decide[R], made: list[Decision[R]]) -> Decide[R]:
    """The same decision; of several, made because of conflicts, the last one counts."""

    def note(state: RunState, moment: Moment) -> Decision[R]:
        made[:] = [decide(state, moment)]
        return made[0]

    return note
