"""A process that exports as the command line does: it executes some runs, says how it went, and leaves.

Arguments: how many runs; then how many seconds of pause, or a line on standard input that ends the pause earlier.
"""

from __future__ import annotations

import json
import sys
import time

import anyio

from kernel import StageContext, WorkflowBuilder, stage
from runtime import App, Supervisor
from runtime.config import Settings
from runtime.database_urls import MEMORY
from telemetry.export import configure_export, shutdown
from telemetry.logs import configure_logging


@stage("double")
async def double(ctx: StageContext[int]) -> int:
    return 2 * ctx.input


@stage("refuse")
async def refuse(ctx: StageContext[int]) -> int:
    raise ValueError("no")


doubling = WorkflowBuilder("doubling", input=int, output=int).pipe(double).build()
refusing = WorkflowBuilder("refusing", input=int, output=int).pipe(refuse).build()


async def main(runs: int) -> list[int]:
    app = App(workflows=[doubling, refusing])
    async with Supervisor(app, settings=Settings(database_url=MEMORY)) as supervisor:
        results: list[int] = []
        for number in range(runs):
            run = await supervisor.start(doubling, number)
            results.append(await run.result())
            print(json.dumps({"run": number}), flush=True)
            if sys.stdin is not None and not sys.stdin.closed and len(sys.argv) > 2:
                await anyio.to_thread.run_sync(sys.stdin.readline)
        return results


if __name__ == "__main__":
    configure_logging("json", "info")
    configure_export()
    began = time.monotonic()
    results = anyio.run(main, int(sys.argv[1]))
    ran_s = time.monotonic() - began
    began = time.monotonic()
    shutdown()
    print(json.dumps({"results": results, "ran_s": ran_s, "left_s": time.monotonic() - began}), flush=True)
