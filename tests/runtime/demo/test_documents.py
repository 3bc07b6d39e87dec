"""The pipeline of the demo, and the files that it chooses."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel import InvalidCommand
from runtime.demo.documents import Document, documents
from runtime.demo.files import choose_files
from runtime.testing import run_workflow


@pytest.mark.anyio
async def test_a_text_is_read_analysed_and_reported_on(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("The lease of the engine is not the engine.\nA lease is for the engine.\n")

    finished = await run_workflow(documents, Document(path=str(path)))

    assert finished.status == "COMPLETED"
    assert finished.output is not None
    assert (finished.output.path, finished.output.language) == (str(path), "English")
    assert finished.output.keywords == ["engine", "lease"]
    assert finished.output.summary == "14 words in 3 lines, English, about engine, lease"


@pytest.mark.anyio
async def test_only_the_beginning_of_a_long_text_is_read_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one two three four")

    finished = await run_workflow(documents, Document(path=str(path)), config={"extract": {"max_characters": 7}})

    assert finished.output is not None
    assert finished.output.summary.startswith("at least 2 words")


@pytest.mark.anyio
async def test_a_file_that_is_not_there_fails_at_once(tmp_path: Path) -> None:
    finished = await run_workflow(documents, Document(path=str(tmp_path / "none.txt")))

    assert finished.status == "FAILED"
    assert finished.error is not None
    assert "there is no file" in finished.error.message
    assert finished.stage("extract").attempt == 1
    assert [finished.stage(name).status for name in ("keywords", "report")] == ["SKIPPED", "SKIPPED"]


def test_this_python_has_enough_sources_for_the_demo() -> None:
    assert len(choose_files(None, 1000)) >= 200


def test_text_files_are_found_in_order_below_a_directory(tmp_path: Path) -> None:
    for name in ("b/c.md", "a.txt", ".hidden/x.txt", "node_modules/y.txt", ".env"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary").write_bytes(b"\0\1")
    (tmp_path / "latin").write_bytes(b"\xff\xfe" * 10)

    assert [path.name for path in choose_files(tmp_path, 10)] == ["a.txt", "c.md"]
    assert len(choose_files(tmp_path, 1)) == 1


def test_a_character_cut_at_the_end_of_the_look_is_no_reason_to_leave_a_file_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" + "é" * 3000, encoding="utf-8")

    assert len(choose_files(tmp_path, 10)) == 1


def test_a_directory_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidCommand, match="no text files"):
        choose_files(tmp_path, 10)
