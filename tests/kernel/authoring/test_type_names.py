from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Generic, Literal, NewType, Optional, TypeVar, Union

import pytest
from pydantic import BaseModel, Field

from kernel.authoring.type_names import type_name

T = TypeVar("T")


class Photo(BaseModel):
    class Part(BaseModel):
        pass


class Box(BaseModel, Generic[T]):
    content: T


Name = NewType("Name", str)


@pytest.mark.parametrize(
    "annotation, name",
    [
        (Photo, "Photo"),
        (Photo.Part, "Photo.Part"),
        (None, "None"),
        (type(None), "None"),
        (int | None, "int | None"),
        (Optional[Photo], "Photo | None"),  # noqa: UP045
        (Union[str, int], "int | str"),  # noqa: UP007
        (list[Photo], "list[Photo]"),
        (dict[str, list[int]], "dict[str, list[int]]"),
        (Mapping[str, Any], "Mapping[str, Any]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (Callable[[int], str], "Callable[[int], str]"),
        (Literal["a", 1], "Literal['a', 1]"),
        (Annotated[int, Field(ge=1)], "int"),
        (Box[Photo], "Box[Photo]"),
        (Name, "Name"),
        (Any, "Any"),
    ],
)
def test_types_have_short_names(annotation, name) -> None:
    assert type_name(annotation) == name


def test_the_order_of_a_union_does_not_matter() -> None:
    assert type_name(int | str | None) == type_name(None | str | int)


def test_where_a_class_is_defined_does_not_matter() -> None:
    def build() -> type[BaseModel]:
        class Photo(BaseModel):
            pass

        return Photo

    assert type_name(build()) == "Photo"
