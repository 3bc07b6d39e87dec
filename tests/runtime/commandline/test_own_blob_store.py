"""Commands that only look, and an app that keeps large payloads in a store of its own."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import anyio
import pytest

from runtime import Supervisor
from runtime.commandline.entry import run
from runtime.config import Settings

APP = """
from pathlib import Path

from adapters.blobs import FilesystemBlobStore
from kernel import StageContext, StageResult, WorkflowBuilder, stage
from runtime import App


@stage("draw")
async def draw(ctx: StageContext[None]) -> StageResult[str]:
    return StageResult("x" * 100_000, artifacts={"card.txt": b"Dear Ada"})


drawing = WorkflowBuilder("drawing", input=None, output=str).pipe(draw).build()
app = App(workflows=[drawing], blob_store=lambda: FilesystemBlobStore(Path(__file__).parent / "shelf"))
"""


@pytest.fixture
def run_id(migrated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run that has completed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LEASEHOLD_DATABASE_URL", migrated_url)
    Path("app_with_a_shelf.py").write_text(APP, encoding="utf-8")
    module = importlib.import_module("app_with_a_shelf")

    async def complete() -> str:
        async with Supervisor(module.app, settings=Settings(database_url=migrated_url)) as supervisor:
            handle = await supervisor.start(module.drawing, None)
            await handle.result()
            return handle.id

    return anyio.run(complete)


def test_they_read_it_when_they_are_given_the_app(run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    named = ("--app", "app_with_a_shelf:app")

    assert run(["artifacts", run_id, "draw", "card.txt", *named]) == 0
    assert capsys.readouterr().out == "Dear Ada"
    assert run(["show", run_id, "--json", *named]) == 0
    assert json.loads(capsys.readouterr().out)["output"] == "x" * 100_000


def test_without_it_they_say_what_is_missing(run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["artifacts", run_id, "draw", "card.txt"]) == 3

    told = capsys.readouterr().err
    assert "No blob is stored" in told
    assert "--app module:attribute" in told
    assert "Traceback" not in told
