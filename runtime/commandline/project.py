"""`init`: a first app, a test for it, and the entry in pyproject.toml. Nothing that exists is overwritten."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from kernel.errors import InvalidCommand
from runtime.commandline.failures import DONE
from runtime.commandline.invocation import Init
from runtime.commandline.layout import Span
from runtime.commandline.screen import Screen

__all__ = ["APP", "TEST", "with_app_entry", "write_project"]

APP = '''\
"""A first workflow: `leasehold up`, elsewhere `leasehold start hello --input '{"name": "Ada"}' --wait`."""

from pydantic import BaseModel

from kernel import StageContext, WorkflowBuilder, stage
from runtime import App


class Person(BaseModel):
    name: str


@stage("greet")
async def greet(ctx: StageContext[Person]) -> str:
    ctx.log("info", "greeting somebody")
    return f"Hello, {ctx.input.name}!"


hello = WorkflowBuilder("hello", input=Person, output=str).pipe(greet).build()
app = App(workflows=[hello])
'''

TEST = '''\
"""The workflow runs to its end in memory: no database, no waiting. Run it with: pytest"""

import anyio

from app import Person, hello
from runtime.testing import run_workflow


def test_hello_greets_by_name() -> None:
    finished = anyio.run(run_workflow, hello, Person(name="Ada"))

    assert finished.status == "COMPLETED"
    assert finished.output == "Hello, Ada!"
'''

_ENTRY = 'app = "app:app"'


def write_project(command: Init, screen: Screen) -> int:
    """Write the three files, or none of them."""
    folder = command.directory
    new = {folder / "app.py": APP, folder / "test_app.py": TEST}
    for path in new:
        if path.exists():
            raise InvalidCommand(
                f"{path} exists already; nothing was written.",
                field="directory",
                hint="Move it away, or name another directory: leasehold init DIRECTORY",
            )
    pyproject = folder / "pyproject.toml"
    try:
        extended = with_app_entry(pyproject.read_text(encoding="utf-8") if pyproject.exists() else "", pyproject)
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in new.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        pyproject.write_text(extended, encoding="utf-8")
    except OSError as error:
        raise InvalidCommand(f"{error.filename} cannot be written: {error.strerror}.", field="directory") from None
    written = [*new, pyproject]
    if screen.as_json:
        screen.json({"written": [str(path) for path in written]})
        return DONE
    for path in written:
        screen.line(Span("wrote ", "dim"), str(path))
    screen.line()
    screen.line("Next:")
    if folder != Path():
        screen.line(f"  cd {folder}")
    screen.line("  leasehold up                                             ", Span("# in one terminal", "dim"))
    screen.line('  leasehold start hello --input \'{"name": "Ada"}\' --wait   ', Span("# in another", "dim"))
    screen.line("  pytest                                                   ", Span("# tests need no database", "dim"))
    return DONE


def with_app_entry(text: str, path: Path) -> str:
    """The text of a pyproject.toml with `app` in `[tool.leasehold]`; everything else stays as it is, to the letter.

    Raises: InvalidCommand, when the file is not TOML, names another app, or has the table in a form that cannot be
    extended by a line.
    """
    before = _parsed(text, path)
    table = before.get("tool", {}).get("leasehold")
    if isinstance(table, dict) and "app" in table:
        if table["app"] == "app:app":
            return text
        raise InvalidCommand(
            f'{path} names another app already ("{table["app"]}"); nothing was written.',
            field="app",
            hint="Name another directory: leasehold init DIRECTORY",
        )
    extended = _extended(text, has_table=table is not None)
    expected: dict[str, object] = {
        **before,
        "tool": {**before.get("tool", {}), "leasehold": {**(table or {}), "app": "app:app"}},
    }
    if _parsed_or_none(extended) != expected:
        raise InvalidCommand(
            f"{path} cannot be extended without rewriting it; nothing was written.",
            field="directory",
            hint=f"Add to [tool.leasehold] yourself: {_ENTRY}",
        )
    return extended


def _extended(text: str, *, has_table: bool) -> str:
    if not has_table:
        return f"{text.rstrip()}\n\n[tool.leasehold]\n{_ENTRY}\n".lstrip("\n")
    lines = text.splitlines(keepends=True)
    heading = next((i for i, each in enumerate(lines) if each.split("#")[0].strip() == "[tool.leasehold]"), None)
    if heading is None:
        return text
    if not lines[heading].endswith("\n"):
        lines[heading] += "\n"
    return "".join([*lines[: heading + 1], f"{_ENTRY}\n", *lines[heading + 1 :]])


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidCommand(f"{path} is not TOML: {error}.", field="directory") from None


def _parsed_or_none(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None
