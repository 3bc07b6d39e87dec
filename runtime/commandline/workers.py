"""`up --workers N`: several supervisor processes, started again when they die.

The parent executes nothing. Each worker is a process group of its own, so that Ctrl-C in a terminal reaches the parent
alone, which passes it on once; and each holds the reading end of a pipe, so that it notices when the parent is gone.
What a worker needs to know goes through its environment: a database URL in its arguments would show its password to
everybody who lists processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import anyio
from anyio.abc import Process

from runtime.app import App
from runtime.bootstrap import database_name, embedded_notice
from runtime.commandline.failures import DONE, GONE, UNAVAILABLE, USAGE
from runtime.commandline.invocation import Up
from runtime.commandline.opening import Context, note_notice, run_async
from runtime.commandline.serving import say_banner, say_left
from runtime.commandline.signals import StopRequest, stop_request
from runtime.config import SETTINGS, Settings
from telemetry.logs import EventLogger, get_logger

__all__ = ["serve_with_workers"]

logger: EventLogger = get_logger("leasehold.up")

BACKOFF_MIN_S = 0.5
BACKOFF_MAX_S = 30.0
SETTLED_S = 60.0
"""A worker that has lived so long did not fail to start."""

_HOME = Path(__file__).parents[2]
# -P and the end of sys.path: a file in the working directory must not be imported instead of ours.
_PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from runtime.__main__ import main; sys.exit(main())"


class _Workers:
    """The processes of one parent and what has become of them."""

    def __init__(self, context: Context, command: Up) -> None:
        self.context = context
        self.command = command
        self.processes: dict[int, Process] = {}
        self.stopping = anyio.Event()
        self.code = DONE

    def kill(self) -> None:
        """End all of them at once; called from a signal handler."""
        for process in tuple(self.processes.values()):
            with suppress(ProcessLookupError):
                process.kill()

    def stop(self, code: int = DONE) -> None:
        """Tell all of them to drain, and start none again; idempotent."""
        if self.stopping.is_set():
            return
        self.code = code
        self.stopping.set()
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                process.terminate()

    async def keep(self, number: int) -> None:
        """One worker, over and over."""
        pause_s, first = BACKOFF_MIN_S, True
        while not self.stopping.is_set():
            began = anyio.current_time()
            code = await self._run_once(number)
            if self.stopping.is_set():
                return
            if code in (USAGE, GONE) or (code == UNAVAILABLE and first):
                # It has said why; another try would say the same, or begin with an empty database as if nothing was.
                self.stop(UNAVAILABLE if code == GONE else code)
                return
            first = False
            if anyio.current_time() - began > SETTLED_S:
                pause_s = BACKOFF_MIN_S
            logger.error("worker.died", worker=number, status=_status(code), restart_in_s=pause_s)
            with anyio.move_on_after(pause_s):
                await self.stopping.wait()
            pause_s = min(pause_s * 2, BACKOFF_MAX_S)

    async def _run_once(self, number: int) -> int:
        words = ["up", "--supervised", str(number), *(["--accept-changes"] if self.command.accept_changes else [])]
        words += ["--json"] if self.context.screen.as_json else []
        if self.command.metrics_port is not None:
            port = self.command.metrics_port + number - 1
            words += ["--metrics-port", str(port), "--metrics-host", self.command.metrics_host]
        process = await anyio.open_process(
            [sys.executable, "-P", "-c", _PROGRAM, str(_HOME), *words],
            stdin=subprocess.PIPE,
            stdout=None,
            stderr=None,
            env=_environment(self.context.settings, number),
            start_new_session=True,
        )
        async with process:
            self.processes[number] = process
            logger.info("worker.started", worker=number, pid=process.pid)
            if self.stopping.is_set():
                process.terminate()
            try:
                return await process.wait()
            finally:
                del self.processes[number]


def serve_with_workers(command: Up, context: Context, app: App, count: int) -> int:
    """Keep `count` workers until told to stop; 0 after all of them have drained."""

    def kill_all() -> None:
        if workers:
            workers[0].kill()
        say_left(context)

    workers: list[_Workers] = []

    async def main() -> int:
        notice = await embedded_notice(context.settings)
        if notice is not None:
            _tell(notice, context)
        what = f"leasehold starts {count} workers" if count > 1 else "leasehold starts a worker"
        say_banner(context, what, [("database", database_name(context.settings))], app)
        workers.append(_Workers(context, command))
        return await _serve(workers[0], count, stop)

    with stop_request(at_once=kill_all) as stop:
        return run_async(main, context.settings)


async def _serve(workers: _Workers, count: int, stop: StopRequest) -> int:
    async def heed() -> None:
        name = await stop.wait()
        running = len(workers.processes)
        if not workers.context.screen.as_json:
            workers.context.screen.note(
                f"Stopping ({name}): {running} workers are draining. A second signal stops at once."
            )
        workers.stop()

    async with anyio.create_task_group() as watching:
        watching.start_soon(heed)
        async with anyio.create_task_group() as tasks:
            for number in range(1, count + 1):
                tasks.start_soon(workers.keep, number)
        watching.cancel_scope.cancel()
    return workers.code


def _tell(notice: str, context: Context) -> None:
    """What each of the workers would say of the database."""
    if context.screen.as_json or context.settings.log_format == "json":
        logger.warning("database.embedded", notice=notice)
    else:
        note_notice(context.screen)(notice)


def _environment(settings: Settings, number: int) -> dict[str, str]:
    """Ours, with what came from our arguments, and a name that tells the workers apart."""
    environment = dict(os.environ)
    for row in SETTINGS:
        if settings.source_of(row.name) == "argument":
            value = getattr(settings, row.name)
            environment[row.variable] = ",".join(settings.queues) if row.name == "queues" else str(value)
    environment["LEASEHOLD_NAME"] = f"{settings.name}-{number}"
    return environment


def _status(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
