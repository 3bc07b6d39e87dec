"""What follows from the end of an attempt, in the same append."""

from datetime import timedelta
from decimal import Decimal

import pytest

from kernel.model.attempts import Raised
from kernel.model.facts import RunCompleted, RunStarted, StageScheduled, StageSkipped, StageStarted
from kernel.model.machine import Status
from kernel.model.polls import FoundFailed
from tests.kernel.stories import NOW, OUTPUT, Story, a_run, an_error


def statuses(story: Story) -> dict[str, Status]:
    return {stage.id: stage.status for stage in story.state.stages.values()}


def test_the_last_completion_of_a_group_schedules_the_next_group() -> None:
    story = a_run("a", "b c")
    story.start("a")

    story.complete("a")

    assert story.last == ["stage.completed", "stage.scheduled", "stage.scheduled"]
    assert story.state.group == 2


def test_a_driver_with_room_starts_the_next_group_in_the_same_append() -> None:
    story = a_run("a", "b c")
    story.start("a")
    story.complete_as_driver("a", passes_on=True, starts=1)

    assert story.last == ["stage.completed", "stage.started", "stage.started"]


def test_room_for_one_starts_one_and_schedules_the_others() -> None:
    story = a_run("a", "b c")
    story.start("a")

    story.complete_as_driver("a", passes_on=True)

    assert story.last == ["stage.completed", "stage.started", "stage.scheduled"]


def test_a_stage_that_names_a_queue_is_scheduled_there_and_never_started_by_the_driver() -> None:
    story = a_run("a", "b c", queues={"b": "gpu"})
    story.start("a")

    story.complete_as_driver("a", passes_on=True, starts=5)

    assert story.last == ["stage.completed", "stage.scheduled", "stage.started"]
    scheduled = next(fact for fact in story.facts if isinstance(fact, StageScheduled))
    assert (scheduled.stage_id, scheduled.queue) == ("b", "gpu")


def test_a_run_that_is_created_by_its_owner_begins_in_the_same_append() -> None:
    story = a_run("a b", "c", starts=1, session="s1")

    assert story.last == ["run.created", "run.started", "stage.started", "stage.scheduled"]
    assert story.state.owner == "s1"


def test_a_group_goes_on_while_one_of_its_stages_is_active() -> None:
    story = a_run("a b", "c")
    story.start("a")
    story.start("b")

    story.complete("a")

    assert story.last == ["stage.completed"]
    assert story.state.group == 1


def test_the_last_completion_of_a_run_completes_it_with_its_totals_in_the_same_append() -> None:
    story = a_run("a", "b c")
    story.wait(100)
    story.run_stage("a", total_cost=0.1, total_tokens=10)
    story.wait(5)
    story.run_stage("b", total_cost=0.2, total_tokens=20, pages=3)
    story.wait(5)
    story.run_stage("c")

    assert story.last == ["stage.completed", "run.completed"]
    fact = story.facts[-1]
    assert isinstance(fact, RunCompleted)
    assert (fact.total_cost, fact.total_tokens) == ("0.3", 30)
    assert fact.duration_s == 10.0
    assert (story.state.total_cost, story.state.total_tokens) == (Decimal("0.3"), 30)


def test_the_duration_counts_from_the_start_and_not_from_the_creation() -> None:
    story = a_run("a")
    story.wait(3600)

    story.run_stage("a")

    assert [fact.duration_s for fact in story.facts if isinstance(fact, RunCompleted)] == [0.0]
    assert story.state.started_at == NOW + timedelta(hours=1)


def test_a_tiny_cost_is_written_without_an_exponent() -> None:
    story = a_run("a")

    story.run_stage("a", total_cost=0.0000001)

    assert [fact.total_cost for fact in story.facts if isinstance(fact, RunCompleted)] == ["0.0000001"]


def test_the_metrics_of_a_suspension_and_of_its_completion_add_up() -> None:
    story = a_run("a")
    story.start("a")
    story.suspend("a", metrics={"submitted": 5, "total_tokens": 1})

    story.poll_ready("a", total_tokens=7)

    assert story.stage("a").metrics == {"submitted": 5, "total_tokens": 8}
    assert story.state.total_tokens == 8


# -- failures ---------------------------------------------------------------------------------------------------------


def test_siblings_finish_before_a_failure_ends_the_run() -> None:
    story = a_run("a b", "c")
    story.start("a")
    story.start("b")

    story.fail("a")
    assert story.last == ["stage.failed"]

    story.complete("b")
    assert story.last == ["stage.completed", "stage.skipped", "run.failed"]
    assert statuses(story) == {"a": Status.FAILED, "b": Status.COMPLETED, "c": Status.SKIPPED}


