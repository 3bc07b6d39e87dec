"""Parking a run that nobody owns: taking what cannot be decided out of circulation, visibly.

A run with an owner is parked by its actor. This is for those who meet one from outside: whoever hands runs over to
jobs, and whoever executes a job.
"""

from __future__ import annotations

from typing import Protocol

from kernel.errors import Conflict, DefinitionChanged, EngineError
from kernel.model.facts import NewerHistory
from kernel.ports.clock import Clock
from kernel.ports.ids import Ids
from kernel.ports.persistence import Append, Appends, HeadRow

__all__ = ["ParkingPorts", "park_unowned"]


class ParkingPorts(Protocol):
    """What parking touches."""

    @property
    def store(self) -> Appends:
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


async def park_unowned(head: HeadRow, error: EngineError, ports: ParkingPorts) -> bool:
    """Park the run because of this error; False when it has moved on, has an owner, or is only too new for us.

    Raises: Unavailable.
    """
    if isinstance(error, NewerHistory):
        return False
    name = "definition_changed" if isinstance(error, DefinitionChanged) else "undecidable"
    append = Append(
        mode="park",
        run_id=head.run_id,
        append_id=ports.ids.append_id(),
        expected=head.seq,
        seq=head.seq,
        at=ports.clock.now(),
        head=head.head,
        parked_reason=f"{name}: {error}",
    )
    try:
        await ports.store.append(append)
    except Conflict:
        return False
    return True
