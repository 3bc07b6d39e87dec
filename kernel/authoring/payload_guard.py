"""The guard at the door of storage: which JSON texts may be kept, and the encoding of values that have no schema.

A store that takes a value and cannot give it back leaves a run stuck for ever, so what no store can keep is refused
before it is queued: NUL characters (PostgreSQL's jsonb refuses them), lone surrogates (not encodable), NaN and
infinities (not JSON), nesting that a reader's parser refuses, and sizes beyond the configured bound.

The checks look at the encoded text, not at the objects: a text is searched at memory speed, and a text shorter than
the shortest offender needs no search at all. Only a suspicious text is looked at closely.
"""

from __future__ import annotations

import math
import re
from typing import Any, TypeAlias, cast

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, from_json, to_json

from kernel.errors import PayloadRefused
from kernel.value_places import children, places, surrogate_problem

__all__ = [
    "PAYLOAD_BYTES_MAX",
    "PAYLOAD_DEPTH_MAX",
    "check_payload_json",
    "decode_payload",
    "encode_payload",
    "find_payload_problem",
    "non_finite_problem",
    "refusal_of",
    "replaced_problem",
]

Value: TypeAlias = Any
"""A plain JSON value."""

PAYLOAD_BYTES_MAX = 64 * 1024 * 1024
"""The bound that holds where the configuration says nothing else."""

PAYLOAD_DEPTH_MAX = 100
"""Half of what pydantic's JSON parser follows (200), since payloads are also nested into larger documents."""

_REPLACEMENT = "\ufffd".encode()
_NUL = b"\\u0000"
# A NUL is escaped with an odd number of backslashes; an even number is the text `\u0000` itself.
_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_HOLDS_NOTHING = frozenset((str, bytes, int, bool, type(None)))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")


def check_payload_json(text: bytes, *, what: str, field: str, bytes_max: int = PAYLOAD_BYTES_MAX) -> None:
    """Refuse a JSON text that no store can keep; `what` and `field` name it in the error.

    Raises: PayloadRefused.
    """
    problem = find_payload_problem(text, bytes_max=bytes_max)
    if problem is not None:
        raise PayloadRefused(what, problem, field=field)


def find_payload_problem(text: bytes, *, bytes_max: int = PAYLOAD_BYTES_MAX) -> str | None:
    """Why no store can keep this JSON text, as the end of a sentence; None when it can be kept."""
    if len(text) > bytes_max:
        return f"it is {len(text)} bytes long as JSON, and at most {bytes_max} are allowed (payload_bytes_max)"
    if _NUL in text and _ESCAPED_NUL.search(text) is not None:
        return "it contains a NUL character"
    if (b"NaN" in text or b"Infinity" in text) and _has_constant(text):
        return "it contains NaN or an infinity, which JSON cannot express"
    # A level of nesting costs two brackets, so a short text cannot be deep.
    if len(text) > 2 * PAYLOAD_DEPTH_MAX and _too_deep(text):
        return f"it is nested deeper than {PAYLOAD_DEPTH_MAX} levels"
    return None


def encode_payload(value: object, *, what: str, field: str, bytes_max: int = PAYLOAD_BYTES_MAX) -> bytes:
    """The JSON text of a value without a schema (metadata, annotations, artifacts), guarded.

    Takes what pydantic can serialise: JSON values, models, dates, UUIDs, enums, paths and containers of them.

    Raises: PayloadRefused.
    """
    try:
        text = to_json(value, by_alias=False, round_trip=True, inf_nan_mode="constants")
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise refusal_of(error, value, what=what, field=field) from error
    check_payload_json(text, what=what, field=field, bytes_max=bytes_max)
    problem = replaced_problem(text, value)
    # A model inside decides for itself how it writes NaN, and pydantic's default is null: that would be a silent loss.
    if problem is None and b"null" in text:
        problem = non_finite_problem(value)
    if problem is not None:
        raise PayloadRefused(what, problem, field=field)
    return text


def decode_payload(text: bytes) -> Value:
    """The plain JSON value of a text that `encode_payload` made."""
    return from_json(text)


def refusal_of(error: Exception, value: object, *, what: str, field: str) -> PayloadRefused:
    """The refusal that stands for a serialiser's error: something inside the value has no JSON form."""
    reason = surrogate_problem(value) or f"it has no JSON form ({str(error).rstrip('.')})"
    return PayloadRefused(what, reason, field=field)


def replaced_problem(text: bytes, value: object) -> str | None:
    """Why this is not the text of that value, as the end of a sentence; None when it is.

    A serialiser that has no way to write a key puts another character into it, and says nothing.
    """
    return surrogate_problem(value) if _REPLACEMENT in text else None


def non_finite_problem(value: object) -> str | None:
    """Where a value that has been serialised before holds NaN or an infinity, as the end of a sentence; else None.

    The earlier serialisation is what bounds the depth and excludes cycles.
    """
    if not _holds_non_finite(value):
        return None
    for path, current in places(value):
        if isinstance(current, float) and not math.isfinite(current):
            return f"{path or 'the value'} is NaN or an infinity"
    return None


def _holds_non_finite(value: object) -> bool:
    # Most values have none, so the names of the places are made only for those that do.
    pending: list[object] = [value]
    while pending:
        current = pending.pop()
        kind = type(current)
        if kind is float:
            if not math.isfinite(cast("float", current)):
                return True
        elif kind in _HOLDS_NOTHING:
            continue
        elif isinstance(current, BaseModel):
            pending.extend(current.__dict__.values())
            if current.__pydantic_extra__:
                pending.extend(current.__pydantic_extra__.values())
        elif kind is dict:
            pending.extend(cast("dict[object, object]", current).values())
        elif kind is list:
            pending.extend(cast("list[object]", current))
        elif isinstance(current, float):
            if not math.isfinite(current):
                return True
        else:
            pending.extend(child for _, child in children(current))
    return False


def _has_constant(text: bytes) -> bool:
    outside = _STRING.sub(b"", text)
    return b"NaN" in outside or b"Infinity" in outside


def _too_deep(text: bytes) -> bool:
    brackets = text.translate(_ONE_KIND, _NOT_BRACKETS)
    if len(brackets) <= 2 * PAYLOAD_DEPTH_MAX:
        return False
    if _depth(brackets) is None:
        # Brackets inside strings do not pair up, so the strings have to go first, which is slower. Strings that were
        # made to pair up can hide a depth; what they hide is still bounded by the serialiser and by the parser.
        brackets = _STRING.sub(b"", text).translate(_ONE_KIND, _NOT_BRACKETS)
    depth = _depth(brackets)
    return depth is None or depth > PAYLOAD_DEPTH_MAX


def _depth(brackets: bytes) -> int | None:
    """How often the innermost pairs can be removed until nothing is left; None when something does not pair up."""
    depth = 0
    while brackets:
        outer = brackets.replace(b"[]", b"")
        if len(outer) == len(brackets):
            return None
        brackets, depth = outer, depth + 1
    return depth
