"""What is shown instead of payloads that a blob store does not give."""

from __future__ import annotations

import pytest

from kernel.errors import BlobNotFound, Unavailable
from kernel.model.facts import BlobRef, CorruptHistory
from kernel.model.stage import Body
from kernel.unreadable import Unreadable, fetch_shown
from tests.kernel.by_hand import drive


class Shelf:
    """Gives nothing, for one reason."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked = 0

    async def get(self, _key: str, /) -> bytes:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return b'"something else"'


def large(seq: int) -> Body:
    return Body(seq, BlobRef(key=f"runs/{seq}", digest="0" * 64, size_bytes=9))


@pytest.mark.parametrize(
    "error, reason",
    [
        (Unavailable("It is away."), "It is away."),
        (OSError("unplugged"), 'The blob store failed to read "runs/2": OSError: unplugged.'),
    ],
)
def test_a_store_that_is_away_is_asked_once_and_small_payloads_are_shown(error: Exception, reason: str) -> None:
    shelf = Shelf(error)

    found = drive(fetch_shown("r", [large(2), Body(3), large(4)], {3: b"[1]"}, shelf))

    assert found == {large(2): {"$unreadable": reason}, Body(3): [1], large(4): {"$unreadable": reason}}
    assert shelf.asked == 1


def test_what_is_lost_is_told_from_what_is_away() -> None:
    lost = drive(fetch_shown("r", [large(2)], {}, Shelf(BlobNotFound("runs/2"))))[large(2)]
    away = drive(fetch_shown("r", [large(2)], {}, Shelf(Unavailable("It is away."))))[large(2)]

    assert isinstance(lost, Unreadable)
    assert isinstance(away, Unreadable)
    assert (lost.is_lost, away.is_lost) == (True, False)


def test_other_bytes_than_those_that_were_recorded_are_not_shown() -> None:
    found = drive(fetch_shown("r", [large(2)], {}, Shelf()))

    assert "is not what was recorded" in found[large(2)]["$unreadable"]


def test_an_absent_small_payload_is_a_damaged_history() -> None:
    with pytest.raises(CorruptHistory):
        drive(fetch_shown("r", [Body(3)], {}, Shelf()))
