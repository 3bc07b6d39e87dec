"""A program whose bodies, in child interpreters, make spans of their own and see them sent.

Embedded, the parent itself exports nothing: it has a tracer provider, as the program that embeds the engine has.
"""

from __future__ import annotations

import json
import os

import anyio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from kernel import StageContext, WorkflowBuilder, stage
from runtime import App, Supervisor
from runtime.config import Settings
from runtime.database_urls import MEMORY
from telemetry.export import configure_export, flush, shutdown
from telemetry.logs import configure_logging

NO = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-00"}
YES = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}


@stage("sending", isolation="process")
def sending(ctx: StageContext[int]) -> bool:
    with trace.get_tracer("mine").start_as_current_span("mine") as span:
        pass
    flush()
    return span.is_recording() or span.get_span_context().trace_flags.sampled


@stage("naming", isolation="process")
def naming(ctx: StageContext[int]) -> int:
    return os.getpid()


named = WorkflowBuilder("naming", input=int, output=int).pipe(naming).build()
workflow = WorkflowBuilder("sending", input=int, output=bool).pipe(sending).build()


async def main() -> bool:
    async with Supervisor(App(workflows=[workflow]), settings=Settings(database_url=MEMORY)) as supervisor:
        run = await supervisor.start(workflow, 1)
        return await run.result()


async def name_children() -> list[int]:
    """The child interpreters of runs of which only the second is sampled."""
    settings = Settings(database_url=MEMORY, processes=1)
    async with Supervisor(App(workflows=[named]), settings=settings) as supervisor:
        return [await (await supervisor.start(named, 1, trace_context=each)).result() for each in (NO, YES, NO)]


def tell_children() -> None:
    """All of another program."""
    configure_logging("json", "info")
    configure_export()
    children = anyio.run(name_children)
    shutdown()
    print(json.dumps({"children": children}), flush=True)


def leave_after_one_run(*, embedded: bool) -> None:
    """All of the program; its main script cannot be this module, in which children find the stage."""
    configure_logging("json", "info")
    if embedded:
        trace.set_tracer_provider(TracerProvider())
    else:
        configure_export()
    sampled = anyio.run(main)
    shutdown()
    print(json.dumps({"sampled": sampled}), flush=True)
