"""A process that the benchmark starts: a supervisor or two, a client, or the bare loop, which does what it is asked.

START HERE for what is really measured: everything goes through the public interface, as a program of a user would.
Reads requests from standard input (see `messages`) and ends when that is closed, so that it cannot outlive who started
it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from kernel.authoring.workflow import Workflow
from runtime.bench import workflows
from runtime.bench.messages import Message, decoded, encoded, settings_from
from runtime.bench.own_process import LoopLag, MemoryPeak, cpu_s, memory_bytes, settled_memory_bytes
from runtime.bench.statistics import percentile
from runtime.bench.watched import Watched, open_watched
from runtime.bench.workflows import Item, Nap, Round
from runtime.bootstrap import open_storage, write_bare_runs
from runtime.client import Client
from runtime.commandline.garbage import calm_garbage_collection
from runtime.commandline.opening import run_async
from runtime.config import Settings
from runtime.supervisor import Supervisor
from telemetry.logs import configure_logging

__all__ = ["main"]


def main() -> None:
    """Be what the first line says until standard input ends."""
    first = _first_message()
    configure_logging("json", "error")
    settings = settings_from(first["settings"])
    run_async(lambda: _live(first, settings), settings, long_lived=True)


def _first_message() -> Message:
    # Around Python's buffer, which would swallow what follows and is to be read by the event loop.
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(0, 65_536)
        if not data:
            raise SystemExit(0)
        line += data
    return decoded(line)


async def _live(first: Message, settings: Settings) -> int:
    send, receive = anyio.create_memory_object_stream[Message](16)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_read, send, tasks.cancel_scope)
        async with _child(first, settings, tasks) as child:
            _say({"ready": True})
            await _serve(child, receive)
        _say({"left": True})
        tasks.cancel_scope.cancel()
    return 0


async def _read(send: MemoryObjectSendStream[Message], life: anyio.CancelScope) -> None:
    rest = b""
    while True:
        await anyio.wait_readable(0)
        data = os.read(0, 65_536)
        if not data:
            life.cancel()
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            await send.send(decoded(line))


async def _serve(child: Child, receive: MemoryObjectReceiveStream[Message]) -> None:
    async for request in receive:
        if request["do"] == "leave":
            return
        do = _REQUESTS[request["do"]]
        _say(await do(child, request))


def _say(message: Message) -> None:
    sys.stdout.buffer.write(encoded(message))
    sys.stdout.buffer.flush()


class Child:
    """What the requests work with. `client` is None in the bare loop; only rivals are `watched`, the second of two."""

    def __init__(
        self, client: Client | None, settings: Settings, schema: str, tasks: TaskGroup, watched: Watched | None = None
    ) -> None:
        self.any_client = client
        self.watched = watched
        self.settings = settings
        self.schema = schema
        self.tasks = tasks
        self.lag: LoopLag | None = None
        self.peak: MemoryPeak | None = None

    @property
    def client(self) -> Client:
        """The supervisor or client of this process."""
        assert self.any_client is not None, "the bare loop starts no runs"
        return self.any_client


@asynccontextmanager
async def _child(first: Message, settings: Settings, tasks: TaskGroup) -> AsyncGenerator[Child]:
    # As `up` does.
    calm_garbage_collection()
    schema = str(first["schema"])
    storage = open_storage(settings, schema=schema)
    match first["role"]:
        case "worker":
            async with Supervisor(workflows.app(), settings=settings, storage=storage) as supervisor:
                yield Child(supervisor, settings, schema, tasks)
        case "rivals":
            async with (
                Supervisor(workflows.app(), settings=settings, storage=storage) as supervisor,
                open_watched(settings, schema, first["sampled"]) as watched,
            ):
                yield Child(supervisor, settings, schema, tasks, watched)
        case "client":
            async with Client(workflows.app(), settings=settings, storage=storage) as client:
                yield Child(client, settings, schema, tasks)
        case _:
            yield Child(None, settings, schema, tasks)


# -- requests --------------------------------------------------------------------------------------------------------


async def _usage(child: Child, request: Message) -> Message:
    """Processor time and memory; with `settle` after a collection of garbage."""
    now = settled_memory_bytes() if request.get("settle") else memory_bytes()
    peak = None if child.peak is None else child.peak.value
    if child.peak is not None:
        child.peak.value = now or 0
    return {"cpu_s": cpu_s(), "memory_bytes": now, "peak_bytes": peak}


async def _stats(child: Child, _request: Message) -> Message:
    """How many actors and bodies it has."""
    stats = cast("Supervisor", child.client).stats()
    return {"actors": stats.actors, "bodies": stats.bodies, "claims": stats.claims, "jobs": stats.jobs_processed}


async def _watch_memory(child: Child, _request: Message) -> Message:
    """Take down the peak from now on; `usage` tells it, and begins anew."""
    child.peak = MemoryPeak()
    child.tasks.start_soon(child.peak.run)
    return {}


async def _watch_loop(child: Child, _request: Message) -> Message:
    """Take down the event loop's lag from now on, forgetting what was before."""
    if child.lag is None:
        child.lag = LoopLag()
        child.tasks.start_soon(child.lag.run)
    child.lag.values.clear()
    return {}


