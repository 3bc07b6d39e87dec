"""Latency: one run of three no-op stages at a time, from before its start to its result.

In process: the supervisor that executes it also starts it and waits. Remote: a client in another process does, so that
the start and the end both have to be told through the database.
"""

from __future__ import annotations

from runtime.bench.laboratory import Laboratory, Measurement
from runtime.bench.processes import BenchProcess
from runtime.bench.statistics import percentile
from runtime.bench.workflows import pipeline

__all__ = ["measure_latency", "measure_remote_latency"]

WITHIN_S = 120.0
WARM_UP = 20


async def measure_latency(lab: Laboratory) -> Measurement:
    """Within one process."""
    await lab.empty()
    async with lab.process("worker") as worker:
        figures = await _times(lab, worker)
        await worker.leave()
    return figures


async def measure_remote_latency(lab: Laboratory) -> Measurement:
    """From a process that executes nothing."""
    await lab.empty()
    async with lab.process("worker") as worker, lab.process("client") as client:
        figures = await _times(lab, client)
        await client.leave()
        await worker.leave()
    return figures


async def _times(lab: Laboratory, process: BenchProcess) -> Measurement:
    await process.ask("one-by-one", workflow=pipeline.id, runs=WARM_UP, within_s=WITHIN_S)
    answer = await process.ask("one-by-one", workflow=pipeline.id, runs=lab.sizes.latency_runs, within_s=WITHIN_S)
    times_ms = [1000 * time_s for time_s in answer["times_s"]]
    return {"p50": percentile(times_ms, 50), "p99": percentile(times_ms, 99)}
