"""The gate of the store: JSON texts and names that a database would refuse are refused here with the same error.

A store that accepts what PostgreSQL's `jsonb` and `text` cannot hold would make tests pass that production fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from pydantic_core import from_json

from kernel.errors import PayloadRefused
from kernel.ports.persistence import PRIORITIES, Append, NewRun, WorkflowRecord
from kernel.ports.scheduler import ScheduledCommand

__all__ = ["check_append", "check_scheduled", "check_text", "check_workflow", "frozen_json", "split_object"]

# Only an odd number of backslashes makes an escape of the NUL character.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

_WITHOUT_EVENTS = {"poll", "release", "park", "unpark"}
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")


def check_append(append: Append) -> Mapping[str, bytes]:
    """Refuse what cannot be stored, and return the bodies one by one, each in exactly the bytes it came in.

    Raises: PayloadRefused.
    """
    assert (append.events is None) == (append.mode in _WITHOUT_EVENTS), f"what {append.mode} writes"
    count = 0
    if append.events is not None:
        events = _parsed(append.events, "Events", "events")
        assert isinstance(events, list), "events are a JSON array"
        count = len(cast("list[object]", events))
        assert count, "a change of the history has events"
    assert append.seq == append.expected + count, "one sequence number per event"
    if append.parked_reason is not None:
        check_text(append.parked_reason, "parked_reason")
    if append.head.error is not None:
        error = append.head.error.error
        check_text(f"{error.type}{error.message}{error.traceback or ''}", "error")
    if append.key is not None:
        assert append.mode in {"create", "foreign"}, "a key comes with a creation or from outside"
        key = append.key
        check_text(f"{key.command_type}{key.scope}{key.key}{key.digest}", "idempotency_key")
    if append.poll_state is not None:
        assert append.mode in {"owned", "foreign", "poll", "release"}, f"{append.mode} has looked at nothing"
        assert isinstance(_parsed(append.poll_state, "Poll state", "poll_state"), dict), "it is a JSON object"
    if append.new is not None:
        _check_new(append.new)
    return {} if append.bodies is None else split_object(append.bodies)


def _check_new(new: NewRun) -> None:
    check_text(f"{new.idempotency_key or ''}{new.root_span_id or ''}", "new")
    frozen_json(new.trace_context or {}, "trace_context")
    if new.priority not in PRIORITIES:
        # Claims look at these only; a run with another one would wait for ever.
        raise PayloadRefused(f"Priority {new.priority}", "priorities are 0 to 9", field="priority")


def check_scheduled(command: ScheduledCommand) -> None:
    """Refuse a scheduled command that cannot be stored. Raises: PayloadRefused."""
    check_text(command.key, "key")
    check_text(command.workflow_id or "", "workflow_id")
    _parsed(command.command, "Scheduled command", "command")


def check_workflow(record: WorkflowRecord) -> None:
    """Refuse a definition that cannot be stored. Raises: PayloadRefused."""
    for text in (record.workflow_id, record.version, record.fingerprint):
        check_text(text, "workflow_id")
    _parsed(record.plan, "Plan", "plan")
    _parsed(record.description, "Description", "description")


def frozen_json(value: Mapping[str, Any], field: str) -> bytes:
    """The value as JSON, which its owner can no longer change. Raises: PayloadRefused, when it is not plain JSON."""
    try:
        data = json.dumps(dict(value), allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadRefused(field.capitalize(), str(error), field=field) from None
    _parsed(data, field.capitalize(), field)
    return data


def split_object(data: bytes) -> dict[str, bytes]:
    """The values of a JSON object by their names, as the bytes that stand in the text. Raises: PayloadRefused."""
    value = _parsed(data, "Bodies", "bodies")
    assert isinstance(value, dict), "bodies are a JSON object"
    text = data.decode()
    found: dict[str, bytes] = {}
    at = _after_space(text, text.index("{") + 1)
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        at = _after_space(text, text.index(":", at) + 1)
        _, end = _DECODER.raw_decode(text, at)
        found[name] = text[at:end].encode()
        at = _after_space(text, end)
        if text[at] == ",":
            at = _after_space(text, at + 1)
    return found


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _parsed(data: bytes, what: str, field: str) -> object:
    if b"\\u0000" in data and _NUL.search(data) is not None:
        raise PayloadRefused(what, "it contains a NUL character", field=field)
    try:
        # Unlike the standard library's, this parser refuses lone surrogates too.
        return from_json(data, allow_inf_nan=False, cache_strings=False)
    except ValueError as error:
        raise PayloadRefused(what, f"it is not JSON ({error})", field=field) from None


def check_text(text: str, field: str) -> None:
    """Refuse a text that no store could keep. Raises: PayloadRefused."""
    if "\0" in text:
        raise PayloadRefused(repr(text), "it contains a NUL character", field=field)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise PayloadRefused(repr(text), "it contains a lone surrogate", field=field) from None
