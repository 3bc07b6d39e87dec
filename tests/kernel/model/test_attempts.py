"""How attempts end, what is counted, and what is not."""

from datetime import timedelta

import pytest

from kernel.model.attempts import Completed, Drained, Note, Raised, Suspended, holds
from kernel.model.draft import Moment
from kernel.model.facts import AnnotationCreated, BlobRef, StageCompleted, StageRetrying, StageStarted
from kernel.model.machine import Status
from kernel.model.polls import FoundFailed
from kernel.model.retry import RetryPolicy
from kernel.model.stage import Body
from tests.kernel.stories import NOW, OUTPUT, SECOND, a_run, an_error

UNSTEADY = RetryPolicy(max_attempts=10, initial_interval=timedelta(seconds=4))


def test_a_raised_error_is_retried_after_its_backoff_under_the_next_number() -> None:
    story = a_run("a")
    story.start("a")

    result = story.end("a", Raised(error=an_error()))

    stage = story.stage("a")
    assert (result.outcome, result.retryable, result.error) == ("failed", True, an_error())
    assert (stage.status, stage.due_at, stage.failures, stage.error) == (Status.PENDING, NOW + SECOND, 1, an_error())
    story.wait(1)
    story.start("a")
    assert story.stage("a").attempt == 2


def test_the_last_attempt_that_raises_fails_the_stage_and_the_run() -> None:
    story = a_run("a")
    for attempt in (1, 2, 3):
        story.start("a")
        result = story.end("a", Raised(error=an_error(message=f"attempt {attempt}")))
        story.wait(10)

    assert not result.retryable
    assert story.last == ["stage.failed", "run.failed"]
    assert story.state.error is not None
    assert (story.state.error.error.message, story.state.error.stage_id, story.state.error.attempt) == (
        "attempt 3",
        "a",
        3,
    )


def test_a_retry_that_succeeds_shows_no_error() -> None:
    story = a_run("a", "b")
    story.start("a")
    story.end("a", Raised(error=an_error()))
    story.wait(1)

    story.run_stage("a")

    assert story.stage("a").error is None
    assert story.state.error is None


def test_an_error_that_is_not_retryable_fails_at_once() -> None:
    story = a_run("a")
    story.start("a")

    result = story.fail("a", an_error("NonRetryable", retryable=False))

    assert (result.retryable, story.state.status) == (False, Status.FAILED)


def test_a_body_that_names_a_delay_gets_it_instead_of_the_backoff() -> None:
    story = a_run("a")
    story.start("a")

    story.end("a", Raised(error=an_error("RetryAfter"), retry_after=timedelta(minutes=7)))

    assert story.stage("a").due_at == NOW + timedelta(minutes=7)
    assert story.stage("a").failures == 1


def test_a_delay_of_zero_is_a_delay() -> None:
    story = a_run("a")
    story.start("a")

    story.end("a", Raised(error=an_error("RetryAfter"), retry_after=timedelta(0)))

    assert story.stage("a").due_at == NOW


@pytest.mark.parametrize("delay", [timedelta.max, timedelta(days=3_000_000)])
def test_a_delay_beyond_all_dates_is_a_date_far_away(delay: timedelta) -> None:
    story = a_run("a")
    story.start("a")

    story.end("a", Raised(error=an_error(), retry_after=delay))

    due_at = story.stage("a").due_at
    assert due_at is not None
    assert due_at.year == 9999
    assert Moment(now=NOW, append_id="").after(delay) == due_at


def test_a_timeout_counts_like_any_other_failure() -> None:
    story = a_run("a", policy=RetryPolicy(max_attempts=1))
    story.start("a")

    story.end("a", Raised(error=an_error("StageTimeout"), cause="timeout"))

    assert story.state.status is Status.FAILED


def test_the_jitter_of_a_retry_is_drawn_from_its_attempts_token() -> None:
    story = a_run("a b", policy=UNSTEADY)
    waits: list[timedelta] = []
    for name in ("a", "b"):
        story.start(name)
        story.end(name, Raised(error=an_error()))
        due_at = story.stage(name).due_at
        assert due_at is not None
        waits.append(due_at - NOW)

    assert waits[0] != waits[1]
    assert all(timedelta(0) <= wait < timedelta(seconds=4) for wait in waits)


