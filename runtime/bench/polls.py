"""Polling: many suspended stages, all of them to be looked at at the same moment, by one process.

They are started by a client, suspend, and are out of the worker's memory while they wait. Then all are due at once, and
what is waited for is not ready: how long until each has been looked at, and how late the worker's event loop becomes.
After a pause all are due once more, and ready: how long until the last run has ended.
"""

from __future__ import annotations

import time

import anyio

from runtime.bench.laboratory import Laboratory, MeasureFailed, Measurement
from runtime.bench.processes import BenchProcess
from runtime.bench.waiting import CAUTION, WITHIN_S, in_ms, seconds_per_run, until_asleep
from runtime.bench.workflows import polls

__all__ = ["measure_polls"]

SETTLE_S = 3.0
LOOK_S = 0.1


async def measure_polls(lab: Laboratory) -> Measurement:
    """One repetition; runs wait at least `poll_s`, as long as it takes to create them, and `poll_s` once more."""
    await lab.empty()
    runs, poll_s = lab.sizes.polls, lab.sizes.poll_s
    async with lab.process("worker") as worker, lab.process("client") as client:
        per_run_s = await seconds_per_run(lab, client, polls.id, gap_s=0.0)
        due_s = time.time() + per_run_s * runs * CAUTION + poll_s
        await worker.ask("looks", forget=True)
        await client.ask("start-many", workflow=polls.id, runs=runs, until_s=due_s, gap_s=poll_s, within_s=WITHIN_S)
        await client.leave()
        await until_asleep(worker, due_s)
        early = (await worker.ask("looks", forget=True))["count"]
        await anyio.sleep(max(due_s - time.time(), 0))
        await worker.ask("watch-loop")
        before = (await worker.ask("usage"))["cpu_s"]
        looks = await _all_looked_at(worker, runs - early)
        lag = await worker.ask("loop-lag")
        used = (await worker.ask("usage"))["cpu_s"] - before
        again_s = due_s + poll_s
        if looks["last_s"] > again_s - SETTLE_S:
            raise MeasureFailed("the first round was not over before the second began: wait longer, by --sleep-s")
        await anyio.sleep(max(again_s - time.time(), 0))
        await worker.ask("watch-loop")
        began_s = await lab.database.gauges.now_s()
        await lab.all_ended(within_s=WITHIN_S)
        lag_done = await worker.ask("loop-lag")
        done_s = await lab.database.gauges.last_ended_s() - began_s
        await worker.leave()
    return {
        "stages": runs,
        "polled_after_due_s": looks["last_s"] - due_s,
        "looks_per_stage": looks["count"] / looks["runs"],
        "not_asleep_when_due": early,
        "loop_lag_ms": in_ms(lag),
        "worker_cpu_ms_per_look": 1000 * used / looks["count"],
        "done_after_due_s": done_s,
        "loop_lag_done_ms": in_ms(lag_done),
    }


async def _all_looked_at(worker: BenchProcess, stages: int) -> dict[str, float]:
    """Wait until each stage has been looked at. Raises: MeasureFailed."""
    found: dict[str, float] = {"runs": 0}
    with anyio.move_on_after(WITHIN_S):
        while found["runs"] < stages:
            await anyio.sleep(LOOK_S)
            found = dict(await worker.ask("looks"))
        return found
    raise MeasureFailed(f"{found['runs']} of {stages} stages had been looked at after {WITHIN_S:g} s")
