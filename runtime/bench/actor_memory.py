"""Memory: what a run costs a worker while its actor is resident, waiting for a retry or in a body that waits.

The difference of the worker's resident memory, before and after so many runs came, over their number. Runs of the
pipeline go first, so that what is imported or allocated once is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio

from runtime.bench.laboratory import Laboratory, MeasureFailed, Measurement
from runtime.bench.workflows import pipeline, waiting_bodies, waiting_retries

__all__ = ["measure_actor_memory"]

WITHIN_S = 120.0
NEVER_S = 864_000.0


async def measure_actor_memory(lab: Laboratory) -> Measurement:
    """One repetition of each kind."""
    return {
        "residents": lab.sizes.residents,
        "kb_per_actor": await _kilobytes(lab, waiting_retries.id, in_body=False),
        "kb_per_actor_in_body": await _kilobytes(lab, waiting_bodies.id, in_body=True),
    }


async def _kilobytes(lab: Laboratory, workflow: str, *, in_body: bool) -> float | None:
    await lab.empty()
    residents = lab.sizes.residents
    room = {"max_runs": 2 * residents, "max_bodies": 2 * residents, "passivate_after": NEVER_S, "drain_grace": 0.0}
    async with lab.process("worker", **room) as worker, lab.process("client") as client:
        await client.ask("start-many", workflow=pipeline.id, runs=lab.sizes.warm_up)
        await lab.all_ended(within_s=WITHIN_S)
        before = (await worker.ask("usage", settle=True))["memory_bytes"]
        await client.ask("start-many", workflow=workflow, runs=residents, within_s=WITHIN_S)
        with anyio.move_on_after(WITHIN_S) as patience:
            # Another process's facts can only be asked for.
            while not await _settled(lab, in_body=in_body, stats=await worker.ask("stats")):  # noqa: ASYNC110
                await anyio.sleep(0.1)
        if patience.cancelled_caught:
            raise MeasureFailed(f"{residents} runs were not in memory within {WITHIN_S:g} s")
        after = (await worker.ask("usage", settle=True))["memory_bytes"]
        # Nothing of them is wanted any more: no farewell, or each would have to be handed back.
        await worker.kill()
    return None if before is None or after is None else (after - before) / residents / 1024


async def _settled(lab: Laboratory, *, in_body: bool, stats: Mapping[str, Any]) -> bool:
    """Whether all are here, and have done what they do before they wait."""
    residents = lab.sizes.residents
    if stats["actors"] < residents:
        return False
    return stats["bodies"] == residents if in_body else await lab.database.gauges.retrying() == residents
