"""How a type is called in fingerprints and messages: the same in every process and wherever the class lives.

The module is left out on purpose: moving a model to another file does not change the workflow. It must not resolve or
import anything.
"""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

__all__ = ["type_name", "union_members"]


def type_name(annotation: object) -> str:
    """A short name such as `Doc`, `list[Doc]` or `Text | None`; members of a union are in alphabetical order."""
    if annotation is None or annotation is type(None):
        return "None"
    if annotation is Any:
        return "Any"
    if annotation is ...:
        return "..."
    origin = get_origin(annotation)
    args = get_args(annotation)
    if origin is Annotated:
        return type_name(args[0])
    if origin is Literal:
        return f"Literal[{', '.join(repr(value) for value in args)}]"
    members = union_members(annotation)
    if len(members) > 1:
        names = sorted({type_name(member) for member in members} - {"None"})
        return " | ".join(names + (["None"] if any(member in (None, type(None)) for member in members) else []))
    if origin is not None and args:
        return f"{type_name(origin)}[{', '.join(_argument_name(argument) for argument in args)}]"
    return _bare_name(annotation)


def union_members(annotation: object) -> tuple[object, ...]:
    """The members of a union in the order written; the type alone when it is not a union."""
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


def _argument_name(argument: object) -> str:
    if isinstance(argument, list):  # the parameters of a Callable
        return f"[{', '.join(type_name(each) for each in cast('list[object]', argument))}]"
    return type_name(argument)


def _bare_name(annotation: object) -> str:
    if isinstance(annotation, str):
        return annotation
    name = getattr(annotation, "__qualname__", None) or getattr(annotation, "__name__", None)
    if isinstance(name, str):
        # A class defined in a function is `function.<locals>.Class`; where it was defined is not its name.
        return name.rpartition("<locals>.")[2]
    return str(annotation)
