"""What a run has cost: the metrics of its stages, each counted once, whatever happened on the way."""

from datetime import timedelta
from decimal import Decimal

from kernel.model.attempts import Raised
from kernel.model.head import head_of
from kernel.model.polls import FoundFailed, FoundReady
from tests.kernel.stories import OUTPUT, SECOND, Story, a_run, an_error


def totals(story: Story) -> tuple[Decimal, int]:
    """As the head has them, which is what listings show; folding the stored history gives the same."""
    head, folded = head_of(story.state), head_of(story.folded())
    assert (head.total_cost, head.total_tokens) == (folded.total_cost, folded.total_tokens)
    return head.total_cost, head.total_tokens


def test_an_attempt_that_failed_has_no_metrics_and_its_retry_counts_once() -> None:
    story = a_run("a", "b")
    story.start("a")
    story.end("a", Raised(error=an_error(), retry_after=timedelta(0)))
    assert totals(story) == (Decimal(0), 0)

    story.run_stage("a", total_cost=0.1, total_tokens=10)

    assert totals(story) == (Decimal("0.1"), 10)


def test_a_suspension_and_what_its_check_found_add_up_exactly() -> None:
    story = a_run("a")
    story.start("a")
    story.suspend("a", metrics={"total_cost": 0.1, "total_tokens": 10})
    assert totals(story) == (Decimal("0.1"), 10)

    story.poll("a", FoundReady(output=OUTPUT, metrics={"total_cost": 0.2, "total_tokens": 5}))

    assert totals(story) == (Decimal("0.3"), 15)


def test_a_stage_that_is_tried_again_after_its_check_failed_has_paid_for_both_submissions() -> None:
    story = a_run("a")
    story.start("a")
    story.suspend("a", metrics={"total_tokens": 10})
    story.poll("a", FoundFailed(error=an_error()))
    story.now += 10 * SECOND
    story.start("a")
    story.suspend("a", metrics={"total_tokens": 10})
    story.poll("a", FoundReady(output=OUTPUT, metrics={"total_tokens": 1}))

    assert totals(story) == (Decimal(0), 21)


def test_a_failed_run_has_cost_what_its_stages_did() -> None:
    story = a_run("a", "b")
    story.run_stage("a", total_cost=0.5, total_tokens=3)
    story.start("b")
    story.fail("b")

    assert totals(story) == (Decimal("0.5"), 3)


def test_a_rerun_forgets_the_totals_of_what_is_redone_and_keeps_the_others() -> None:
    story = a_run("a", "b", "c")
    for stage_id in "abc":
        story.run_stage(stage_id, total_cost=0.25, total_tokens=2)

    story.rerun("b")
    assert totals(story) == (Decimal("0.25"), 2)

    for stage_id in "bc":
        story.run_stage(stage_id, total_cost=0.25, total_tokens=2)
    assert totals(story) == (Decimal("0.75"), 6)


def test_a_sibling_that_is_kept_keeps_what_it_has_cost() -> None:
    story = a_run("a b")
    story.run_stage("a", total_tokens=2)
    story.start("b")
    story.fail("b")

    story.rerun("b", keep_completed=True)

    assert totals(story) == (Decimal(0), 2)
