"""Workflows whose bodies a test holds in its hands: it sees them enter, lets them pass, and sees them interrupted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anyio
from pydantic import BaseModel

from kernel import Stage, StageContext, Workflow, WorkflowBuilder, stage


class Doc(BaseModel):
    text: str


class Shout(BaseModel):
    times: int = 1


@dataclass(frozen=True)
class Visit:
    """One body at the gate."""

    run_id: str
    stage_id: str
    attempt: int


class Gate:
    """Where bodies wait until the test lets them pass."""

    def __init__(self, *, opened: bool = False) -> None:
        self.entered: list[Visit] = []
        self.passed: list[Visit] = []
        self.interrupted: list[Visit] = []
        self._way = anyio.Event()
        if opened:
            self._way.set()

    def open(self) -> None:
        self._way.set()

    async def admit(self, ctx: StageContext[Any, Any]) -> None:
        visit = Visit(ctx.run_id, ctx.stage_id, ctx.attempt)
        self.entered.append(visit)
        try:
            await self._way.wait()
            self.passed.append(visit)
        finally:
            if visit not in self.passed:
                self.interrupted.append(visit)

    def stage(self, id: str = "hold", **options: Any) -> Stage[Doc, Doc, Any]:
        """A stage whose body waits here and returns its input."""

        @stage(id, **options)
        async def hold(ctx: StageContext[Doc]) -> Doc:
            await self.admit(ctx)
            return ctx.input

        return hold

    def workflow(
        self, id: str = "gated", *, version: str = "1", stage_id: str = "hold", **options: Any
    ) -> Workflow[Doc, Doc]:
        return WorkflowBuilder(id, input=Doc, output=Doc, version=version).pipe(self.stage(stage_id, **options)).build()


def echo(id: str = "echo", *, version: str = "1") -> Workflow[Doc, Doc]:
    """A workflow of one stage that repeats its input as often as its configuration says."""

    @stage("repeat")
    async def repeat(ctx: StageContext[Doc, Shout]) -> Doc:
        return Doc(text=ctx.input.text * ctx.config.times)

    return WorkflowBuilder(id, input=Doc, output=Doc, version=version).pipe(repeat).build()


def failing(error: type[Exception], id: str = "failing", **options: Any) -> Workflow[Doc, Doc]:
    """A workflow of one stage that raises."""

    @stage("fail", **options)
    async def fail(ctx: StageContext[Doc]) -> Doc:
        raise error(ctx.input.text)

    return WorkflowBuilder(id, input=Doc, output=Doc).pipe(fail).build()


def three_stages(log: list[tuple[str, str]], id: str = "three") -> Workflow[Doc, Doc]:
    """Three stages in a row; each run of a body is noted as (run id, stage id)."""

    def noted(stage_id: str) -> Any:
        @stage(stage_id)
        async def body(ctx: StageContext[Doc]) -> Doc:
            log.append((ctx.run_id, ctx.stage_id))
            return ctx.input

        return body

    return WorkflowBuilder(id, input=Doc, output=Doc).pipe(noted("a")).pipe(noted("b")).pipe(noted("c")).build()
