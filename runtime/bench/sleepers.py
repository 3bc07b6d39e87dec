"""Waiting: many runs whose stage asks to be tried again later, all of them due at the same moment.

They are started by a client, begin, raise `RetryAfter`, and are out of the worker's memory while they wait. Then all
are due at once: how long until the last has ended, what the worker needs for it, and how late its event loop becomes,
which is what everything else in that process would notice.
"""

from __future__ import annotations

import time

import anyio

from runtime.bench.laboratory import Laboratory, Measurement
from runtime.bench.waiting import CAUTION, SAMPLE, WITHIN_S, in_ms, seconds_per_run, until_asleep
from runtime.bench.workflows import naps

__all__ = ["measure_sleepers"]

MEGABYTE = 1_000_000


async def measure_sleepers(lab: Laboratory) -> Measurement:
    """One repetition; every run waits at least `sleep_s`, and as much longer as it takes to create them all."""
    await lab.empty()
    runs, sleep_s = lab.sizes.sleepers, lab.sizes.sleep_s
    async with lab.process("worker") as worker, lab.process("client") as client:
        per_run_s = await seconds_per_run(lab, client, naps.id)
        await worker.ask("watch-memory")
        idle = (await worker.ask("usage", settle=True))["memory_bytes"]
        due_s = time.time() + per_run_s * runs * CAUTION + sleep_s
        await client.ask("start-many", workflow=naps.id, runs=runs, until_s=due_s, within_s=WITHIN_S)
        await client.leave()
        await until_asleep(worker, due_s)
        waiting = (await worker.ask("usage", settle=True))["memory_bytes"]
        early = SAMPLE + runs - await lab.database.gauges.unfinished()
        await anyio.sleep(max(due_s - time.time(), 0))
        before = (await worker.ask("usage"))["cpu_s"]
        await worker.ask("watch-loop")
        began_s = await lab.database.gauges.now_s()
        await lab.all_ended(within_s=WITHIN_S)
        lag = await worker.ask("loop-lag")
        usage = await worker.ask("usage")
        done_s = await lab.database.gauges.last_ended_s() - began_s
        await worker.leave()
    return {
        "runs": runs,
        "done_after_due_s": done_s,
        "not_asleep_when_due": early - SAMPLE,
        "memory_waiting_mb": _megabytes(waiting, idle),
        "memory_peak_mb": _megabytes(usage["peak_bytes"], idle),
        "loop_lag_ms": in_ms(lag),
        "worker_cpu_ms_per_run": 1000 * (usage["cpu_s"] - before) / runs,
    }


def _megabytes(bytes_now: int | None, bytes_before: int | None) -> float | None:
    if bytes_now is None or bytes_before is None:
        return None
    return max(bytes_now - bytes_before, 0) / MEGABYTE
