from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from kernel import (
    InvalidInput,
    InvalidOutput,
    InvalidStage,
    MissingOutput,
    PayloadRefused,
    StageContext,
    StageNotFound,
    WorkflowBuilder,
    assert_valid_stage_id,
    define_stage_ids,
    is_valid_stage_id,
    stage,
    stage_id_enum,
)
from kernel.authoring import NoConfig


class Photo(BaseModel):
    model_config = ConfigDict(extra="forbid")
    url: str


class RawPhoto(Photo):
    exposure: float = 0.0


class Label(BaseModel):
    text: str


class Config(BaseModel):
    price: float = 0.25


class Both(BaseModel):
    model_config = ConfigDict(extra="forbid")
    label_photo: Label = Field(alias="label-photo")
    measure: int


@stage("develop")
async def develop(ctx: StageContext[Photo, Config]) -> RawPhoto: ...


@stage("label-photo", queue="gpu")
async def label(ctx: StageContext[Photo]) -> Label: ...


@stage("measure")
async def measure(ctx: StageContext[Photo]) -> int: ...


@stage("collect")
async def collect(ctx: StageContext[Both]) -> list[str]: ...


@stage("summarise", dependencies=["develop"])
async def summarise(ctx: StageContext[None]) -> str: ...


@develop.estimate
def development_cost(run_input: Photo, config: Config) -> float:
    return config.price * len(run_input.url)


albums = (
    WorkflowBuilder("albums", input=Photo)
    .pipe(develop)
    .parallel([label, measure], on_failure="cancel")
    .pipe(collect)
    .pipe(summarise)
    .build()
)
grouped = WorkflowBuilder("grouped", input=Photo).parallel([label, measure]).build()
joined = WorkflowBuilder("joined", input=Photo, output=Both).parallel([label, measure]).build()

RAW = b'{"url":"a","exposure":0.5}'


def test_a_workflow_can_be_asked_about_its_stages() -> None:
    assert albums.stage_ids() == ("develop", "label-photo", "measure", "collect", "summarise")
    assert albums.stages == (develop, label, measure, collect, summarise)
    assert "measure" in albums
    assert "other" not in albums
    assert albums.get_stage("measure") is measure
    assert [albums.group_of(each) for each in albums.stage_ids()] == [1, 2, 2, 3, 4]
    assert [albums.number_of(each) for each in albums.stage_ids()] == [1, 2, 3, 4, 5]
    assert albums.stages_in_group(2) == (label, measure)
    assert albums.stages_in_group(0) == albums.stages_in_group(5) == ()


def test_a_workflow_shows_its_order() -> None:
    assert "develop -> (label-photo | measure) -> collect -> summarise" in repr(albums)


@pytest.mark.parametrize("ask", ["get_stage", "group_of", "number_of", "outputs_to_load"])
def test_asking_about_an_unknown_stage_names_the_known_ones(ask) -> None:
    with pytest.raises(StageNotFound, match=r'no stage "other".*develop, label-photo, measure'):
        getattr(albums, ask)("other")


def test_the_execution_plan_is_the_workflow_as_data() -> None:
    plan = albums.execution_plan()

    assert [(s.id, s.number, s.group, s.queue) for s in plan.stages.values()][:2] == [
        ("develop", 1, 1, None),
        ("label-photo", 2, 2, "gpu"),
    ]
    assert [(g.parallel, g.on_failure) for g in plan.groups][:2] == [(False, "finish"), (True, "cancel")]
    assert [group.number for group in plan.groups] == [1, 2, 3, 4]


def test_a_stage_loads_the_previous_group_and_its_dependencies_or_everything_before() -> None:
    assert albums.outputs_to_load("develop") == ()
    assert albums.outputs_to_load("measure") == ("develop",)
    assert albums.outputs_to_load("collect") == ("develop", "label-photo", "measure")
    assert albums.outputs_to_load("summarise") == ("develop", "collect")