def test_siblings_are_cancelled_at_once_when_the_group_says_so() -> None:
    story = a_run("a b c d", "e", on_failure="cancel")
    story.transition()
    for name in ("a", "b", "c"):
        story.start(name)
    story.suspend("c")

    story.fail("a")

    assert story.last == ["stage.failed", *["stage.cancelled"] * 3, "stage.skipped", "run.failed"]
    assert statuses(story)["e"] is Status.SKIPPED
    assert not any(stage.active for stage in story.state.stages.values())


def test_a_sibling_that_waits_for_its_retry_keeps_a_failed_group_open() -> None:
    story = a_run("a b")
    story.start("a")
    story.start("b")
    story.end("b", Raised(error=an_error()))

    story.fail("a")

    assert (story.last, story.state.status) == (["stage.failed"], Status.RUNNING)


def test_a_sibling_that_completes_does_not_end_a_run_whose_other_stage_waits_for_its_retry() -> None:
    story = a_run("a b", "c")
    story.start("a")
    story.start("b")
    story.end("a", Raised(error=an_error()))

    story.complete("b")
    assert (story.last, story.state.status, story.state.group) == (["stage.completed"], Status.RUNNING, 1)

    story.wait(1)
    story.run_stage("a")
    assert story.state.group == 2


def test_a_stage_that_waits_holds_its_run_when_its_siblings_have_completed() -> None:
    story = a_run("a b", "c")
    story.start("a")
    story.start("b")
    story.suspend("a")

    story.complete("b")
    assert (story.last, story.state.status, story.state.group) == (["stage.completed"], Status.RUNNING, 1)

    story.poll_ready("a")
    assert story.state.group == 2


def test_the_run_fails_with_the_error_of_the_stage_that_failed_first() -> None:
    story = a_run("a b c")
    for name in ("a", "b", "c"):
        story.start(name)
    story.fail("b", an_error("First", retryable=False))
    story.fail("a", an_error("Second", retryable=False))

    story.complete("c")

    assert story.state.error is not None
    assert (story.state.error.error.type, story.state.error.stage_id) == ("First", "b")


def test_a_stage_whose_turn_had_come_is_cancelled_and_any_other_is_skipped() -> None:
    story = a_run("a b", "c")
    story.start("a")

    story.cancel("not needed")

    assert story.last == ["stage.cancelled", "stage.skipped", "stage.skipped", "run.cancelled"]
    assert [fact.reason for fact in story.facts if isinstance(fact, StageSkipped)] == ["the run was cancelled"] * 2


@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_nothing_of_a_run_that_was_failed_or_cancelled_stays_active(how: str) -> None:
    story = a_run("a b c d", "e", on_failure="cancel")
    for name in ("a", "b", "c"):
        story.start(name)
    story.suspend("b")
    story.end("c", Raised(error=an_error()))

    if how == "cancelled":
        story.cancel()
    else:
        story.fail("a")

    assert story.state.ended
    assert not any(stage.active for stage in story.state.stages.values())
    assert all(stage.suspension is None and stage.token is None for stage in story.state.stages.values())


def test_a_failed_check_ends_the_group_like_a_failed_body() -> None:
    story = a_run("a b", on_failure="cancel")
    story.start("a")
    story.start("b")
    story.suspend("a")

    story.poll("a", FoundFailed(error=an_error(retryable=False)))

    assert story.last == ["stage.failed", "stage.cancelled", "run.failed"]


# -- starting ---------------------------------------------------------------------------------------------------------


def test_a_run_is_started_once_by_whoever_comes_first() -> None:
    story = a_run("a b")
    story.transition(session="s1")
    story.start("a")
    story.start("b")

    assert [fact.owner for fact in story.facts if isinstance(fact, RunStarted)] == ["s1"]


def test_starting_a_stage_of_the_first_group_starts_the_run() -> None:
    story = a_run("a b")

    story.start("b")

    assert story.last == ["run.started", "stage.started"]
    assert story.state.group == 1
    assert [fact.stage_id for fact in story.facts if isinstance(fact, StageStarted)] == ["b"]


def test_an_end_hands_its_room_on_to_the_next_stage() -> None:
    story = a_run("a", "b", "c", starts=1)

    story.complete_as_driver("a", passes_on=True)
    story.complete_as_driver("b", passes_on=True)

    assert story.last == ["stage.completed", "stage.started"]
    assert len(story.rows) == 3
    story.complete("c", OUTPUT)
    assert len(story.rows) == 4
