"""Steps that a body records."""

from datetime import timedelta

import pytest

from kernel.errors import DefinitionChanged
from kernel.model.attempts import Raised
from kernel.model.facts import BlobRef
from kernel.model.run import Step
from kernel.model.stage import Body
from kernel.model.steps import decide_step
from tests.kernel.stories import Story, a_run, an_error


def record(story: Story, position: int, name: str, *, token: str | None = None, result: bytes | BlobRef = b"1") -> bool:
    named = token or story.token("a")
    return story.tell(
        lambda state, moment: decide_step(state, "a", named, position=position, name=name, result=result, moment=moment)
    )


def test_a_step_is_recorded_with_its_result_before_the_next_one() -> None:
    story = a_run("a")
    story.start("a")

    assert record(story, 0, "fetch", result=b'"page"')
    assert record(story, 1, "parse")

    assert story.state.steps["a"] == (Step(name="fetch", result=Body(4)), Step(name="parse", result=Body(5)))
    assert story.bodies[4] == b'"page"'


def test_a_step_that_is_recorded_already_stays_as_it_is() -> None:
    story = a_run("a")
    story.start("a")
    record(story, 0, "fetch", result=b'"first"')
    before = story.state

    assert record(story, 0, "fetch", result=b'"second"')

    assert story.state == before


def test_a_later_attempt_finds_the_steps_of_earlier_ones() -> None:
    story = a_run("a")
    story.start("a")
    record(story, 0, "fetch")
    story.end("a", Raised(error=an_error(), retry_after=timedelta(0)))
    story.start("a")

    assert record(story, 1, "parse")

    assert [step.name for step in story.state.steps["a"]] == ["fetch", "parse"]


def test_a_superseded_attempt_records_nothing() -> None:
    story = a_run("a")
    token = story.start("a")
    story.lose("a")
    before = story.state

    assert not record(story, 0, "fetch", token=token)

    assert story.state == before


def test_another_name_at_a_recorded_position_is_a_changed_definition() -> None:
    story = a_run("a")
    story.start("a")
    record(story, 0, "fetch")

    with pytest.raises(DefinitionChanged, match='step 0 was "fetch" and is now "download"') as refused:
        record(story, 0, "download")
    assert "order" in str(refused.value)


def test_a_step_cannot_leave_out_the_one_before() -> None:
    story = a_run("a")
    story.start("a")

    with pytest.raises(DefinitionChanged, match="step 0 is missing before step 1"):
        record(story, 1, "parse")


def test_a_large_result_is_named_and_not_kept_beside_the_fact() -> None:
    blob = BlobRef(key="k", digest="d", size_bytes=70_000)
    story = a_run("a")
    story.start("a")

    record(story, 0, "fetch", result=blob)

    assert story.state.steps["a"] == (Step(name="fetch", result=Body(4, blob)),)
    assert 4 not in story.bodies


def test_a_rerun_begins_without_recorded_steps() -> None:
    story = a_run("a")
    story.start("a")
    record(story, 0, "fetch")
    story.complete("a")

    story.rerun("a")

    assert story.state.steps == {}
