"""Where payloads go."""

import hashlib

import pytest

from adapters.blob_keys import checked_key
from kernel.errors import PayloadRefused
from kernel.model.attempts import Payload
from kernel.model.facts import BlobRef
from kernel.payloads import Limits, blob_key, place_payload, put_blob
from tests.kernel.by_hand import Hands, drive


def place(hands: Hands, data: bytes) -> Payload:
    return drive(place_payload(hands, data, key="k", what='Output of stage "a"', field="output"))


def test_a_small_payload_stays_what_it_is() -> None:
    hands = Hands(limits=Limits(payload_inline_bytes_max=4))

    assert place(hands, b"1234") == b"1234"
    assert hands.blobs.stored == {}


def test_a_large_payload_is_stored_and_named_with_its_digest() -> None:
    hands = Hands(limits=Limits(payload_inline_bytes_max=4))

    placed = place(hands, b"12345")

    assert placed == BlobRef(key="k", digest=hashlib.sha256(b"12345").hexdigest(), size_bytes=5)
    assert hands.blobs.stored == {"k": b"12345"}


def test_placing_it_again_is_harmless() -> None:
    hands = Hands(limits=Limits(payload_inline_bytes_max=4))

    assert place(hands, b"12345") == place(hands, b"12345")
    assert hands.blobs.stored == {"k": b"12345"}


@pytest.mark.parametrize("inline", [4, 100], ids=["to be stored apart", "to be kept inline"])
def test_a_payload_beyond_the_limit_is_refused_by_name_and_stored_nowhere(inline: int) -> None:
    hands = Hands(limits=Limits(payload_inline_bytes_max=inline, payload_bytes_max=10))

    assert place(hands, b"1234567890")
    hands.blobs.stored.clear()
    with pytest.raises(PayloadRefused, match=r'Output of stage "a" cannot be stored: it has 11 bytes.*limit of 10'):
        place(hands, b"12345678901")
    assert hands.blobs.stored == {}


def test_the_limit_holds_for_what_is_always_stored_apart() -> None:
    hands = Hands(limits=Limits(payload_bytes_max=10))

    stored = drive(put_blob(hands, b"", key="k", what="Artifact", field="artifacts"))
    with pytest.raises(PayloadRefused) as refused:
        drive(put_blob(hands, b"12345678901", key="k", what="Artifact", field="artifacts"))

    assert stored.size_bytes == 0
    assert refused.value.field == "artifacts"


def test_the_keys_of_two_runs_never_meet() -> None:
    assert blob_key("documents", "r1", "a", "t", "output.json") == "runs/documents/r1/a/t/output.json"


def test_a_name_is_one_part_of_a_key_whatever_its_text() -> None:
    names = ["a/b", "a%2Fb", "a%b", ".", "..", "a~b", "...", "a b", "漢"]

    keys = [blob_key("w", "r", name).removeprefix("runs/w/r/") for name in names]

    assert keys == ["a%2Fb", "a%252Fb", "a%25b", "%2E", "%2E%2E", "a%7Eb", "...", "a b", "漢"]


@pytest.mark.parametrize("letter", ["a", "漢", "/"])
def test_long_ids_and_names_make_keys_that_every_store_takes_and_that_never_meet(letter: str) -> None:
    long, other = letter * 200, letter * 199 + "b"

    keys = {blob_key(long, "r" * 36, long, "t" * 40, "artifacts", name) for name in (long, other)}

    assert len(keys) == 2
    for key in keys:
        assert checked_key(key) == key