# -- inputs -----------------------------------------------------------------------------------------------------------


def test_the_input_of_a_run_is_validated_and_stored_with_its_defaults() -> None:
    raw = WorkflowBuilder("raw", input=RawPhoto).pipe(develop).build()

    assert raw.encode_input({"url": "a"}) == b'{"url":"a","exposure":0.0}'
    assert raw.decode_input(b'{"url":"a"}') == RawPhoto(url="a")


@pytest.mark.parametrize("value", [{}, {"url": 3}, None, [], {"url": "a", "other": 1}])
def test_an_input_that_does_not_fit_is_refused_naming_the_workflow(value) -> None:
    with pytest.raises(InvalidInput, match='Input of workflow "albums" is not valid'):
        albums.encode_input(value)


def test_an_input_beyond_the_bound_is_refused() -> None:
    with pytest.raises(PayloadRefused):
        albums.encode_input(Photo(url="x" * 100), bytes_max=50)


def test_a_workflow_without_input_takes_none() -> None:
    nightly = WorkflowBuilder("nightly").pipe(a_stage_of_nothing()).build()

    assert nightly.encode_input(None) == b"null"
    assert nightly.stage_input("nothing", {}, b"null") is None
    with pytest.raises(InvalidInput):
        nightly.encode_input({})


def a_stage_of_nothing() -> Any:
    @stage("nothing")
    async def nothing(ctx: StageContext[None]) -> None: ...

    return nothing


# -- what a stage is given --------------------------------------------------------------------------------------------


def test_the_first_stage_is_given_the_input_of_the_run() -> None:
    assert albums.stage_input("develop", {}, b'{"url":"a"}') == Photo(url="a")


def test_a_stage_that_takes_a_base_is_given_the_real_output() -> None:
    given = albums.stage_input("measure", {"develop": RAW}, b"{}")

    assert given == RawPhoto(url="a", exposure=0.5)
    assert given is not albums.stage_input("measure", {"develop": RAW}, b"{}")


def test_after_a_group_a_model_is_given_a_field_per_stage() -> None:
    given = albums.stage_input("collect", {"label-photo": b'{"text":"cat"}', "measure": b"3"}, b"{}")

    assert given.label_photo == Label(text="cat")
    assert given.measure == 3


def test_after_a_group_a_mapping_has_the_typed_outputs() -> None:
    last = stage("last", input=dict[str, Any], output=int)(lambda _ctx: 0)
    workflow = WorkflowBuilder("w", input=Photo).parallel([label, measure]).pipe(last).build()

    given = workflow.stage_input("last", {"measure": b"3", "label-photo": b'{"text":"cat"}'}, b"{}")

    assert given == {"label-photo": Label(text="cat"), "measure": 3}


def test_a_stage_without_input_is_given_none_whatever_came_before() -> None:
    assert albums.stage_input("summarise", {}, b"{}") is None


def test_an_output_of_the_previous_group_that_is_not_at_hand_is_missing() -> None:
    with pytest.raises(MissingOutput, match=r'"measure" has no output.*at hand: label-photo'):
        albums.stage_input("collect", {"label-photo": b'{"text":"cat"}'}, b"{}")


def test_an_input_that_no_longer_fits_its_stage_is_refused_naming_the_stage() -> None:
    with pytest.raises(InvalidInput, match='Input of stage "develop" is not valid: url'):
        albums.stage_input("develop", {}, b'{"link":"a"}')


def test_the_outputs_of_a_stage_are_typed_by_the_stages_that_made_them() -> None:
    outputs = albums.stage_outputs("summarise", {"develop": RAW}, frozenset({"collect"}))

    assert outputs["develop"] == RawPhoto(url="a", exposure=0.5)
    assert outputs.has("collect")


# -- outputs ----------------------------------------------------------------------------------------------------------


def test_the_output_of_the_last_stage_is_the_output_of_the_run() -> None:
    assert albums.encode_output({"summarise": b'"done"'}) == b'"done"'
    assert albums.output_value({"summarise": b'"done"'}) == "done"


