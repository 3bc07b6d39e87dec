"""`start`: create a run, from what the words of the command line say, and perhaps wait for its end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

from kernel.errors import InvalidCommand, InvalidInput, Unavailable
from runtime.app import App
from runtime.client import GivenConfig
from runtime.commandline.application import load_app
from runtime.commandline.failures import DONE, INTERRUPTED
from runtime.commandline.invocation import Start
from runtime.commandline.layout import Span, printable
from runtime.commandline.looking import describe, print_run
from runtime.commandline.opening import Context, open_client, run_async
from runtime.commandline.runs_view import short_id
from runtime.commandline.waiting import say_it_goes_on, wait_for_end
from telemetry.run_trace import parse_traceparent

__all__ = ["read_json", "start_run"]

SHOWN_LENGTH = 60
"""How much of a wrong text is repeated."""
_EXAMPLES = {"input": '{"name": "Ada"}', "config": '{"STAGE": {"FIELD": VALUE}}'}
DIGITS_MAX = 4300
"""Of a whole number; Python itself reads no longer ones."""


@dataclass(slots=True)
class _Started:
    """Which run there is, for whoever has to say that it goes on."""

    run_id: str | None = None


def start_run(command: Start, context: Context) -> int:
    """Create the run; with `wait`, watch it to its end. The exit code tells how it ended."""
    started = _Started()
    try:
        return run_async(lambda: _start(command, context, started), context.settings)
    except KeyboardInterrupt:
        if started.run_id is not None:
            say_it_goes_on(context, started.run_id, "Stopped waiting")
        return INTERRUPTED
    except Unavailable:
        if started.run_id is not None:
            say_it_goes_on(context, started.run_id, "Lost the database")
        raise


async def _start(command: Start, context: Context, started: _Started) -> int:
    app = load_app(context.settings)
    input_ = read_json(command.input, "input")
    config: object = read_json(command.config, "config")
    if config is not None and not isinstance(config, dict):
        raise InvalidCommand("--config is not a JSON object.", field="config", hint=_ways_to_give("config"))
    trace_context = _trace_context(command.traceparent)
    async with open_client(context, app) as client:
        try:
            handle = await client.start(
                command.workflow,
                input_,
                idempotency_key=command.key,
                config=cast("GivenConfig | None", config),
                priority=command.priority,
                run_at=command.run_at,
                trace_context=trace_context,
            )
        except InvalidInput as error:
            if command.input is None:
                example = _example_for(app, command.workflow)
                error.hint = f"The workflow needs an input. {_ways_to_give('input', example)}"
            raise
        started.run_id = handle.id
        if not command.wait:
            print_run(context.screen, await describe(client, handle), now=client.storage.clock.now())
            if not context.screen.as_json:
                context.screen.note(Span(f"Watch it: leasehold show {short_id(handle.id)}", "dim"))
            return DONE
        return await wait_for_end(context, client, handle, timeout_s=command.timeout_s)


def _trace_context(traceparent: str | None) -> Mapping[str, str] | None:
    if traceparent is None:
        return None
    given = traceparent.strip()
    if parse_traceparent(given) is None:
        raise InvalidCommand(
            f'--traceparent: "{_short(traceparent)}" is no W3C traceparent.',
            field="traceparent",
            hint="Write it as VERSION-TRACE-SPAN-FLAGS in lower case hexadecimal digits, 2-32-16-2 of them, such as\n"
            "  00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )
    return {"traceparent": given}


# -- JSON from the command line ----------------------------------------------------------------------------------------


def read_json(text: str | None, option: str) -> Any:
    """The value of `--input` or `--config`: JSON, `@file` of it, or `-` for standard input; None when not given.

    Raises: InvalidCommand, naming the option and the place of the mistake.
    """
    if text is None:
        return None
    source, content = _source(text, option)
    if not content.strip():
        raise InvalidCommand(f"{source} is empty, which is not JSON.", field=option, hint=_ways_to_give(option))
    try:
        return json.loads(
            content, parse_constant=_no_constant, parse_int=_whole_number, object_pairs_hook=_without_repeats
        )
    except _Unfit as error:
        raise InvalidCommand(f"{source} has {error}.", field=option) from None
    except RecursionError:
        raise InvalidCommand(f"{source} is nested too deeply.", field=option) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        hint = _quoting(content, option) if content is text else None
        raise InvalidCommand(f"{source} is not JSON: {error.msg} at {where}.", field=option, hint=hint) from None
    except ValueError as error:
        raise InvalidCommand(f"{source} is not JSON: {error}.", field=option) from None


def _example_for(app: App, workflow_id: str) -> str | None:
    """An input of the workflow's own shape."""
    from runtime.commandline.serving import example_input

    workflow = app.find_workflow(workflow_id)
    return None if workflow is None else example_input(workflow)


