"""`run.unpark`."""

from dataclasses import replace

import pytest

from kernel.commands.create_run import CreateRun
from kernel.commands.execute_job import ExecuteJob
from kernel.commands.unpark_run import UnparkRun
from kernel.errors import RunNotFound
from kernel.model.facts import CorruptHistory
from tests.kernel.by_hand import Hands
from tests.kernel.definitions import Doc, documents
from tests.kernel.stories import NOW


def a_parked_run(hands: Hands) -> str:
    run_id = hands.dispatch(CreateRun(workflow_id="documents", input=Doc(path="a.txt"))).run_id
    hands.dispatch(ExecuteJob(run_id=run_id, stage_id="extract"))
    run = hands.store.runs[run_id]
    run.parked_reason, run.head = "undecidable", replace(run.head, wake_at=None)
    return run_id


def test_a_parked_run_can_be_claimed_again_and_its_history_is_not_touched() -> None:
    hands = Hands(documents)
    run_id = a_parked_run(hands)
    before = hands.kinds(run_id)

    assert hands.dispatch(UnparkRun(run_id=run_id)).unparked

    run = hands.store.runs[run_id]
    assert (run.parked_reason, run.head.wake_at) == (None, NOW)
    assert hands.kinds(run_id) == before


def test_a_run_that_is_not_parked_is_left_as_it_is() -> None:
    hands = Hands(documents)
    run_id = a_parked_run(hands)
    hands.dispatch(UnparkRun(run_id=run_id))
    sent = len(hands.store.sent)

    assert not hands.dispatch(UnparkRun(run_id=run_id)).unparked
    assert len(hands.store.sent) == sent


def test_of_two_who_unpark_one_does_it() -> None:
    hands = Hands(documents)
    run_id = a_parked_run(hands)
    others: list[bool] = []
    hands.store.meanwhile = [lambda: others.append(hands.dispatch(UnparkRun(run_id=run_id)).unparked)]

    assert not hands.dispatch(UnparkRun(run_id=run_id)).unparked
    assert others == [True]


def test_what_was_recorded_meanwhile_is_looked_at_again() -> None:
    hands = Hands(documents)
    run_id = a_parked_run(hands)
    hands.store.meanwhile = [lambda: hands.dispatch(ExecuteJob(run_id=run_id, stage_id="keywords"))]

    assert hands.dispatch(UnparkRun(run_id=run_id)).unparked
    assert hands.store.runs[run_id].parked_reason is None


@pytest.mark.parametrize("damage", ["unknown kind", "row lost"])
def test_a_history_that_still_cannot_be_read_stays_parked(damage: str) -> None:
    hands = Hands(documents)
    run_id = a_parked_run(hands)
    rows = hands.store.runs[run_id].rows
    rows[-1:] = [replace(rows[-1], events=b'[{"type":"run.teleported"}]')] if damage == "unknown kind" else []

    with pytest.raises(CorruptHistory):
        hands.dispatch(UnparkRun(run_id=run_id))

    assert hands.store.runs[run_id].parked_reason == "undecidable"


def test_an_unknown_run_is_refused() -> None:
    with pytest.raises(RunNotFound):
        Hands(documents).dispatch(UnparkRun(run_id="nobody"))
