"""examples/documents.py: every file is reported on, and what has been done is not done twice."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime import Client
from runtime.bootstrap import migrate_database
from runtime.config import Settings

pytestmark = pytest.mark.anyio

EXAMPLE = Path(__file__).parents[2] / "examples" / "documents.py"


@pytest.fixture(scope="module")
def example() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(EXAMPLE)))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder with three texts and something that is none."""
    for number, text in enumerate(["the engine of the lease", "der Zug und das Gleis", "x = 1"]):
        (tmp_path / f"{number}.txt").write_text(text)
    (tmp_path / "picture.bin").write_bytes(b"\0\1\2")
    return tmp_path


async def test_every_text_is_reported_on_once(
    example: SimpleNamespace, texts: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await migrate_database(Settings(database_url=database_url))

    await example.main(texts, database=database_url)
    first = capsys.readouterr().out.splitlines()
    await example.main(texts, database=database_url)
    second = capsys.readouterr().out.splitlines()

    assert first[-1] == "3 files."
    assert sorted(first) == sorted(second)
    assert any("0.txt: 5 words in 1 lines, English" in line for line in first)
    async with Client(example.app, database=database_url) as client:
        assert len((await client.list_runs()).items) == 3


async def test_a_file_that_has_gone_is_told(
    example: SimpleNamespace, texts: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await migrate_database(Settings(database_url=database_url))
    from runtime import Supervisor

    async with Supervisor(example.app, database=database_url) as supervisor:
        run = await supervisor.start(example.documents, example.Document(path=str(texts / "gone.txt")))
        await example.print_report(run)

    assert "failed" in capsys.readouterr().out
