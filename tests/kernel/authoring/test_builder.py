from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator
from typing_extensions import TypedDict

from kernel import (
    InvalidStage,
    InvalidWorkflow,
    NotReady,
    StageContext,
    Suspend,
    Workflow,
    WorkflowBuilder,
    batch_stage,
    stage,
)


class Photo(BaseModel):
    url: str


class RawPhoto(Photo):
    exposure: float = 0.0


class Pixels(BaseModel):
    width: int


class Label(BaseModel):
    text: str


class Ticket(BaseModel):
    number: str


@stage("resize")
async def resize(ctx: StageContext[Photo]) -> Pixels: ...


@stage("label")
async def label(ctx: StageContext[Pixels]) -> Label: ...


@stage("measure")
async def measure(ctx: StageContext[Pixels]) -> int: ...


@stage("collect")
async def collect(ctx: StageContext[None]) -> list[str]: ...


def a_stage(id: str, input: Any = None, output: Any = None, **options: Any) -> Any:
    return stage(id, input=input or NoneType, output=output or NoneType, **options)(lambda _ctx: None)


def albums() -> Any:
    return WorkflowBuilder("albums", input=Photo)


def refused(builder: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        builder.build()


def test_a_builder_is_not_changed_by_what_is_added_to_it() -> None:
    start = albums().pipe(resize)

    labelled, measured = start.pipe(label).build(), start.pipe(measure).build()

    assert (labelled.stage_ids(), measured.stage_ids()) == (("resize", "label"), ("resize", "measure"))


def test_a_workflow_has_what_its_builder_was_told() -> None:
    builder = WorkflowBuilder("albums", name="Albums", description="Of photos.", input=Photo, output=Label, version="2")
    workflow = builder.pipe(resize).pipe(label).build()

    assert isinstance(workflow, Workflow)
    assert (workflow.id, workflow.name, workflow.description) == ("albums", "Albums", "Of photos.")
    assert (workflow.version, workflow.input, workflow.output) == ("2", Photo, Label)


# -- identities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["", "a b", "a:b", "a\0", None])
def test_an_id_with_the_wrong_letters_is_refused(bad) -> None:
    with pytest.raises(InvalidWorkflow, match=r"its id .*letters, digits"):
        WorkflowBuilder(bad)


@pytest.mark.parametrize("bad", ["", "a b", "1\n", None, 1])
def test_a_version_is_one_word(bad) -> None:
    with pytest.raises(InvalidWorkflow, match=r'its version .*version="1"'):
        WorkflowBuilder("albums", version=bad)


def test_a_workflow_needs_a_stage() -> None:
    refused(albums(), InvalidWorkflow, r'"albums": it has no stages.*\.pipe\(stage\)')


def test_a_parallel_group_needs_a_stage() -> None:
    refused(albums().pipe(resize).parallel([]), InvalidWorkflow, "its group 2 has no stages")


@pytest.mark.parametrize("add", [lambda b: b.pipe(resize.body), lambda b: b.pipe("resize"), lambda b: b.pipe(None)])
def test_only_stages_can_be_piped(add) -> None:
    with pytest.raises(InvalidWorkflow, match="is not a stage"):
        add(albums())


@pytest.mark.parametrize("stages", [resize, "resize", None, 3, {resize}])
def test_a_parallel_group_is_a_list(stages) -> None:
    with pytest.raises(InvalidWorkflow, match=r"Write \.parallel\(\[a, b\]\)"):
        albums().parallel(stages)


def test_on_failure_is_one_of_two_words() -> None:
    refused(albums().parallel([resize], on_failure="ignore"), InvalidWorkflow, "'ignore'.*finish.*cancel")


def test_a_stage_appears_once() -> None:
    refused(albums().pipe(resize).pipe(label).pipe(resize), InvalidWorkflow, 'two stages with the id "resize"')


def test_two_stages_with_one_id_are_refused_naming_both_places() -> None:
    @stage("label")
    async def other_label(ctx: StageContext[Label]) -> Label: ...

    places = r"test_builder\.label, line \d+ and .*other_label, line \d+"
    refused(albums().pipe(resize).pipe(label).pipe(other_label), InvalidWorkflow, places)


# -- dependencies -----------------------------------------------------------------------------------------------------


def test_dependencies_on_earlier_stages_are_fine() -> None:
    late = a_stage("late", dependencies=["resize", label])

    assert "late" in albums().pipe(resize).pipe(label).pipe(late).build()


@pytest.mark.parametrize(
    "dependency, complaint",
    [
        ("nowhere", r'depends on "nowhere", which is not a stage.*Stages before "late": resize'),
        ("late", "depends on itself"),
        ("sibling", 'depends on "sibling", which runs at the same time.*another group'),
        ("after", 'depends on "after", which runs later.*Move "after" before "late"'),
    ],
)
def test_a_dependency_that_cannot_be_there_is_refused_with_the_fix(dependency, complaint) -> None:
    late = a_stage("late", dependencies=[dependency])
    builder = albums().pipe(resize).parallel([late, a_stage("sibling")]).pipe(a_stage("after"))

    refused(builder, InvalidStage, f'Stage "late": .*{complaint}')


# -- what follows what ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "before, after",
    [
        (RawPhoto, Photo),
        (Photo, Photo | None),
        (list[RawPhoto], Sequence[Photo]),
        (Photo, Any),
        (int, float),
        (Photo, NoneType),
        (NoneType, NoneType),
    ],
)
def test_a_stage_may_take_what_the_one_before_gives_or_a_base_of_it(before, after) -> None:
    first, second = a_stage("first", output=before), a_stage("second", input=after)

    assert "second" in WorkflowBuilder("w").pipe(first).pipe(second).build()


