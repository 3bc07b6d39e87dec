"""What the demo tells people to type."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runtime.demo.command import own_name


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this Python in an environment that no shell knows; the working directory is the one around it."""
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    return folder


def script(folder: Path) -> Path:
    path = folder / "leasehold"
    path.touch(mode=0o755)
    return path


def test_the_command_has_its_short_name_where_a_shell_finds_it(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(bin_folder)
    monkeypatch.setenv("PATH", str(bin_folder))

    assert own_name() == "leasehold"


def test_in_a_clone_it_is_named_by_its_path(bin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = script(bin_folder)

    assert own_name() == ".venv/bin/leasehold"
    monkeypatch.chdir(sys.base_prefix)
    assert own_name() == str(path)


def test_without_a_script_it_is_a_module_of_this_python(bin_folder: Path) -> None:
    assert own_name() == f"{bin_folder / 'python'} -m runtime"