def test_a_workflow_that_ends_in_a_group_returns_a_mapping_of_typed_outputs() -> None:
    outputs = {"measure": b"3", "label-photo": b'{"text":"cat"}', "develop": RAW}

    assert grouped.encode_output(outputs) == b'{"label-photo":{"text":"cat"},"measure":3}'
    assert grouped.output_value(outputs) == {"label-photo": Label(text="cat"), "measure": 3}


def test_a_declared_output_is_made_of_the_outputs_of_the_group() -> None:
    value = joined.output_value({"measure": b"3", "label-photo": b'{"text":"cat"}'})

    assert isinstance(value, Both)
    assert value.label_photo == Label(text="cat")


def test_a_declared_output_validates_what_the_last_stage_returned() -> None:
    class Strict(BaseModel):
        model_config = ConfigDict(extra="forbid")
        measure: int = Field(ge=5)

    workflow = WorkflowBuilder("w", input=Photo, output=Strict).parallel([measure]).build()

    assert workflow.output_value({"measure": b"5"}) == Strict(measure=5)
    with pytest.raises(InvalidOutput, match='Output of workflow "w" is not valid: measure: Input should be greater'):
        workflow.encode_output({"measure": b"3"})


def test_a_declared_base_is_the_output_of_a_subclass() -> None:
    workflow = WorkflowBuilder("w", input=Photo, output=Photo).pipe(develop).build()

    assert workflow.output_value({"develop": RAW}) == Photo(url="a")


def test_an_output_that_is_not_there_is_missing() -> None:
    for workflow in (albums, grouped, joined):
        with pytest.raises(MissingOutput):
            workflow.encode_output({})


# -- costs and ids ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), "1.0", None, True, Decimal("NaN")])
def test_an_estimate_that_is_no_number_is_refused_by_the_name_of_its_stage(cost) -> None:
    made = stage("s", input=type(None), output=int)(lambda _ctx: 1)
    made.estimate(lambda _run_input, _config: cost)

    with pytest.raises(InvalidStage, match='Stage "s": its estimate returned'):
        WorkflowBuilder("costly").pipe(made).build().estimate_cost(None)


def test_the_estimate_is_the_sum_over_the_stages_that_have_one() -> None:
    assert albums.estimate_cost(Photo(url="abcd")) == Decimal("1.00")
    assert albums.estimate_cost(Photo(url="abcd"), {develop: Config(price=0.5)}) == Decimal("2.0")
    assert grouped.estimate_cost(Photo(url="abcd")) == 0


def test_a_stage_without_configuration_gets_an_empty_one() -> None:
    assert albums.stage_config("measure", {}) == NoConfig()


def test_the_ids_of_a_workflow_are_an_enumeration() -> None:
    ids = stage_id_enum(albums)

    assert ids.LABEL_PHOTO == "label-photo"
    assert [*ids] == [*albums.stage_ids()]
    assert albums.get_stage(ids.MEASURE) is measure


def test_ids_can_be_enumerated_without_a_workflow() -> None:
    ids = define_stage_ids(["a-b", "3d.model", "_x"])

    assert [each.name for each in ids] == ["A_B", "ID_3D_MODEL", "ID__X"]


@pytest.mark.parametrize("ids, complaint", [(["a-b", "a_b"], 'both it and "a-b" would be called A_B'), ([""], "empty")])
def test_ids_that_cannot_be_told_apart_by_name_are_refused(ids, complaint) -> None:
    with pytest.raises(InvalidStage, match=complaint):
        define_stage_ids(ids)


def test_an_id_can_be_checked_against_a_workflow() -> None:
    assert is_valid_stage_id(albums, "measure")
    assert not is_valid_stage_id(albums, "other")
    assert_valid_stage_id(albums, "measure")
    with pytest.raises(StageNotFound, match="Its stages: develop"):
        assert_valid_stage_id(albums, "other")
