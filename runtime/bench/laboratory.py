"""What all measures need: the database with its gauges, processes to start, sizes, and somebody to tell of progress."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio

from runtime.bench.messages import Role
from runtime.bench.processes import BenchProcess, bench_process
from runtime.bootstrap import BenchDatabase

__all__ = ["QUICK", "Laboratory", "MeasureFailed", "Measurement", "Sizes"]

Measurement: TypeAlias = dict[str, Any]
"""One measure's figures as they go into the JSON: numbers by name, nested where several belong together."""

LOOK_S = 0.1


class MeasureFailed(Exception):
    """What was measured did not come to its end; the figures would mean nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything. `quick` is for whoever changes something and wants to see whether it moved."""

    runs: int = 3000
    bare_runs: int = 9000
    warm_up: int = 300
    latency_runs: int = 200
    fan_outs: int = 10
    sleepers: int = 20_000
    sleep_s: float = 60.0
    polls: int = 10_000
    poll_s: float = 60.0
    takeover_runs: int = 500
    idle_settle_s: float = 11.0
    idle_window_s: float = 15.0
    residents: int = 2000
    flood_runs: int = 20_000
    starts: int = 5


QUICK = Sizes(
    runs=1500,
    bare_runs=4500,
    warm_up=200,
    latency_runs=100,
    fan_outs=5,
    sleepers=2000,
    sleep_s=5.0,
    polls=1000,
    poll_s=8.0,
    takeover_runs=200,
    idle_window_s=5.0,
    residents=500,
    flood_runs=5000,
    starts=3,
)


class Laboratory:
    """The open database and how to start processes on it. `tell` takes one line about progress."""

    def __init__(self, database: BenchDatabase, sizes: Sizes, tell: Callable[[str], None]) -> None:
        self.database = database
        self.sizes = sizes
        self.tell = tell

    def process(
        self, role: Role, *, sampled: float | None = None, **overrides: object
    ) -> AbstractAsyncContextManager[BenchProcess]:
        """A process of the benchmark; see `bench_process`."""
        return bench_process(role, self.database.settings, self.database.schema, sampled=sampled, **overrides)

    async def all_ended(self, *, within_s: float) -> None:
        """Wait until no run is unfinished, and see that none has failed. Raises: MeasureFailed."""
        left = 0
        with anyio.move_on_after(within_s) as patience:
            # Being told of each end would be work for the processes that are measured.
            while left := await self.database.gauges.unfinished():  # noqa: ASYNC110
                await anyio.sleep(LOOK_S)
        if patience.cancelled_caught:
            raise MeasureFailed(f"{left} runs had not ended after {within_s:g} s")
        others = {
            status: count for status, count in (await self.database.gauges.statuses()).items() if status != "COMPLETED"
        }
        if others:
            raise MeasureFailed(f"runs did not complete: {others}")

    async def empty(self) -> None:
        """Begin with empty tables, after everybody has left. Raises: MeasureFailed."""
        await self.database.gauges.alone()
        await self.database.gauges.empty()
