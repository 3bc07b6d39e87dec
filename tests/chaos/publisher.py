"""A supervisor process that publishes what it executes: `python publisher.py DATABASE_URL webhook|jetstream SINK_URL`.

It is there to be killed. A sink is given little time, so that what a dead process had claimed comes free soon.
"""

from __future__ import annotations

import sys
from datetime import timedelta

import anyio

from adapters.sinks import jetstream, webhook
from kernel import Sink, StageContext, WorkflowBuilder, stage
from runtime import App, Supervisor
from runtime.config import load_settings

SECRET = "chaos, sixteen characters"
SUBJECT = "chaos"
TIMEOUT = timedelta(seconds=1)


@stage("first")
async def first(ctx: StageContext[int]) -> int:
    return ctx.input


@stage("second")
async def second(ctx: StageContext[int]) -> int:
    return ctx.input


@stage("third")
async def third(ctx: StageContext[int]) -> int:
    return ctx.input


steps = WorkflowBuilder("published", input=int, output=int).pipe(first).pipe(second).pipe(third).build()


def sink_of(kind: str, url: str) -> Sink:
    if kind == "webhook":
        return webhook(url, secret=SECRET, allow=["127.0.0.0/8"], timeout=TIMEOUT, max_retries=100)
    return jetstream(url, stream=SUBJECT, subject=SUBJECT, timeout=TIMEOUT, max_retries=100)


async def serve(database: str, kind: str, url: str) -> None:
    app = App(workflows=[steps], sinks=[sink_of(kind, url)])
    async with Supervisor(app, settings=load_settings(database_url=database)):
        print("ready", flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(serve, *sys.argv[1:4])
