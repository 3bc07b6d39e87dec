"""A supervisor's publishing: who spreads what is new, who serves which sink, and when they look.

One task spreads, and each sink has tasks of its own, so that none waits for another's. What is to be done is always in
the store: a hint that comes early saves a look, one that is lost costs a poll interval, and a process that dies leaves
everything to the others. What a sink is owed, and what becomes of what it refuses, is `kernel/publishing.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import anyio

from kernel.errors import Unavailable
from kernel.events import Event
from kernel.ports.sinks import EventSink, Subscription
from kernel.publishing import RUNS_AT_A_TIME, Published, PublishingPorts, publish_to, record_of
from runtime.narration import OutageLog
from telemetry.logs import EventLogger, get_logger

__all__ = ["Parts", "Publisher"]

logger: EventLogger = get_logger("leasehold.runtime")

SPREAD_MAX = 200
SPREAD_REST_S = 0.05
"""Between two looks for news: what a short run appends comes together then, in one delivery."""
EVENTS_MAX = 1000
RUNS_AT_LEAST = 4


class Parts:
    """The sinks of a process as the one that a kernel takes."""

    def __init__(self, subscriptions: Sequence[Subscription]) -> None:
        self._subscriptions = tuple(replace(each, sink=_Bounded(each)) for each in subscriptions)

    def subscriptions(self) -> Sequence[Subscription]:
        """All of them; each try is bounded by its `timeout`."""
        return self._subscriptions

    async def publish(self, event: Event, /) -> None:
        """Give an event to all that want it. Raises: what the first one raised that did not take it."""
        for each in self._subscriptions:
            if each.events is None or event.type in each.events:
                await each.sink.publish(event)


class _Bounded:
    """A sink that is not waited for longer than it may take."""

    def __init__(self, subscription: Subscription) -> None:
        self._sink: EventSink = subscription.sink
        self._timeout_s = subscription.timeout.total_seconds()

    async def publish(self, event: Event, /) -> None:
        with anyio.move_on_after(self._timeout_s) as scope:
            await self._sink.publish(event)
            return
        if scope.cancelled_caught:
            raise TimeoutError(f"it took longer than {self._timeout_s:g} s")


class Publisher:
    """Publishes what all runs of a store append to the sinks of this process."""

    def __init__(self, subscriptions: Sequence[Subscription], ports: PublishingPorts, *, poll_s: float) -> None:
        self._ports = ports
        self._poll_s = poll_s
        self._counters = [_Counter(subscription) for subscription in subscriptions]
        self._news = anyio.Event()
        self._stopping = False

    async def register(self) -> None:
        """Make the sinks known; what is appended from now on is owed to them. Raises: Unavailable."""
        await self._ports.store.register_sinks([record_of(counter.subscription) for counter in self._counters])

    def services(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        """What has to run, for ever, under which name."""
        yield "spread", self._spread
        for counter in self._counters:
            for number in range(counter.subscription.at_once):
                yield f"sink {counter.subscription.name}", partial(self._serve, counter, first=number == 0)

    def hint(self) -> None:
        """Something may have been appended."""
        self._news.set()

    # -- spreading -----------------------------------------------------------------------------------------------------

    async def _spread(self) -> None:
        while True:
            moved = await self._ports.store.spread(SPREAD_MAX)
            if moved:
                for counter in self._counters:
                    counter.wake()
            if moved < SPREAD_MAX:
                await anyio.sleep(SPREAD_REST_S)
                with anyio.move_on_after(self._poll_s):
                    await self._news.wait()
                self._news = anyio.Event()

    # -- serving -------------------------------------------------------------------------------------------------------

    async def _serve(self, counter: _Counter, *, first: bool) -> None:
        """Serve one sink. The first of its servers also looks by the clock, for retries and what others have spread."""
        while True:
            woken = counter.woken
            done = None if self._stopping else await self._serve_once(counter)
            if done is not None and done.claimed:
                if done.claimed >= counter.runs_max:
                    counter.wake()
                continue
            with anyio.move_on_after(self._poll_s if first else None):
                await woken.wait()

    async def _serve_once(self, counter: _Counter) -> Published:
        counter.busy += 1
        try:
            done = await publish_to(
                counter.subscription,
                self._ports,
                max_events=EVENTS_MAX,
                max_runs=counter.runs_max,
                go_on=lambda: not self._stopping,
            )
        finally:
            counter.busy -= 1
            counter.left()
        counter.narrate(done)
        return done

    # -- leaving -------------------------------------------------------------------------------------------------------

    async def finish(self, within_s: float) -> None:
        """Publish what can be published now, then begin no more; what has been taken is written down.

        Both for so long at most; the rest is left to other processes, or to the next one. What waits to be tried again
        is not waited for.
        """
        with anyio.move_on_after(within_s):
            await self._until_nothing_is_left()
        self._stopping = True
        with anyio.move_on_after(within_s):
            for counter in self._counters:
                await counter.until_free()

    async def _until_nothing_is_left(self) -> None:
        try:
            while await self._ports.store.spread(SPREAD_MAX):
                pass
        except Unavailable as error:
            logger.warning("events.left", error=str(error))
            return
        async with anyio.create_task_group() as tasks:
            for counter in self._counters:
                tasks.start_soon(self._empty, counter)

    async def _empty(self, counter: _Counter) -> None:
        """Serve a sink, beside those who do, until nothing is left."""
        try:
            while True:
                await counter.until_free(places=1)
                if not (await self._serve_once(counter)).claimed:
                    break
            await counter.until_free()
        except Unavailable as error:
            logger.warning("events.left", sink=counter.subscription.name, error=str(error))


class _Counter:
    """Where one sink is served: who waits there, and how many are at work."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.runs_max = max(RUNS_AT_LEAST, RUNS_AT_A_TIME // subscription.at_once)
        self.woken = anyio.Event()
        self.busy = 0
        self._free = anyio.Event()
        self._outage = OutageLog("sink.failed", "sink.recovered")
        self._unread = OutageLog("blobs.unavailable", "blobs.recovered")

    def wake(self) -> None:
        """There is something to be served."""
        self.woken.set()
        self.woken = anyio.Event()

    def left(self) -> None:
        """Somebody has finished."""
        self._free.set()
        self._free = anyio.Event()

    async def until_free(self, places: int | None = None) -> None:
        """Return when so many places are free, or all."""
        wanted = self.subscription.at_once if places is None else places
        while self.busy > self.subscription.at_once - wanted:
            await self._free.wait()

    def narrate(self, done: Published) -> None:
        """Say when a sink begins to fail, when it works again, and what was given up."""
        name = self.subscription.name
        if done.dead:
            logger.error("events.given_up", sink=name, events=done.dead, error=_kind(done.error))
        if done.unread is not None:
            self._unread.failed(RuntimeError(_kind(done.unread)), sink=name)
        elif done.taken:
            self._unread.worked(sink=name)
        if done.failed:
            self._outage.failed(RuntimeError(_kind(done.error)), sink=name)
        elif done.taken:
            self._outage.worked(sink=name)


def _kind(error: str | None) -> str:
    """The class of an error; its message may quote a payload."""
    return (error or "").partition(":")[0]
