"""`init`: what is written, and what is left alone."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kernel import InvalidCommand
from runtime.commandline.invocation import Init
from runtime.commandline.project import with_app_entry, write_project
from runtime.commandline.screen import Screen

ROOT = Path(__file__).parents[3]


def init(folder: Path, *, as_json: bool = False) -> str:
    out = io.StringIO()
    assert write_project(Init(directory=folder), Screen(as_json=as_json, out=out, err=io.StringIO())) == 0
    return out.getvalue()


def extended(text: str) -> str:
    return with_app_entry(text, Path("pyproject.toml"))


def test_three_files_are_written_and_named(tmp_path: Path) -> None:
    written = json.loads(init(tmp_path / "new", as_json=True))["written"]

    assert [Path(path).name for path in written] == ["app.py", "test_app.py", "pyproject.toml"]
    assert tomllib.loads(Path(written[2]).read_text())["tool"]["leasehold"] == {"app": "app:app"}


def test_the_app_is_about_twenty_lines_and_what_is_said_next_fits_it(tmp_path: Path) -> None:
    said = init(tmp_path)

    assert len((tmp_path / "app.py").read_text().splitlines()) <= 24
    assert 'leasehold start hello --input \'{"name": "Ada"}\' --wait' in said


def test_the_generated_test_passes(tmp_path: Path) -> None:
    init(tmp_path)

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "1 passed" in answer.stdout


@pytest.mark.parametrize("name", ["app.py", "test_app.py"])
def test_an_existing_file_is_left_alone_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")

    with pytest.raises(InvalidCommand, match=f"{name} exists already"):
        init(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_pyproject_keeps_every_letter_of_its_own() -> None:
    text = '# mine\n[project]\nname = "shop"   # really\n\n[tool.ruff]\nline-length = 88\n'

    assert extended(text) == text + '\n[tool.leasehold]\napp = "app:app"\n'


def test_an_existing_table_gets_a_line() -> None:
    text = "[tool.leasehold]  # ours\nthreads = 3\n[tool.x]\ny = 1\n"

    assert extended(text) == '[tool.leasehold]  # ours\napp = "app:app"\nthreads = 3\n[tool.x]\ny = 1\n'


def test_a_table_at_the_end_without_a_newline_gets_a_line() -> None:
    assert extended("[tool.leasehold]") == '[tool.leasehold]\napp = "app:app"\n'


def test_an_entry_that_is_there_already_stays() -> None:
    text = '[tool.leasehold]\napp = "app:app"\n'

    assert extended(text) == text


@pytest.mark.parametrize(
    "text,said",
    [
        ('[tool.leasehold]\napp = "shop:app"\n', "shop:app"),
        ("[tool]\nleasehold = {threads = 3}\n", "rewriting"),
        ("[project\n", "not TOML"),
    ],
)
def test_a_pyproject_that_cannot_be_extended_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidCommand, match=said):
        extended(text)


def test_nothing_is_written_when_the_pyproject_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.leasehold]\napp = "shop:app"\n')

    with pytest.raises(InvalidCommand):
        init(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["pyproject.toml"]
