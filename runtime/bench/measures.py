"""The measures by name, in the order in which they are taken: one literal table, and how repetitions interleave.

A repetition takes every measure once, so that a machine that is slow for a minute is slow for all of them and not for
one. What takes long is repeated less often.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from kernel.errors import EngineError
from runtime.bench.actor_memory import measure_actor_memory
from runtime.bench.fan_out import measure_fan_out
from runtime.bench.flood import measure_flood
from runtime.bench.idle import measure_idle
from runtime.bench.laboratory import Laboratory, MeasureFailed, Measurement
from runtime.bench.latency import measure_latency, measure_remote_latency
from runtime.bench.pipeline import measure_bare_limit, measure_pipeline, measure_pipeline_in_process, pipeline_summary
from runtime.bench.polls import measure_polls
from runtime.bench.processes import ProcessFailed
from runtime.bench.sleepers import measure_sleepers
from runtime.bench.start_up import measure_start_up
from runtime.bench.statistics import rounded, summary
from runtime.bench.table import number
from runtime.bench.takeover import measure_takeover
from runtime.bench.watched import measure_watched

__all__ = ["GROUPS", "MEASURES", "Measure", "take_all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A measure: its name in the JSON, the group that `--only` names, how to take it, and what of it to tell."""

    name: str
    group: str
    take: Callable[[Laboratory], Awaitable[Measurement]]
    headline: str
    unit: str
    repetitions_max: int = 1_000


MEASURES: Sequence[Measure] = (
    Measure(name="bare_limit", group="pipeline", take=measure_bare_limit, headline="runs_per_s", unit="runs/s"),
    Measure(
        name="pipeline",
        group="pipeline",
        take=partial(measure_pipeline, workers=1),
        headline="runs_per_s",
        unit="runs/s",
    ),
    Measure(
        name="pipeline_2_workers",
        group="pipeline",
        take=partial(measure_pipeline, workers=2),
        headline="runs_per_s",
        unit="runs/s",
    ),
    Measure(
        name="pipeline_in_process",
        group="pipeline",
        take=measure_pipeline_in_process,
        headline="runs_per_s",
        unit="runs/s",
    ),
    Measure(
        name="telemetry",
        group="telemetry",
        take=measure_watched,
        headline="ratio_1_percent",
        unit="times the CPU without",
    ),
    Measure(name="latency_ms", group="latency", take=measure_latency, headline="p50", unit="ms"),
    Measure(name="latency_remote_ms", group="latency", take=measure_remote_latency, headline="p50", unit="ms"),
    Measure(name="fan_out_s", group="fan-out", take=measure_fan_out, headline="median", unit="s"),
    Measure(name="start_up_s", group="start-up", take=measure_start_up, headline="import", unit="s", repetitions_max=3),
    Measure(
        name="takeover",
        group="takeover",
        take=measure_takeover,
        headline="last_run_after_kill_s",
        unit="s after the kill",
        repetitions_max=3,
    ),
    Measure(
        name="actor_memory",
        group="memory",
        take=measure_actor_memory,
        headline="kb_per_actor",
        unit="KB per actor",
        repetitions_max=1,
    ),
    Measure(
        name="flood", group="flood", take=measure_flood, headline="starts_per_s", unit="starts/s", repetitions_max=1
    ),
    Measure(
        name="idle",
        group="idle",
        take=measure_idle,
        headline="statements_per_s_alone",
        unit="statements/s",
        repetitions_max=1,
    ),
    Measure(
        name="sleepers",
        group="sleepers",
        take=measure_sleepers,
        headline="done_after_due_s",
        unit="s after they were due",
        repetitions_max=1,
    ),
    Measure(
        name="polls",
        group="polls",
        take=measure_polls,
        headline="polled_after_due_s",
        unit="s after they were due",
        repetitions_max=1,
    ),
)

GROUPS: Sequence[str] = tuple(dict.fromkeys(measure.group for measure in MEASURES))


async def take_all(lab: Laboratory, groups: Collection[str], repetitions: int) -> Mapping[str, Measurement]:
    """Take the measures of these groups, repetition by repetition, and return their summaries by name.

    One that fails has {"error": why} instead of figures, and the others go on.
    """
    chosen = [measure for measure in MEASURES if measure.group in groups]
    taken: dict[str, list[Measurement]] = {measure.name: [] for measure in chosen}
    errors: dict[str, str] = {}
    for repetition in range(repetitions):
        for measure in chosen:
            times = min(repetitions, measure.repetitions_max)
            if repetition >= times or measure.name in errors:
                continue
            try:
                found = await measure.take(lab)
            except (MeasureFailed, ProcessFailed, EngineError, TimeoutError) as error:
                errors[measure.name] = str(error) or type(error).__name__
                lab.tell(f"{measure.name}: {errors[measure.name]}")
            else:
                taken[measure.name].append(found)
                lab.tell(_progress(measure, found, repetition + 1, times))
    return _summaries(taken, errors)


def _progress(measure: Measure, found: Measurement, repetition: int, times: int) -> str:
    value = found[measure.headline]
    shown = "?" if value is None else number(value)
    return f"{measure.name} {repetition} of {times}: {shown} {measure.unit}"


def _summaries(taken: Mapping[str, Sequence[Measurement]], errors: Mapping[str, str]) -> Mapping[str, Measurement]:
    found: dict[str, Measurement] = {}
    for name, repetitions in taken.items():
        if name in errors:
            found[name] = {"error": errors[name]}
        elif name.startswith("pipeline"):
            if "bare_limit" in errors:
                found[name] = summary(repetitions)
            else:
                found[name] = pipeline_summary(repetitions, taken["bare_limit"])
        else:
            found[name] = summary(repetitions)
    _compare_workers(taken, found)
    return found


def _compare_workers(taken: Mapping[str, Sequence[Measurement]], found: dict[str, Measurement]) -> None:
    """Two workers against one, of the same repetition each time."""
    both = (taken.get("pipeline", ()), taken.get("pipeline_2_workers", ()))
    if not all(both) or len(both[0]) != len(both[1]):
        return
    ratios = [two["runs_per_s"] / one["runs_per_s"] for one, two in zip(*both, strict=True)]
    target: dict[str, Any] = found["pipeline_2_workers"]
    target["ratio_to_one_worker"] = rounded(median(ratios), 3)
    target["range"]["ratio_to_one_worker"] = [rounded(min(ratios), 3), rounded(max(ratios), 3)]
