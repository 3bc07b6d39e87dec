from __future__ import annotations

import math
from collections.abc import Callable as AnyCallable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NotRequired

import pytest
from pydantic import BaseModel, ConfigDict, Field, computed_field
from typing_extensions import TypedDict

from kernel.authoring.schema import NONE, Schema, UnusableType
from kernel.errors import InvalidConfig, InvalidInput, InvalidOutput, PayloadRefused


class Photo(BaseModel):
    url: str
    width: int = Field(default=1, ge=0)


class Renamed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    page_count: int = Field(alias="page-count")
    title: str = Field(default="", validation_alias="Title")
    size: int = Field(default=0, serialization_alias="Size")


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    at: datetime
    pair: tuple[int, int]


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"


class Sizes(TypedDict):
    width: int
    height: NotRequired[int]


def encode(annotation: object, value: object) -> bytes:
    return Schema(annotation).encode(value, where='stage "resize"', refuse=InvalidOutput)


def decode(annotation: object, text: bytes) -> Any:
    return Schema(annotation).decode(text, where='stage "resize"', refuse=InvalidInput)


@pytest.mark.parametrize(
    "annotation, value",
    [
        (Photo, Photo(url="a", width=2)),
        (list[Photo], [Photo(url="a")]),
        (dict[str, int], {"a": 1}),
        (Sizes, {"width": 1}),
        (Photo | None, None),
        (Annotated[Cat | Dog, Field(discriminator="kind")], Dog()),
        (Cat | Dog, Dog()),
        (str, 'quote " and backslash \\'),
        (int, 2**70),
        (float, 0.1),
        (bool, True),
        (None, None),
        (Any, {"a": [1, None, "x"]}),
        (datetime, datetime(2026, 1, 2, tzinfo=UTC)),
        (Strict, Strict(at=datetime(2026, 1, 2, tzinfo=UTC), pair=(1, 2))),
    ],
)
def test_a_value_comes_back_as_it_was(annotation, value) -> None:
    assert decode(annotation, encode(annotation, value)) == value


def test_a_mapping_becomes_the_model_with_its_defaults() -> None:
    assert encode(Photo, {"url": "a"}) == b'{"url":"a","width":1}'


def test_every_decoding_makes_a_fresh_value() -> None:
    text = encode(Photo, Photo(url="a"))

    assert decode(Photo, text) is not decode(Photo, text)


def test_keys_are_field_names_whatever_the_aliases() -> None:
    text = encode(Renamed, {"page-count": 3, "Title": "t", "size": 4})

    assert text == b'{"page_count":3,"title":"t","size":4}'
    assert decode(Renamed, text) == decode(Renamed, b'{"page-count":3,"Title":"t","size":4}')


def test_computed_fields_are_not_stored() -> None:
    class Square(BaseModel):
        model_config = ConfigDict(extra="forbid")
        edge: int

        @computed_field
        @property
        def area(self) -> int:
            return self.edge**2

    assert encode(Square, Square(edge=2)) == b'{"edge":2}'


def test_a_strict_model_takes_from_plain_data_what_it_takes_from_json() -> None:
    data = {"at": "2026-01-02T00:00:00Z", "pair": [1, 2]}

    assert Schema(Strict).validate(data, where="x", refuse=InvalidInput).pair == (1, 2)


def test_an_error_names_the_place_and_not_the_value() -> None:
    with pytest.raises(InvalidOutput) as refused:
        encode(Photo, {"url": "a", "width": "secret"})

    (finding,) = refused.value.errors
    assert (finding["loc"], finding["type"]) == (("width",), "int_parsing")
    assert refused.value.field == "output"
    assert "secret" not in f"{refused.value} {refused.value.errors}"


@pytest.mark.parametrize("refuse", [InvalidInput, InvalidOutput, InvalidConfig])
def test_the_caller_says_which_error_a_refusal_is(refuse) -> None:
    with pytest.raises(refuse, match='stage "resize" is not valid: url: Field required'):
        Schema(Photo).validate({}, where='stage "resize"', refuse=refuse)
    with pytest.raises(refuse, match="url: Field required"):
        Schema(Photo).decode(b"{}", where='stage "resize"', refuse=refuse)


def test_a_model_made_wrong_after_its_validation_is_refused() -> None:
    photo = Photo(url="a")
    photo.width = -1

    with pytest.raises(InvalidOutput, match=r"read back from its JSON.* width: Input should be greater"):
        encode(Photo, photo)


