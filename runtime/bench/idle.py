"""Idleness: what a process costs that has nothing to do, alone and beside another one.

Statements are counted by the server as transactions; a connection's counts may lie unreported for ten seconds when it
falls silent, so there is a pause before the window, in which also the work of opening ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from runtime.bench.laboratory import Laboratory, Measurement
from runtime.bench.processes import BenchProcess

__all__ = ["measure_idle"]


async def measure_idle(lab: Laboratory) -> Measurement:
    """One repetition: a window with one process, and one with two."""
    await lab.empty()
    async with lab.process("worker") as worker:
        alone, cpu_percent = await _window(lab, [worker])
        async with lab.process("worker") as other:
            beside, _ = await _window(lab, [worker, other])
            await other.leave()
        await worker.leave()
    return {
        "statements_per_s_alone": alone,
        "statements_per_s_beside_another": beside,
        "cpu_percent": cpu_percent,
    }


async def _window(lab: Laboratory, processes: Sequence[BenchProcess]) -> tuple[float, float]:
    """Statements per second and per cent of a processor, for each of the processes."""
    await anyio.sleep(lab.sizes.idle_settle_s)
    cpu_before = sum([(await process.ask("usage"))["cpu_s"] for process in processes])
    before = await lab.database.gauges.work()
    await anyio.sleep(lab.sizes.idle_window_s)
    after = await lab.database.gauges.work()
    cpu_after = sum([(await process.ask("usage"))["cpu_s"] for process in processes])
    seconds = (after.moment_s - before.moment_s) * len(processes)
    return (after.transactions - before.transactions) / seconds, 100 * (cpu_after - cpu_before) / seconds
