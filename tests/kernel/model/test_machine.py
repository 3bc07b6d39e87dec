"""The two tables: every row is taken, and nothing else is possible."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from kernel.errors import IllegalTransition
from kernel.model.facts import (
    Fact,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunOwnerChanged,
    RunRerun,
    RunStarted,
    StageCancelled,
    StageCompleted,
    StageFailed,
    StageRetrying,
    StageScheduled,
    StageSkipped,
    StageStarted,
    StageSuspended,
)
from kernel.model.machine import ACTIVE, ENDED, RUN_TRANSITIONS, STAGE_TRANSITIONS, Status
from kernel.model.polls import FoundFailed, FoundNotReady, FoundReady
from kernel.model.run import RunState, evolve
from tests.kernel.stories import NOW, OUTPUT, RUN_ID, Story, a_creation, a_plan, a_run, an_error, transitions_of


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


SCENARIOS: list[Callable[[Story], None]] = [
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
]

RUN_FACTS: list[Fact] = [
    a_creation(a_plan("a", "b")),
    RunStarted(),
    RunOwnerChanged(owner="another"),
    RunCompleted(duration_s=1.0),
    RunFailed(error=an_error()),
    RunCancelled(),
    RunRerun(from_stage_id="b", discarded=("b",)),
]

STAGE_FACTS: list[Fact] = [
    StageScheduled(stage_id="a", execution=1, attempt=1),
    StageStarted(stage_id="a", execution=1, attempt=1, token="t"),
    StageCompleted(stage_id="a", execution=1, attempt=1, duration_s=1.0),
    StageFailed(stage_id="a", execution=1, attempt=1, error=an_error()),
    StageRetrying(stage_id="a", execution=1, attempt=1, error=an_error(), due_at=NOW, cause="raised"),
    StageSuspended(
        stage_id="a", execution=1, attempt=1, next_poll_at=NOW, max_wait_until=NOW, poll_interval_s=1.0, state_seq=1
    ),
    StageCancelled(stage_id="a", execution=1, attempt=1),
    StageSkipped(stage_id="a", execution=1, attempt=1, reason="the run failed"),
]

Table = Mapping[tuple[Status | None, str], Status]


def test_every_row_of_both_tables_is_taken() -> None:
    taken_by_runs: dict[tuple[Any, str], Any] = {}
    taken_by_stages: dict[tuple[Any, str], Any] = {}

    for scenario in SCENARIOS:
        story = a_run("a", "b")
        scenario(story)
        of_run, of_stages = transitions_of(story)
        taken_by_runs |= of_run
        taken_by_stages |= of_stages

    assert taken_by_runs == dict(RUN_TRANSITIONS)
    assert taken_by_stages == dict(STAGE_TRANSITIONS)


def outcomes(facts: list[Fact], table: Table) -> list[tuple[Status, Fact, Status | None]]:
    return [(status, fact, table.get((status, fact.type))) for status, fact in itertools.product(Status, facts)]


def a_state(*, run: Status = Status.RUNNING, stage: Status = Status.PENDING) -> RunState:
    state = evolve(None, a_creation(a_plan("a", "b")), run_id=RUN_ID, at=NOW)
    a, b = state.stages["a"], state.stages["b"]
    return replace(state, status=run, stages={"a": replace(a, status=stage), "b": replace(b, status=Status.COMPLETED)})


def test_a_run_changes_as_the_table_says_and_in_no_other_way() -> None:
    for before, fact, after in outcomes(RUN_FACTS, RUN_TRANSITIONS):
        state = a_state(run=before)
        if after is None:
            with pytest.raises(IllegalTransition) as refused:
                evolve(state, fact, run_id=RUN_ID, at=NOW)
            assert (refused.value.state, refused.value.event) == (before, fact.type)
        else:
            assert evolve(state, fact, run_id=RUN_ID, at=NOW).status is after


def test_a_stage_changes_as_the_table_says_and_in_no_other_way() -> None:
    for before, fact, after in outcomes(STAGE_FACTS, STAGE_TRANSITIONS):
        state = a_state(stage=before)
        if after is None:
            with pytest.raises(IllegalTransition, match=f'Stage "a" of run "{RUN_ID}" is {before}'):
                evolve(state, fact, run_id=RUN_ID, at=NOW)
        else:
            assert evolve(state, fact, run_id=RUN_ID, at=NOW).stages["a"].status is after


def test_a_history_begins_with_the_creation_of_its_run() -> None:
    for fact in (*RUN_FACTS[1:], *STAGE_FACTS):
        with pytest.raises(IllegalTransition, match="is absent and admits no"):
            evolve(None, fact, run_id=RUN_ID, at=NOW)


def test_only_a_rerun_leads_out_of_an_end() -> None:
    ways_out = {event for table in (RUN_TRANSITIONS, STAGE_TRANSITIONS) for before, event in table if before in ENDED}

    assert ways_out == {"run.rerun"}
    assert set(Status) == ACTIVE | ENDED
    assert not ACTIVE & ENDED
