"""What the engine logs is documented: an event that nobody can look up is noise."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from telemetry.names import LOGS
from tests.syntax_trees import parsed

ROOT = Path(__file__).parents[2]
SPEAKING = {"debug", "info", "warning", "error", "critical", "exception", "say", "_say", "OutageLog", "_Patience"}
EVENT = re.compile(r"[a-z_]+\.[a-z_]+")


def test_every_event_that_is_logged_is_documented_and_every_documented_one_is_logged() -> None:
    logged = {
        event
        for package in ("kernel", "adapters", "runtime", "telemetry")
        for file in (ROOT / package).rglob("*.py")
        for event in events_in(parsed(file.read_text(encoding="utf-8")))
    }

    assert logged == set(LOGS)


def test_events_are_past_tense_facts_in_alphabetical_order() -> None:
    assert list(LOGS) == sorted(LOGS)
    assert all(EVENT.fullmatch(event) for event in LOGS)


def events_in(module: ast.Module) -> Iterator[str]:
    for call in ast.walk(module):
        if isinstance(call, ast.Call) and name_of(call.func) in SPEAKING:
            for argument in call.args:
                for node in ast.walk(argument):
                    if isinstance(node, ast.Constant) and isinstance(node.value, str) and EVENT.fullmatch(node.value):
                        yield node.value


def name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
