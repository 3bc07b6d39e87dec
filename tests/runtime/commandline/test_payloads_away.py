"""Commands in a shell that knows nothing of the place where large payloads are, against a real Postgres."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from kernel import NonRetryable, StageContext, Unreadable, WorkflowBuilder, stage
from runtime import App, Client, RunFailed, RunHandle, Supervisor
from runtime.commandline.entry import run
from runtime.config import Settings

LARGE = "x" * 100_000


@stage("copy")
async def copy(ctx: StageContext[str]) -> str:
    return ctx.input


@stage("print")
async def print_out(ctx: StageContext[str]) -> str:
    if ctx.input.startswith("torn"):
        raise NonRetryable("no paper")
    return ctx.input


copying = WorkflowBuilder("copying", input=str, output=str).pipe(copy).pipe(print_out).build()
app = App(workflows=[copying])

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def runs(migrated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Ids of runs with large payloads by what became of them; the shell does not know the folder of the payloads."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEASEHOLD_DATABASE_URL", migrated_url)
    settings = Settings(database_url=migrated_url, blob_url=(tmp_path / "blobs").as_uri())

    async def fill() -> dict[str, str]:
        async with Supervisor(app, settings=settings) as supervisor:
            done: RunHandle[str] = await supervisor.start(copying, LARGE)
            await done.result()
            failed = await supervisor.start(copying, "torn" + LARGE)
            with pytest.raises(RunFailed):
                await failed.result()
        async with Client(app, settings=settings) as client:
            later = await client.start(copying, LARGE, run_at=datetime.now(UTC) + timedelta(hours=1))
        return {"done": done.id, "failed": failed.id, "later": later.id}

    return anyio.run(fill)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def execute(*words: str) -> tuple[int, str, str]:
        code = run(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return execute


def test_a_cancelled_run_is_said_to_be_cancelled(runs: dict[str, str], command: Command) -> None:
    first = command("cancel", runs["later"])
    second = command("cancel", runs["later"])

    assert (first[0], first[2]) == (0, "")
    assert "is cancelled" in first[1]
    assert second[0] == 1
    assert "Nothing to cancel" in second[2]


def test_a_run_that_begins_again_or_is_polled_is_said_to_be(runs: dict[str, str], command: Command) -> None:
    polled = command("poll", runs["later"])
    rerun = command("rerun", runs["failed"], "--from", "print")

    assert polled[0] == rerun[0] == 0
    assert "Nothing to look at" in polled[2]
    assert "begin again: print" in rerun[1]


def test_a_run_is_shown_without_its_payloads_and_why_they_are_missing(runs: dict[str, str], command: Command) -> None:
    code, out, err = command("show", runs["failed"])

    assert code == 0
    assert "NonRetryable: no paper" in out
    assert "✓ copy" in out
    assert "unreadable: No blob is stored under" in out
    assert "LEASEHOLD_BLOB_URL" in err


def test_programs_are_told_it_too(runs: dict[str, str], command: Command) -> None:
    _, shown, err = command("show", runs["done"], "--json")
    _, page, _ = command("runs", "--full", "--json")

    found = json.loads(shown)
    marked = [found["input"], found["output"], *(each["output"] for each in found["stages"])]
    assert found["status"] == "COMPLETED"
    assert ["No blob" in each["$unreadable"] for each in marked] == [True] * 4
    assert "payloads cannot be read" in err
    assert {run["id"] for run in json.loads(page)["runs"]} >= set(runs.values())


def test_the_history_is_told_without_the_payloads(runs: dict[str, str], command: Command) -> None:
    code, out, _ = command("history", runs["done"], "--json")
    events = {event["type"]: event for event in map(json.loads, out.splitlines())}

    assert code == command("history", runs["done"])[0] == 0
    assert "$unreadable" in events["stage.completed"]["output"]
    assert "$unreadable" in events["run.completed"]["output"]


def test_a_folder_that_was_moved_away_is_named_and_comes_back(
    runs: dict[str, str], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEASEHOLD_BLOB_URL", (tmp_path / "blobs").as_uri())
    (tmp_path / "blobs").rename(tmp_path / "moved")
    away = command("show", runs["done"])
    (tmp_path / "moved").rename(tmp_path / "blobs")
    back = command("show", runs["done"], "--json")

    assert away[0] == 0
    assert "unreadable" in away[1]
    assert json.loads(back[1])["output"] == LARGE


def test_whoever_waits_for_a_run_sees_its_end(runs: dict[str, str], migrated_url: str) -> None:
    async def seen() -> list[object]:
        async with Client(app, settings=Settings(database_url=migrated_url)) as client:
            return [event async for event in client.run(runs["done"]).events() if event.type == "run.completed"]

    [ended] = anyio.run(seen)

    assert isinstance(getattr(ended, "output", None), Unreadable)
