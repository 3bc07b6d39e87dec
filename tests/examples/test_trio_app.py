"""The trio app: under trio itself, in memory and on Postgres through the bridge."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from adapters.postgres import migrate
from examples import trio_app
from examples.trio_app import Folder, folders
from runtime import App, Supervisor
from runtime.testing import run_workflow

ROOT = Path(__file__).parents[2]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Three files, the second one the longest, and one that is none of its business."""
    for name, lines in (("a.py", 1), ("b.py", 3), ("c.py", 2), ("notes.txt", 9)):
        (tmp_path / name).write_text("x\n" * lines)
    return tmp_path


@pytest.mark.trio
async def test_the_pipeline_counts_with_a_nursery_of_its_own(directory: Path):
    finished = await run_workflow(folders, Folder(path=str(directory)))
    assert finished.output == "b.py is the longest of 3 files"
    assert finished.stage("count").output == {"lines": {"a.py": 1, "b.py": 3, "c.py": 2}}


@pytest.mark.trio
async def test_an_empty_folder_has_no_longest_file(tmp_path: Path):
    assert (await run_workflow(folders, Folder(path=str(tmp_path)))).output == "there are no files"


@pytest.mark.trio
async def test_the_app_reports_every_directory_and_ends(directory: Path, capsys: pytest.CaptureFixture[str]):
    with trio.fail_after(40):
        await trio_app.main(directory, directory, database="memory://")
    assert capsys.readouterr().out.splitlines() == [f"{directory.name}: b.py is the longest of 3 files"] * 2


@pytest.mark.trio
async def test_a_cancelled_scope_of_the_program_ends_the_supervisor(directory: Path):
    with trio.move_on_after(0.1) as scope:
        async with Supervisor(App(workflows=[folders]), database="memory://"):
            await trio.sleep_forever()
    assert scope.cancelled_caught


@pytest.mark.trio
async def test_an_error_of_the_program_comes_out_of_the_supervisor_as_it_is():
    with pytest.raises(LookupError, match="mine"):
        async with Supervisor(App(workflows=[folders]), database="memory://"):
            raise LookupError("mine")


def test_it_runs_as_a_script_on_postgres(database_url: str, directory: Path):
    asyncio.run(migrate(database_url))
    environment = {**os.environ, "LEASEHOLD_DATABASE_URL": database_url, "PYTHONPATH": str(ROOT)}
    script = [sys.executable, str(ROOT / "examples" / "trio_app.py"), str(directory)]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{directory.name}: b.py is the longest of 3 files\n"
