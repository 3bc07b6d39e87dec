"""Which figures are shown, what the engine owes for each, and how much of a difference is noise; one literal table.

"First milestone" is what the engine must show, "goal" what makes it the one to pick. A figure without either is
printed all the same. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from runtime.bench.statistics import figure, range_of

__all__ = ["ROWS", "Found", "Row", "Verdict", "find", "verdict"]

Verdict: TypeAlias = Literal["goal", "milestone", "missed", ""]

TIME_NOISE = 1.3
"""Times and rates that differ by less say nothing on a machine that is shared."""
CPU_NOISE = 1.1
MEMORY_NOISE = 1.1
COUNT_NOISE = 1.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure: where it stands in the JSON, how it is written, and what is owed.

    `factor` turns the JSON's unit into the one of the label. `higher` figures are better when higher.
    """

    label: str
    measure: str
    path: str
    milestone: float | None = None
    goal: float | None = None
    higher: bool = False
    factor: float = 1.0
    noise: float = TIME_NOISE


@dataclass(frozen=True, slots=True)
class Found:
    """A figure in the unit of its row's label, with minimum and maximum when there were several."""

    value: float
    low: float
    high: float


def find(row: Row, measures: Mapping[str, Any]) -> Found | None:
    """The row's figure among measures; None when it was not taken."""
    measure = measures.get(row.measure)
    value = figure(measure, row.path)
    if value is None:
        return None
    low, high = range_of(measure, row.path) or (value, value)
    return Found(value * row.factor, low * row.factor, high * row.factor)


def verdict(row: Row, value: float) -> Verdict:
    """Which of the two it reaches; nothing when nothing is owed."""
    if row.goal is not None and _reaches(row, value, row.goal):
        return "goal"
    if row.milestone is None:
        return ""
    return "milestone" if _reaches(row, value, row.milestone) else "missed"


def _reaches(row: Row, value: float, owed: float) -> bool:
    return value >= owed if row.higher else value <= owed


def _pipeline_rows(measure: str, *, owner: str) -> Sequence[Row]:
    """What a run costs, whoever creates it; in a client's hands it is one append and a claim more."""
    remote = owner == "client"
    return (
        Row(
            label="  appends per run",
            measure=measure,
            path="appends_per_run",
            milestone=6 if remote else 5,
            goal=5 if remote else 4,
            noise=COUNT_NOISE,
        ),
        Row(
            label="  rows per run",
            measure=measure,
            path="rows_per_run",
            milestone=14 if remote else 12,
            goal=11 if remote else 8,
            noise=COUNT_NOISE,
        ),
        Row(label="  statements per run", measure=measure, path="statements_per_run", noise=CPU_NOISE),
        Row(
            label="  WAL, KB per run",
            measure=measure,
            path="wal_bytes_per_run",
            goal=5 if remote else 4,
            factor=1 / 1024,
            noise=CPU_NOISE,
        ),
    )


