from __future__ import annotations

import math

import pytest
from pydantic import BaseModel

from adapters.blob_keys import checked_key
from kernel import BlobNotFound, InvalidCommand, InvalidInput, PayloadRefused


class Pixels(BaseModel):
    width: int


@pytest.mark.parametrize(
    "value", [b"", b"abc", b"\x1e", b"\x1e\x1e{}", b"{}", "text", 3, None, [1, None], {"a": [1.5]}, "\x1e"]
)
def test_a_value_comes_back_as_it_was(a_context, finish, value) -> None:
    storage = a_context().storage

    finish(storage.put("k", value))

    assert finish(storage.get("k")) == value
    assert storage.blocking.get("k") == value


def test_bytes_are_stored_as_they_are(a_context, port, finish) -> None:
    finish(a_context().storage.put("photo.png", b"\x89PNG"))

    assert list(port.blocking_blobs.data.values()) == [b"\x89PNG"]


def test_a_model_is_read_back_by_its_type(a_context, finish) -> None:
    storage = a_context().storage
    finish(storage.put("size", Pixels(width=3)))

    assert finish(storage.get("size", Pixels)) == Pixels(width=3)
    assert finish(storage.get("size")) == {"width": 3}
    with pytest.raises(InvalidInput, match='storage key "size"'):
        storage.blocking.get("size", int)


def test_bytes_are_not_read_as_a_model(a_context, finish) -> None:
    storage = a_context().storage
    finish(storage.put("size", b'{"width": 3}'))

    assert finish(storage.get("size", bytes)) == b'{"width": 3}'
    with pytest.raises(InvalidInput, match="bytes are stored"):
        finish(storage.get("size", Pixels))


def test_the_same_key_of_two_runs_or_two_stages_is_not_the_same_value(a_context, port, finish) -> None:
    finish(a_context().storage.put("k", 1))
    finish(a_context(run_id="run-2").storage.put("k", 2))
    finish(a_context(stage_id="label").storage.put("k", 3))

    assert len(port.blocking_blobs.data) == 3
    assert finish(a_context().storage.get("k")) == 1


def test_shared_values_belong_to_the_run(a_context, finish) -> None:
    finish(a_context().storage.shared.put("k", 1))

    assert finish(a_context(stage_id="label").storage.shared.get("k")) == 1
    assert not finish(a_context(stage_id="run").storage.has("k"))
    assert not finish(a_context(run_id="run-2").storage.shared.has("k"))


def test_values_are_listed_by_prefix_under_their_own_keys(a_context, finish) -> None:
    storage = a_context().storage
    for key in ("b/2", "a/1", "b/1"):
        finish(storage.put(key, 0))

    assert finish(storage.list()) == ["a/1", "b/1", "b/2"]
    assert finish(storage.list("b/")) == ["b/1", "b/2"]
    assert storage.blocking.list("a") == ["a/1"]


def test_a_deleted_value_is_gone(a_context, finish) -> None:
    storage = a_context().storage
    finish(storage.put("k", 1))
    finish(storage.delete("k"))
    storage.blocking.delete("k")

    assert not finish(storage.has("k"))
    assert not storage.blocking.has("k")
    with pytest.raises(BlobNotFound):
        finish(storage.get("k"))


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "../other", "a/./b", "a\n", "a\0", "x" * 401, "漢" * 134, 3, None]
)
def test_a_key_that_could_leave_its_place_is_refused(a_context, port, finish, key) -> None:
    with pytest.raises(InvalidCommand, match="Storage key"):
        finish(a_context().storage.put(key, 1))

    assert port.blocking_blobs.data == {}


@pytest.mark.parametrize("value", [math.nan, object(), "\ud800"])
def test_a_value_that_cannot_be_kept_is_refused(a_context, finish, value) -> None:
    with pytest.raises(PayloadRefused, match='Storage value "k"'):
        finish(a_context().storage.put("k", value))


def test_the_longest_key_of_the_longest_ids_can_be_stored(a_context, port, finish) -> None:
    context = a_context(stage_id="漢" * 200, workflow_id="w" * 200, run_id="r" * 36)

    finish(context.storage.put("k" * 400, 1))

    [key] = port.blocking_blobs.data
    assert checked_key(key) == key
    assert finish(context.storage.list("k")) == ["k" * 400]
