"""Folding a history."""

from datetime import datetime, timedelta

import pytest

from kernel.errors import IllegalTransition
from kernel.model.facts import AnnotationCreated, CorruptHistory, Fact, RunStarted, StageStarted, decode_facts
from kernel.model.machine import Status
from kernel.model.run import _EVOLVE, evolve, fold
from kernel.model.stage import Body
from tests.kernel.one_of_each import CLASSES
from tests.kernel.stories import NOW, RUN_ID, Story, a_run


def rows_of(story: Story) -> list[tuple[int, datetime, tuple[Fact, ...]]]:
    return [(seq, at, decode_facts(events, run_id=RUN_ID)) for seq, at, events in story.rows]


def test_every_kind_of_fact_makes_a_next_state() -> None:
    absent = sorted(fact.__name__ for fact in CLASSES - _EVOLVE.keys())

    assert not absent, f"give {absent} a row in _EVOLVE of kernel/model/run.py"


def test_a_history_folds_to_the_state_that_it_was_told_from() -> None:
    story = a_run("a", "b c")
    story.run_stage("a")
    story.cancel("not needed")

    assert story.folded() == story.state


def test_folding_goes_on_from_a_state_and_passes_over_what_it_contains() -> None:
    story = a_run("a", "b")
    story.run_stage("a")
    known = story.state
    story.run_stage("b")

    assert fold(RUN_ID, rows_of(story), known) == story.state
    assert fold(RUN_ID, [], known) == known


def test_a_gap_in_the_history_is_found() -> None:
    story = a_run("a", "b")
    story.run_stage("a")

    with pytest.raises(CorruptHistory, match="sequence 4 follows 1"):
        fold(RUN_ID, [rows_of(story)[0], rows_of(story)[2]])


def test_a_history_without_rows_is_corrupt() -> None:
    with pytest.raises(CorruptHistory, match="it is empty"):
        fold(RUN_ID, [])


def test_a_fact_of_a_stage_that_the_plan_does_not_have_is_corrupt() -> None:
    story = a_run("a")

    with pytest.raises(CorruptHistory, match='no stage "z"'):
        story.add(StageStarted(stage_id="z", execution=1, attempt=1, token="t"))


def test_a_run_is_created_once() -> None:
    story = a_run("a")

    with pytest.raises(IllegalTransition, match=r"is PENDING and admits no run\.created"):
        evolve(story.state, story.facts[0], run_id=RUN_ID, at=NOW)


def test_all_stages_exist_as_pending_from_the_beginning() -> None:
    story = a_run("a", "b c")

    assert {s.id: (s.status, s.execution, s.attempt) for s in story.state.stages.values()} == dict.fromkeys(
        ("a", "b", "c"), (Status.PENDING, 1, 0)
    )
    assert (story.state.status, story.state.group, story.state.seq) == (Status.PENDING, 0, 1)


def test_annotations_move_the_sequence_number_and_nothing_else() -> None:
    story = a_run("a")
    story.start("a")
    before = story.state

    story.add(AnnotationCreated(key="note"))

    assert story.state.seq == before.seq + 1
    assert story.state.stages == before.stages


def test_a_payload_is_found_beside_the_fact_that_brought_it() -> None:
    story = a_run("a")
    story.run_stage("a", b'"text"')

    output = story.stage("a").output

    assert output == Body(4)
    assert {body: story.bodies[body.seq] for body in (story.state.input, Body(4))} == {
        Body(1): b'{"path":"a.txt"}',
        Body(4): b'"text"',
    }


def test_a_rerun_begins_a_new_execution_of_the_group_and_of_all_later_ones() -> None:
    story = a_run("a", "b c", "d")
    story.run_stage("a")
    story.run_stage("b")
    story.start("c")
    story.fail("c")
    story.wait(60)

    story.rerun("b")

    state = story.state
    assert {s.id: (s.status, s.execution, s.attempt) for s in state.stages.values()} == {
        "a": (Status.COMPLETED, 1, 1),
        "b": (Status.PENDING, 2, 0),
        "c": (Status.PENDING, 2, 0),
        "d": (Status.PENDING, 2, 0),
    }
    assert (state.status, state.group, state.error, state.ended_at) == (Status.RUNNING, 2, None, None)
    assert state.started_at == NOW + timedelta(seconds=60)


def test_only_the_first_start_of_a_run_is_its_start() -> None:
    story = a_run("a")
    story.start("a")

    with pytest.raises(IllegalTransition):
        story.add(RunStarted())
