"""`run.cancel`."""

import pytest

from kernel.commands.cancel_run import CancelRun
from kernel.commands.create_run import CreateRun
from kernel.commands.execute_job import ExecuteJob
from kernel.errors import PayloadRefused, RunNotFound
from kernel.model.machine import Status
from tests.kernel.by_hand import Hands
from tests.kernel.definitions import Doc, documents, single
from tests.kernel.stories import a_run


def a_created_run(hands: Hands, workflow_id: str = "documents") -> str:
    return hands.dispatch(CreateRun(workflow_id=workflow_id, input=Doc(path="a.txt"))).run_id


def test_a_run_and_everything_of_it_ends_in_one_append() -> None:
    hands = Hands(documents)
    run_id = a_created_run(hands)
    hands.dispatch(ExecuteJob(run_id=run_id, stage_id="extract"))

    result = hands.dispatch(CancelRun(run_id=run_id, reason="not needed"))

    assert result.cancelled
    assert hands.kinds(run_id)[-1] == ["stage.cancelled"] * 2 + ["stage.skipped"] * 2 + ["run.cancelled"]
    state = hands.state(run_id)
    assert (state.status, state.cancel_reason) == (Status.CANCELLED, "not needed")
    assert hands.store.runs[run_id].head.wake_at is None


def test_a_run_that_has_not_begun_can_be_cancelled() -> None:
    hands = Hands(single)
    run_id = a_created_run(hands, "single")

    assert hands.dispatch(CancelRun(run_id=run_id)).cancelled
    assert hands.state(run_id).started_at is None


def test_cancelling_a_cancelled_run_changes_nothing() -> None:
    hands = Hands(single)
    run_id = a_created_run(hands, "single")
    hands.dispatch(CancelRun(run_id=run_id, reason="first"))
    before = hands.state(run_id)

    assert not hands.dispatch(CancelRun(run_id=run_id, reason="second")).cancelled
    assert hands.state(run_id) == before


@pytest.mark.parametrize("when", ["before", "between decision and append"])
def test_cancelling_cannot_overwrite_a_completed_run(when: str) -> None:
    hands = Hands(single)
    run_id = a_created_run(hands, "single")

    def complete() -> None:
        hands.dispatch(ExecuteJob(run_id=run_id, stage_id="extract"))

    if when == "before":
        complete()
    else:
        hands.store.meanwhile = [complete]

    assert not hands.dispatch(CancelRun(run_id=run_id)).cancelled
    assert hands.state(run_id).status is Status.COMPLETED


def test_a_failed_run_stays_failed() -> None:
    story = a_run("a")
    story.start("a")
    story.fail("a")

    assert not story.cancel().cancelled
    assert story.state.status is Status.FAILED


def test_the_owner_of_a_cancelled_run_keeps_it_and_is_told() -> None:
    hands = Hands(single)
    run_id = a_created_run(hands, "single")
    hands.store.runs[run_id].owner = "a-session"

    hands.dispatch(CancelRun(run_id=run_id))

    assert (hands.store.runs[run_id].owner, hands.store.runs[run_id].attention) == ("a-session", True)


def test_an_unknown_run_is_refused() -> None:
    with pytest.raises(RunNotFound) as refused:
        Hands(single).dispatch(CancelRun(run_id="nobody"))

    assert refused.value.run_id == "nobody"


def test_a_reason_that_cannot_be_stored_is_refused_and_the_run_goes_on() -> None:
    hands = Hands(single)
    run_id = a_created_run(hands, "single")

    with pytest.raises(PayloadRefused):
        hands.dispatch(CancelRun(run_id=run_id, reason="\ud800"))

    assert hands.state(run_id).status is Status.PENDING
