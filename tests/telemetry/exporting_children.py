"""A program whose bodies, in child interpreters, make spans of their own and see them sent.

Embedded, the parent itself exports nothing: it has a tracer provider, as the program that embeds the engine has.
"""

from __future__ import annotations

import json

import anyio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from kernel import StageContext, WorkflowBuilder, stage
from runtime import App, Supervisor
from runtime.config import Settings
from runtime.database_urls import MEMORY
from telemetry.export import configure_export, flush, shutdown
from telemetry.logs import configure_logging


@stage("sending", isolation="process")
def sending(ctx: StageContext[int]) -> bool:
    with trace.get_tracer("mine").start_as_current_span("mine") as span:
        pass
    flush()
    return span.is_recording() or span.get_span_context().trace_flags.sampled


workflow = WorkflowBuilder("sending", input=int, output=bool).pipe(sending).build()


async def main() -> bool:
    async with Supervisor(App(workflows=[workflow]), settings=Settings(database_url=MEMORY)) as supervisor:
        run = await supervisor.start(workflow, 1)
        return await run.result()


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
