"""What measures of runs that wait have in common: how long creating them takes, and that they are out of memory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import anyio

from runtime.bench.laboratory import Laboratory
from runtime.bench.processes import BenchProcess

__all__ = ["CAUTION", "SAMPLE", "WITHIN_S", "in_ms", "seconds_per_run", "until_asleep"]

SAMPLE = 300
CAUTION = 1.5
"""Creating may turn out to be slower than a few runs suggest; who is not asleep when all are due did not wait."""
WITHIN_S = 300.0


async def seconds_per_run(lab: Laboratory, client: BenchProcess, workflow_id: str, **options: float) -> float:
    """How long the creation of a run takes, with everything that happens to it until it would wait."""
    began_s = await lab.database.gauges.now_s()
    await client.ask("start-many", workflow=workflow_id, runs=SAMPLE, until_s=0.0, **options)
    await lab.all_ended(within_s=WITHIN_S)
    return (await lab.database.gauges.last_ended_s() - began_s) / SAMPLE


async def until_asleep(worker: BenchProcess, due_s: float) -> None:
    """Wait until no run is in memory, or until shortly before they are due."""
    while time.time() < due_s - 1:
        if (await worker.ask("stats"))["actors"] == 0:
            return
        await anyio.sleep(0.2)


def in_ms(lag: Mapping[str, Any]) -> dict[str, float]:
    """How late an event loop was, as a measurement has it."""
    return {name: 1000 * lag[f"{name}_s"] for name in ("p50", "p99", "max")}