async def _loop_lag(child: Child, _request: Message) -> Message:
    """The lag since it was asked to watch."""
    values = [0.0] if child.lag is None or not child.lag.values else child.lag.values
    return {"p50_s": percentile(values, 50), "p99_s": percentile(values, 99), "max_s": max(values)}


async def _start_many(child: Child, request: Message) -> Message:
    """Start so many runs as fast as the interface lets us; returns when all have been committed."""
    workflow = _WORKFLOWS[request["workflow"]]
    inputs = (_input(request, number) for number in range(request["runs"]))
    began = time.perf_counter()
    handles = await child.client.start_many(workflow, inputs)
    took_s = time.perf_counter() - began
    return {"took_s": took_s, "started": len(handles)}


async def _keep_busy(child: Child, request: Message) -> Message:
    """Start so many runs and wait for their results, with never more than `at_once` under way."""
    began = time.perf_counter()
    await _busy(child.client, request)
    return {"took_s": time.perf_counter() - began}


async def _take_turns(child: Child, request: Message) -> Message:
    """Keep this supervisor and the watched one busy, one after the other; the processor time of each turn of both."""
    assert child.watched is not None, "only rivals take turns"
    supervisor, flush = child.watched
    turns: dict[str, list[float]] = {"bare": [], "watched": []}
    for turn in range(request["turns"]):
        # Who comes first has the machine as the other has left it.
        for watched in (False, True) if turn % 2 else (True, False):
            began_s = cpu_s()
            await _busy(supervisor if watched else child.client, request)
            if watched:
                # What is sent later is paid by who causes it.
                flush()
            turns["watched" if watched else "bare"].append(cpu_s() - began_s)
    return turns


async def _busy(client: Client, request: Message) -> None:
    workflow = _WORKFLOWS[request["workflow"]]
    numbers = iter(range(request["runs"]))

    async def one_after_another() -> None:
        for number in numbers:
            handle = await client.start(workflow, _input(request, number))
            await handle.result()

    async with anyio.create_task_group() as tasks:
        for _ in range(request["at_once"]):
            tasks.start_soon(one_after_another)


async def _flood(child: Child, request: Message) -> Message:
    """Start so many runs at once, each by a task of its own, with no bound but what the engine sets."""
    workflow = _WORKFLOWS[request["workflow"]]
    unanswered = child.client.storage.unanswered or int
    accepted = queued_peak = 0

    async def one(number: int) -> None:
        nonlocal accepted, queued_peak
        await child.client.start(workflow, _input(request, number))
        accepted += 1
        queued_peak = max(queued_peak, unanswered())

    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for number in range(request["runs"]):
            tasks.start_soon(one, number)
    return {"took_s": time.perf_counter() - began, "accepted": accepted, "queued_peak": queued_peak}


async def _one_by_one(child: Child, request: Message) -> Message:
    """Start a run, wait for its result, and again; the seconds of each."""
    workflow = _WORKFLOWS[request["workflow"]]
    times_s: list[float] = []
    last_run_id = ""
    for number in range(request["runs"]):
        began = time.perf_counter()
        handle = await child.client.start(workflow, _input(request, number))
        await handle.result()
        times_s.append(time.perf_counter() - began)
        last_run_id = handle.id
    return {"times_s": times_s, "last_run_id": last_run_id}


async def _write_effects(_child: Child, request: Message) -> Message:
    """Have bodies leave a trace in this file."""
    workflows.effects.open(Path(request["path"]))
    return {}


async def _bare(child: Child, request: Message) -> Message:
    """Write the rows of a run again, without an engine."""
    result = await write_bare_runs(
        child.settings,
        child.schema,
        model_run_id=request["model_run_id"],
        runs=request["runs"],
        warm_up=request["warm_up"],
    )
    return {"runs_per_s": result.runs / result.took_s, "appends_per_run": result.appends_per_run}


async def _looks(_child: Child, request: Message) -> Message:
    """What checks were asked since they were forgotten; `forget` forgets them now."""
    found = {
        "count": workflows.looks.count,
        "runs": len(workflows.looks.runs),
        "last_s": workflows.looks.last_s,
    }
    if request.get("forget"):
        workflows.looks.clear()
    return found


def _input(request: Message, number: int) -> Item | Nap | Round:
    until_s = request.get("until_s")
    if until_s is not None and "gap_s" in request:
        return Round(until_s=until_s, gap_s=request["gap_s"])
    return Item(number=number) if until_s is None else Nap(until_s=until_s)


_WORKFLOWS: Mapping[str, Workflow[Any, Any]] = {workflow.id: workflow for workflow in workflows.WORKFLOWS}

_REQUESTS: Mapping[str, Callable[[Child, Message], Awaitable[Message]]] = {
    "usage": _usage,
    "stats": _stats,
    "watch-memory": _watch_memory,
    "watch-loop": _watch_loop,
    "loop-lag": _loop_lag,
    "start-many": _start_many,
    "keep-busy": _keep_busy,
    "take-turns": _take_turns,
    "flood": _flood,
    "one-by-one": _one_by_one,
    "looks": _looks,
    "write-effects": _write_effects,
    "bare": _bare,
}
