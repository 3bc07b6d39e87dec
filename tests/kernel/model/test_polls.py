"""What checks find about suspended stages."""

from datetime import timedelta

import pytest

from kernel.model.attempts import Note
from kernel.model.draft import Decision, Draft, Moment
from kernel.model.facts import AnnotationCreated, BlobRef, StageCompleted
from kernel.model.machine import Status
from kernel.model.plan import due
from kernel.model.polls import CheckBroken, Finding, FoundFailed, FoundNotReady, FoundReady, end_poll
from kernel.model.retry import RetryPolicy
from kernel.model.run import RunState
from kernel.model.stage import Body
from tests.kernel.stories import NOW, OUTPUT, SECOND, STEADY, Story, a_run, an_error


def a_waiting_run(*groups: str, every: float = 30, at_most: float = 3600, policy: RetryPolicy = STEADY) -> Story:
    story = a_run(*(groups or ("a", "b")), policy=policy)
    story.start("a")
    story.suspend("a", every=every, at_most=at_most)
    return story


def test_a_check_that_is_ready_completes_the_stage_and_advances_the_run_in_one_append() -> None:
    story = a_waiting_run()
    story.wait(90)

    assert story.poll("a", FoundReady(output=b'"done"', metrics={"total_tokens": 7}))

    assert story.last == ["stage.completed", "stage.scheduled"]
    fact = next(fact for fact in story.facts if isinstance(fact, StageCompleted))
    assert (fact.duration_s, fact.metrics) == (90.0, {"total_tokens": 7})
    assert story.stage("a").suspension is None


def test_a_check_that_is_not_ready_moves_the_next_look_and_keeps_state_and_limit() -> None:
    story = a_waiting_run()
    before = story.suspension("a")
    story.wait(30)

    story.poll("a", FoundNotReady())

    after = story.suspension("a")
    assert after.next_poll_at == NOW + 60 * SECOND
    assert (after.state, after.max_wait_until) == (before.state, before.max_wait_until)


@pytest.mark.parametrize("delay", [timedelta(0), timedelta(minutes=5)])
def test_a_check_may_say_itself_when_to_look_again(delay: timedelta) -> None:
    story = a_waiting_run()

    story.poll("a", FoundNotReady(next_check_in=delay))

    assert story.suspension("a").next_poll_at == NOW + delay


def test_the_interval_of_the_suspension_holds_again_after_an_exception_from_it() -> None:
    story = a_waiting_run()
    story.poll("a", FoundNotReady(next_check_in=timedelta(minutes=5)))

    story.poll("a", FoundNotReady())

    assert story.suspension("a").next_poll_at == NOW + 30 * SECOND


def test_a_check_may_bring_a_new_state_which_later_looks_keep() -> None:
    story = a_waiting_run()

    story.poll("a", FoundNotReady(state=b'{"batch":8}'))
    seq = story.state.seq
    story.poll("a", FoundNotReady())

    assert story.suspension("a").state == Body(seq)
    assert story.bodies[seq] == b'{"batch":8}'
    assert story.folded() == story.state


def test_a_large_state_stays_where_it_is_without_a_new_one() -> None:
    blob = BlobRef(key="k", digest="d", size_bytes=70_000)
    story = a_waiting_run()
    story.poll("a", FoundNotReady(state=blob))
    first = story.suspension("a").state
    assert first == Body(story.state.seq, blob)

    story.poll("a", FoundNotReady())

    assert story.suspension("a").state == first
    assert story.folded() == story.state


def test_a_check_that_is_not_ready_at_the_limit_fails_the_stage() -> None:
    story = a_waiting_run(every=3600, at_most=60)
    story.wait(60)

    story.poll("a", FoundNotReady())

    assert story.last == ["stage.failed", "stage.skipped", "run.failed"]
    assert story.state.error is not None
    assert story.state.error.error.type == "MaxWaitExceeded"


def test_a_check_that_is_ready_at_the_limit_still_wins() -> None:
    story = a_waiting_run(at_most=60)
    story.wait(3600)

    story.poll("a", FoundReady(output=OUTPUT))

    assert story.stage("a").status is Status.COMPLETED


