"""What the processes of a mixed fleet execute, and its supervisor: `python -m tests.chaos.mixed_fleet URL`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import anyio

from kernel import StageContext, WorkflowBuilder, stage
from runtime import App, Supervisor
from runtime.config import load_settings
from telemetry.logs import configure_logging

EFFECTS = Path(os.environ.get("EFFECTS_DIR", "."))


def note(ctx: StageContext[int]) -> None:
    with (EFFECTS / f"{os.getpid()}.effects").open("a") as file:
        file.write(f"{ctx.run_id} {ctx.stage_id} {ctx.attempt}\n")


@stage("begin")
async def begin(ctx: StageContext[int]) -> int:
    note(ctx)
    return ctx.input + 1


@stage("left")
async def left(ctx: StageContext[int]) -> int:
    note(ctx)
    return ctx.input * 2


@stage("right", queue="gpu")
async def right(ctx: StageContext[int]) -> int:
    note(ctx)
    return ctx.input * 3


fork = WorkflowBuilder("fork", input=int).pipe(begin).parallel([left, right]).build()


def app() -> App:
    return App(workflows=[fork])


async def supervise(url: str) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with Supervisor(app(), settings=load_settings(database_url=url)):
            print("ready", flush=True)
            async for _ in signals:
                return


if __name__ == "__main__":
    configure_logging("json", "warning", stream=sys.stdout)
    anyio.run(supervise, sys.argv[1])
