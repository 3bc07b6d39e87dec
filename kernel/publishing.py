"""Giving a sink the events that it is owed: in order, again when it fails, and not for ever.

One call serves one sink: claim what it is owed of some runs, give it the events, write down how far it came. Whatever
happens in between, the next claim begins behind the last event that was written down, so a sink sees events again and
never misses one. No transaction is open while a sink is asked, and no run waits for another's sink.

A failing event holds back its own run for this sink, and nothing else, until it is tried again; an event that fails too
often is put aside as a dead letter and the run goes on behind it. A payload that cannot be read is no failure of the
sink: its event is tried again until it can be read. Who calls this, how often, and how long a sink may
take for one event, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from kernel.errors import BlobNotFound, EngineError, NonRetryable, RetryAfter, Unavailable
from kernel.event_reading import EventReader
from kernel.events import Event, is_emitted
from kernel.model.facts import FORMAT, CorruptHistory
from kernel.model.retry import RetryPolicy, retry_delay
from kernel.ports.blobs import BlobStore
from kernel.ports.clock import Clock
from kernel.ports.outbox import Delivery, Outbox, Refused, Settlement, SinkRecord
from kernel.ports.persistence import Histories
from kernel.ports.sinks import Subscription

__all__ = ["Published", "PublishingPorts", "publish_to", "record_of"]

RUNS_AT_A_TIME = 20
"""Runs that are claimed together; small, because their events are in memory and nobody else can have them meanwhile."""
BACKOFF_MAX = timedelta(minutes=5)
ERROR_MAX = 2_000
"""Characters of an error that are kept."""
RETRY_AFTER_MAX = timedelta(hours=1)
"""No sink may ask for more patience than this at a time."""
NEWER_RELEASE_PAUSE = timedelta(minutes=1)
"""How long what a newer release has written is left for it."""
UNAVAILABLE_PAUSE = timedelta(seconds=2)
MARGIN = timedelta(seconds=2)
"""By how much a claim is longer than two tries that take as long as they may."""


class PublishingStore(Outbox, Histories, Protocol):
    """The store, for what is owed and for the histories that it is read from."""


class PublishingPorts(Protocol):
    """What publishing touches."""

    @property
    def store(self) -> PublishingStore:
        """Where events are."""
        ...

    @property
    def blobs(self) -> BlobStore:
        """Where their large payloads are."""
        ...

    @property
    def clock(self) -> Clock:
        """How long a claim has been held."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What one call did: events that the sink took, tries that failed, events given up, deliveries that were claimed.

    `error` is the last failure, as it is kept, and `unread` why a payload could not be read: its sink was not asked.
    """

    taken: int
    failed: int
    dead: int
    claimed: int
    error: str | None = None
    unread: str | None = None


def record_of(subscription: Subscription) -> SinkRecord:
    """The sink as a store is told of it."""
    events = None if subscription.events is None else tuple(sorted(subscription.events))
    return SinkRecord(name=subscription.name, events=events)


async def publish_to(
    subscription: Subscription,
    ports: PublishingPorts,
    *,
    max_events: int,
    max_runs: int = RUNS_AT_A_TIME,
    go_on: Callable[[], bool] = lambda: True,
) -> Published:
    """Give the sink up to `max_events` events of up to `max_runs` runs, those that it is owed longest first.

    Stops before the next event when `go_on` says so. Interrupted, what has not been written down is claimed again when
    the claim has ended: that is a little later than the sink may take for one event. Raises: Unavailable.
    """
    # A claim must outlast the try that was begun last: tries are begun in the first half of it.
    lease = 2 * subscription.timeout + MARGIN
    until = ports.clock.now() + lease / 2
    deliveries = await ports.store.claim_deliveries(subscription.name, max_runs, lease=lease)
    shift = _Shift(subscription, ports, until, go_on, left=max_events)
    settlements = [await shift.serve(delivery) for delivery in deliveries]
    if settlements:
        await ports.store.settle(settlements)
    return Published(
        taken=shift.taken,
        failed=shift.failed,
        dead=sum(len(settlement.dead) for settlement in settlements),
        claimed=len(deliveries),
        error=shift.error,
        unread=shift.unread,
    )


class _Shift:
    """One call's time, and how many events it may still give."""

    def __init__(
        self,
        subscription: Subscription,
        ports: PublishingPorts,
        until: datetime,
        go_on: Callable[[], bool],
        *,
        left: int,
    ) -> None:
        self._to = subscription
        self._ports = ports
        self._until = until
        self._go_on = go_on
        self._left = left
        self.taken = 0
        self.failed = 0
        self.error: str | None = None
        self.unread: str | None = None

    async def serve(self, delivery: Delivery) -> Settlement:
        """Give the events of one run, until all are taken, one fails, or there is no time left."""
        if not delivery.rows:
            # Nothing can be given of a history that is not there any more.
            return Settlement(delivery=delivery, next_seq=delivery.last_seq + 1)
        reader = EventReader(delivery.run_id, delivery.rows, self._ports)
        came = Settlement(delivery=delivery, next_seq=delivery.next_seq, tries=delivery.tries)
        try:
            for seq, at, fact in reader.facts(after=delivery.next_seq - 1):
                if seq > delivery.last_seq:
                    break
                if is_emitted(fact) and (self._to.events is None or fact.type in self._to.events):
                    if not self._has_time():
                        break
                    error = await self._give(await reader.event(seq, at, fact))
                    if error is not None:
                        came = self._refused(came, error)
                        if came.next_seq == seq:
                            return came
                        continue
                came = replace(came, next_seq=seq + 1, tries=0)
        except Unavailable as error:
            # The store of large payloads is away, for which the sink must not pay.
            self.unread = _text(error)
            return replace(came, delay=UNAVAILABLE_PAUSE, error=self.unread)
        except BlobNotFound as error:
            # Nor for a process that looks in the wrong place; perhaps another one knows the right one.
            self.unread = _text(error)
            return replace(came, delay=self._growing_pause(delivery, came.next_seq), error=self.unread)
        except EngineError as error:
            if isinstance(error, CorruptHistory) and await self._is_newer(delivery.run_id):
                return replace(came, delay=NEWER_RELEASE_PAUSE, error=_text(error))
            # What cannot be read is given up like what is not taken.
            return self._refused(came, error)
        return came

    def _growing_pause(self, delivery: Delivery, seq: int) -> timedelta:
        """A pause as long as the event has been there, within bounds: each is about twice as long as the one before."""
        at = next((row.at for row in reversed(delivery.rows) if row.first_seq <= seq), self._ports.clock.now())
        return min(max(self._ports.clock.now() - at, UNAVAILABLE_PAUSE), BACKOFF_MAX)

    async def _is_newer(self, run_id: str) -> bool:
        """Whether a newer release has written what this one cannot read."""
        head = (await self._ports.store.heads([run_id])).get(run_id)
        return head is not None and head.format > FORMAT

    def _has_time(self) -> bool:
        return self._left > 0 and self._ports.clock.now() < self._until and self._go_on()

    async def _give(self, event: Event) -> Exception | None:
        """None when the sink has taken the event, else what it raised."""
        self._left -= 1
        try:
            await self._to.sink.publish(event)
        except Exception as error:  # noqa: BLE001 - the sink is somebody else's code: its failure becomes data here
            return error
        self.taken += 1
        return None

    def _refused(self, came: Settlement, error: Exception) -> Settlement:
        """The same, after the event that is next has failed once more: it waits, or is put aside."""
        self.failed += 1
        self.error = _text(error)
        tries = came.tries + 1
        if tries >= self._to.max_retries or isinstance(error, NonRetryable):
            dead = Refused(seq=came.next_seq, tries=tries, error=_text(error))
            return replace(came, next_seq=came.next_seq + 1, tries=0, dead=(*came.dead, dead))
        policy = RetryPolicy(initial_interval=self._to.backoff, max_interval=BACKOFF_MAX, jitter=False)
        delay = retry_delay(policy, failures=tries, token=came.delivery.token)
        if isinstance(error, RetryAfter):
            delay = min(error.delay, RETRY_AFTER_MAX)
        return replace(came, tries=tries, delay=delay, error=_text(error))


def _text(error: Exception) -> str:
    """An error in one line that any store can keep."""
    text = f"{type(error).__name__}: {error}".replace("\0", "\ufffd")
    return text.encode("utf-8", "replace").decode()[:ERROR_MAX]
