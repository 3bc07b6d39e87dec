"""Where payloads go."""

import hashlib

import pytest

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
