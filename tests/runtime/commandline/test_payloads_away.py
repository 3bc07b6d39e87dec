"""Commands in a shell that knows nothing of the place where large payloads are, against a real Postgres."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from kernel import NonRetryable, StageContext, WorkflowBuilder, stage
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
