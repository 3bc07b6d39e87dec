"""`run.claimPending`: which runs are taken is the store's affair, see `adapters/conformance/store/claims.py`."""

import pytest

from kernel.commands.claim_pending_runs import ClaimedRun, ClaimPendingRuns
from kernel.commands.create_run import CreateRun
from kernel.errors import InvalidCommand
from tests.kernel.by_hand import Hands
from tests.kernel.definitions import Doc, single


def a_created_run(hands: Hands) -> str:
    return hands.dispatch(CreateRun(workflow_id="single", input=Doc(path="a.txt"))).run_id


def test_what_was_taken_is_named_with_its_workflow() -> None:
    hands = Hands(single)
    run_id = a_created_run(hands)

    result = hands.dispatch(ClaimPendingRuns(session_id="s1"))

    assert tuple(result.claimed) == (ClaimedRun(run_id=run_id, workflow_id="single"),)
    assert hands.store.runs[run_id].owner == "s1"


def test_taking_a_run_writes_no_history() -> None:
    hands = Hands(single)
    run_id = a_created_run(hands)

    hands.dispatch(ClaimPendingRuns(session_id="s1"))

    assert hands.kinds(run_id) == [["run.created"]]


def test_no_more_runs_are_taken_than_asked_for_and_none_twice() -> None:
    hands = Hands(single)
    created = {a_created_run(hands) for _ in range(3)}

    first = hands.dispatch(ClaimPendingRuns(session_id="s1", max_claims=2))
    second = hands.dispatch(ClaimPendingRuns(session_id="s2", max_claims=2))
    third = hands.dispatch(ClaimPendingRuns(session_id="s3"))

    taken = [run.run_id for result in (first, second, third) for run in result.claimed]
    assert (len(first.claimed), len(second.claimed), len(third.claimed)) == (2, 1, 0)
    assert set(taken) == created


@pytest.mark.parametrize("bound", [0, -1])
def test_a_bound_that_makes_no_sense_is_refused(bound: int) -> None:
    with pytest.raises(InvalidCommand) as refused:
        ClaimPendingRuns(session_id="s1", max_claims=bound)

    assert refused.value.field == "max_claims"
