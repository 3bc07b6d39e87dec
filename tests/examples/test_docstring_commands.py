"""What the docstrings of the examples have one type into a terminal is taken as it stands there."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path

import pytest

from runtime.commandline.entry import run
from tests.syntax_trees import parsed

ROOT = Path(__file__).parents[2]
PREFIX = ".venv/bin/leasehold "
COMMANDS = [
    line.removeprefix(PREFIX)
    for path in sorted((ROOT / "examples").glob("*.py"))
    for line in (ast.get_docstring(parsed(path.read_text(encoding="utf-8"))) or "").splitlines()
    if line.startswith(PREFIX)
]


def test_there_are_some() -> None:
    assert any("--config" in command for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_a_docstring_works(
    command: str, migrated_database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("LEASEHOLD_DATABASE_URL", migrated_database_url)

    assert run(shlex.split(command)) == 0, capsys.readouterr().err
