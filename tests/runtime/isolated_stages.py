"""Stages that run in child interpreters, which have to find them by importing this module."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import anyio
import anyio.lowlevel
from pydantic import BaseModel

from kernel import NonRetryable, RetryAfter, RetryPolicy, StageContext, StageResult, stage


class Doc(BaseModel):
    path: str


class Text(BaseModel):
    text: str
    pid: int = 0


class Options(BaseModel):
    loud: bool = False


class Odd(Exception):
    pass


@stage("earlier")
async def earlier(ctx: StageContext[Doc]) -> Text:
    return Text(text=ctx.input.path)


@stage("isolated", isolation="process")
def isolated(ctx: StageContext[Doc, Options]) -> Text:
    text = ctx.input.path.upper() if ctx.config.loud else ctx.input.path
    return Text(text=text, pid=os.getpid())


@stage("isolated-async", isolation="process")
async def isolated_async(ctx: StageContext[Doc]) -> Text:
    await anyio.lowlevel.checkpoint()
    return Text(text=anyio.get_cancelled_exc_class().__module__, pid=os.getpid())


@stage("joined", isolation="process")
def joined(ctx: StageContext[Text]) -> str:
    return f"{type(ctx.input).__name__} {type(ctx.require(earlier)).__name__} {ctx.require('earlier').text}"


@stage("measured", isolation="process")
def measured(ctx: StageContext[None]) -> StageResult[int]:
    return StageResult(1, metrics={"pages": 3}, artifacts={"raw": b"\x00\xff", "table": [1]})


@stage("large", isolation="process")
def large(ctx: StageContext[Doc]) -> Text:
    return Text(text=ctx.input.path[::-1])


@stage("identity", isolation="process", timeout=timedelta(minutes=5))
def identity(ctx: StageContext[None]) -> dict[str, object]:
    assert ctx.deadline is not None
    return {"run": ctx.run_id, "stage": ctx.stage_id, "attempt": ctx.attempt, "deadline": ctx.deadline.isoformat()}


@stage("talking", isolation="process")
def talking(ctx: StageContext[None]) -> None:
    ctx.log("info", "begun", odd=object, pages=3)
    ctx.progress(0.25, "a quarter", of="all")
    print("standard output is the body's")
    assert sys.stdin.read() == ""


@stage("talkative", isolation="process")
def talkative(ctx: StageContext[None]) -> None:
    for number in range(5_000):
        ctx.log("debug", f"line {number}")


@stage("raising", isolation="process", retry=RetryPolicy(non_retryable=(Odd,)))
def raising(ctx: StageContext[str]) -> None:
    match ctx.input:
        case "odd":
            raise Odd("odd one \0")
        case "final":
            raise NonRetryable("no")
        case "later":
            raise RetryAfter(timedelta(seconds=8), "later")
        case "exit":
            sys.exit(5)
        case _:
            raise ValueError("plain")


@stage("wrong", isolation="process")
def wrong(ctx: StageContext[None]) -> Text:
    return {"text": 3}  # type: ignore[return-value]


@stage("dying", isolation="process")
def dying(ctx: StageContext[str]) -> None:
    match ctx.input:
        case "exit":
            os._exit(3)
        case _:
            ctypes.string_at(0)


@stage("forking", isolation="process")
def forking_and_dying(ctx: StageContext[None]) -> None:
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


@stage("reaching", isolation="process")
def reaching(ctx: StageContext[str]) -> None:
    match ctx.input:
        case "storage":
            ctx.storage.blocking.put("key", 1)
        case "step":
            ctx.step.blocking("one", int)
        case "annotate":
            ctx.annotate("decision.outcome", "x")
        case "service":
            ctx.service("http", object)
        case _:
            print(list(ctx.services))


def note(path: str, text: str) -> None:
    """Leave a line that the test reads, all at once."""
    with Path(path).open("a") as file:
        file.write(text + "\n")


@stage("stuck", isolation="process", timeout=timedelta(seconds=0.3))
def stuck(ctx: StageContext[str]) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    note(ctx.input, f"{os.getpid()} {child.pid}")
    time.sleep(60)


@stage("waiting", isolation="process")
def waiting(ctx: StageContext[str]) -> None:
    note(ctx.input, f"{os.getpid()}")
    time.sleep(60)


@stage("polite", isolation="process")
def polite(ctx: StageContext[str]) -> None:
    note(ctx.input, f"{os.getpid()}")
    try:
        while True:
            ctx.raise_if_cancelled()
            time.sleep(0.005)
    finally:
        note(ctx.input, "cleaned up")


@stage("polite-async", isolation="process")
async def polite_async(ctx: StageContext[str]) -> None:
    note(ctx.input, f"{os.getpid()}")
    try:
        await anyio.sleep(60)
    finally:
        note(ctx.input, "cleaned up")


@stage("untidy", isolation="process")
def untidy(ctx: StageContext[str]) -> int:
    match ctx.input:
        case "thread":
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        case "child":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        case "environment":
            os.environ["UNTIDY"] = "yes"
        case _:
            pass
    return os.getpid()


@stage("signalled", isolation="process")
def signalled(ctx: StageContext[None]) -> bool:
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
    return subprocess.run([sys.executable, "-c", "pass"], check=True).returncode == 0


@stage("paths", isolation="process")
def paths(ctx: StageContext[None]) -> list[str]:
    return [*sys.path, os.environ.get("PYTHONPATH", "(none)")]