ROWS: Sequence[Row] = (
    Row(label="bare limit, runs/s", measure="bare_limit", path="runs_per_s", higher=True),
    Row(
        label="pipeline, 1 worker, runs/s",
        measure="pipeline",
        path="runs_per_s",
        milestone=800,
        goal=2000,
        higher=True,
    ),
    Row(
        label="  of the bare limit",
        measure="pipeline",
        path="ratio_to_limit",
        milestone=0.11,
        goal=0.27,
        higher=True,
    ),
    Row(
        label="  CPU of client, ms per run",
        measure="pipeline",
        path="cpu_ms_per_run.client",
        noise=CPU_NOISE,
    ),
    Row(
        label="  CPU of worker, ms per run",
        measure="pipeline",
        path="cpu_ms_per_run.worker",
        noise=CPU_NOISE,
    ),
    Row(
        label="  CPU of both, ms per run",
        measure="pipeline",
        path="cpu_ms_per_run.client_and_worker",
        milestone=1.3,
        goal=0.5,
        noise=CPU_NOISE,
    ),
    Row(
        label="  CPU of Postgres, ms per run",
        measure="pipeline",
        path="cpu_ms_per_run.postgres",
        milestone=0.6,
        goal=0.25,
        noise=CPU_NOISE,
    ),
    *_pipeline_rows("pipeline", owner="client"),
    Row(label="pipeline, 2 workers, runs/s", measure="pipeline_2_workers", path="runs_per_s", higher=True),
    Row(
        label="  against 1 worker",
        measure="pipeline_2_workers",
        path="ratio_to_one_worker",
        milestone=1.0,
        goal=1.3,
        higher=True,
    ),
    Row(label="pipeline in one process, runs/s", measure="pipeline_in_process", path="runs_per_s", higher=True),
    Row(
        label="  CPU of worker, ms per run",
        measure="pipeline_in_process",
        path="cpu_ms_per_run.worker",
        noise=CPU_NOISE,
    ),
    *_pipeline_rows("pipeline_in_process", owner="worker"),
    Row(
        label="telemetry, 1 % sampled: CPU against off",
        measure="telemetry",
        path="ratio_1_percent",
        milestone=1.05,
        noise=CPU_NOISE,
    ),
    Row(label="  all sampled", measure="telemetry", path="ratio_all", noise=CPU_NOISE),
    Row(label="  both without, for the noise", measure="telemetry", path="ratio_not_at_all", noise=CPU_NOISE),
    Row(label="one run at a time, p50, ms", measure="latency_ms", path="p50", milestone=10, goal=4),
    Row(label="  p99, ms", measure="latency_ms", path="p99", milestone=30, goal=10),
    Row(label="the same from another process, p50, ms", measure="latency_remote_ms", path="p50", milestone=25, goal=8),
    Row(label="  p99, ms", measure="latency_remote_ms", path="p99"),
    Row(label="200 parallel stages, ms", measure="fan_out_s", path="median", milestone=150, goal=40, factor=1000),
    Row(
        label="runs due at once: all done after, s",
        measure="sleepers",
        path="done_after_due_s",
        milestone=15,
        goal=6,
    ),
    Row(
        label="  memory above idle, MB",
        measure="sleepers",
        path="memory_peak_mb",
        milestone=60,
        goal=30,
        noise=MEMORY_NOISE,
    ),
    Row(label="  event loop's lag, p50, ms", measure="sleepers", path="loop_lag_ms.p50"),
    Row(label="  event loop's lag, p99, ms", measure="sleepers", path="loop_lag_ms.p99"),
    Row(label="  event loop's lag, max, ms", measure="sleepers", path="loop_lag_ms.max"),
    Row(
        label="stages due at once: all polled after, s",
        measure="polls",
        path="polled_after_due_s",
        milestone=30,
    ),
    Row(label="  event loop's lag, p50, ms", measure="polls", path="loop_lag_ms.p50"),
    Row(label="  event loop's lag, p99, ms", measure="polls", path="loop_lag_ms.p99", milestone=50),
    Row(label="  event loop's lag, max, ms", measure="polls", path="loop_lag_ms.max"),
    Row(label="  CPU of worker, ms per look", measure="polls", path="worker_cpu_ms_per_look", noise=CPU_NOISE),
    Row(label="ready at once: all done after, s", measure="polls", path="done_after_due_s"),
    Row(label="  event loop's lag, p99, ms", measure="polls", path="loop_lag_done_ms.p99"),
    Row(
        label="takeover after SIGKILL, last run, s",
        measure="takeover",
        path="last_run_after_kill_s",
        # The lease of ten seconds that is the default, and two.
        milestone=12,
        goal=2,
    ),
    Row(label="  bodies that ran again", measure="takeover", path="ran_again", noise=TIME_NOISE),
    Row(label="  of those not in flight", measure="takeover", path="ran_again_needlessly", goal=0, noise=COUNT_NOISE),
    Row(
        label="idle: statements per second, alone",
        measure="idle",
        path="statements_per_s_alone",
        milestone=2,
        goal=0.5,
    ),
    Row(label="  beside another", measure="idle", path="statements_per_s_beside_another", milestone=2, goal=1.2),
    Row(label="  CPU, %", measure="idle", path="cpu_percent", milestone=1, goal=0.5, noise=TIME_NOISE),
    Row(
        label="memory per resident actor, KB", measure="actor_memory", path="kb_per_actor", goal=12, noise=MEMORY_NOISE
    ),
    Row(label="  with a body that waits, KB", measure="actor_memory", path="kb_per_actor_in_body", noise=MEMORY_NOISE),
    Row(label="flood of starts, starts/s", measure="flood", path="starts_per_s", higher=True),
    Row(label="  appends queued, at most", measure="flood", path="appends_queued_peak"),
    Row(label="  memory above idle, MB", measure="flood", path="memory_peak_mb", noise=MEMORY_NOISE),
    Row(label="  KB per start that waits", measure="flood", path="kb_per_start", noise=MEMORY_NOISE),
    Row(label="import runtime, s", measure="start_up_s", path="import", milestone=0.8, goal=0.35),
    Row(label="leasehold runs, s", measure="start_up_s", path="runs", milestone=0.8, goal=0.35),
)
