"""Texts from user code, made storable: error messages, tracebacks, log lines and their fields.

A payload that no store can keep is refused, because its author must know. A message is not: an attempt must be able to
fail whatever its exception says, and a log line must never fail its stage. So here everything becomes something that
can be stored: NUL characters and lone surrogates are replaced, long texts are cut, and a value without a JSON form
becomes its text. Knows neither stages nor stores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, cast

from pydantic_core import to_jsonable_python

__all__ = ["cut_text", "storable_fields", "storable_text"]

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_REPLACEMENT = "\ufffd"

NAME_LENGTH_MAX = 200
TEXT_LENGTH_MAX = 8_192
ITEMS_MAX = 100
DEPTH_MAX = 6
INT_BITS_MAX = 1_024
"""Python refuses to write an int of more than 4300 digits as decimal text; nobody logs one on purpose."""


def storable_text(text: str, *, length_max: int) -> str:
    """The text without what no store can keep, cut in the middle when it is too long."""
    if len(text) > length_max:
        text = cut_text(text, length_max)
    if text.isascii() and "\0" not in text:
        return text
    return _UNSTORABLE.sub(_REPLACEMENT, text)


def cut_text(text: str, length_max: int) -> str:
    """The beginning and the end of a text; the end is longer, because a traceback says there what happened."""
    mark = f"\n… {len(text) - length_max} characters or more left out …\n"
    kept = max(length_max - len(mark), 0)
    head = kept // 4
    return text[:head] + mark + text[len(text) - (kept - head) :]


def storable_fields(fields: Mapping[Any, Any]) -> dict[str, Any]:
    """A JSON object like these fields, taken now: what their author changes later does not matter.

    Bounded in depth, items and length of texts. May raise what the `__str__` of a user's class raises.
    """
    return {_name(key): _storable(value, 1) for key, value in islice(fields.items(), ITEMS_MAX)}


def _name(key: object) -> str:
    return storable_text(str(key), length_max=NAME_LENGTH_MAX)


def _storable(value: object, depth: int) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return storable_text(str(value), length_max=TEXT_LENGTH_MAX)
    if isinstance(value, int):
        return (
            int(value) if value.bit_length() <= INT_BITS_MAX else storable_text(hex(value), length_max=NAME_LENGTH_MAX)
        )
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if depth <= DEPTH_MAX:
        if isinstance(value, Mapping):
            items = islice(cast("Mapping[object, object]", value).items(), ITEMS_MAX)
            return {_name(key): _storable(item, depth + 1) for key, item in items}
        if isinstance(value, list | tuple | set | frozenset):
            members = islice(cast("Iterable[object]", value), ITEMS_MAX)
            return [_storable(member, depth + 1) for member in members]
        plain = _plain(value)
        if isinstance(plain, str | int | float | list | dict):
            return _storable(cast("object", plain), depth + 1)
    return storable_text(str(value), length_max=TEXT_LENGTH_MAX)


def _plain(value: object) -> object:
    """The JSON form of a model, a date, a path and the like; the value itself when it has none."""
    try:
        return to_jsonable_python(value, inf_nan_mode="strings", bytes_mode="base64", fallback=str)
    except (ValueError, TypeError, RecursionError):
        return value