# -- lost and drained -------------------------------------------------------------------------------------------------


def test_the_first_loss_is_repeated_at_once_and_later_ones_back_off() -> None:
    story = a_run("a")
    waits: list[float] = []
    for _ in range(3):
        story.start("a")
        story.lose("a")
        due_at = story.stage("a").due_at
        assert due_at is not None
        waits.append((due_at - story.now).total_seconds())
        story.wait(60)

    assert waits == [0, 1, 2]


def test_losses_have_a_budget_of_their_own_and_end_with_an_error_that_names_the_sessions() -> None:
    story = a_run("a", policy=RetryPolicy(max_attempts=1, max_lost=2, jitter=False))
    for session in ("s1", "s2", "s3"):
        story.start("a")
        story.lose("a", owner=session)
        story.wait(60)

    error = story.stage("a").error
    assert error is not None
    assert (error.type, error.retryable) == ("AttemptLost", False)
    assert "3 time(s) (sessions s1, s2, s3)" in error.message
    assert story.state.status is Status.FAILED


def test_the_last_loss_of_the_budget_is_still_repeated() -> None:
    story = a_run("a", policy=RetryPolicy(max_lost=1))
    story.start("a")

    story.lose("a")

    error = story.stage("a").error
    assert error is not None
    assert error.retryable
    assert story.stage("a").status is Status.PENDING


def test_stages_that_were_lost_together_do_not_come_back_together() -> None:
    story = a_run("a b", policy=UNSTEADY)
    for _ in range(2):
        for name in ("a", "b"):
            story.start(name)
            story.lose(name)

    assert story.stage("a").due_at != story.stage("b").due_at


def test_lost_attempts_use_up_no_attempts_of_the_policy() -> None:
    story = a_run("a")
    for _ in range(3):
        story.start("a")
        story.lose("a")
        story.wait(60)

    story.start("a")
    story.end("a", Raised(error=an_error()))

    assert (story.stage("a").failures, story.stage("a").lost) == (1, 3)
    assert story.stage("a").status is Status.PENDING
    assert story.stage("a").attempt == 4


def test_a_policy_may_allow_no_loss_at_all() -> None:
    story = a_run("a", policy=RetryPolicy(max_lost=0))
    story.start("a")

    story.lose("a")

    assert story.last == ["stage.failed", "run.failed"]


def test_a_drained_attempt_counts_nowhere_and_keeps_its_number() -> None:
    story = a_run("a")
    for _ in range(20):
        story.start("a")
        story.drain("a")

    stage = story.stage("a")
    assert (stage.failures, stage.lost, stage.error, stage.due_at) == (0, 0, None, NOW)
    story.start("a")
    assert story.stage("a").attempt == 1


def test_the_fact_of_a_retry_names_the_attempt_that_ended() -> None:
    story = a_run("a")
    token = story.start("a")

    story.lose("a", owner="s1")

    fact = story.facts[-1]
    assert isinstance(fact, StageRetrying)
    assert (fact.token, fact.owner, fact.cause, fact.attempt) == (token, "s1", "lost", 1)


# -- completed and suspended ------------------------------------------------------------------------------------------


def test_a_completion_has_its_output_its_duration_and_its_metrics() -> None:
    story = a_run("a", "b")
    story.start("a")
    story.wait(2.5)

    story.complete("a", b'"text"', total_tokens=12)

    fact = next(fact for fact in story.facts if isinstance(fact, StageCompleted))
    assert (fact.duration_s, fact.metrics, fact.attempt) == (2.5, {"total_tokens": 12}, 1)
    assert story.bodies[4] == b'"text"'


def test_a_large_output_is_named_and_not_kept_beside_the_fact() -> None:
    blob = BlobRef(key="runs/documents/r/a/t/output.json", digest="d", size_bytes=70_000)
    story = a_run("a")
    story.start("a")

    story.end("a", Completed(output=blob, artifacts={"chart": blob}))

    assert story.stage("a").output == Body(4, blob)
    assert story.stage("a").artifacts == {"chart": blob}
    assert 4 not in story.bodies


