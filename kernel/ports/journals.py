"""Deciding about a run and making it so.

A journal loads the run's state, calls `decide` with it, appends what was decided on condition that nothing changed
meanwhile, and calls `decide` again when something did. `decide` must therefore be pure. A run with an actor in this
process has its journal there, which holds the state, appends as the owner and lets what queued meanwhile become one
append; every other run is loaded and appended to from outside (`kernel.journal`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol, TypeAlias, TypeVar

from kernel.model.draft import Decision, Moment
from kernel.model.run import RunState
from kernel.model.stage import Body
from kernel.ports.persistence import KeyRecord, NewRun

__all__ = ["Create", "Decide", "Journals"]

R = TypeVar("R")

Decide: TypeAlias = Callable[[RunState, Moment], Decision[R]]
Create: TypeAlias = Callable[[Moment], Decision[R]]


class Journals(Protocol):
    """The histories of all runs, each in the hands of whoever may extend it from here."""

    async def create(self, run_id: str, decide: Create[R], /, *, new: NewRun, key: KeyRecord | None) -> R:
        """Begin a history. Raises: KeyTaken, PayloadRefused, Unavailable."""
        ...

    async def record(self, run_id: str, decide: Decide[R], /, *, ends_attempt: bool = False) -> R:
        """Decide on the run's present state and append; a decision without facts appends nothing.

        `ends_attempt`: never give up because of conflicts (the end of an attempt must land or be superseded), and let
        what follows have its room; otherwise a bounded number of conflicts raises StaleVersion. What `decide` raises
        comes out unchanged.
        Raises: RunNotFound, LeaseLost, StaleVersion, Unavailable, CorruptHistory.
        """
        ...

    async def reopen(self, run_id: str, decide: Decide[R], /, *, key: KeyRecord | None = None) -> R:
        """As `record`, for a run that has ended: nobody drives it, so what counts is what the store has.

        `key` is admitted in the same append. Raises: as `record`; KeyTaken, and then nothing was appended.
        """
        ...

    async def hand_over(self, state: RunState, decide: Decide[R], /) -> R:
        """Decide on this state of a run that is due, and append if it has not changed since: jobs drive it then.

        Due it is by the store's clock, so the moment is never before that. What `decide` raises comes out unchanged.
        Raises: StaleVersion, and then somebody was faster; Unavailable.
        """
        ...

    async def payloads(self, run_id: str, bodies: Collection[Body], /) -> Mapping[Body, bytes]:
        """The raw JSON of these bodies, wherever they are kept. Raises: BlobNotFound, RunNotFound, Unavailable."""
        ...
