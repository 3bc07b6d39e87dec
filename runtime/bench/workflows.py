"""The workflows that are measured. Their bodies do next to nothing, so what takes time is the engine.

They have inputs and outputs of a model, as real ones do. `Effects` writes down which bodies began and ended, in a file
that outlives a killed process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
from pydantic import BaseModel

from kernel import (
    CheckContext,
    NotReady,
    Ready,
    RetryAfter,
    StageContext,
    Suspend,
    Workflow,
    WorkflowBuilder,
    batch_stage,
    stage,
)
from kernel.authoring.stage import Stage
from runtime.app import App

__all__ = [
    "BRANCHES",
    "EFFECT_BYTES",
    "Effects",
    "Item",
    "Looks",
    "Nap",
    "Round",
    "app",
    "effect_line",
    "effects",
    "fan_out",
    "looks",
    "naps",
    "pipeline",
    "polls",
    "slow_pipeline",
    "waiting_bodies",
    "waiting_retries",
]

BRANCHES = 200
SLOW_S = 0.1
LONG = timedelta(days=1)


class Item(BaseModel):
    """What is passed from stage to stage."""

    number: int


class Nap(BaseModel):
    """When to go on, in seconds of the clock on the wall."""

    until_s: float


# -- three stages that do nothing -------------------------------------------------------------------------------------


@stage("first")
async def _first(ctx: StageContext[Item]) -> Item:
    return ctx.input


@stage("second")
async def _second(ctx: StageContext[Item]) -> Item:
    return ctx.input


@stage("third")
async def _third(ctx: StageContext[Item]) -> Item:
    return ctx.input


pipeline: Workflow[Item, Item] = (
    WorkflowBuilder("bench-pipeline", input=Item, output=Item).pipe(_first).pipe(_second).pipe(_third).build()
)


# -- many at the same time --------------------------------------------------------------------------------------------


def _branch(number: int) -> Stage[Item, Item, Any]:
    @stage(f"branch-{number}")
    async def branch(ctx: StageContext[Item]) -> Item:
        return ctx.input

    return branch


fan_out: Workflow[Item, Mapping[str, Any]] = (
    WorkflowBuilder("bench-fan-out", input=Item).parallel([_branch(number) for number in range(BRANCHES)]).build()
)


# -- waiting ----------------------------------------------------------------------------------------------------------


@stage("nap")
async def _nap(ctx: StageContext[Nap]) -> bool:
    left_s = ctx.input.until_s - time.time()
    if ctx.attempt == 1 and left_s > 0:
        raise RetryAfter(timedelta(seconds=left_s), "not yet")
    # Whether it waited at all.
    return ctx.attempt > 1


naps: Workflow[Nap, bool] = WorkflowBuilder("bench-naps", input=Nap, output=bool).pipe(_nap).build()


@stage("wait-in-body")
async def _wait_in_body(ctx: StageContext[Item]) -> Item:
    await anyio.sleep(LONG.total_seconds())
    return ctx.input


waiting_bodies: Workflow[Item, Item] = (
    WorkflowBuilder("bench-waiting-bodies", input=Item, output=Item).pipe(_wait_in_body).build()
)


@stage("wait-for-retry")
async def _wait_for_retry(_ctx: StageContext[Item]) -> Item:
    raise RetryAfter(LONG, "tomorrow")


waiting_retries: Workflow[Item, Item] = (
    WorkflowBuilder("bench-waiting-retries", input=Item, output=Item).pipe(_wait_for_retry).build()
)


# -- waiting to be looked at --------------------------------------------------------------------------------------


class Round(BaseModel):
    """When to be looked at for the first time, in seconds of the clock on the wall, and how much later again."""

    until_s: float
    gap_s: float


class Looks:
    """What the checks of this process have been asked: how often, by how many runs, and when for the last time."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.count: int = 0
        self.last_s: float = 0.0
        self.runs: set[str] = set()

    def note(self, run_id: str) -> None:
        """A check was called."""
        self.count += 1
        self.last_s = time.time()
        self.runs.add(run_id)


looks: Looks = Looks()


@batch_stage("poll")
async def _poll(ctx: StageContext[Round]) -> Suspend[Round] | bool:
    left = timedelta(seconds=max(ctx.input.until_s - time.time(), 0.0))
    return Suspend(state=ctx.input, poll_interval=left, max_wait=LONG)


@_poll.check
async def _looked_at(state: Round, ctx: CheckContext) -> Ready[bool] | NotReady:
    looks.note(ctx.run_id)
    again_s = state.until_s + state.gap_s
    left_s = again_s - time.time()
    # The first time it is not ready; the next time it has waited for the gap.
    return NotReady(next_check_in=timedelta(seconds=left_s)) if left_s > 0 else Ready(output=True)


polls: Workflow[Round, bool] = WorkflowBuilder("bench-polls", input=Round, output=bool).pipe(_poll).build()


# -- three stages that take a while, and leave a trace ----------------------------------------------------------------


class Effects:
    """A file of what bodies of this process did: a line of `EFFECT_BYTES` when one begins and when it ends."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def open(self, path: Path) -> None:
        """Write to this file from now on."""
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, what: str, run_id: str, stage_number: int) -> None:
        """Add a line; the operating system keeps it, whatever becomes of the process."""
        if self._descriptor is not None:
            os.write(self._descriptor, effect_line(what, run_id, stage_number, time.time()).encode())


def effect_line(what: str, run_id: str, stage_number: int, at_s: float) -> str:
    """A line of the file: "b" for a beginning or "e" for an end, the milliseconds of the clock, the body."""
    return f"{what} {round(1000 * at_s):013d} {run_id}/{stage_number % 10}\n"


EFFECT_BYTES = len(effect_line("b", "00000000-0000-7000-8000-000000000000", 1, 0.0))

effects: Effects = Effects()


def _slow(name: str) -> Stage[Item, Item, Any]:
    @stage(name)
    async def slow(ctx: StageContext[Item]) -> Item:
        effects.note("b", ctx.run_id, ctx.stage_number)
        await anyio.sleep(SLOW_S)
        effects.note("e", ctx.run_id, ctx.stage_number)
        return ctx.input

    return slow


slow_pipeline: Workflow[Item, Item] = (
    WorkflowBuilder("bench-slow-pipeline", input=Item, output=Item)
    .pipe(_slow("one"))
    .pipe(_slow("two"))
    .pipe(_slow("three"))
    .build()
)


WORKFLOWS: Sequence[Workflow[Any, Any]] = (
    pipeline,
    fan_out,
    naps,
    waiting_bodies,
    waiting_retries,
    slow_pipeline,
    polls,
)


def app() -> App:
    """All of them."""
    return App(workflows=WORKFLOWS)