def _ways_to_give(option: str, example: str | None = None) -> str:
    return (
        f"For example --{option} '{example or _EXAMPLES[option]}'; "
        f"--{option} @FILE and --{option} - read it from elsewhere."
    )


def _source(text: str, option: str) -> tuple[str, str]:
    """Where the JSON comes from, for messages, and the JSON itself."""
    if text == "-":
        return f"--{option} (standard input)", _decoded(_standard_input(option), "standard input", option)
    if text.startswith("@"):
        name = text[1:]
        if not name:
            hint = f"Write --{option} @FILE, such as --{option} @input.json."
            raise InvalidCommand(f"--{option} @: the name of the file is missing.", field=option, hint=hint)
        return f"--{option} ({_short(name)})", _decoded(_file(name, option), _short(name), option)
    return f"--{option}", text


def _standard_input(option: str) -> bytes:
    stream: TextIO | None = sys.stdin
    if stream is None:
        raise InvalidCommand(f"--{option}: standard input is closed.", field=option, hint=_ways_to_give(option))
    # Bytes, because the locale might decode what is not UTF-8 into something else.
    binary = getattr(stream, "buffer", None)
    try:
        return stream.read().encode() if binary is None else cast("bytes", binary.read())
    except OSError as error:
        raise InvalidCommand(f"--{option}: standard input cannot be read: {error.strerror}.", field=option) from None


def _file(name: str, option: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise InvalidCommand(f"--{option}: {_short(name)} cannot be read: {error.strerror}.", field=option) from None
    except ValueError as error:
        raise InvalidCommand(f"--{option}: {_short(name)} cannot be read: {error}.", field=option) from None


def _decoded(content: bytes, name: str, option: str) -> str:
    try:
        # Some editors begin a text with a byte order mark, which is no part of it.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidCommand(f"--{option}: {name} is not UTF-8 text.", field=option) from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


class _Unfit(Exception):
    """JSON that we do not take; the message is the end of a sentence."""


def _whole_number(digits: str) -> int:
    if len(digits) > DIGITS_MAX:
        raise _Unfit(f"a number of {len(digits)} digits, which is too large")
    return int(digits)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object. JSON leaves open which of two values counts; one of them would be lost without a word."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Unfit(f'a duplicate key "{_short(name)}"')
        found[name] = value
    return found


def _quoting(text: str, option: str) -> str | None:
    """What was probably meant by an argument that is not JSON; None for one that nobody typed."""
    # A path that is too long or has strange characters in it is not a file, and no error either.
    if os.path.isfile(text):  # noqa: PTH113
        return f"To read the file of that name, write @{_short(text)}."
    if len(text) > SHOWN_LENGTH or not text.isprintable():
        return None
    if text[0] not in "{[\"'-0123456789tfn":
        return f"A text needs quotes of its own: '\"{text}\"'."
    return f"In a shell, put single quotes around it: '{_EXAMPLES[option]}'."


def _short(text: str) -> str:
    """As much of what somebody wrote as a message needs, harmless to a terminal."""
    shown = printable(text[: SHOWN_LENGTH + 1])
    return shown if len(shown) <= SHOWN_LENGTH else f"{shown[: SHOWN_LENGTH - 1]}…"
