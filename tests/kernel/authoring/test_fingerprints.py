from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from kernel import AIConfig, Stage, StageContext, WorkflowBuilder, stage
from kernel.authoring import definition_difference


class Photo(BaseModel):
    url: str


def a_stage(id: str = "a", input: Any = Photo, output: Any = Photo, **options: Any) -> Stage[Any, Any, Any]:
    return stage(id, input=input, output=output, **options)(lambda _ctx: None)


def build(*groups: Any, on_failure: Any = "finish", **options: Any) -> Any:
    builder: Any = WorkflowBuilder("albums", input=Photo, **options)
    for group in groups:
        builder = builder.parallel(group, on_failure=on_failure) if isinstance(group, list) else builder.pipe(group)
    return builder.build()


ORIGINAL = build(a_stage("a"), [a_stage("b"), a_stage("c")])


def test_a_fingerprint_is_short_and_the_same_for_the_same_definition() -> None:
    again = build(a_stage("a"), [a_stage("b"), a_stage("c")])

    assert again.fingerprint == ORIGINAL.fingerprint
    assert len(ORIGINAL.fingerprint) == 16
    assert definition_difference(ORIGINAL.fingerprint_data, again.fingerprint_data) == ""


def test_a_fingerprint_does_not_change_from_release_to_release() -> None:
    # A change of this value parks every run of every user. Whoever changes it must want that.
    assert ORIGINAL.fingerprint == "451f77769416c864"


@pytest.mark.parametrize(
    "changed",
    [
        build(a_stage("a", name="Another", timeout=None, idempotent=True), [a_stage("b"), a_stage("c")]),
        build(a_stage("a"), [a_stage("b"), a_stage("c")], version="2", name="Other", description="Another"),
    ],
)
def test_names_and_ways_of_executing_take_no_part(changed) -> None:
    assert changed.fingerprint == ORIGINAL.fingerprint


class Other(Photo):
    pass


@pytest.mark.parametrize(
    "changed, difference",
    [
        (build(a_stage("a"), [a_stage("b"), a_stage("d")]), 'stage "c" was removed; stage "d" was added to group 2'),
        (build([a_stage("a"), a_stage("b"), a_stage("c")]), 'group of stage "b" was 2 and is 1'),
        (build(a_stage("a"), [a_stage("c"), a_stage("b")]), "the order of the stages was a, b, c and is a, c, b"),
        (build(a_stage("a", output=Other), [a_stage("b"), a_stage("c")]), 'output of stage "a" was Photo and is Other'),
        (build(a_stage("a", config=AIConfig), [a_stage("b"), a_stage("c")]), 'config of stage "a" was none and is AI'),
        (build(a_stage("a", queue="gpu"), [a_stage("b"), a_stage("c")]), 'queue of stage "a" was none and is gpu'),
        (build(a_stage("a"), [a_stage("b"), a_stage("c")], on_failure="cancel"), "group 2 was finish and is cancel"),
        (build(a_stage("a"), [a_stage("b"), a_stage("c")], output=dict), "the workflow's output was dict"),
    ],
)
def test_a_change_that_a_history_would_notice_changes_the_fingerprint_and_is_named(changed, difference) -> None:
    assert changed.fingerprint != ORIGINAL.fingerprint
    assert difference in definition_difference(ORIGINAL.fingerprint_data, changed.fingerprint_data)


def test_a_piped_stage_is_not_a_group_of_one() -> None:
    piped, grouped = build(a_stage("a")), build([a_stage("a")])

    assert "parallel of group 1 was False and is True" in definition_difference(
        piped.fingerprint_data, grouped.fingerprint_data
    )


def test_the_compared_data_survives_json() -> None:
    stored = json.loads(json.dumps(ORIGINAL.fingerprint_data))

    assert stored == ORIGINAL.fingerprint_data


def test_where_a_model_is_defined_does_not_matter() -> None:
    def elsewhere() -> Any:
        class Photo(BaseModel):
            url: str

        @stage("a")
        async def a(ctx: StageContext[Photo]) -> Photo: ...

        return WorkflowBuilder("albums", input=Photo).pipe(a).build()

    assert elsewhere().fingerprint == build(a_stage("a")).fingerprint
