"""A supervisor process for tests that kill, pause and deploy: `python worker.py URL EFFECTS_DIR [VERSION]`.

Every start and end of a body is a line in a file of this process, written before anything is told to the engine, so a
test can compare what happened with what was recorded. Prints `ready SESSION` once it owns a session, and what it logs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import anyio

from kernel import StageContext, Workflow, WorkflowBuilder, stage
from runtime import App, Settings, Supervisor
from runtime.config import load_settings
from telemetry.logs import configure_logging

EFFECTS = Path(os.environ.get("EFFECTS_DIR", "."))


def note(ctx: StageContext, what: str) -> None:
    line = {"run": ctx.run_id, "stage": ctx.stage_id, "attempt": ctx.attempt, "what": what, "at": time.time()}
    with (EFFECTS / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


@stage("first")
async def first(ctx: StageContext[int]) -> int:
    return await tenth_of_a_second(ctx)


@stage("second")
async def second(ctx: StageContext[int]) -> int:
    return await tenth_of_a_second(ctx)


@stage("third")
async def third(ctx: StageContext[int]) -> int:
    return await tenth_of_a_second(ctx)


async def tenth_of_a_second(ctx: StageContext[int]) -> int:
    note(ctx, "start")
    await anyio.sleep(0.1)
    note(ctx, "end")
    return ctx.input


@stage("wait")
async def wait(ctx: StageContext[float]) -> str:
    note(ctx, "start")
    try:
        await anyio.sleep(ctx.input)
    finally:
        note(ctx, "finally")
    return "waited"


@stage("block")
async def block(ctx: StageContext[float]) -> str:
    note(ctx, "start")
    time.sleep(ctx.input)  # noqa: ASYNC251 - it is what the test is about
    return "blocked"


@stage("kill")
async def kill(ctx: StageContext[None]) -> str:
    note(ctx, "start")
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


steps = WorkflowBuilder("steps", input=int, output=int).pipe(first).pipe(second).pipe(third).build()
waiting = WorkflowBuilder("waiting", input=float, output=str).pipe(wait).build()
blocking = WorkflowBuilder("blocking", input=float, output=str).pipe(block).build()
poison = WorkflowBuilder("poison", output=str).pipe(kill).build()


def versioned(version: str) -> Workflow[int, int]:
    return WorkflowBuilder("versioned", input=int, output=int, version=version).pipe(first).build()


def app(version: str = "1") -> App:
    return App(workflows=[steps, waiting, blocking, poison, versioned(version)])


async def serve(settings: Settings, version: str) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with Supervisor(app(version), settings=settings) as supervisor:
            print(f"ready {supervisor.stats().session_id}", flush=True)
            async for _ in signals:
                return


if __name__ == "__main__":
    configure_logging("json", "info", stream=sys.stdout)
    anyio.run(serve, load_settings(database_url=sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "1")
