"""Where events go when they leave the engine, and under which name what is owed to each place is remembered.

An `EventSink` is what somebody writes who wants to be told. A `Sink` says how one is made and how patient to be with
it; a process makes its sinks when it opens and closes them when it leaves. A `Subscription` is a sink that is open. How
events are found, retried and given up is `kernel/publishing.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, runtime_checkable

from kernel.errors import InvalidCommand
from kernel.events import Event, EventType, event_types

__all__ = ["EventSink", "FanOut", "Sink", "Subscription", "subscriptions_of"]


@runtime_checkable
class EventSink(Protocol):
    """Takes events, one at a time; whatever it raises means that this one was not taken."""

    async def publish(self, event: Event, /) -> None:
        """Take one event; return when it is safe.

        Called in order of `seq` for each run, and at least once for each event: after a crash events come again, so a
        receiver drops those of a run whose `seq` is not above the last it has seen. `RetryAfter` asks for a delay, and
        `NonRetryable` sends the event to the dead letters at once.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """An open sink and how it wants to be served.

    `name` is kept in the store: what is owed to a sink is owed to its name. `events` are the types that it is given
    (None: all). An event is tried `max_retries` times, after `backoff` at first and then twice as long each time, at
    most five minutes; then it is a dead letter. `timeout` bounds one try, and `at_once` how many runs it is served at
    a time by one process.

    Raises: InvalidCommand, naming the field, when a bound makes no sense or an event can never be given.
    """

    name: str
    sink: EventSink
    events: frozenset[EventType] | None = None
    max_retries: int = 3
    backoff: timedelta = timedelta(seconds=1)
    timeout: timedelta = timedelta(seconds=10)
    at_once: int = 1

    def __post_init__(self) -> None:
        """Refuse bounds that make no sense."""
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink:
    """How a sink is opened, and everything else that a `Subscription` says of it.

    `open` is called by each process that serves the sink, in its event loop; what it returns is entered if it is an
    asynchronous context manager, and is the `EventSink` otherwise.

    Raises: InvalidCommand, naming the field, when a bound makes no sense or an event can never be given.
    """

    name: str
    open: Callable[[], object]
    events: frozenset[EventType] | None = None
    max_retries: int = 3
    backoff: timedelta = timedelta(seconds=1)
    timeout: timedelta = timedelta(seconds=10)
    at_once: int = 1

    def __post_init__(self) -> None:
        """Refuse bounds that make no sense."""
        check_bounds(self)

    def opened(self, sink: EventSink) -> Subscription:
        """The subscription of what `open` has made."""
        return Subscription(
            name=self.name,
            sink=sink,
            events=self.events,
            max_retries=self.max_retries,
            backoff=self.backoff,
            timeout=self.timeout,
            at_once=self.at_once,
        )


def check_bounds(of: Subscription | Sink) -> None:
    """Refuse a name that cannot be one, bounds that make no sense, and events of which none can arrive."""
    if not of.name or "\0" in of.name or len(of.name) > 200:
        raise _refused(of, "name", "have 1 to 200 characters", of.name)
    for bound in ("max_retries", "at_once"):
        if getattr(of, bound) < 1:
            raise _refused(of, bound, "be at least 1", getattr(of, bound))
    if of.backoff < timedelta(0):
        raise _refused(of, "backoff", "not be negative", of.backoff)
    if of.timeout <= timedelta(0):
        raise _refused(of, "timeout", "be positive", of.timeout)
    if of.events is not None:
        event_types(f'Sink "{of.name}"', of.events, field="events")


def _refused(of: Subscription | Sink, field: str, wanted: str, got: object) -> InvalidCommand:
    return InvalidCommand(f"{type(of).__name__}.{field} must {wanted}, got {got!r}.", field=field)


@runtime_checkable
class FanOut(EventSink, Protocol):
    """A sink that consists of several, each of which is owed its events by itself."""

    def subscriptions(self) -> Sequence[Subscription]:
        """The parts, by names that differ."""
        ...


def subscriptions_of(sink: EventSink | None) -> Sequence[Subscription]:
    """What a kernel that was given this sink has to serve: its parts, or itself under the name "events"."""
    match sink:
        case None:
            return ()
        case FanOut():
            return tuple(sink.subscriptions())
        case _:
            return (Subscription(name="events", sink=sink),)
