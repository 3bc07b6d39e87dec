"""A flood: a client that starts runs without waiting for any, from as many tasks as there are runs.

It must be slowed down to what the database commits. Nothing executes the runs, so all that grows is what waits in the
client: the appends that are queued, of which there is a bound, and its memory above idle, in all and for each start, of
which a good part is the caller's own tasks.
"""

from __future__ import annotations

from runtime.bench.laboratory import Laboratory, MeasureFailed, Measurement
from runtime.bench.workflows import pipeline

__all__ = ["measure_flood"]

WITHIN_S = 300.0


async def measure_flood(lab: Laboratory) -> Measurement:
    """One repetition."""
    await lab.empty()
    runs = lab.sizes.flood_runs
    async with lab.process("client") as client:
        await client.ask("start-many", workflow=pipeline.id, runs=lab.sizes.warm_up)
        await client.ask("watch-memory")
        idle = await client.ask("usage", settle=True)
        flooded = await client.ask("flood", workflow=pipeline.id, runs=runs, within_s=WITHIN_S)
        usage = await client.ask("usage")
        await client.leave()
    accepted = await lab.database.gauges.unfinished() - lab.sizes.warm_up
    if accepted != runs or flooded["accepted"] != runs:
        raise MeasureFailed(f"{accepted} of {runs} runs were created, and {flooded['accepted']} were said to be")
    above = None if idle["memory_bytes"] is None else max(usage["peak_bytes"] - idle["memory_bytes"], 0)
    return {
        "runs": runs,
        "starts_per_s": runs / flooded["took_s"],
        "memory_peak_mb": None if above is None else above / 1_000_000,
        "appends_queued_peak": flooded["queued_peak"],
        "kb_per_start": None if above is None else above / runs / 1024,
        "cpu_ms_per_start": 1000 * (usage["cpu_s"] - idle["cpu_s"]) / runs,
    }
