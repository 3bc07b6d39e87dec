"""What publishing asks of a store: which runs have news, what is owed to each sink, and what no sink ever took.

The history is the outbox. A run's head says how far its events have been *spread* (`published_seq`), and since when
there are more (`publish_at`). Spreading moves that cursor, and in the same step notes for every registered sink which
events of the run it is owed, from one and up to another: a *delivery*. Whoever serves a sink claims its deliveries for
a short time, publishes without a transaction, and then says how far it came. So a cursor passes an event only when
every sink has it or is owed it, and each sink goes at its own pace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    # The whole store is made of this slice and others, and stands there.
    from kernel.ports.persistence import HistoryRow

__all__ = ["DeadLetter", "DeadLetterPage", "Delivery", "Outbox", "Refused", "Settlement", "SinkRecord"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkRecord:
    """A sink as a store knows it. `events` are the types that it wants (None: all), for people to read.

    `owed` counts the runs of which it is still owed something, up to a bound; it is ignored when registering.
    """

    name: str
    events: Sequence[str] | None = None
    owed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Events `next_seq` to `last_seq` of a run that a sink is owed, claimed by `token`.

    `replayed` is 0, or the one event of a dead letter that is tried again. `tries` counts the failures of event
    `next_seq`. `rows` are the appends that hold the events, with bodies, in order; only the first of many.
    """

    run_id: str
    sink: str
    replayed: int
    token: str
    next_seq: int
    last_seq: int
    tries: int
    rows: Sequence[HistoryRow] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """An event that a sink did not take, after so many tries, and why."""

    seq: int
    tries: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """How far a delivery has come: `next_seq` is the first event that is still owed.

    It may be claimed again after `delay`. `tries` are the failures of `next_seq`, `error` the last of them; `dead` are
    events before it that have become dead letters.
    """

    delivery: Delivery
    next_seq: int
    tries: int = 0
    delay: timedelta = timedelta(0)
    error: str | None = None
    dead: Sequence[Refused] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An event that a sink refused too often; `id` orders them by when they became so."""

    id: int
    run_id: str
    seq: int
    sink: str
    error: str
    tries: int
    failed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterPage:
    """Dead letters, oldest first, and the `after` of the next page (None: this was the last)."""

    letters: Sequence[DeadLetter]
    next: int | None = None


class Outbox(Protocol):
    """Publishing. All of it raises: Unavailable."""

    async def register_sinks(self, sinks: Sequence[SinkRecord], /) -> None:
        """From now on these sinks are owed the events of every run that is appended to.

        Of a run that has never been published they are owed all, of others what comes after. Idempotent.
        """
        ...

    async def forget_sink(self, name: str, /) -> bool:
        """Nothing is owed to this sink any more, nor will be; its dead letters go too. False when nobody knows it."""
        ...

    async def list_sinks(self) -> Sequence[SinkRecord]:
        """The registered sinks, by name."""
        ...

    async def spread(self, limit: int, /) -> int:
        """Turn the news of up to `limit` runs, those that wait longest first, into deliveries; returns how many."""
        ...

    async def claim_deliveries(self, sink: str, limit: int, /, *, lease: timedelta) -> Sequence[Delivery]:
        """Up to `limit` deliveries that this sink is owed now, oldest first; nobody else gets them for `lease`."""
        ...

    async def settle(self, settlements: Sequence[Settlement], /) -> None:
        """Write down how far claimed deliveries have come; of one that somebody else has claimed since, nothing.

        A delivery whose events are all taken is gone, unless the run has got more meanwhile.
        """
        ...

    async def replay_dead_letters(self, limit: int, /) -> int:
        """Make deliveries of up to `limit` dead letters, the oldest first, and return how many."""
        ...

    async def list_dead_letters(self, *, after: int = 0, limit: int = 100) -> DeadLetterPage:
        """Dead letters with an id above `after`, oldest first."""
        ...
