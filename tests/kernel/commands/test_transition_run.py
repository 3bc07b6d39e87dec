"""`run.transition`."""

import pytest

from kernel.commands.create_run import CreateRun
from kernel.commands.transition_run import TransitionRun, TransitionRunResult
from kernel.errors import RunNotFound
from kernel.model.facts import StageCompleted, StageFailed
from kernel.model.machine import Status
from tests.kernel.by_hand import Hands
from tests.kernel.definitions import Doc, documents
from tests.kernel.stories import NOW, SECOND, Story, a_run, an_error

COMPLETION = StageCompleted(stage_id="a", execution=1, attempt=1, duration_s=1.0)
FAILURE = StageFailed(stage_id="a", execution=1, attempt=1, error=an_error())


def a_damaged_run(*groups: str, end: StageCompleted | StageFailed) -> Story:
    """A run whose only attempt ended without what should have followed from it."""
    story = a_run(*groups)
    story.start("a")
    story.add(end)
    return story


def test_a_new_run_begins_with_its_first_group() -> None:
    story = a_run("a b", "c")

    assert story.transition() == TransitionRunResult(action="advanced", next_group=1)
    assert story.last == ["run.started", "stage.scheduled", "stage.scheduled"]


def test_a_healthy_run_never_needs_it() -> None:
    story = a_run("a b", "c")
    story.transition()
    for name in ("a", "b", "c"):
        story.start(name)
        before = story.state
        assert story.transition() == TransitionRunResult(action="noop")
        assert story.state == before
        story.complete(name)

    assert story.transition() == TransitionRunResult(action="noop")


def test_a_run_whose_completion_was_not_followed_by_the_next_group_is_advanced() -> None:
    story = a_damaged_run("a", "b", end=COMPLETION)

    assert story.transition() == TransitionRunResult(action="advanced", next_group=2)


def test_a_run_whose_last_completion_was_not_followed_by_its_end_is_completed() -> None:
    story = a_damaged_run("a", end=COMPLETION)

    assert story.transition() == TransitionRunResult(action="completed")
    assert story.state.status is Status.COMPLETED


def test_a_run_whose_failed_stage_was_not_followed_by_its_end_is_failed() -> None:
    story = a_damaged_run("a", "b", end=FAILURE)

    assert story.transition() == TransitionRunResult(action="failed")
    assert story.state.error is not None
    assert story.state.error.error == an_error()


def test_siblings_that_outlived_a_failure_are_ended_when_their_group_says_so() -> None:
    story = a_run("a b", on_failure="cancel")
    story.start("a")
    story.start("b")
    story.add(FAILURE)

    assert story.transition().action == "failed"
    assert story.stage("b").status is Status.CANCELLED


def test_a_delayed_run_is_not_begun_before_its_moment() -> None:
    story = a_run("a", run_at=NOW + SECOND)

    assert story.transition() == TransitionRunResult(action="noop")

    story.wait(1)
    assert story.transition().action == "advanced"


def test_repeated_it_changes_nothing() -> None:
    hands = Hands(documents)
    run_id = hands.dispatch(CreateRun(workflow_id="documents", input=Doc(path="a.txt"))).run_id

    first = hands.dispatch(TransitionRun(run_id=run_id))
    before = hands.state(run_id)
    again = hands.dispatch(TransitionRun(run_id=run_id))

    assert (first.action, again.action) == ("advanced", "noop")
    assert hands.state(run_id) == before


def test_an_unknown_run_is_refused() -> None:
    with pytest.raises(RunNotFound):
        Hands(documents).dispatch(TransitionRun(run_id="nobody"))