@pytest.mark.parametrize(
    "before, after",
    [(Photo, RawPhoto), (Pixels, Photo), (Photo | None, Photo), (Photo, Mapping[str, Any]), (NoneType, Photo)],
)
def test_a_stage_that_cannot_take_what_the_one_before_gives_is_refused(before, after) -> None:
    first, second = a_stage("first", output=before), a_stage("second", input=after)

    refused(
        WorkflowBuilder("w").pipe(first).pipe(second),
        InvalidStage,
        r'Stage "second": it takes .*, but stage "first" gives .*ctx\.require',
    )


def test_the_first_group_is_given_the_input_of_the_workflow() -> None:
    message = 'Stage "label": it takes Pixels, but the input of workflow "albums" gives Photo'

    refused(albums().pipe(label), InvalidStage, message)
    refused(albums().parallel([resize, label]), InvalidStage, message)
    refused(WorkflowBuilder("w").pipe(resize), InvalidStage, "takes Photo, but the input .* gives None")


class Both(BaseModel):
    label: Label
    pixels: int = Field(alias="measure")


class JustLabel(BaseModel):
    label: Label


class BothTyped(TypedDict):
    label: Label
    measure: int


class Misspelt(BaseModel):
    label: Label
    mesure: int = 0


class WrongType(BaseModel):
    label: Pixels


@pytest.mark.parametrize(
    "after",
    [
        NoneType,
        dict[str, Any],
        Mapping[str, object],
        Mapping[str, Label | int],
        Mapping,
        dict,
        Both,
        JustLabel,
        BothTyped,
        Both | None,
        RootModel[dict[str, Any]],
        Any,
    ],
)
def test_after_a_group_a_stage_may_take_a_mapping_or_a_field_per_stage(after) -> None:
    last = a_stage("last", input=after)

    assert "last" in albums().pipe(resize).parallel([label, measure]).pipe(last).build()


@pytest.mark.parametrize(
    "after, complaint",
    [
        (Label, 'field "text" of Label is not the id of one of the stages label, measure'),
        (Misspelt, 'field "mesure" of Misspelt is not the id'),
        (WrongType, 'stage "label" returns Label, but WrongType takes Pixels'),
        (Mapping[str, Label], 'stage "measure" returns int, which Mapping\\[str, Label\\] does not take'),
        (Mapping[int, Any], "is neither a mapping nor a model"),
        (list[Any], "is neither a mapping nor a model"),
        (Label | int, "field"),
        (RootModel[list[int]], "is neither a mapping nor a model"),
    ],
)
def test_after_a_group_a_stage_that_cannot_take_the_outputs_is_refused(after, complaint) -> None:
    builder = albums().pipe(resize).parallel([label, measure]).pipe(a_stage("last", input=after))

    refused(builder, InvalidStage, f'Stage "last": .*parallel stages label, measure: .*{complaint}')


