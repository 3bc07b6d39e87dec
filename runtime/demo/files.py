"""Which files the demo reads: text files of a directory, by default the sources of Python's own standard library."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from kernel.errors import InvalidCommand

__all__ = ["choose_files", "standard_library"]

_LEFT_OUT = {
    "__pycache__",
    "node_modules",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "encodings",
}
_LOOK_BYTES = 2048


def standard_library() -> Path:
    """Where Python keeps its own modules."""
    return Path(sysconfig.get_path("stdlib"))


def choose_files(directory: Path | None, limit: int) -> list[Path]:
    """At most `limit` text files, in order of their paths.

    Raises: InvalidCommand, when the directory cannot be read or has none.
    """
    if directory is not None and not directory.is_dir():
        raise InvalidCommand(
            f"{directory} is not a directory.", field="directory", hint="Name one that has text files."
        )
    folder = (directory or standard_library()).resolve()
    chosen: list[Path] = []
    for path in _files(folder, only_python=directory is None):
        if len(chosen) == limit:
            break
        if _is_text(path):
            chosen.append(path)
    if not chosen:
        raise InvalidCommand(
            f"There are no text files in {folder}.", field="directory", hint="Name a directory: --directory DIR"
        )
    return chosen


def _files(folder: Path, *, only_python: bool) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _LEFT_OUT)
        for name in sorted(names):
            if not name.startswith(".") and (name.endswith(".py") or not only_python):
                yield Path(parent, name)


def _is_text(path: Path) -> bool:
    try:
        if not path.is_file() or path.stat().st_size == 0:
            return False
        with path.open("rb") as file:
            beginning = file.read(_LOOK_BYTES)
    except OSError:
        return False
    if b"\0" in beginning:
        return False
    try:
        # A character may be cut at the end of what was read.
        beginning[: -3 if len(beginning) == _LOOK_BYTES else None].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
