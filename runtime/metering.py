"""What a supervisor or a host tells the meters of its process: how it stands, and how the whole store does.

Only of a process that is metered: otherwise there is no `Metering`, nothing is asked and nothing wrapped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Protocol

import anyio

from kernel.errors import Unavailable
from kernel.ports.persistence import Backlog
from runtime.bootstrap import Storage
from telemetry import names
from telemetry.faults import passed_over
from telemetry.metrics import Meters, Reading

__all__ = ["Metering", "standing"]

BACKLOG_EVERY_S = 15.0
"""The questions cost the database some milliseconds, tens of them where tens of thousands wait."""
BACKLOG_WAIT_S = 5.0
"""Nobody waits longer for the answer: a host is called for something else."""
BACKLOG_KEPT_S = 60.0
"""What was found is told for so long. A host may not be called again, and an autoscaler must not act on old numbers."""


class _Stats(Protocol):
    """What a supervisor's `stats` say."""

    @property
    def actors(self) -> int: ...

    @property
    def bodies(self) -> int: ...

    @property
    def bodies_waiting(self) -> int: ...

    @property
    def abandoned_threads(self) -> int: ...


def standing(stats: _Stats) -> Iterable[Reading]:
    """How a supervisor stands."""
    yield names.ACTORS, (), stats.actors
    yield names.BODIES_RUNNING, (), stats.bodies
    yield names.BODIES_WAITING, (), stats.bodies_waiting
    yield names.THREADS_ABANDONED, (), stats.abandoned_threads


class Metering:
    """The gauges of one supervisor or host, for as long as they are `offered`; `run` also keeps those of the store.

    Of these workflows and queues, and of those where something was seen waiting, it is also told that nothing waits;
    and runs of the workflows are counted from 0 on. `own` are the supervisor's readings, asked for from other threads.
    """

    def __init__(
        self,
        meters: Meters,
        storage: Storage,
        workflow_ids: Iterable[str],
        queues: Iterable[str],
        *,
        own: Callable[[], Iterable[Reading]] = tuple,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._meters = meters
        self._storage = storage
        self._own = own
        self._now_s = now_s
        self._asked_s: float | None = None
        self._found_s = 0.0
        self._backlog: Backlog | None = None
        self._workflow_ids = set(workflow_ids)
        self._queues = set(queues)
        meters.know(self._workflow_ids)

    async def run(self) -> None:
        """Offer the gauges, and look at the store every now and then, until this is cancelled."""
        with self.offered():
            while True:
                await self.look()
                await anyio.sleep(BACKLOG_EVERY_S)

    @contextmanager
    def offered(self) -> Generator[None]:
        """Meanwhile exporters are given the gauges."""
        unwatch = self._meters.watch(self._readings)
        try:
            yield
        finally:
            unwatch()

    async def look_now_and_then(self) -> None:
        """Look at the store, unless that was done a moment ago; for whoever has no time of its own."""
        if self._asked_s is None or self._now_s() - self._asked_s >= BACKLOG_EVERY_S:
            await self.look()

    async def look(self) -> None:
        """Ask the store how it stands; raises nothing."""
        self._asked_s = self._now_s()
        try:
            with anyio.fail_after(BACKLOG_WAIT_S):
                backlog = await self._storage.persistence.backlog()
        except Exception as error:  # noqa: BLE001 - nobody's work must fail for a question about it
            if not isinstance(error, Unavailable):
                passed_over(error)
            # Of a store that is away whoever does the work says it. What was known before says nothing any more.
            self._backlog = None
            return
        self._backlog, self._found_s = backlog, self._now_s()
        self._workflow_ids.update(backlog.runnable)
        self._queues.update(backlog.queues)

    def _readings(self) -> Iterable[Reading]:
        yield from self._own()
        if self._storage.listening is not None:
            silence_s, outages = self._storage.listening()
            yield names.HINTS_OUTAGES, (), outages
            if silence_s is not None:
                yield names.HINTS_SILENCE, (), silence_s
        backlog = self._backlog
        if backlog is None or self._now_s() - self._found_s > BACKLOG_KEPT_S:
            return
        # Zero, not nothing: an autoscaler that finds no number does nothing.
        for workflow_id in tuple(self._workflow_ids):
            yield names.RUNS_RUNNABLE, (workflow_id,), backlog.runnable.get(workflow_id, 0)
        for queue in tuple(self._queues):
            found = backlog.queues.get(queue)
            yield names.JOBS_WAITING, (queue,), 0 if found is None else found.jobs
            yield names.OLDEST_JOB_AGE, (queue,), 0.0 if found is None else found.oldest_age.total_seconds()
        yield from _of_the_store(backlog)


def _of_the_store(backlog: Backlog) -> Iterable[Reading]:
    yield names.OLDEST_RUNNABLE_AGE, (), 0.0 if backlog.oldest_age is None else backlog.oldest_age.total_seconds()
    yield names.UNKNOWN_WORKFLOW, (), backlog.unknown
    yield names.OUTBOX_LAG, (), 0.0 if backlog.outbox_lag is None else backlog.outbox_lag.total_seconds()
    yield names.DEAD_LETTERS, (), backlog.dead_letters