def test_a_parallel_group_of_one_is_still_a_group() -> None:
    refused(albums().pipe(resize).parallel([label]).pipe(a_stage("last", input=Label)), InvalidStage, "parallel")


# -- outputs ----------------------------------------------------------------------------------------------------------


def test_without_a_declared_output_it_is_that_of_the_last_stage_or_group() -> None:
    assert albums().pipe(resize).build().output is Pixels
    assert albums().pipe(resize).parallel([label, measure]).build().output == dict[str, Any]
    assert albums().pipe(resize).pipe(collect).build().output == list[str]


def test_the_declared_output_may_be_a_base_or_a_model_of_the_group() -> None:
    assert WorkflowBuilder("w", output=Photo).pipe(a_stage("a", output=RawPhoto)).build().output is Photo
    group = WorkflowBuilder("w", input=Photo, output=Both).pipe(resize).parallel([label, measure])
    assert group.build().output is Both


def test_an_output_that_the_last_stage_does_not_give_is_refused() -> None:
    builder = WorkflowBuilder("w", input=Photo, output=Label).pipe(resize)

    refused(builder, InvalidWorkflow, 'output=Label, but its last stage "resize" returns Pixels')


def test_an_output_that_the_last_group_does_not_give_is_refused() -> None:
    builder = WorkflowBuilder("w", input=Photo, output=Label).pipe(resize).parallel([label, measure])

    refused(builder, InvalidWorkflow, "its output cannot be Label: field .*Leave output= out")


@pytest.mark.parametrize("role", ["input", "output"])
def test_a_type_of_the_workflow_that_cannot_be_used_is_refused(role) -> None:
    builder = WorkflowBuilder("w", **{role: type("Opaque", (), {})}).pipe(collect)

    refused(builder, InvalidWorkflow, f"its {role} type cannot be used: Opaque has no schema")


# -- stages that cannot be executed -----------------------------------------------------------------------------------


def test_a_batch_stage_needs_a_check() -> None:
    @batch_stage("review")
    async def review(ctx: StageContext[Photo]) -> Suspend[Ticket] | None: ...

    refused(albums().pipe(review), InvalidStage, r'"review": it may suspend, but nothing checks.*@review\.check')

    review.check(lambda _state, _ctx: NotReady())
    assert "review" in albums().pipe(review).build()


def test_a_stage_for_a_child_process_must_be_importable() -> None:
    local = a_stage("local", isolation="process")

    refused(WorkflowBuilder("w").pipe(local), InvalidStage, "isolation='process'")


class FarAway(BaseModel):
    limit: float = math.inf


class Contradiction(BaseModel):
    model_config = ConfigDict(validate_default=False)
    edge: int = Field(default=-1, ge=0)


class Unlucky(BaseModel):
    edge: int = 0

    @field_validator("edge")
    @classmethod
    def refuse(cls, value: int) -> int:
        raise ValueError(f"never {value}")


@pytest.mark.parametrize(
    "config, complaint",
    [(FarAway, "limit"), (Contradiction, "edge: Input should be greater"), (Unlucky, "edge: Value error, never 0")],
)
def test_defaults_that_no_run_could_use_are_refused(config, complaint) -> None:
    builder = WorkflowBuilder("w").pipe(a_stage("a", config=config))

    refused(builder, InvalidStage, f"defaults of its config {config.__name__} are not usable: .*{complaint}")


def test_annotations_that_cannot_be_resolved_are_refused() -> None:
    @stage("lost")
    async def lost(ctx: StageContext[Nowhere]) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    refused(albums().pipe(lost), InvalidStage, "name 'Nowhere' is not defined.*pass input=")


def test_a_plain_stage_cannot_suspend() -> None:
    @stage("waiting")
    async def waiting(ctx: StageContext[Photo]) -> Suspend[Ticket] | None: ...

    refused(albums().pipe(waiting), InvalidStage, "annotated to return Suspend.*@batch_stage")


def test_a_literal_type_can_flow_from_stage_to_stage() -> None:
    first, second = a_stage("first", output=Literal["a", "b"]), a_stage("second", input=str)

    assert "second" in WorkflowBuilder("w").pipe(first).pipe(second).build()
