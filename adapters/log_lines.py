"""Log lines as every store can keep them.

A line is for people: a damaged one is worth more than none, and it must never cost the stage that logged it, or the
lines that are written with it, anything. So unlike payloads, what cannot be stored is replaced here and not refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from kernel.ports.persistence import LogLine

__all__ = ["storable_line"]

REPLACEMENT = "\ufffd"
DEPTH_MAX = 20
"""Fields nested deeper than this are not for people any more; and a mapping may contain itself."""


def storable_line(line: LogLine) -> LogLine:
    """The line with its fields as plain JSON values that nobody else holds, and without what no store can keep."""
    return replace(
        line,
        stage_id=None if line.stage_id is None else _text(line.stage_id),
        level=_text(line.level),
        message=_text(line.message),
        fields={_text(str(name)): _value(value, DEPTH_MAX) for name, value in line.fields.items()},
    )


def _text(text: str) -> str:
    """Without NUL characters and lone surrogates."""
    return text.replace("\0", REPLACEMENT).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _value(value: object, depth: int) -> Any:
    match value:
        case str():
            return _text(value)
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case Mapping() if depth:
            named = cast("Mapping[object, object]", value)
            return {_text(str(name)): _value(child, depth - 1) for name, child in named.items()}
        case list() | tuple() if depth:
            return [_value(child, depth - 1) for child in cast("list[object]", value)]
        case _:
            return _text(str(value)) if depth else "..."
