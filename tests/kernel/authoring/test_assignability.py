from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, StrEnum
from typing import Annotated, Any, Literal, NewType, NotRequired, TypeVar

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypeAliasType, TypedDict

from kernel.authoring.assignability import assignable


class Base(BaseModel):
    pass


class Derived(Base):
    pass


class Lookalike(BaseModel):
    pass


class Sizes(TypedDict):
    width: int
    height: int


class Width(TypedDict):
    width: int


class MaybeHeight(TypedDict):
    width: int
    height: NotRequired[int]


class Colour(Enum):
    RED = "red"


class Word(StrEnum):
    RED = "red"


Name = NewType("Name", str)
Alias = TypeAliasType("Alias", list[Base])
T = TypeVar("T")


@pytest.mark.parametrize(
    "source, target",
    [
        (Base, Base),
        (Derived, Base),
        (Base, Any),
        (Any, Base),
        (Base, object),
        (None, None),
        (type(None), None),
        (Base, Base | None),
        (None, Base | None),
        (Derived, Lookalike | Base),
        (Derived | None, Base | None),
        (list[Derived], list[Base]),
        (list[Derived], Sequence[Base]),
        (list[int], list),
        (list, list[int]),
        (dict[str, Derived], Mapping[str, Base]),
        (dict[str, int], Mapping[str, Any]),
        (tuple[int, int], Sequence[int]),
        (tuple[int, int], tuple[int, ...]),
        (tuple[int, ...], Iterable[int]),
        (int, float),
        (bool, int),
        (str, Sequence[str]),
        (Literal["a"], str),
        (Literal["a"], Literal["a", "b"]),
        (Word, str),
        (Name, str),
        (Alias, list[Base]),
        (Annotated[int, Field(ge=0)], int),
        (int, Annotated[int, Field(ge=0)]),
        (Sizes, Sizes),
        (Sizes, Width),
        (Sizes, MaybeHeight),
        (Sizes, Mapping[str, Any]),
        (Sizes, dict[str, int]),
        (Base, T),
    ],
)
def test_what_a_type_checker_would_accept_is_accepted(source, target) -> None:
    assert assignable(source, target)


@pytest.mark.parametrize(
    "source, target",
    [
        (Base, Derived),
        (Base, Lookalike),
        (Base, None),
        (None, Base),
        (Base | None, Base),
        (Base, Mapping[str, Any]),
        (Mapping[str, Any], Base),
        (list[Base], list[Derived]),
        (list[int], Sequence[str]),
        (list[int], dict[str, int]),
        (dict[str, str], Mapping[str, int]),
        (tuple[int, str], Sequence[int]),
        (tuple[int, ...], tuple[int, int]),
        (tuple[int], tuple[int, int]),
        (list[int], tuple[int, ...]),
        (float, int),
        (str, int),
        (str, Sequence[int]),
        (str, Literal["a"]),
        (Literal["a", "b"], Literal["a"]),
        (Literal[1], Literal[True]),
        (Literal[1], str),
        (Colour, str),
        (Width, Sizes),
        (MaybeHeight, Sizes),
        (Sizes, dict[str, str]),
        (Sizes, Base),
        (dict[str, int], Sizes),
    ],
)
def test_what_a_type_checker_would_refuse_is_refused(source, target) -> None:
    assert not assignable(source, target)
