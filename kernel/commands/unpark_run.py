"""`run.unpark`: give a run that could not be decided back to whoever can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from kernel.command import Command
from kernel.errors import StaleVersion
from kernel.journal import fold_stored
from kernel.model.head import head_of
from kernel.ports.clock import Clock
from kernel.ports.ids import Ids
from kernel.ports.persistence import Append, Appends, Histories

__all__ = ["UnparkRun", "UnparkRunPorts", "UnparkRunResult", "unpark_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnparkRunResult:
    """`unparked` is False when the run was not parked."""

    unparked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UnparkRun(Command[UnparkRunResult]):
    """Make a parked run claimable again; it will be parked again if its reason still holds."""

    type: ClassVar[str] = "run.unpark"

    run_id: str


class UnparkRunStore(Appends, Histories, Protocol):
    """The store, to read the head and to change it."""


class UnparkRunPorts(Protocol):
    """What unparking touches."""

    @property
    def store(self) -> UnparkRunStore:
        """Where the run's head is."""
        ...

    @property
    def clock(self) -> Clock:
        """When it is."""
        ...

    @property
    def ids(self) -> Ids:
        """Where the append's id comes from."""
        ...


async def unpark_run(command: UnparkRun, ports: UnparkRunPorts) -> UnparkRunResult:
    """Change the head only; the history is not touched. Idempotent.

    Raises: RunNotFound; CorruptHistory, when the history still cannot be read.
    """
    while True:
        stored = await ports.store.load(command.run_id, bodies=False)
        if stored.head.parked_reason is None:
            return UnparkRunResult(unparked=False)
        state = fold_stored(stored)
        append = Append(
            mode="unpark",
            run_id=command.run_id,
            append_id=ports.ids.append_id(),
            expected=state.seq,
            seq=state.seq,
            at=ports.clock.now(),
            head=head_of(state),
        )
        try:
            await ports.store.append(append)
        except StaleVersion:
            continue
        return UnparkRunResult(unparked=True)