def test_a_failure_that_may_be_retried_is_an_attempt_that_the_policy_counts() -> None:
    story = a_waiting_run(policy=RetryPolicy(max_attempts=2, jitter=False))
    story.poll("a", FoundFailed(error=an_error()))
    assert (story.last, story.stage("a").due_at) == (["stage.retrying"], NOW + SECOND)
    story.wait(1)
    story.start("a")
    story.suspend("a")

    story.poll("a", FoundFailed(error=an_error()))

    assert story.last[-1] == "run.failed"


def test_a_failure_that_may_not_be_retried_fails_the_run() -> None:
    story = a_waiting_run()

    story.poll("a", FoundFailed(error=an_error(retryable=False)))

    assert story.last == ["stage.failed", "stage.skipped", "run.failed"]


# -- checks that go wrong ---------------------------------------------------------------------------------------------


def test_a_check_that_raises_is_called_again_after_a_backoff_while_the_stage_goes_on_waiting() -> None:
    story = a_waiting_run()
    before = story.suspension("a")

    story.poll("a", CheckBroken(error=an_error()))
    story.wait(1)
    story.poll("a", CheckBroken(error=an_error()))

    after = story.suspension("a")
    assert after.next_poll_at == NOW + 3 * SECOND
    assert (after.check_failures, after.state, after.max_wait_until) == (2, before.state, before.max_wait_until)
    assert story.stage("a").failures == 0


def test_a_check_that_raises_as_often_as_the_policy_allows_fails_the_stage() -> None:
    story = a_waiting_run()
    for _ in range(3):
        story.poll("a", CheckBroken(error=an_error("ConnectionError")))
        story.wait(10)

    assert story.state.error is not None
    assert story.state.error.error.type == "ConnectionError"
    assert story.state.status is Status.FAILED


def test_a_check_that_answers_is_forgiven_its_failures() -> None:
    story = a_waiting_run()
    story.poll("a", CheckBroken(error=an_error()))
    story.poll("a", CheckBroken(error=an_error()))

    story.poll("a", FoundNotReady())

    assert story.suspension("a").check_failures == 0


def test_a_check_whose_error_is_not_retryable_fails_the_stage_at_once() -> None:
    story = a_waiting_run()

    story.poll("a", CheckBroken(error=an_error(retryable=False)))

    assert story.last == ["stage.failed", "stage.skipped", "run.failed"]


@pytest.mark.parametrize("delay", [timedelta(0), timedelta(minutes=2)])
def test_a_check_may_name_the_delay_after_which_it_is_called_again(delay: timedelta) -> None:
    story = a_waiting_run()

    story.poll("a", CheckBroken(error=an_error(), retry_after=delay))

    assert story.suspension("a").next_poll_at == NOW + delay


def test_a_check_that_raises_at_the_limit_is_called_once_more_after_its_backoff() -> None:
    story = a_waiting_run(at_most=60)
    story.wait(60)

    story.poll("a", CheckBroken(error=an_error()))

    assert due(story.state) == NOW + 61 * SECOND
    story.wait(1)
    story.poll("a", FoundNotReady())
    assert story.state.error is not None
    assert story.state.error.error.type == "MaxWaitExceeded"


# -- who may record ---------------------------------------------------------------------------------------------------


def test_what_was_found_about_an_earlier_wait_changes_nothing() -> None:
    story = a_waiting_run()
    checked = story.suspension("a")
    story.poll("a", FoundNotReady(state=b'{"batch":8}'))
    before = story.state

    assert not story.poll("a", FoundReady(output=OUTPUT), checked=checked)

    assert story.state == before


def test_what_was_found_about_a_cancelled_run_changes_nothing() -> None:
    story = a_waiting_run()
    checked = story.suspension("a")
    story.cancel()

    assert not story.poll("a", FoundReady(output=OUTPUT), checked=checked)

    assert story.state.status is Status.CANCELLED