def test_a_model_built_without_validation_is_refused_when_it_is_wrong() -> None:
    with pytest.raises(InvalidOutput, match="url"):
        encode(Photo, Photo.model_construct(width=1))


def test_a_model_that_cannot_be_read_from_what_it_writes_is_refused_where_it_is_made() -> None:
    class Forgetful(BaseModel):
        kept: int
        lost: int = Field(exclude=True)

    with pytest.raises(InvalidOutput, match="lost: Field required"):
        encode(Forgetful, Forgetful(kept=1, lost=2))


@pytest.mark.parametrize("annotation", [Any, dict[str, Any], list[float | None] | dict[str, float | None]])
def test_nan_is_refused_and_not_turned_into_null(annotation) -> None:
    with pytest.raises(PayloadRefused, match="a is NaN or an infinity"):
        encode(annotation, {"a": math.nan, "b": None})


def test_nan_in_an_optional_field_of_a_nested_model_is_refused() -> None:
    class Reading(BaseModel):
        celsius: float | None

    class Series(BaseModel):
        readings: list[Reading]

    with pytest.raises(PayloadRefused, match=r"readings\.1\.celsius is NaN"):
        encode(Series, Series(readings=[Reading(celsius=None), Reading(celsius=math.nan)]))


class Word(float):
    pass


@dataclass
class Reading:
    celsius: float


@pytest.mark.parametrize(
    "value, place",
    [
        ((1.0, math.nan), "value.1"),
        ({math.inf}, "value.0"),
        (Reading(math.nan), "value.celsius"),
        (Word("nan"), "value"),
        ([Reading(1.0), {"a": (Reading(-math.inf),)}], "value.1.a.0.celsius"),
    ],
)
def test_nan_is_found_in_every_kind_of_container(value, place) -> None:
    class Loose(BaseModel):
        value: Any
        other: None = None

    with pytest.raises(PayloadRefused, match=f"{place} is NaN or an infinity"):
        encode(Loose, Loose(value=value))


def test_nan_in_an_extra_field_is_refused() -> None:
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        name: str | None = None

    with pytest.raises(PayloadRefused, match="extra is NaN"):
        encode(Open, Open(extra=math.inf))


@pytest.mark.parametrize("value", ["a\0", "\ud800"])
def test_texts_that_no_store_keeps_are_refused(value) -> None:
    with pytest.raises(PayloadRefused, match='Output of stage "resize" cannot be stored'):
        encode(Photo, Photo(url=value))


def test_a_key_that_has_no_encoding_is_refused_and_not_replaced() -> None:
    with pytest.raises(PayloadRefused, match="a key of the value contains a lone surrogate"):
        encode(dict[str, int], {"\ud800": 1})


def test_a_payload_beyond_the_bound_is_refused() -> None:
    with pytest.raises(PayloadRefused, match="payload_bytes_max"):
        Schema(str).encode("x" * 100, where="x", refuse=InvalidInput, bytes_max=50)


def test_none_is_a_schema_of_its_own() -> None:
    assert NONE.is_none
    assert NONE.encode(None, where="x", refuse=InvalidInput) == b"null"
    with pytest.raises(InvalidInput):
        NONE.validate({}, where="x", refuse=InvalidInput)


@pytest.mark.parametrize("annotation, admits", [(None, True), (Photo | None, True), (Any, True), (Photo, False)])
def test_a_schema_knows_whether_none_is_a_value(annotation, admits) -> None:
    assert Schema(annotation).admits_none is admits


class Opaque:
    pass


@pytest.mark.parametrize("annotation", [Opaque, list[Opaque], AnyCallable[[int], int], type[int], "Nowhere"])
def test_a_type_that_cannot_be_read_from_json_is_refused_by_name(annotation) -> None:
    with pytest.raises(UnusableType) as refused:
        Schema(annotation)

    assert refused.value.reason.startswith(("Opaque", "list[Opaque]", "Callable", "type[int]", "Nowhere"))


def test_a_forward_reference_is_resolved_by_the_names_given() -> None:
    class Later(BaseModel):
        x: int

    schema = Schema(list["Later"], namespace={"Later": Later})  # type: ignore[name-defined]

    assert schema.decode(b'[{"x": 1}]', where="x", refuse=InvalidInput) == [Later(x=1)]
