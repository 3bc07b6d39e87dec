"""Fan-out: one run whose only group has 200 parallel no-op stages, from before its start to its result."""

from __future__ import annotations

from statistics import median

from runtime.bench.laboratory import Laboratory, Measurement
from runtime.bench.workflows import fan_out

__all__ = ["measure_fan_out"]

WITHIN_S = 120.0


async def measure_fan_out(lab: Laboratory) -> Measurement:
    """The median of several such runs, one after the other, in the process that executes them."""
    await lab.empty()
    async with lab.process("worker") as worker:
        await worker.ask("one-by-one", workflow=fan_out.id, runs=2, within_s=WITHIN_S)
        answer = await worker.ask("one-by-one", workflow=fan_out.id, runs=lab.sizes.fan_outs, within_s=WITHIN_S)
        await worker.leave()
    return {"median": median(answer["times_s"])}