def test_what_a_check_noted_is_recorded_with_what_it_found() -> None:
    story = a_waiting_run()

    def decide(state: RunState, moment: Moment) -> Decision[None]:
        draft = Draft(state, moment)
        end_poll(draft, "a", FoundNotReady(), STEADY, notes=[Note(key="batch", value=b'"queued"', actor="person")])
        return draft.decided(None)

    story.tell(decide)

    noted = story.facts[-1]
    assert isinstance(noted, AnnotationCreated)
    assert (noted.actor, noted.scope) == ("person", "stage")
    assert (noted.key, noted.stage_id, story.bodies[story.state.seq]) == ("batch", "a", b'"queued"')
    assert story.suspension("a").next_poll_at == NOW + 30 * SECOND


# -- what is kept of a look -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finding", [FoundNotReady(), CheckBroken(error=an_error())])
def test_a_look_that_changed_nothing_else_adds_nothing_to_the_history(finding: Finding) -> None:
    story = a_waiting_run()
    before = story.state.seq

    assert story.poll("a", finding)

    assert story.state.seq == before
    assert story.looks["a"].next_poll_at == story.suspension("a").next_poll_at > NOW
    assert story.folded() == story.state


def test_looks_in_a_row_leave_the_last_one_and_keep_the_failures_of_their_checks() -> None:
    story = a_waiting_run()
    for _ in range(2):
        story.poll("a", CheckBroken(error=an_error()))
        story.wait(10)

    story.poll("a", CheckBroken(error=an_error("ConnectionError")))

    assert story.state.status is Status.FAILED


def test_what_a_look_left_is_void_for_a_later_suspension() -> None:
    story = a_waiting_run()
    story.poll("a", FoundNotReady(next_check_in=timedelta(minutes=5)))
    story.poll("a", FoundNotReady(state=b'{"batch":8}'))

    assert story.suspension("a").next_poll_at == NOW + 30 * SECOND
    assert story.folded() == story.state


def test_a_retried_stage_keeps_its_suspension_as_it_was_when_it_was_last_looked_at() -> None:
    story = a_waiting_run()
    story.poll("a", FoundNotReady(next_check_in=timedelta(minutes=5)))

    story.poll("a", FoundFailed(error=an_error()))

    assert story.stage("a").status is Status.PENDING
    assert story.folded() == story.state


def test_a_look_after_the_limit_was_moved_still_ends_the_wait() -> None:
    story = a_waiting_run(every=3600, at_most=60)

    story.poll("a", FoundNotReady())

    assert due(story.state) == NOW + 60 * SECOND


# -- asking for a look ------------------------------------------------------------------------------------------------


def test_a_stage_that_is_asked_for_is_due_now_and_waits_for_the_same_thing() -> None:
    story = a_waiting_run()
    before = story.suspension("a")
    story.wait(7)

    story.ask("a")

    after = story.suspension("a")
    assert due(story.state) == NOW + 7 * SECOND
    assert (after.state, after.max_wait_until) == (before.state, before.max_wait_until)


def test_asking_forgives_no_failure_of_the_check() -> None:
    story = a_waiting_run()
    story.poll("a", CheckBroken(error=an_error()))

    story.ask("a")

    assert story.suspension("a").check_failures == 1


@pytest.mark.parametrize("finding", [FoundNotReady(), FoundNotReady(state=b"{}"), CheckBroken(error=an_error())])
def test_a_look_that_began_before_it_was_asked_for_leaves_the_stage_due(finding: Finding) -> None:
    story = a_waiting_run()
    checked = story.suspension("a")
    story.wait(7)
    story.ask("a")

    story.poll("a", finding, checked=checked)

    assert story.stage("a").poll_at == NOW + 7 * SECOND


def test_a_look_that_began_before_it_was_asked_for_counts_when_it_found_something() -> None:
    story = a_waiting_run()
    checked = story.suspension("a")
    story.ask("a")

    assert story.poll("a", FoundReady(output=OUTPUT), checked=checked)

    assert story.stage("a").status is Status.COMPLETED
