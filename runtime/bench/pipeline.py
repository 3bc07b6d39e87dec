"""Throughput: many runs of three no-op stages, started by one client as fast as it can, executed by other processes.

Beside it, in the same repetition, the bare limit: the rows of such a run, written without an engine.

The time counts from before the first start to the last run's last append, by the database's clock. Processor time
counts from the same moment until nothing is left to do; what the server writes is read when the processes have left,
because only then it has counted all of it, and so includes the few runs that warm everything up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from runtime.bench.laboratory import Laboratory, Measurement
from runtime.bench.messages import Message
from runtime.bench.processes import BenchProcess
from runtime.bench.statistics import summary
from runtime.bench.workflows import pipeline

__all__ = ["measure_bare_limit", "measure_pipeline", "measure_pipeline_in_process", "pipeline_summary"]

WITHIN_S = 300.0


async def measure_bare_limit(lab: Laboratory) -> Measurement:
    """Runs per second of the bare loop."""
    await lab.empty()
    async with lab.process("worker") as worker:
        # A run that was created where it is executed has the fewest appends, and those are the model's rows.
        model = await worker.ask("one-by-one", workflow=pipeline.id, runs=1)
        await worker.leave()
    async with lab.process("bare", event_loop="asyncio") as bare:
        written = await bare.ask(
            "bare",
            within_s=WITHIN_S,
            model_run_id=model["last_run_id"],
            runs=lab.sizes.bare_runs,
            warm_up=lab.sizes.warm_up,
        )
    return {"runs_per_s": written["runs_per_s"], "appends_per_run": written["appends_per_run"]}


async def measure_pipeline(lab: Laboratory, workers: int) -> Measurement:
    """One repetition with so many worker processes and a client."""
    await lab.empty()
    async with AsyncExitStack() as stack:
        first = await _Counts.of(lab)
        working = [await stack.enter_async_context(lab.process("worker")) for _ in range(workers)]
        client = await stack.enter_async_context(lab.process("client"))
        return await _measure(lab, first, {"client": [client], "worker": working}, partial(client.ask, "start-many"))


async def measure_pipeline_in_process(lab: Laboratory) -> Measurement:
    """One repetition in which the worker process itself starts the runs, and waits for their results.

    Never more at once than it can execute: a run that it cannot begin at once it leaves to whoever is free, as a client
    does, and that costs an append and a claim more.
    """
    await lab.empty()
    first = await _Counts.of(lab)
    async with lab.process("worker") as worker:
        at_once = lab.database.settings.max_bodies
        return await _measure(
            lab, first, {"client": [], "worker": [worker]}, partial(worker.ask, "keep-busy", at_once=at_once)
        )


@dataclass(frozen=True, slots=True)
class _Counts:
    """What the server had counted by a moment."""

    tuples: Any
    transactions: int

    @classmethod
    async def of(cls, lab: Laboratory) -> _Counts:
        return cls(await lab.database.gauges.tuples(), (await lab.database.gauges.work()).transactions)


async def _measure(
    lab: Laboratory,
    first: _Counts,
    processes: Mapping[str, Sequence[BenchProcess]],
    start: Callable[..., Awaitable[Message]],
) -> Measurement:
    runs, warm_up = lab.sizes.runs, lab.sizes.warm_up
    await start(workflow=pipeline.id, runs=warm_up)
    await lab.all_ended(within_s=WITHIN_S)
    before = await _cpu_s(processes)
    began = await lab.database.gauges.work()
    started = await start(workflow=pipeline.id, runs=runs, within_s=WITHIN_S)
    await lab.all_ended(within_s=WITHIN_S)
    ended = await lab.database.gauges.work()
    after = await _cpu_s(processes)
    took_s = await lab.database.gauges.last_ended_s() - began.moment_s
    for process in (*processes["worker"], *processes["client"]):
        await process.leave()
    await lab.database.gauges.alone()
    last = await _Counts.of(lab)
    tuples, every = last.tuples.since(first.tuples), runs + warm_up
    cpu = {who: 1000 * (after[who] - before[who]) / runs for who in ("client", "worker")}
    return {
        "runs_per_s": runs / took_s,
        "starts_per_s": runs / started["took_s"],
        "cpu_ms_per_run": {
            **cpu,
            "client_and_worker": sum(cpu.values()),
            "postgres": _per_run(ended.cpu_s_since(began), runs, 1000),
        },
        "appends_per_run": tuples.history / every,
        "head_writes_per_run": tuples.heads / every,
        "hot_percent": 100 * tuples.hot_heads / max(tuples.heads - every, 1),
        "rows_per_run": tuples.rows / every,
        "statements_per_run": (last.transactions - first.transactions) / every,
        "wal_bytes_per_run": _per_run(ended.wal_bytes_since(began), runs, 1),
    }


async def _cpu_s(processes: Mapping[str, Sequence[BenchProcess]]) -> Mapping[str, float]:
    return {who: sum([(await each.ask("usage"))["cpu_s"] for each in group]) for who, group in processes.items()}


def _per_run(total: float | None, runs: int, factor: float) -> float | None:
    return None if total is None else factor * total / runs


def pipeline_summary(repetitions: Sequence[Measurement], limits: Sequence[Measurement]) -> Measurement:
    """The measure's JSON from its repetitions and the bare limit of each; see the interface's `bench --json`."""
    # A ratio is one of the same repetition, so that a machine that is slow for a while is slow for both.
    compared = [
        {
            **each,
            "limit_runs_per_s": bare["runs_per_s"],
            "ratio_to_limit": each["runs_per_s"] / bare["runs_per_s"],
        }
        for each, bare in zip(repetitions, limits, strict=True)
    ]
    merged = summary(compared)
    lowest, highest = merged["range"]["runs_per_s"]
    return {**merged, "min": lowest, "max": highest}
