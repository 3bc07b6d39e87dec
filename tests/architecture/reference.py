"""Writes REFERENCE.md from the code; `python -m tests.architecture.reference` does it.

Whatever stands on that page is told by the table, the class or the parser that decides it, so there is nothing to keep
in step by hand: what a row says is the first paragraph of a docstring, or a setting's or an option's own note.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, get_args

from kernel import errors
from kernel.command import Command
from kernel.dispatch import ROUTES
from kernel.events import Event
from runtime.commandline import parser as commandline
from runtime.config import SETTINGS, Setting, Settings, shown
from telemetry import names

PAGE = Path(__file__).parents[2] / "REFERENCE.md"

# Defaults that a machine makes.
MADE = {"name": "the host's name", "processes": "the number of CPUs"}
LIVE = ("stage.progress", "log")


INTRODUCTION = """\
Written by `python -m tests.architecture.reference`, from the code; a test compares. What it all means, README and
ARCHITECTURE.md tell; how to run it, OPERATIONS.md."""

COMMANDS = """\
`await kernel.dispatch(Command(...))` answers with the command's result; `parse_command` reads the same from a JSON
object with a `type`. A field without a default has to be given."""

EVENTS = """\
What histories, streams and sinks show: every event has `run_id`, `seq`, `at` and `type` besides. Sinks are given an
`annotation.created` only when its author said so; `stage.progress` and `log` are live only."""

ERRORS = """\
By who must act. What stands below another is raised where that one is named."""

OF_SETTINGS = """\
Taken from an argument, else the environment, else `[tool.leasehold]` of the nearest pyproject.toml, else the default;
`leasehold config` shows which. OpenTelemetry has its own `OTEL_*` variables."""

TRACES = f"""\
One trace per run. Angle brackets stand for a variable word. A root span has these events of its history: \
{", ".join(f"`{name}`" for name in names.RUN_EVENTS)}.

Payloads are captured with `LEASEHOLD_CAPTURE_PAYLOADS`, as JSON, shortened. `App(redact=...)` is given each of them \
first, with a name: {"; ".join(f"`{name}`, {meaning}" for name, meaning in names.PAYLOADS.items())}."""

METRICS = """\
No metric has an attribute without end, such as a run's id. For Prometheus dots become underscores, units are spelled
out, and counters end in `_total`: `leasehold_run_duration_seconds_bucket`, `leasehold_runs_failed_total`.
"Shared" ones are numbers of the whole database, which every process reports alike: take the largest, not the sum."""

LOGS = """\
Facts in the past tense; ids and circumstances are fields (`run_id workflow_id stage_id attempt session_id trace_id
span_id` wherever there are any), and the logger's name begins with `leasehold`."""

COMMAND_LINE = """\
`leasehold` and `python -m runtime` are the same; without a command it is `up`. Every command takes these:"""


def page() -> str:
    """The whole page."""
    parts = [
        *("# Reference", INTRODUCTION),
        *("## Commands of the kernel", COMMANDS, _commands()),
        *("## Events", EVENTS, _events()),
        *("## Errors", ERRORS, _errors()),
        *("## Settings", OF_SETTINGS, _settings()),
        *("## Traces", TRACES, _spans(), _attributes()),
        *("## Metrics", METRICS, _metrics()),
        *("## Log events", LOGS, _logs()),
        *("## Command line", COMMAND_LINE, _options(_common()), _command_line()),
    ]
    return "\n\n".join(parts) + "\n"


# -- tables ------------------------------------------------------------------------------------------------------------


def _commands() -> str:
    rows = [(f"`{command.type}`", f"`{command.__name__}`", _fields(command), _result(command)) for command in ROUTES]
    return "\n\n".join([_table(("type", "class", "fields", "result"), rows), *map(_said_of, ROUTES)])


def _said_of(command: type[Command[Any]]) -> str:
    return f"`{command.type}`: {_doc(command)}"


def _fields(of: type) -> str:
    return " ".join(_field(field) for field in fields(of) if field.name != "type")


def _field(field: Field[Any]) -> str:
    if field.default is MISSING and field.default_factory is MISSING:
        return f"`{field.name}`"
    default = field.default if field.default is not MISSING else None
    return f"`{field.name}?`" if default is None else f"`{field.name}={default!r}`"


def _result(command: type[Command[Any]]) -> str:
    (base,) = (base for base in command.__orig_bases__ if getattr(base, "__origin__", None) is Command)
    (result,) = get_args(base)
    return " ".join(f"`{field.name}`" for field in fields(result))


def _spans() -> str:
    rows = [(f"`{span.name}`", span.parent, span.outcomes, span.meaning) for span in names.SPANS]
    return _table(("span", "parent", "outcomes", "covers"), rows)


