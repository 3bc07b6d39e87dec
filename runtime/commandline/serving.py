"""`up`: a supervisor in the foreground, from its first line to the end of its drain."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import anyio
from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from kernel import Workflow
from kernel.errors import Unavailable
from kernel.model.jobs import DEFAULT_QUEUE
from runtime.app import App
from runtime.bootstrap import Storage, open_storage
from runtime.commandline.application import load_app
from runtime.commandline.database_watch import until_gone
from runtime.commandline.failures import DONE, FAILED, GONE, report
from runtime.commandline.garbage import calm_garbage_collection
from runtime.commandline.invocation import Up
from runtime.commandline.layout import Cell, Span, fields
from runtime.commandline.opening import Context, note_notice, run_async
from runtime.commandline.signals import StopRequest, stop_request
from runtime.supervisor import Supervisor
from telemetry.logs import EventLogger, configure_logging, get_logger

__all__ = ["example_input", "say_banner", "say_left", "serve", "unmatched_queues"]

logger: EventLogger = get_logger("leasehold.up")

REMINDER_S = 5.0
UNRULY_S = 10.0
"""How long after the grace a body may take to heed its cancellation before the process leaves without it."""


def serve(command: Up, context: Context) -> int:
    """Execute runs until told to stop; 0 after a drain."""
    if command.queues is not None:
        sources = {**context.settings.sources, "queues": "argument"}
        context = replace(context, settings=replace(context.settings, queues=command.queues, sources=sources))
    settings = context.settings
    fields = {} if command.supervised is None else {"worker": command.supervised}
    configure_logging("json" if context.screen.as_json else settings.log_format, settings.log_level, fields=fields)
    app = load_app(settings)
    if command.workers is not None:
        from runtime.commandline.workers import serve_with_workers

        return serve_with_workers(command, context, app, command.workers)
    calm_garbage_collection()
    with stop_request(at_once=lambda: say_left(context)) as stop:
        return run_async(lambda: _serve(command, context, app, stop), settings, long_lived=True)


async def _serve(command: Up, context: Context, app: App, stop: StopRequest) -> int:
    stopping = anyio.Event()
    opened: Supervisor | None = None
    gone: Unavailable | None = None

    async def heed() -> None:
        await stop.wait()
        stopping.set()
        if opened is None:
            # There is nothing to drain yet, and opening may take as long as a database that does not answer.
            life.cancel()

    async def leave_when_gone(storage: Storage) -> None:
        nonlocal gone
        gone = await until_gone(storage)
        # Now, because leaving takes a while: what it would tell the database goes nowhere.
        logger.error("database.gone", error=gone.message)
        life.cancel()
        await anyio.sleep(UNRULY_S)
        _end_now(_gone_code(command, context, gone))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(heed)
        if command.supervised is not None:
            tasks.start_soon(_stop_with_parent, stop)
        with anyio.CancelScope() as life:
            async with _supervisor(command, context, app) as supervisor:
                opened = supervisor
                _say_up(command, context, app, supervisor)
                tasks.start_soon(leave_when_gone, supervisor.storage)
                await stopping.wait()
                tasks.start_soon(_say_draining, command, context, supervisor, stop)
        tasks.cancel_scope.cancel()
    if gone is not None:
        return _gone_code(command, context, gone)
    threads = 0 if opened is None else opened.stats().abandoned_threads
    if threads:
        what = _counted(threads, "thread", "threads")
        text = f"Stopped. Every run was handed back; {what} that nobody can interrupt ended with this process."
        _say(command, context, "supervisor.stopped", text, abandoned_threads=threads)
        _end_now(DONE)
    _say(command, context, "supervisor.stopped", "Stopped. Every run was handed back.")
    return DONE


def _end_now(code: int) -> None:
    """End the process without waiting for what cannot be interrupted; the interpreter would join its threads."""
    if (export := sys.modules.get("telemetry.export")) is not None:
        export.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _supervisor(command: Up, context: Context, app: App) -> Supervisor:
    tell = None if _speaks_json(context) else note_notice(context.screen)
    if command.supervised is not None:
        tell = _say_nothing  # the parent has, once for all of them
    storage = open_storage(context.settings, tell=tell)
    return Supervisor(app, settings=context.settings, storage=storage, accept_changes=command.accept_changes)


async def _stop_with_parent(stop: StopRequest) -> None:
    """A worker whose parent has died (its end of the pipe is closed) has nobody to be stopped by."""
    descriptor = sys.stdin.fileno()
    while True:
        await anyio.wait_readable(descriptor)
        if not os.read(descriptor, 1024):
            stop.ask("the end of its parent")
            return


# -- what is said ------------------------------------------------------------------------------------------------------


def _speaks_json(context: Context) -> bool:
    return context.screen.as_json or context.settings.log_format == "json"


def _say(command: Up, context: Context, event: str, text: str, **facts: object) -> None:
    """One fact: a line for people, or an event for machines."""
    if _speaks_json(context):
        logger.info(event, **facts)
    else:
        context.screen.note(text if command.supervised is None else f"worker {command.supervised}: {text}")


def _say_nothing(_notice: str) -> None:
    pass


def say_left(context: Context) -> None:
    """The last line of who stops at once; said in a signal handler, which must not find the stream in use."""
    lease_s = context.settings.lease.total_seconds()
    text = f"Stopped at once. What was under way is taken over within {lease_s:g} s, or by the next `leasehold up`.\n"
    if not _speaks_json(context):
        with suppress(OSError):
            os.write(2, text.encode())


def _gone_code(command: Up, context: Context, error: Unavailable) -> int:
    return report(error, context.screen) if command.supervised is None else GONE


def _say_up(command: Up, context: Context, app: App, supervisor: Supervisor) -> None:
    session_id = supervisor.stats().session_id
    workflows = [f"{workflow.id} {workflow.version}" for workflow in app.workflows]
    if _speaks_json(context) or command.supervised is not None:
        queues = context.settings.queues
        idle, elsewhere = unmatched_queues(app, queues)
        if idle and _speaks_json(context):
            # Where there is a banner, it says so.
            logger.warning("queues.without_stages", queues=list(idle))
        logger.info(
            "supervisor.started",
            session_id=session_id,
            database=supervisor.storage.database,
            workflows=workflows,
            queues=list(queues),
            queues_elsewhere=list(elsewhere),
        )
        return
    rows = [("session", session_id or ""), ("database", supervisor.storage.database)]
    say_banner(context, "leasehold is up", rows, app)


def say_banner(context: Context, headline: str, rows: Sequence[tuple[str, str]], app: App) -> None:
    """The first lines for people: what has been started, where, what it knows, and how a run of it is started."""
    if _speaks_json(context):
        return
    screen = context.screen
    screen.note(Span(headline, "bold green"), Span("  (Ctrl-C drains, twice stops at once)", "dim"))
    known = ", ".join(f"{workflow.id} {workflow.version}" for workflow in app.workflows)
    queues = context.settings.queues
    idle, elsewhere = unmatched_queues(app, queues)
    shown: list[tuple[str, Cell]] = [
        *rows,
        ("workflows", known or "(none: this process will only keep others' runs waiting)"),
        ("queues", ", ".join(queues) + (" (and no whole runs)" if context.settings.max_runs == 0 else "")),
        *[(f'queue "{queue}"', Span("none of these workflows has a stage in it", "yellow")) for queue in idle],
        *[(f'queue "{queue}"', f"not served here; stages: {', '.join(elsewhere[queue])}") for queue in elsewhere],
    ]
    if app.workflows:
        first = app.workflows[0]
        shown.append(("start a run", f"leasehold start {first.id} --input '{example_input(first)}' --wait"))
    for each in fields([(f"  {label}", value) for label, value in shown]):
        screen.note(each)


def unmatched_queues(app: App, served: Sequence[str]) -> tuple[tuple[str, ...], Mapping[str, Sequence[str]]]:
    """Which served queues no stage names, and which queues of stages are not served, with the ids of those stages.

    The default queue is never idle: the stages of runs that are driven by jobs are in it without naming it.
    """
    stages: dict[str, list[str]] = {}
    for workflow in app.workflows:
        for stage in workflow.execution_plan().stages.values():
            if stage.queue is not None and stage.id not in stages.setdefault(stage.queue, []):
                stages[stage.queue].append(stage.id)
    idle = tuple(queue for queue in served if queue not in stages and queue != DEFAULT_QUEUE)
    return idle, {queue: ids for queue, ids in sorted(stages.items()) if queue not in served}


async def _say_draining(command: Up, context: Context, supervisor: Supervisor, stop: StopRequest) -> None:
    """What is waited for, at once and again while it lasts."""
    grace_s = context.settings.drain_grace.total_seconds()
    stats = supervisor.stats()
    what = _counted(stats.bodies, "stage body", "stage bodies")
    text = f"Stopping ({stop.name}): "
    if stats.bodies:
        text += f"waiting up to {grace_s:g} s for {what} to end. A second signal stops at once."
    else:
        text += "nothing is executing."
    facts = {"bodies": stats.bodies, "runs": stats.actors}
    _say(command, context, "supervisor.draining", text, signal=stop.name, **facts, grace_s=grace_s)
    patience_s = grace_s + UNRULY_S
    while True:
        await anyio.sleep(min(REMINDER_S, max(patience_s, 0.1)))
        patience_s -= REMINDER_S
        stats = supervisor.stats()
        if patience_s <= 0:
            what = _counted(stats.bodies, "stage body ignores", "stage bodies ignore")
            text = f"{what} being cancelled: leaving without. Other processes repeat those attempts."
            _say(command, context, "supervisor.left_bodies", text, bodies=stats.bodies, runs=stats.actors)
            _end_now(FAILED)
        text = "Still giving runs back: the database does not answer."
        if stats.bodies:
            text = f"Still waiting for {_counted(stats.bodies, 'stage body', 'stage bodies')}."
        _say(command, context, "supervisor.draining", text, bodies=stats.bodies, runs=stats.actors)


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


_EXAMPLES: Mapping[str, object] = {
    "string": "…",
    "integer": 1,
    "number": 1.0,
    "boolean": True,
    "array": [],
    "object": {},
    "null": None,
}


def example_input(workflow: Workflow[Any, Any]) -> str:
    """JSON of the shape of a workflow's input, required fields only; for a line that can be copied and filled in."""
    if workflow.input is None:
        return "null"
    try:
        schema = TypeAdapter[Any](cast("Any", workflow.input)).json_schema()
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
        return "JSON"
    properties: dict[str, dict[str, Any]] = schema.get("properties", {})
    if not properties:
        return json.dumps(_EXAMPLES.get(schema.get("type", ""), "…"), ensure_ascii=False)
    wanted = schema.get("required", [])
    example = {name: _EXAMPLES.get(properties[name].get("type", ""), "…") for name in wanted}
    return json.dumps(example, ensure_ascii=False)
