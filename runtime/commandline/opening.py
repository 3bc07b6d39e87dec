"""What most commands begin with: settings from the options, an open client, and the run that was meant."""

from __future__ import annotations

import signal
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TypeVar, cast

import anyio

from kernel.errors import InvalidCommand, RunNotFound
from kernel.model.ids import is_run_id
from runtime.app import App
from runtime.bootstrap import open_storage
from runtime.client import Client
from runtime.commandline.application import load_app
from runtime.commandline.failures import single
from runtime.commandline.invocation import Options
from runtime.commandline.layout import Span
from runtime.commandline.screen import Screen
from runtime.commandline.signals import StopRequest, stop_request
from runtime.config import Settings, load_settings
from runtime.run_handle import RunHandle

__all__ = [
    "AmbiguousRun",
    "Context",
    "KeyNotFound",
    "find_chosen_run",
    "find_run",
    "note_notice",
    "open_client",
    "run_async",
    "settings_of",
]

T = TypeVar("T")

SHORT_ID_LENGTH = 8
_MAIN_THREAD = threading.main_thread()


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a command has: effective settings and the screen. `schema` is another than the usual one of the database."""

    settings: Settings
    screen: Screen
    schema: str | None = None


class AmbiguousRun(InvalidCommand):
    """A short id that several runs end with; `matches` are their ids, newest first."""

    def __init__(self, short: str, matches: list[str]) -> None:
        self.short = short
        self.matches: tuple[str, ...] = tuple(matches)
        super().__init__(
            f'"{short}" is the end of more than one run id.',
            field="run",
            hint="\n".join(["Name one of these in full, or more of its end:", *(f"  {match}" for match in matches)]),
        )


class KeyNotFound(RunNotFound):
    """No run of this workflow was created with this idempotency key."""

    def __init__(self, workflow_id: str, key: str) -> None:
        super().__init__(key)
        self.message: str = f'No run of workflow "{workflow_id}" has the idempotency key "{key}".'
        self.field: str | None = "key"
        self.hint: str | None = (
            f"Keys are forgotten after a while. Look for the run: leasehold runs --workflow {workflow_id}"
        )


def settings_of(options: Options, screen: Screen) -> Settings:
    """The effective settings, after saying which variables have no effect. Raises: InvalidCommand."""
    settings = load_settings(app=options.app, database_url=options.database_url, data_dir=options.data_dir)
    for warning in settings.warnings:
        screen.note(Span("warning: ", "yellow"), warning)
    return settings


def note_notice(screen: Screen) -> Callable[[str], None]:
    """How a command tells what people should know about the database."""
    return lambda notice: screen.note(Span("note: ", "yellow"), notice)


@asynccontextmanager
async def open_client(context: Context, app: App | None = None, *, blobs: bool = False) -> AsyncGenerator[Client]:
    """A client of the configured database; without an app it can look and act, but not start runs.

    With `blobs` it reads or deletes some, which may lie in a store that only the app knows. An app that the command
    itself names is then imported for that, and for nothing else.
    """
    if blobs and context.settings.source_of("app") == "argument":
        app = App(workflows=[], blob_store=load_app(context.settings).blob_store)
    storage = open_storage(context.settings, tell=note_notice(context.screen), schema=context.schema)
    async with Client(app or App(workflows=[]), settings=context.settings, storage=storage) as client:
        yield client


async def find_run(client: Client, text: str) -> RunHandle[object]:
    """The run whose id is, or ends with, this text.

    Raises: RunNotFound, AmbiguousRun; InvalidCommand when the text is too short to be looked for.
    """
    wanted = text.strip().lower()
    if is_run_id(wanted):
        return client.run(wanted)
    if len(wanted) < SHORT_ID_LENGTH:
        reason = f'"{text}" is too short for a run id: the last {SHORT_ID_LENGTH} characters are needed.'
        raise InvalidCommand(reason, field="run", hint='"leasehold runs" shows them.')
    matches = await client.storage.persistence.find_runs(wanted)
    if not matches:
        raise RunNotFound(text)
    if len(matches) > 1:
        raise AmbiguousRun(text, list(matches))
    return client.run(matches[0])


async def find_chosen_run(client: Client, run: str | None, key: tuple[str, str] | None) -> RunHandle[object]:
    """The run that is named by its id (or the end of it), or by workflow and key.

    Raises: as `find_run`; KeyNotFound.
    """
    if key is None:
        assert run is not None, "the parser wants one of the two"
        return await find_run(client, run)
    handle = await client.find(*key)
    if handle is None:
        raise KeyNotFound(*key)
    return handle


def run_async(work: Callable[[], Awaitable[int]], settings: Settings, *, long_lived: bool = False) -> int:
    """Run a command in the configured event loop; what lives long gets uvloop when it is installed.

    The first Ctrl-C cancels the command, a second one ends the process.
    Raises: KeyboardInterrupt; what the command raises, never in an exception group of one.
    """
    # Who handles the signals already has put another handler there; in another thread nobody can.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and threading.current_thread() is _MAIN_THREAD:
        with stop_request(signals=[signal.SIGINT]) as stop:
            code = _run(lambda: _until_asked(work, stop), settings, long_lived=long_lived)
            if code is None:
                raise KeyboardInterrupt
            return code
    return _run(work, settings, long_lived=long_lived)


async def _until_asked(work: Callable[[], Awaitable[int]], stop: StopRequest) -> int | None:
    """Do the work; None when it was cancelled because somebody asked to stop."""

    async def heed() -> None:
        await stop.wait()
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(heed)
        code = await work()
        tasks.cancel_scope.cancel()
        return code
    return None


def _run(work: Callable[[], Awaitable[T]], settings: Settings, *, long_lived: bool) -> T:
    async def main() -> T:
        return await work()

    options: dict[str, object] = {}
    if settings.event_loop == "asyncio" and long_lived and find_spec("uvloop") is not None:
        options["use_uvloop"] = True
    try:
        return anyio.run(main, backend=settings.event_loop, backend_options=options)
    except BaseExceptionGroup as group:
        # Whoever waits for one thing in a task group should not have to know that there was a group.
        error = single(cast("BaseException", group))
        if error is group:
            raise
        raise error from error.__cause__
