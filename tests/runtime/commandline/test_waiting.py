"""`start --wait` while the database is away: on a terminal and into a file."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest

from adapters.memory import MemoryPersistence
from adapters.system import SystemClock
from kernel import Unavailable
from runtime import App, Client
from runtime.bootstrap import Storage
from runtime.commandline import database_watch
from runtime.commandline.opening import Context
from runtime.commandline.screen import Screen
from runtime.commandline.waiting import wait_for_end
from runtime.config import Settings
from tests.runtime.gates import Doc, Gate
from tests.runtime.shared_store import BreakableStore, in_memory, until

pytestmark = pytest.mark.anyio


class Stream(io.StringIO):
    """A terminal, or a file."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal
        self.on_completion: Callable[[], None] = lambda: None

    def write(self, text: str, /) -> int:
        if "run.completed" in text:
            self.on_completion()
        return super().write(text)

    def isatty(self) -> bool:
        return self._terminal


class Desk:
    """Somebody who waits for a run that a supervisor executes, by a database that only the waiting one may lose."""

    def __init__(self, *, terminal: bool) -> None:
        store = MemoryPersistence(SystemClock())
        self.broken = BreakableStore(store)
        self.shared, self.at_desk = in_memory(store), in_memory(self.broken)
        self.gate = Gate()
        self.out, self.err = Stream(terminal=terminal), Stream(terminal=terminal)
        self.code: int | None = None

    def context(self) -> Context:
        return Context(settings=Settings(), screen=Screen(out=self.out, err=self.err))

    async def wait(self, client: Client, run_id: str, timeout_s: float | None = None) -> None:
        self.code = await wait_for_end(self.context(), client, client.run(run_id), timeout_s=timeout_s)


@pytest.fixture(params=[True, False], ids=["terminal", "file"])
def desk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Desk(terminal=request.param)


@pytest.mark.parametrize("refused", ["load", "heads"])
async def test_an_outage_is_waited_out_and_said(desk: Desk, refused: str) -> None:
    workflow = desk.gate.workflow()
    async with desk.shared.supervisor(workflow) as supervisor, desk.at_desk.client(workflow) as client:
        run = await supervisor.start(workflow, Doc(text="a"))
        desk.broken.fail_next[refused] = 1
        desk.broken.fail_next["load"] = 1
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(desk.wait, client, run.id)
            await until(lambda: "the database answers again" in desk.err.getvalue())
            desk.gate.open()

    assert desk.code == 0
    assert desk.err.getvalue().count("out of order for a moment. Waiting until the database answers again") == 1
    assert "COMPLETED" in desk.out.getvalue()


@pytest.mark.parametrize("desk", [False], indirect=True, ids=["file"])
async def test_an_outage_after_the_end_does_not_hide_the_run(desk: Desk) -> None:
    workflow = desk.gate.workflow()
    desk.gate.open()
    desk.err.on_completion = lambda: desk.broken.fail_next.update(load=1)
    async with desk.shared.supervisor(workflow) as supervisor, desk.at_desk.client(workflow) as client:
        run = await supervisor.start(workflow, Doc(text="a"))

        await desk.wait(client, run.id)

    assert desk.code == 0
    assert "Waiting until the database answers again" in desk.err.getvalue()


async def test_the_timeout_holds_during_an_outage_and_the_run_goes_on(desk: Desk) -> None:
    workflow = desk.gate.workflow()
    async with desk.shared.supervisor(workflow) as supervisor, desk.at_desk.client(workflow) as client:
        run = await supervisor.start(workflow, Doc(text="a"))
        desk.broken.down = True

        await desk.wait(client, run.id, timeout_s=0.1)

        desk.gate.open()
        await run.result(10)
    assert (desk.code, desk.out.getvalue()) == (4, "")
    said = desk.err.getvalue()
    assert f"and the database does not answer. The run goes on: leasehold show {run.id[-8:]}" in said


async def test_data_that_are_gone_for_good_end_the_wait_with_the_reason(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_server() -> int:
        if desk.broken.down:
            raise Unavailable("The data directory is gone.", hint="Put it back.")
        return 1

    monkeypatch.setattr(database_watch, "LOOK_S", 0.01)
    workflow = desk.gate.workflow()
    async with (
        desk.shared.supervisor(workflow) as supervisor,
        desk.at_desk.opened() as storage,
        Client(App(workflows=[workflow]), settings=Settings(), storage=embedded(storage, find_server)) as client,
    ):
        run = await supervisor.start(workflow, Doc(text="a"))
        desk.broken.down = True

        await desk.wait(client, run.id)

        desk.gate.open()
    assert desk.code == 3
    assert "The data directory is gone." in desk.err.getvalue()
    assert "goes on" not in desk.err.getvalue()


@asynccontextmanager
async def embedded(storage: Storage, find_server: Callable[[], int]) -> AsyncGenerator[Storage]:
    """The same store, as if its server were one of ours."""
    yield replace(storage, find_server=find_server)
