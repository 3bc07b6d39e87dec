"""`lease.reapStale`: whose lease has ended is the store's affair, see `adapters/conformance/store/sessions.py`."""

import pytest

from kernel.commands.reap_stale_leases import ReapStaleLeases
from kernel.errors import InvalidCommand
from tests.kernel.by_hand import Hands


def test_expired_sessions_are_condemned_and_counted_once() -> None:
    hands = Hands()
    hands.store.expired = ["s1", "s2", "s3"]

    counts = [hands.dispatch(ReapStaleLeases(max_sessions=2)).released for _ in range(3)]

    assert counts == [2, 1, 0]


@pytest.mark.parametrize("bound", [0, -1])
def test_a_bound_that_makes_no_sense_is_refused(bound: int) -> None:
    with pytest.raises(InvalidCommand) as refused:
        ReapStaleLeases(max_sessions=bound)

    assert refused.value.field == "max_sessions"
