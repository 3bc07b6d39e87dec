"""What a supervisor tells the meters of its process: how it stands, and now and then how the whole store does.

Only of a process that is metered: otherwise there is no `Metering`, nothing is asked and nothing wrapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import anyio

from kernel.errors import Unavailable
from kernel.ports.persistence import Backlog
from runtime.bootstrap import Storage
from telemetry import names
from telemetry.metrics import Meters, Reading

__all__ = ["Metering"]

BACKLOG_EVERY_S = 15.0
"""The question costs the database some milliseconds, and every process that is metered asks it."""


class _Standing(Protocol):
    """What a supervisor's `stats` say."""

    @property
    def actors(self) -> int: ...

    @property
    def bodies(self) -> int: ...

    @property
    def bodies_waiting(self) -> int: ...

    @property
    def abandoned_threads(self) -> int: ...


class Metering:
    """The gauges of one supervisor; `run` keeps them until it is cancelled. `stats` is called from other threads.

    Of these workflows, and of those that were seen waiting, it is also told that nothing waits. Their runs are counted
    from 0 on.
    """

    def __init__(
        self, meters: Meters, storage: Storage, stats: Callable[[], _Standing], workflow_ids: Iterable[str]
    ) -> None:
        self._meters = meters
        self._storage = storage
        self._stats = stats
        self._backlog: Backlog | None = None
        self._workflow_ids = set(workflow_ids)
        meters.know(self._workflow_ids)

    async def run(self) -> None:
        """Tell how things stand, and look at the store every now and then."""
        unwatch = self._meters.watch(self._readings)
        try:
            while True:
                try:
                    self._backlog = await self._storage.persistence.backlog()
                    self._workflow_ids.update(self._backlog.runnable)
                except Unavailable:
                    # Whoever does the work says it. What was known before says nothing any more.
                    self._backlog = None
                await anyio.sleep(BACKLOG_EVERY_S)
        finally:
            unwatch()

    def _readings(self) -> Iterable[Reading]:
        stats = self._stats()
        yield names.ACTORS, (), stats.actors
        yield names.BODIES_RUNNING, (), stats.bodies
        yield names.BODIES_WAITING, (), stats.bodies_waiting
        yield names.THREADS_ABANDONED, (), stats.abandoned_threads
        if self._storage.listening is not None:
            silence_s, outages = self._storage.listening()
            yield names.HINTS_OUTAGES, (), outages
            if silence_s is not None:
                yield names.HINTS_SILENCE, (), silence_s
        if (backlog := self._backlog) is not None:
            # Zero, not nothing: an autoscaler that finds no number does nothing.
            for workflow_id in tuple(self._workflow_ids):
                yield names.RUNS_RUNNABLE, (workflow_id,), backlog.runnable.get(workflow_id, 0)
            yield from _of_the_store(backlog)


def _of_the_store(backlog: Backlog) -> Iterable[Reading]:
    yield names.OLDEST_RUNNABLE_AGE, (), 0.0 if backlog.oldest_age is None else backlog.oldest_age.total_seconds()
    yield names.UNKNOWN_WORKFLOW, (), backlog.unknown
    yield names.OUTBOX_LAG, (), 0.0 if backlog.outbox_lag is None else backlog.outbox_lag.total_seconds()
    yield names.DEAD_LETTERS, (), backlog.dead_letters
