"""Short stories of a run of the stages a and b, which together take every row of both state machines.

`tests.replay.freeze` keeps the history of one of them for ever, by its name.
"""

from __future__ import annotations

from collections.abc import Callable

from kernel.model.facts import RunFailed
from kernel.model.polls import FoundFailed, FoundNotReady, FoundReady
from tests.kernel.stories import OUTPUT, Story, a_run, an_error

__all__ = ["SCENARIOS", "Scenario", "told"]

Scenario = Callable[[Story], None]


def completed_and_rerun(story: Story) -> None:
    story.run_stage("a")
    story.run_stage("b")
    story.rerun("a")


def failed_after_retries_and_rerun(story: Story) -> None:
    story.start("a")
    story.fail("a", an_error(retryable=True))
    story.wait(60)
    story.start("a")
    story.fail("a")
    story.rerun("a")


def cancelled_while_running_and_rerun(story: Story) -> None:
    story.start("a")
    story.take_over("another")
    story.cancel()
    story.rerun("a")


def cancelled_before_anything(story: Story) -> None:
    story.cancel()


def cancelled_when_scheduled(story: Story) -> None:
    story.transition()
    story.cancel()


def failed_before_anything(story: Story) -> None:
    story.add(RunFailed(error=an_error("InvalidInput")))


def suspended_and_completed(story: Story) -> None:
    story.start("a")
    story.suspend("a")
    story.poll("a", FoundNotReady(state=b'{"batch":8}'))
    story.poll("a", FoundReady(output=OUTPUT))


def suspended_and_failed(story: Story) -> None:
    story.start("a")
    story.suspend("a")
    story.poll("a", FoundFailed(error=an_error(retryable=False)))


def suspended_and_retried(story: Story) -> None:
    story.start("a")
    story.suspend("a")
    story.poll("a", FoundFailed(error=an_error(retryable=True)))


def suspended_and_cancelled(story: Story) -> None:
    story.start("a")
    story.suspend("a")
    story.cancel()


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (
        completed_and_rerun,
        failed_after_retries_and_rerun,
        cancelled_while_running_and_rerun,
        cancelled_before_anything,
        cancelled_when_scheduled,
        failed_before_anything,
        suspended_and_completed,
        suspended_and_failed,
        suspended_and_retried,
        suspended_and_cancelled,
    )
}


def told(scenario: Scenario) -> Story:
    """The scenario, from its run's creation on."""
    story = a_run("a", "b")
    scenario(story)
    return story
