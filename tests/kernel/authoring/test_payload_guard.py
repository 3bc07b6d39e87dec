from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from kernel.authoring.payload_guard import (
    PAYLOAD_DEPTH_MAX,
    check_payload_json,
    decode_payload,
    encode_payload,
    find_payload_problem,
)
from kernel.errors import PayloadRefused


class Point(BaseModel):
    x: float | None = None


class Loud(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    x: float


def encode(value: object, **options: int) -> bytes:
    return encode_payload(value, what="Metadata", field="metadata", **options)


def nested(depth: int) -> object:
    value: object = 1
    for level in range(depth):
        value = [value] if level % 2 else {"k": value}
    return value


@pytest.mark.parametrize("value", ["a\0b", {"k\0": 1}, ["\\\0"], {"a": {"b": ["\0"]}}])
def test_a_nul_character_is_refused_wherever_it_stands(value) -> None:
    with pytest.raises(PayloadRefused, match="NUL"):
        encode(value)


@pytest.mark.parametrize("value", ["\\u0000", "\\\\u0000", {"\\u0000": 1}])
def test_a_text_that_only_looks_like_an_escaped_nul_is_kept(value) -> None:
    assert decode_payload(encode(value)) == value


@pytest.mark.parametrize(
    "value, place",
    [
        ("\ud800", "the value"),
        ({"\udfff": 1}, "a key of the value"),
        (["a\ud800b"], "0"),
        ({"pages": [{"title": "\udc00"}]}, "pages.0.title"),
        ({"pages": [{"\udc00": 1}]}, "a key of pages.0"),
    ],
)
def test_a_lone_surrogate_is_refused_with_its_place(value, place) -> None:
    with pytest.raises(PayloadRefused) as refused:
        encode(value)
    assert refused.value.reason == f"{place} contains a lone surrogate, which is half of a character"


def test_a_replacement_character_of_the_users_own_is_kept() -> None:
    assert decode_payload(encode({"\ufffd": "\ufffd"})) == {"\ufffd": "\ufffd"}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("wrap", [lambda n: n, lambda n: [1.0, n], lambda n: {"a": {"b": n}}, lambda n: Loud(x=n)])
def test_nan_and_infinities_are_refused(wrap, number) -> None:
    with pytest.raises(PayloadRefused, match="NaN or an infinity"):
        encode(wrap(number))


def test_a_nan_that_a_model_would_write_as_null_is_refused_with_its_place() -> None:
    with pytest.raises(PayloadRefused, match=r"points\.1\.x is NaN or an infinity"):
        encode({"points": [Point(), Point(x=math.nan)]})


@pytest.mark.parametrize("value", ["NaN", "-Infinity", {"NaN": None}, ['"NaN', "Infinity\\"], Point()])
def test_texts_about_nan_and_real_nulls_are_kept(value) -> None:
    assert encode(value)


def test_a_value_as_deep_as_the_bound_is_kept_and_a_deeper_one_is_refused() -> None:
    assert encode(nested(PAYLOAD_DEPTH_MAX))

    with pytest.raises(PayloadRefused, match=f"deeper than {PAYLOAD_DEPTH_MAX} levels"):
        encode(nested(PAYLOAD_DEPTH_MAX + 1))


@pytest.mark.parametrize("depth", [500, 5_000])
def test_a_value_deeper_than_any_serialiser_goes_is_refused(depth) -> None:
    with pytest.raises(PayloadRefused):
        encode(nested(depth))


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[object] = []
    value.append(value)

    with pytest.raises(PayloadRefused, match="no JSON form"):
        encode(value)


def test_brackets_inside_strings_do_not_count_as_nesting() -> None:
    assert encode(["[" * 1000, "]}" * 300, {"{" * 500: 1}])


def test_a_wide_value_is_not_a_deep_one() -> None:
    assert encode([{"tags": [["a"], ["b"]]} for _ in range(1000)])


def test_the_size_is_bounded_in_bytes_of_json() -> None:
    assert encode("x" * 8, bytes_max=10)

    with pytest.raises(PayloadRefused, match="11 bytes long as JSON, and at most 10 are allowed"):
        encode("x" * 9, bytes_max=10)


def test_what_has_no_json_form_is_refused() -> None:
    with pytest.raises(PayloadRefused, match=r"Metadata cannot be stored: it has no JSON form .*object") as refused:
        encode({"a": object()})

    assert refused.value.field == "metadata"


def test_a_text_from_elsewhere_is_checked_in_the_same_way() -> None:
    check_payload_json(b'{"a": "b"}', what="Input", field="input")

    with pytest.raises(PayloadRefused, match="Input cannot be stored"):
        check_payload_json(b'{"a": NaN}', what="Input", field="input")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)


@settings(max_examples=20)
@given(JSON)
def test_a_value_is_kept_exactly_when_a_store_could_keep_it(value) -> None:
    text = json.dumps(value, ensure_ascii=False, allow_nan=True)
    storable = "\0" not in "".join(strings_of(value)) and "Infinity" not in json.dumps(without_strings(value))

    if storable:
        assert decode_payload(encode(value)) == value
        assert find_payload_problem(text.encode()) is None
    else:
        with pytest.raises(PayloadRefused):
            encode(value)


def strings_of(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for child in value for text in strings_of(child)]
    if isinstance(value, dict):
        return [*value, *(text for child in value.values() for text in strings_of(child))]
    return []


def without_strings(value: object) -> object:
    if isinstance(value, list):
        return [without_strings(child) for child in value]
    if isinstance(value, dict):
        return [without_strings(child) for child in value.values()]
    return None if isinstance(value, str) else value