def test_a_clock_that_went_backwards_gives_no_negative_duration() -> None:
    story = a_run("a")
    story.start("a")
    story.wait(-5)

    story.complete("a")

    assert [fact.duration_s for fact in story.facts if isinstance(fact, StageCompleted)] == [0.0]


def test_what_a_body_noted_is_recorded_with_the_end_of_its_attempt() -> None:
    note = Note(key="reviewed-by", value=b'"Ada"', actor="person")
    story = a_run("a")
    story.start("a")

    story.end("a", Completed(output=OUTPUT, notes=(note,)))

    assert story.last == ["annotation.created", "stage.completed", "run.completed"]
    fact = story.facts[3]
    assert isinstance(fact, AnnotationCreated)
    assert (fact.key, fact.scope, fact.stage_id, fact.actor) == ("reviewed-by", "stage", "a", "person")
    assert story.bodies[4] == b'"Ada"'


@pytest.mark.parametrize("outcome", [Raised(error=an_error(), notes=(Note(key="k", value=b"1"),)), Drained()])
def test_an_attempt_without_a_result_records_its_notes_too(outcome: Raised | Drained) -> None:
    story = a_run("a")
    story.start("a")

    story.end("a", outcome)

    assert story.last == ["annotation.created"] * len(outcome.notes) + ["stage.retrying"]


def test_a_suspension_says_when_to_look_and_until_when() -> None:
    story = a_run("a")
    story.start("a")

    result = story.suspend("a", every=30, at_most=3600)

    waiting = story.suspension("a")
    assert (result.outcome, result.next_poll_at) == ("suspended", NOW + timedelta(seconds=30))
    assert (waiting.next_poll_at, waiting.max_wait_until) == (NOW + 30 * SECOND, NOW + 3600 * SECOND)
    assert waiting.state == Body(4)
    assert story.stage("a").status is Status.SUSPENDED


def test_a_suspension_may_wait_for_ever() -> None:
    story = a_run("a")
    story.start("a")

    story.end("a", Suspended(state=b"{}", poll_interval=timedelta.max, max_wait=timedelta.max))

    assert story.suspension("a").max_wait_until.year == 9999


def test_an_attempt_that_resumes_keeps_its_number_and_says_that_it_resumes() -> None:
    story = a_run("a")
    story.start("a")
    story.suspend("a")
    story.poll("a", FoundFailed(error=an_error()))
    story.wait(60)

    story.start("a")

    starts = [fact for fact in story.facts if isinstance(fact, StageStarted)]
    assert [(fact.attempt, fact.resumed) for fact in starts] == [(1, None), (1, True)]
    assert story.suspension("a").state == Body(4)


def test_a_resumed_attempt_that_raises_is_followed_by_another_one_with_the_same_state() -> None:
    story = a_run("a")
    story.start("a")
    story.suspend("a")
    story.poll("a", FoundFailed(error=an_error()))
    story.wait(60)
    story.start("a")
    story.end("a", Raised(error=an_error()))
    story.wait(60)

    story.start("a")

    assert (story.stage("a").attempt, story.stage("a").failures) == (2, 2)
    assert story.suspension("a").state == Body(4)


def test_nothing_is_waited_for_once_a_stage_has_failed() -> None:
    story = a_run("a")
    story.start("a")
    story.suspend("a")

    story.poll("a", FoundFailed(error=an_error(retryable=False)))

    assert story.stage("a").suspension is None


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_a_token_holds_until_its_attempt_has_ended() -> None:
    story = a_run("a")
    token = story.start("a")
    assert holds(story.state, "a", token)

    story.lose("a")

    assert not holds(story.state, "a", token)


def test_a_token_holds_no_longer_when_the_run_has_ended() -> None:
    story = a_run("a b")
    token = story.start("a")

    story.cancel()

    assert not holds(story.state, "a", token)


def test_every_attempt_has_a_token_of_its_own() -> None:
    story = a_run("a b", starts=2)
    story.drain("a")
    story.start("a")

    tokens = [fact.token for fact in story.facts if isinstance(fact, StageStarted)]

    assert len(set(tokens)) == 3
