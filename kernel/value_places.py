"""Where inside a value something stands that cannot be stored, in words for whoever made the value.

Asked only about values that have been refused, or look suspicious: naming a place costs more than encoding the whole.
It knows containers, models and dataclasses, and nothing of stages or facts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import cast

from pydantic import BaseModel

__all__ = ["children", "places", "surrogate_problem"]


def surrogate_problem(value: object) -> str | None:
    """Where a value holds a lone surrogate, half of a character, as the end of a sentence; None when nowhere."""
    for path, current in places(value):
        if isinstance(current, str) and not _encodable(current):
            return f"{path or 'the value'} contains a lone surrogate, which is half of a character"
        if isinstance(current, Mapping):
            keys = cast("Mapping[object, object]", current)
            if not all(_encodable(key) for key in keys if isinstance(key, str)):
                return f"a key of {path or 'the value'} contains a lone surrogate, which is half of a character"
    return None


def places(value: object) -> Iterator[tuple[str, object]]:
    """The value and everything in it, each with its path, outer ones first; also of a value that contains itself."""
    pending: list[tuple[str, object]] = [("", value)]
    seen: set[int] = set()
    while pending:
        path, current = pending.pop()
        yield path, current
        inner = list(children(current))
        if inner and id(current) not in seen:
            seen.add(id(current))
            pending.extend((f"{path}.{name}" if path else name, child) for name, child in inner)


def children(value: object) -> Iterator[tuple[str, object]]:
    """What a container, a model or a dataclass holds, by name or position."""
    if isinstance(value, BaseModel):
        yield from value.__dict__.items()
        yield from (value.__pydantic_extra__ or {}).items()
    elif isinstance(value, Mapping):
        for key, child in cast("Mapping[object, object]", value).items():
            yield str(key), child
    elif isinstance(value, list | tuple | set | frozenset):
        for index, child in enumerate(cast("list[object]", value)):
            yield str(index), child
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            yield each.name, getattr(value, each.name, None)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
