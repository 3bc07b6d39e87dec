"""Takeover: two workers execute runs of three stages that take 100 ms each, and one of them is killed half-way.

How long after the kill the last run ends, and which bodies ran twice. Bodies note their beginning and end in files,
which a killed process leaves behind: what had begun and not ended in it was in flight, and has to run again; nothing
else should.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from runtime.bench.laboratory import Laboratory, MeasureFailed, Measurement
from runtime.bench.workflows import EFFECT_BYTES, slow_pipeline

__all__ = ["Executions", "executions", "measure_takeover"]

STAGES = 3
WITHIN_S = 120.0
LOOK_S = 0.005
COMMIT_S = 0.25
"""How long before the kill a body must have ended for its end to be surely committed."""


async def measure_takeover(lab: Laboratory) -> Measurement:
    """One repetition."""
    await lab.empty()
    runs = lab.sizes.takeover_runs
    with tempfile.TemporaryDirectory(prefix="leasehold-bench-") as folder:
        survivor_file, victim_file = Path(folder, "survivor"), Path(folder, "victim")
        async with (
            lab.process("worker") as survivor,
            lab.process("worker") as victim,
            lab.process("client") as client,
        ):
            await survivor.ask("write-effects", path=str(survivor_file))
            await victim.ask("write-effects", path=str(victim_file))
            await client.ask("start-many", workflow=slow_pipeline.id, runs=runs)
            await _half_way(runs, [survivor_file, victim_file])
            killed_at_s = time.time()
            await victim.kill()
            killed_s = await lab.database.gauges.now_s()
            await lab.all_ended(within_s=WITHIN_S)
            took_s = await lab.database.gauges.last_ended_s() - killed_s
            await client.leave()
            await survivor.leave()
        done = executions(_text(survivor_file), _text(victim_file), killed_at_s)
    return {
        "runs": runs,
        "last_run_after_kill_s": took_s,
        "lease_s": lab.database.settings.lease.total_seconds(),
        "in_flight": done.in_flight,
        "ran_again": done.ran_again,
        "ran_again_needlessly": done.ran_again_needlessly,
    }


async def _half_way(runs: int, files: Sequence[Path]) -> None:
    """Wait until half of all bodies have ended; each leaves two lines. Raises: MeasureFailed."""
    with anyio.move_on_after(WITHIN_S) as patience:
        while sum(_size(file) for file in files) < runs * STAGES * EFFECT_BYTES:  # noqa: ASYNC110 - files tell nobody
            await anyio.sleep(LOOK_S)
        return
    if patience.cancelled_caught:
        raise MeasureFailed(f"half of the bodies had not run within {WITHIN_S:g} s")


def _text(file: Path) -> str:
    return file.read_text(encoding="ascii")


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Executions:
    """What the files say: bodies in flight in the victim, bodies that ran again, and those that need not have."""

    in_flight: int
    ran_again: int
    ran_again_needlessly: int


def executions(survivor: str, victim: str, killed_at_s: float) -> Executions:
    """Read the lines that `workflows.Effects` wrote.

    In flight is what had begun in the victim, and had not ended or had ended just before: an end counts when it is
    committed, which takes a moment that no body sees.
    """
    begun: Counter[str] = Counter()
    in_flight: set[str] = set()
    for line in survivor.splitlines():
        what, _, body = line.split(" ")
        begun[body] += what == "b"
    for line in victim.splitlines():
        what, at_ms, body = line.split(" ")
        begun[body] += what == "b"
        if what == "b":
            in_flight.add(body)
        elif int(at_ms) < 1000 * (killed_at_s - COMMIT_S):
            in_flight.discard(body)
    again = {body: times - 1 for body, times in begun.items() if times > 1}
    return Executions(
        in_flight=len(in_flight),
        ran_again=sum(again.values()),
        ran_again_needlessly=sum(times - (body in in_flight) for body, times in again.items()),
    )
