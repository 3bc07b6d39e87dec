"""What an id of a workflow, stage, queue or service may look like.

One rule, because these ids become keys of blobs, names of spans, columns people filter by and words on a command
line. It must not know what is being named: the caller turns the complaint into an error about its own subject.
"""

from __future__ import annotations

import re

__all__ = [
    "IDENTIFIER_LENGTH_MAX",
    "IDENTIFIER_RULE",
    "TEXT_BYTES_MAX",
    "identifier_problem",
    "text_problem",
    "version_problem",
]

IDENTIFIER_LENGTH_MAX = 200

IDENTIFIER_RULE = (
    f'Use 1 to {IDENTIFIER_LENGTH_MAX} letters, digits, ".", "_" or "-", beginning with a letter, a digit or "_".'
)

TEXT_BYTES_MAX = 1000
"""Of a name that somebody else gives to something, as UTF-8; as long as an idempotency key may be."""

# Letters and digits of any script; no separators that a path, a pool of keys or a shell would give a meaning to.
_IDENTIFIER = re.compile(r"\w[\w.\-]*")

_VERSION = re.compile(r"[^\s\x00-\x1f\x7f]+")


def identifier_problem(value: object) -> str | None:
    """Why `value` cannot be an id, as the end of a sentence that begins with its name; None when it can."""
    if not isinstance(value, str):
        return f"must be a string, not {type(value).__name__}"
    if not value:
        return "must not be empty"
    if len(value) > IDENTIFIER_LENGTH_MAX:
        return f"is {len(value)} characters long, at most {IDENTIFIER_LENGTH_MAX} are allowed"
    if _IDENTIFIER.fullmatch(value) is None:
        return f"has characters that are not allowed: {value!r}"
    return None


def version_problem(value: object) -> str | None:
    """Why `value` cannot be a version: versions are opaque, but are printed in one word."""
    if not isinstance(value, str):
        return f"must be a string, not {type(value).__name__}"
    if not value:
        return "must not be empty"
    if len(value) > IDENTIFIER_LENGTH_MAX:
        return f"is {len(value)} characters long, at most {IDENTIFIER_LENGTH_MAX} are allowed"
    if _VERSION.fullmatch(value) is None:
        return f"must not contain white space or control characters: {value!r}"
    return None


def text_problem(value: object) -> str | None:
    """Why `value` cannot be the name of something in a store, whatever it names; None when it can."""
    if not isinstance(value, str):
        return f"must be a string, not {type(value).__name__}"
    if not value.strip():
        return "must not be empty"
    if "\0" in value:
        return "must not contain a NUL character"
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "is not valid UTF-8 text"
    return None if size <= TEXT_BYTES_MAX else f"is {size} bytes long as UTF-8, at most {TEXT_BYTES_MAX} are allowed"
