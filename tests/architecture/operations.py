"""What OPERATIONS.md advises, taken from the page: its SQL by name, its commands, and its sections."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runtime import info
from runtime.actor import RunActor
from runtime.claiming import RunClaimer
from tests.syntax_trees import parsed

__all__ = ["ALERTS", "COMMANDS", "SECTIONS", "SQL", "waiting_words"]

PAGE = (Path(__file__).parents[2] / "OPERATIONS.md").read_text(encoding="utf-8")

_BLOCK = re.compile(r"<!-- (sql|alert): ([\w ]+) -->\n```sql\n(.*?)```", re.DOTALL)
SQL: dict[str, str] = {name: text for kind, name, text in _BLOCK.findall(PAGE) if kind == "sql"}
ALERTS: dict[str, str] = {name: text for kind, name, text in _BLOCK.findall(PAGE) if kind == "alert"}
COMMANDS: list[str] = sorted(
    {*re.findall(r"`leasehold ([^`]+)`", PAGE), *re.findall(r"^\$ leasehold (.+)$", PAGE, re.MULTILINE)}
)
SECTIONS: set[str] = set(re.findall(r"^### `(\w+)`$", PAGE, re.MULTILINE))

_WORD = re.compile(r"([a-z_]+)(?:: ?)?")


def waiting_words() -> set[str]:
    """Every word that `waiting_for` may say: its own, those of phases, and the reasons for which runs are parked."""
    parking: list[Callable[..., Any]] = [RunActor._park, RunClaimer._refuse]
    own = {word for of in (info.waiting_for, info.parked_code) for word in _returned(of)}
    parked = {word for of in parking for word in _assigned(of)}
    return own | set(info._OWN_WAIT.values()) | parked


def _returned(of: Callable[..., Any]) -> Iterator[str]:
    for node in ast.walk(_tree(of)):
        if isinstance(node, ast.Return) and node.value is not None:
            yield from _words(node.value)


def _assigned(of: Callable[..., Any]) -> Iterator[str]:
    """Words that become, or begin, a reason: of `name = ...` and of `parked_reason=...`."""
    for node in ast.walk(_tree(of)):
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["name"]:
            yield from _words(node.value)
        if isinstance(node, ast.keyword) and node.arg == "parked_reason":
            yield from _words(node.value)


def _words(node: ast.expr) -> Iterator[str]:
    texts = [sub.value for sub in ast.walk(node) if isinstance(sub, ast.Constant) and isinstance(sub.value, str)]
    return (found.group(1) for text in texts if (found := _WORD.fullmatch(text)) and found.group(1))


def _tree(of: Callable[..., Any]) -> ast.AST:
    return parsed(textwrap.dedent(inspect.getsource(of)))
