"""A command is complete when a reader finds it under its one stem wherever commands are looked for."""

import ast
import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

import kernel
from kernel.command import Command
from kernel.dispatch import ROUTES
from tests.syntax_trees import parsed

ROOT = Path(__file__).parents[2]
STEMS = sorted(path.stem for path in (ROOT / "kernel" / "commands").glob("*.py") if path.stem != "__init__")
NAMES = ROOT / "telemetry" / "names.py"
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def commands_in(module: ModuleType) -> list[type[Command[Any]]]:
    """The commands that a module defines.

    Not `Command.__subclasses__()`: a dataclass with slots is a second class beside the one that was written, and the
    first one stays in that list.
    """
    return [
        thing
        for thing in vars(module).values()
        if inspect.isclass(thing) and issubclass(thing, Command) and thing.__module__ == module.__name__
    ]


COMMANDS = [
    (stem, command) for stem in STEMS for command in commands_in(importlib.import_module(f"kernel.commands.{stem}"))
]


def texts_in(source: str) -> set[str]:
    return {
        node.value for node in ast.walk(parsed(source)) if isinstance(node, ast.Constant) and type(node.value) is str
    }


def lacks(stem: str, command: type[Command[Any]]) -> list[str]:
    """What is still to be done for a command, in the order in which one does it."""
    name = command.__name__
    row = ROUTES.get(command)
    present = {
        f"a row in kernel/dispatch.py: {name}": row is not None,
        f"a handler named {stem}": row is None or row.handler.__name__ == stem,
        f"its name in kernel/__init__.py: {name}": name in kernel.__all__,
        f"its result in kernel/__init__.py: {name}Result": f"{name}Result" in kernel.__all__,
        f"tests/kernel/commands/test_{stem}.py": (ROOT / "tests/kernel/commands" / f"test_{stem}.py").is_file(),
        f'a row of "When it breaks" in ARCHITECTURE.md: `{command.type}`': f"\n| `{command.type}`" in PAGE,
        f'a row in telemetry/names.py: "{command.type}"': not NAMES.is_file()
        or command.type in texts_in(NAMES.read_text(encoding="utf-8")),
    }
    return [what for what, done in present.items() if not done]


@pytest.mark.parametrize("stem, command", COMMANDS, ids=[command.type for _, command in COMMANDS])
def test_a_command_lacks_nothing(stem: str, command: type[Command[Any]]) -> None:
    missing = lacks(stem, command)

    assert not missing, "\n- ".join([f"{command.type} still lacks:", *missing])


def test_every_row_of_the_table_is_a_command_of_a_module_in_its_folder() -> None:
    assert set(ROUTES) <= {command for _, command in COMMANDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseRun(Command[None]):
    type: ClassVar[str] = "run.pause"


def test_a_new_command_is_told_what_it_lacks() -> None:
    missing = lacks("pause_run", PauseRun)

    assert missing[:5] == [
        "a row in kernel/dispatch.py: PauseRun",
        "its name in kernel/__init__.py: PauseRun",
        "its result in kernel/__init__.py: PauseRunResult",
        "tests/kernel/commands/test_pause_run.py",
        'a row of "When it breaks" in ARCHITECTURE.md: `run.pause`',
    ]
    assert ('a row in telemetry/names.py: "run.pause"' in missing) is NAMES.is_file()
