"""`outbox.flush`: publish events that have been recorded and that this kernel's sinks have not been given yet.

A supervisor publishes by itself. The command is for whoever drives a kernel by hand, and for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from kernel.command import Command
from kernel.errors import InvalidCommand
from kernel.ports.sinks import Subscription
from kernel.publishing import PublishingPorts, publish_to, record_of

__all__ = ["FlushOutbox", "FlushOutboxPorts", "FlushOutboxResult", "flush_outbox"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushOutboxResult:
    """How many events were taken; one that two sinks took counts twice."""

    published: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushOutbox(Command[FlushOutboxResult]):
    """Give each sink up to `max_events` of the events that it is owed."""

    type: ClassVar[str] = "outbox.flush"

    max_events: int = 100

    def __post_init__(self) -> None:
        """Refuse bounds that make no sense."""
        if self.max_events < 1:
            raise InvalidCommand(f"max_events must be at least 1, got {self.max_events}.", field="max_events")


class FlushOutboxPorts(PublishingPorts, Protocol):
    """What flushing touches."""

    @property
    def subscriptions(self) -> Sequence[Subscription]:
        """The sinks of this kernel."""
        ...


async def flush_outbox(command: FlushOutbox, ports: FlushOutboxPorts) -> FlushOutboxResult:
    """Spread what is new, then serve each sink once; a failing event holds back its own run at its own sink alone.

    A sink is registered by the first flush and is owed what is appended from then on. Repeating it publishes what is
    left. Interrupted, events are published again, later, and none is lost. Raises: Unavailable.
    """
    if not ports.subscriptions:
        return FlushOutboxResult(published=0)
    await ports.store.register_sinks([record_of(subscription) for subscription in ports.subscriptions])
    while await ports.store.spread(command.max_events) == command.max_events:
        pass
    published = 0
    for subscription in ports.subscriptions:
        left = command.max_events
        while left > 0:
            done = await publish_to(subscription, ports, max_events=left)
            left -= done.taken + done.failed
            published += done.taken
            if not done.claimed:
                break
    return FlushOutboxResult(published=published)
