"""A serverless host as a process, called by itself: `python serverless_host.py URL EFFECTS_DIR`.

It ticks and works without pause until it is told to stop. Every start of a body is a line in a file of this process,
written before anything is told to the engine.
"""

from __future__ import annotations

import signal
import sys

import anyio

from runtime import ServerlessHost
from runtime.config import load_settings
from telemetry.logs import configure_logging
from tests.chaos.mixed_fleet import app

CALLS_AT_ONCE = 8


async def serve(url: str) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with ServerlessHost(app(), settings=load_settings(database_url=url)) as host:
            print("ready", flush=True)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(tick, host)
                for _ in range(CALLS_AT_ONCE):
                    tasks.start_soon(work, host)
                async for _ in signals:
                    tasks.cancel_scope.cancel()


async def tick(host: ServerlessHost) -> None:
    while True:
        await host.run_maintenance_tick(max_claims=50)
        await anyio.sleep(0.05)


async def work(host: ServerlessHost) -> None:
    while True:
        done = await host.process_available_jobs(max_jobs=50)
        if not done.processed:
            await anyio.sleep(0.02)


if __name__ == "__main__":
    configure_logging("json", "warning", stream=sys.stdout)
    anyio.run(serve, sys.argv[1])
