"""What comes next, and when."""

from datetime import timedelta

from kernel.model.attempts import Raised
from kernel.model.head import head_of
from kernel.model.plan import Done, Lost, Poll, Start, Transition, WaitForJob, WaitUntil, due, plan
from tests.kernel.stories import NOW, SECOND, Story, a_run, an_error


def steps(story: Story, *held: str) -> tuple[object, ...]:
    return plan(story.state, story.now, held)


def test_a_new_run_begins() -> None:
    story = a_run("a")

    assert steps(story) == (Transition(),)
    assert due(story.state) == NOW
    assert head_of(story.state).phase == "pending"


def test_a_delayed_run_waits_for_its_moment() -> None:
    story = a_run("a", run_at=NOW + 60 * SECOND)

    assert steps(story) == (WaitUntil(NOW + 60 * SECOND),)
    assert due(story.state) == NOW + 60 * SECOND
    assert head_of(story.state).phase == "delayed"
    story.wait(60)
    assert steps(story) == (Transition(),)


def test_scheduled_stages_are_started() -> None:
    story = a_run("a b")

    story.transition()

    assert steps(story) == (Start("a"), Start("b"))


def test_an_attempt_that_is_held_is_waited_for_and_one_that_nobody_holds_is_lost() -> None:
    story = a_run("a b", starts=2)
    a, b = story.token("a"), story.token("b")

    assert steps(story, a, b) == ()
    assert steps(story, b) == (Lost("a", a),)
    assert steps(story) == (Lost("a", a), Lost("b", b))
    assert head_of(story.state).phase == "running"


def test_a_run_without_an_owner_is_due_at_once_while_it_has_an_attempt() -> None:
    story = a_run("a")
    story.wait(5)
    story.start("a")

    assert due(story.state) == NOW + 5 * SECOND


def test_a_retry_waits_until_it_is_due() -> None:
    story = a_run("a")
    story.start("a")
    story.end("a", Raised(error=an_error()))

    assert steps(story) == (WaitUntil(NOW + SECOND),)
    assert due(story.state) == NOW + SECOND
    assert head_of(story.state).phase == "retrying"
    story.wait(1)
    assert steps(story) == (Start("a"),)


def test_a_suspended_stage_is_polled_when_it_is_time() -> None:
    story = a_run("a")
    story.start("a")
    story.suspend("a", every=30)

    assert steps(story) == (WaitUntil(NOW + 30 * SECOND),)
    assert head_of(story.state).phase == "suspended"
    story.wait(30)
    assert steps(story) == (Poll("a"),)


def test_a_suspended_stage_is_looked_at_when_its_limit_comes_before_the_next_poll() -> None:
    story = a_run("a")
    story.start("a")
    story.suspend("a", every=3600, at_most=60)

    assert due(story.state) == NOW + 60 * SECOND
    story.wait(60)
    assert steps(story) == (Poll("a"),)


def test_of_several_waits_the_earliest_is_named() -> None:
    story = a_run("a b c", starts=3)
    story.suspend("a", every=30)
    story.suspend("b", every=10)

    assert steps(story, story.token("c")) == (WaitUntil(NOW + 10 * SECOND),)
    assert steps(story) == (Lost("c", story.token("c")), WaitUntil(NOW + 10 * SECOND))


def test_a_stage_of_a_queue_is_waited_for_wherever_it_runs() -> None:
    story = a_run("a b", queues={"a": "gpu", "b": "gpu"})
    story.transition()
    assert (steps(story), due(story.state)) == ((WaitForJob("a"), WaitForJob("b")), None)
    assert head_of(story.state).phase == "queued"

    story.start("a", token="job-a")

    assert (steps(story), due(story.state)) == ((WaitForJob("a"), WaitForJob("b")), None)


def test_a_run_whose_group_is_over_advances() -> None:
    story = a_run("a", "b")
    story.wait(5)
    story.start("a")
    damaged = story.folded()
    story.complete("a")
    # Written by hand: the completion without what follows from it.
    completion = story.facts[3]

    story.state = damaged
    story.add(completion)

    assert steps(story) == (Transition(),)
    assert due(story.state) == NOW + 5 * SECOND
    assert story.transition().action == "advanced"
    assert steps(story) == (Start("b"),)


def test_a_run_that_has_ended_needs_nothing() -> None:
    story = a_run("a")
    story.run_stage("a")

    assert steps(story) == (Done(),)
    assert due(story.state) is None
    head = head_of(story.state)
    assert (head.phase, head.wake_at, head.completed_at) == ("ended", None, NOW)


def test_the_head_tells_what_a_listing_shows() -> None:
    story = a_run("a")
    story.wait(timedelta(seconds=3))
    story.start("a")
    story.fail("a")

    head = head_of(story.state)

    assert (head.status, head.started_at, head.total_tokens) == ("FAILED", NOW + 3 * SECOND, 0)
    assert head.error is not None
    assert (head.error.stage_id, head.error.error.message) == ("a", "no such file")
