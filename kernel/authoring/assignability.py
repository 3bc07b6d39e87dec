"""Whether every value of one type is a value of another: the rule by which a stage may follow a stage.

This answers what a type checker would, on the types as they are at run time, so that `build()` refuses what a user
without a type checker would otherwise meet in production. Where run time cannot tell, the answer is yes: the value
itself is still validated. It compares types only and must not know stages.
"""

from __future__ import annotations

import collections.abc
from collections.abc import Mapping
from enum import Enum
from typing import (
    Annotated,
    Any,
    Literal,
    NewType,
    NotRequired,
    Required,
    TypeVar,
    cast,
    get_args,
    get_origin,
    is_typeddict,
)

from pydantic import BaseModel
from typing_extensions import ReadOnly, TypeAliasType, get_type_hints
from typing_extensions import is_typeddict as is_typeddict_ext

from kernel.authoring.type_names import union_members

__all__ = ["assignable", "typed_dict_fields"]


def assignable(source: object, target: object) -> bool:
    """Whether a value declared as `source` may be given where `target` is declared; None stands for its own type."""
    source, target = _plain(source), _plain(target)
    if source is Any or target is Any or target is object or source == target:
        return True
    sources = union_members(source)
    if len(sources) > 1:
        return all(assignable(member, target) for member in sources)
    targets = union_members(target)
    if len(targets) > 1:
        return any(assignable(source, member) for member in targets)
    if isinstance(source, TypeVar) or isinstance(target, TypeVar):
        return True
    return _assignable_one(source, target)


def typed_dict_fields(annotation: object) -> dict[str, tuple[object, bool]] | None:
    """Key to (type, required) of a TypedDict; None for anything else."""
    if not _is_typed_dict(annotation):
        return None
    required = cast("frozenset[str]", getattr(annotation, "__required_keys__", frozenset[str]()))
    try:
        hints = get_type_hints(annotation, include_extras=True)
    except NameError:  # defined in a function, with names of that function: the keys are known, their types are not
        hints = dict.fromkeys(getattr(annotation, "__annotations__", {}), Any)
    return {key: _typed_dict_field(hint, required=key in required) for key, hint in hints.items()}


def _typed_dict_field(hint: object, *, required: bool) -> tuple[object, bool]:
    """The type without its qualifiers. Python does not see a qualifier in an annotation that was written as text."""
    while get_origin(hint) in (Annotated, Required, NotRequired, ReadOnly):
        if get_origin(hint) in (Required, NotRequired):
            required = get_origin(hint) is Required
        hint = get_args(hint)[0]
    return hint, required


def _plain(annotation: object) -> object:
    """Without what does not change the set of values: metadata, aliases, new names; None as its type."""
    while True:
        if annotation is None:
            return type(None)
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, TypeAliasType):
            annotation = annotation.__value__
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        else:
            return annotation


def _assignable_one(source: object, target: object) -> bool:
    if get_origin(source) is Literal:
        values: tuple[object, ...] = get_args(source)
        if get_origin(target) is Literal:
            targets: tuple[object, ...] = get_args(target)
            # True == 1, but they are different literals.
            allowed = [(repr(value), value) for value in targets]
            return all((repr(value), value) in allowed for value in values)
        return all(assignable(value.__class__, target) for value in values)
    if get_origin(target) is Literal:
        return False
    if _is_typed_dict(source) or _is_typed_dict(target):
        return _typed_dict_assignable(source, target)
    source_class, target_class = get_origin(source) or source, get_origin(target) or target
    if not isinstance(source_class, type) or not isinstance(target_class, type):
        return True  # a special form that we do not know; the value decides
    if not _subclass(source_class, target_class):
        return False
    return _arguments_assignable(source, target, source_class, target_class)


def _subclass(source: type, target: type) -> bool:
    # PEP 484's promotion. An int subclass that is no int to a reader (bool, an enum) does not become a float.
    if target is float and source is int:
        return True
    if target is str and issubclass(source, Enum):
        return issubclass(source, str)
    return issubclass(source, target)


def _arguments_assignable(source: object, target: object, source_class: type, target_class: type) -> bool:
    """Compare type arguments covariantly, as a reader of the value would; absent arguments mean Any."""
    if issubclass(source_class, str | bytes) and target_class is collections.abc.Sequence:
        # A string is a sequence of strings.
        element = get_args(target)
        return not element or assignable(str if issubclass(source_class, str) else int, element[0])
    source_args, target_args = get_args(source), get_args(target)
    if not source_args or not target_args:
        return True
    if issubclass(source_class, tuple):
        return _tuple_assignable(source_args, target_args, target_class)
    if len(source_args) != len(target_args):
        return True  # differently parametrised classes: only the value can tell
    return all(assignable(one, other) for one, other in zip(source_args, target_args, strict=True))


def _tuple_assignable(source_args: tuple[object, ...], target_args: tuple[object, ...], target_class: type) -> bool:
    homogeneous = len(source_args) == 2 and source_args[1] is ...
    elements = source_args[:1] if homogeneous else source_args
    if not issubclass(target_class, tuple):  # a Sequence, Iterable, Collection of one element type
        return all(assignable(element, target_args[0]) for element in elements)
    if len(target_args) == 2 and target_args[1] is ...:
        return all(assignable(element, target_args[0]) for element in elements)
    if homogeneous or len(elements) != len(target_args):
        return False
    return all(assignable(one, other) for one, other in zip(elements, target_args, strict=True))


def _is_typed_dict(annotation: object) -> bool:
    return is_typeddict(annotation) or is_typeddict_ext(annotation)


def _typed_dict_assignable(source: object, target: object) -> bool:
    source_fields, target_fields = typed_dict_fields(source), typed_dict_fields(target)
    if target_fields is None:
        # A TypedDict may stand where a mapping with string keys is read.
        target_class = get_origin(target) or target
        if target_class is BaseModel or not isinstance(target_class, type) or not issubclass(dict, target_class):
            return False
        arguments = get_args(target)
        if not issubclass(target_class, Mapping) or len(arguments) != 2:
            return True
        values = [hint for hint, _ in (source_fields or {}).values()]
        return assignable(str, arguments[0]) and all(assignable(hint, arguments[1]) for hint in values)
    if source_fields is None:
        return False
    for key, (hint, required) in target_fields.items():
        if key in source_fields:
            source_hint, source_required = source_fields[key]
            if not assignable(source_hint, hint) or (required and not source_required):
                return False
        elif required:
            return False
    return True