def _attributes() -> str:
    rows = [(f"`{attribute.key}`", attribute.type, attribute.meaning) for attribute in names.ATTRIBUTES]
    return _table(("attribute", "type", "meaning"), rows)


def _metrics() -> str:
    rows = [
        (
            f"`{metric.name}`",
            metric.kind,
            f"`{metric.unit}`",
            " ".join([*(f"`{key}`" for key in metric.attributes), *(["shared"] if metric.shared else [])]),
            metric.meaning,
        )
        for metric in names.METRICS
    ]
    return _table(("metric", "kind", "unit", "attributes", "tells"), rows)


def _logs() -> str:
    return _table(("event", "says"), [(f"`{name}`", meaning) for name, meaning in names.LOGS.items()])


def _events() -> str:
    rows = []
    for event in get_args(get_args(Event)[0]):
        kind = next(str(field.default) for field in fields(event) if field.name == "type")
        own = [field.name for field in fields(event) if field.name not in {"run_id", "seq", "at", "type"}]
        live = " (live)" if kind in LIVE else ""
        rows.append((f"`{kind}`{live}", f"`{event.__name__}`", " ".join(f"`{name}`" for name in own), _doc(event)))
    return _table(("type", "class", "fields", "when"), rows)


def _errors() -> str:
    raised = [getattr(errors, name) for name in errors.__all__]
    known = [error for error in raised if isinstance(error, type) and issubclass(error, Exception)]
    rows = [(f"{'· ' * _depth(error)}`{error.__name__}`", _doc(error)) for error in sorted(known, key=_lineage)]
    return _table(("error", "when"), rows)


def _lineage(error: type) -> list[str]:
    """Where the error stands: below its bases, engine errors first."""
    public = [cls.__name__ for cls in reversed(error.__mro__) if cls.__module__ == errors.__name__ and _is_public(cls)]
    return public if public[0] == "EngineError" else ["~", *public]


def _depth(error: type) -> int:
    return len([name for name in _lineage(error) if name != "~"]) - 1


def _is_public(cls: type) -> bool:
    return not cls.__name__.startswith("_")


def _settings() -> str:
    rows = [(f"`{row.key}`", f"`{row.variable}`", _default(row), row.note) for row in SETTINGS]
    return _table(("setting", "variable", "default", "meaning"), rows)


def _default(row: Setting) -> str:
    field = next(field for field in fields(Settings) if field.name == row.name)
    if field.default is not MISSING:
        return shown(row, field.default)
    assert row.name in MADE, f"say in MADE, above, what the default of {row.name} is"
    return MADE[row.name]


# -- the command line --------------------------------------------------------------------------------------------------


def _common() -> argparse.ArgumentParser:
    parser = _parser()
    commandline._add_common(parser)
    return parser


def _parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(add_help=False)


def _command_line() -> str:
    parts: list[str] = []
    for name, declare in commandline._COMMANDS.items():
        parser = _parser()
        declare(parser)
        words = " ".join(_usage(action) for action in _shown(parser))
        parts.append(f"### `{f'leasehold {name} {words}'.strip()}`\n\n{_paragraphs(inspect.getdoc(declare))}")
        if any(_shown(parser)):
            parts.append(_options(parser))
    aliases = [f"`{alias}` is `{name}`" for alias, name in commandline._ALIASES.items()]
    return "\n\n".join([*parts, f"Other names: {', '.join(aliases)}."])


def _options(parser: argparse.ArgumentParser) -> str:
    return _table(
        ("word", "meaning"), [(f"`{_usage(action, whole=True)}`", _help(action)) for action in _shown(parser)]
    )


def _shown(parser: argparse.ArgumentParser) -> Sequence[argparse.Action]:
    return [action for action in parser._actions if action.help != argparse.SUPPRESS]


def _usage(action: argparse.Action, *, whole: bool = False) -> str:
    """How the option is typed; `whole` names it in all its forms."""
    value = action.metavar
    values = " ".join(value) if isinstance(value, tuple) else value or action.dest.upper()
    if not action.option_strings:
        return f"[{values}]" if action.nargs == "?" and not whole else values
    names = ", ".join(action.option_strings) if whole else action.option_strings[-1]
    typed = names if action.nargs == 0 else f"{names} {values}"
    return typed if whole or action.required else f"[{typed}]"


def _help(action: argparse.Action) -> str:
    assert action.help, f"{action.option_strings or action.dest} has no help"
    return action.help


# -- Markdown ----------------------------------------------------------------------------------------------------------


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").strip()


def _doc(of: object) -> str:
    return _paragraphs(inspect.getdoc(of)).partition("\n\n")[0]


def _paragraphs(text: str | None) -> str:
    """The paragraphs, each on one line."""
    assert text, "what is public has a docstring"
    return "\n\n".join(re.sub(r"\s+", " ", part).strip() for part in text.split("\n\n"))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
