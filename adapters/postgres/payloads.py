"""The gate of the store: what PostgreSQL could not keep, or could not read back, is refused before it is queued.

One row that the server refuses costs its whole batch a second try, so the likely offences are looked for here: NUL
characters, lone surrogates, names that are not text. What remains (broken JSON, numbers out of range) the server finds,
and the committer isolates it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from kernel.errors import PayloadRefused
from kernel.model.run import RunError

__all__ = ["ERROR_MESSAGE_MAX", "error_text", "is_storable", "json_text", "mapping_text", "plain_text"]

ERROR_MESSAGE_MAX = 10_000
"""Characters of an error's message that a head keeps; the whole of it is in the history."""

# Only an odd number of backslashes makes an escape of the NUL character.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def json_text(data: bytes, what: str, field: str) -> str:
    """Raw JSON as the driver wants it. Raises: PayloadRefused."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise PayloadRefused(what, "it is not UTF-8, or contains a lone surrogate", field=field) from None
    if b"\\u" in data:
        _check_escapes(data, what, field)
    if "\0" in text:
        raise PayloadRefused(what, "it contains a NUL character", field=field)
    return text


def _check_escapes(data: bytes, what: str, field: str) -> None:
    if _NUL.search(data) is not None:
        raise PayloadRefused(what, "it contains a NUL character", field=field)
    try:
        # Unlike the standard library's, this parser refuses lone surrogates; the type "json" does not.
        from_json(data, allow_inf_nan=False, cache_strings=False)
    except ValueError as error:
        raise PayloadRefused(what, f"it is not JSON ({error})", field=field) from None


def mapping_text(value: Mapping[str, Any] | None, field: str) -> str | None:
    """A mapping as JSON. Raises: PayloadRefused, when it is not plain JSON."""
    if value is None:
        return None
    try:
        data = json.dumps(dict(value), allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadRefused(field.capitalize(), str(error), field=field) from None
    return json_text(data, field.capitalize(), field)


def is_storable(text: str) -> bool:
    """Whether the text can be a parameter at all; nothing is to be found under one that cannot."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def plain_text(text: str, field: str) -> str:
    """A name or a message. Raises: PayloadRefused."""
    if "\0" in text:
        raise PayloadRefused(repr(text), "it contains a NUL character", field=field)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise PayloadRefused(repr(text), "it contains a lone surrogate", field=field) from None
    return text


def error_text(error: RunError | None) -> str | None:
    """What a head keeps of a run's error: everything but the traceback. Raises: PayloadRefused."""
    if error is None:
        return None
    kept = {
        "type": error.error.type,
        "message": error.error.message[:ERROR_MESSAGE_MAX],
        "retryable": error.error.retryable,
        "stage_id": error.stage_id,
        "attempt": error.attempt,
    }
    return mapping_text(kept, "error")
