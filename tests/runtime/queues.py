"""Workflows with stages in queues, whose bodies say where they ran and wait when they are told to."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import anyio
from pydantic import BaseModel

from kernel import (
    CheckContext,
    NotReady,
    Ready,
    RetryPolicy,
    StageContext,
    Suspend,
    Workflow,
    WorkflowBuilder,
    batch_stage,
    stage,
)


class Gates:
    """`entered` are (run id, stage id, attempt); a body passes once its stage is opened."""

    def __init__(self) -> None:
        self.entered: list[tuple[str, str, int]] = []
        self.interrupted: list[tuple[str, str]] = []
        self._ways: dict[str, anyio.Event] = {}

    def way(self, stage_id: str) -> anyio.Event:
        return self._ways.setdefault(stage_id, anyio.Event())

    def open(self, *stage_ids: str) -> None:
        for stage_id in stage_ids:
            self.way(stage_id).set()

    async def pass_through(self, ctx: StageContext[Any]) -> None:
        self.entered.append((ctx.run_id, ctx.stage_id, ctx.attempt))
        try:
            await self.way(ctx.stage_id).wait()
        except anyio.get_cancelled_exc_class():
            self.interrupted.append((ctx.run_id, ctx.stage_id))
            raise

    def stages(self) -> list[str]:
        return [stage_id for _, stage_id, _ in self.entered]


class Ticket(BaseModel):
    number: int = 7


def gated(gates: Gates, id: str = "renders", *, retry: RetryPolicy | None = None) -> Workflow[int, int]:
    """prepare, then render in queue "gpu", then deliver."""

    @stage("prepare")
    async def prepare(ctx: StageContext[int]) -> int:
        return ctx.input + 1

    @stage("render", queue="gpu", retry=retry or RetryPolicy())
    async def render(ctx: StageContext[int]) -> int:
        await gates.pass_through(ctx)
        return ctx.input * 10

    @stage("deliver")
    async def deliver(ctx: StageContext[int]) -> int:
        return ctx.input + 5

    return WorkflowBuilder(id, input=int, output=int).pipe(prepare).pipe(render).pipe(deliver).build()


def side_by_side(gates: Gates, id: str = "sides", *, on_failure: Any = "finish") -> Workflow[int, Any]:
    """left and right at the same time, one of them in queue "gpu", then both."""

    @stage("left", queue="gpu")
    async def left(ctx: StageContext[int]) -> int:
        await gates.pass_through(ctx)
        return ctx.input + 1

    @stage("right", retry=RetryPolicy(max_attempts=1))
    async def right(ctx: StageContext[int]) -> int:
        await gates.pass_through(ctx)
        if ctx.input < 0:
            raise ValueError("negative")
        return ctx.input + 2

    return WorkflowBuilder(id, input=int).parallel([left, right], on_failure=on_failure).build()


def plain(id: str = "plain") -> Workflow[int, int]:
    """Nothing of it names a queue: double, then two at a time, then the sum."""

    @stage("double")
    async def double(ctx: StageContext[int]) -> int:
        return ctx.input * 2

    @stage("up")
    async def up(ctx: StageContext[int]) -> int:
        return ctx.input + 1

    @stage("down")
    async def down(ctx: StageContext[int]) -> int:
        return ctx.input - 1

    @stage("sum")
    async def total(ctx: StageContext[dict[str, int]]) -> int:
        return ctx.input["up"] + ctx.input["down"]

    return WorkflowBuilder(id, input=int, output=int).pipe(double).parallel([up, down]).pipe(total).build()


def polled(
    asked: list[int], id: str = "polled", *, checks: int = 2, every: timedelta = timedelta(milliseconds=50)
) -> Workflow[int, str]:
    """Suspends, and is ready at the given check."""

    @batch_stage("order")
    async def order(ctx: StageContext[int]) -> Suspend[Ticket] | str:
        return Suspend(state=Ticket(number=ctx.input), poll_interval=every)

    @order.check
    async def arrived(state: Ticket, _ctx: CheckContext) -> Ready[str] | NotReady:
        asked.append(state.number)
        return Ready(f"order {state.number}") if len(asked) >= checks else NotReady()

    return WorkflowBuilder(id, input=int, output=str).pipe(order).build()


def here() -> int:
    return os.getpid()
