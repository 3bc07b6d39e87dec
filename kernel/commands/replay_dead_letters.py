"""`plugin.replayDLQ`: try events again that a sink refused too often.

Each is given to the sink that refused it and to no other, and by itself: later events of its run, which the sink has
had long ago, do not come again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from kernel.command import Command
from kernel.errors import InvalidCommand
from kernel.ports.outbox import Outbox

__all__ = ["ReplayDeadLetters", "ReplayDeadLettersPorts", "ReplayDeadLettersResult", "replay_dead_letters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayDeadLettersResult:
    """How many will be tried again."""

    replayed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayDeadLetters(Command[ReplayDeadLettersResult]):
    """Make up to `max_events` dead letters, the oldest first, events that are owed again."""

    type: ClassVar[str] = "plugin.replayDLQ"

    max_events: int = 100

    def __post_init__(self) -> None:
        """Refuse bounds that make no sense."""
        if self.max_events < 1:
            raise InvalidCommand(f"max_events must be at least 1, got {self.max_events}.", field="max_events")


class ReplayDeadLettersPorts(Protocol):
    """What replaying touches."""

    @property
    def store(self) -> Outbox:
        """Where dead letters are."""
        ...


async def replay_dead_letters(command: ReplayDeadLetters, ports: ReplayDeadLettersPorts) -> ReplayDeadLettersResult:
    """Count their tries from the beginning; whoever serves their sink publishes them next.

    Atomic: a dead letter is either one or owed again. Repeating it replays those that are left. Raises: Unavailable.
    """
    return ReplayDeadLettersResult(replayed=await ports.store.replay_dead_letters(command.max_events))
