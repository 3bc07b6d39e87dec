"""A workflow whose bodies make spans of their own, in every kind of place, and wait in the middle for a file."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import anyio
from opentelemetry import trace
from pydantic import BaseModel

from kernel import StageContext, WorkflowBuilder, stage
from runtime import App

tracer = trace.get_tracer("user")


class Doc(BaseModel):
    gate: str


@stage("fetch")
async def fetch(ctx: StageContext[Doc]) -> Doc:
    with tracer.start_as_current_span("GET"):
        return ctx.input


async def until_let_go(ctx: StageContext[Doc]) -> Doc:
    with tracer.start_as_current_span("lock"):
        pass
    while not await anyio.Path(ctx.input.gate).exists():  # noqa: ASYNC110 - another process makes it
        await anyio.sleep(0.01)
    return ctx.input


@stage("hold", timeout=timedelta(seconds=50))
async def hold(ctx: StageContext[Doc]) -> Doc:
    return await until_let_go(ctx)


@stage("hold", queue="default", timeout=timedelta(seconds=50))
async def hold_as_job(ctx: StageContext[Doc]) -> Doc:
    return await until_let_go(ctx)


@stage("thread")
def thread(ctx: StageContext[Doc]) -> Doc:
    with tracer.start_as_current_span("read"):
        return Doc(gate=str(Path(ctx.input.gate)))


@stage("process", isolation="process")
def process(ctx: StageContext[Doc]) -> Doc:
    with tracer.start_as_current_span("compute"):
        return ctx.input


traced = WorkflowBuilder("traced", input=Doc, output=Doc).pipe(fetch).pipe(hold).pipe(thread).pipe(process).build()
queued = WorkflowBuilder("queued", input=Doc, output=Doc).pipe(hold_as_job).build()
app = App(workflows=[traced, queued])
