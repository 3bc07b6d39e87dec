from __future__ import annotations

import math
from typing import Any, Protocol

import pytest
from pydantic import BaseModel

from kernel import (
    Decision,
    InvalidCommand,
    InvalidInput,
    InvalidStage,
    MissingOutput,
    OutputNotLoaded,
    PayloadRefused,
    Stage,
    StageContext,
    TypedKey,
    stage,
)
from kernel.authoring import Actor, BodyCancelled
from kernel.authoring.outputs import Outputs
from kernel.authoring.schema import Schema


class Pixels(BaseModel):
    width: int


@stage("measure")
async def measure(ctx: StageContext) -> Pixels: ...


@stage("nothing")
async def nothing(ctx: StageContext) -> None: ...


def outputs(offloaded: frozenset[str] = frozenset(), **texts: bytes) -> Outputs:
    schemas = {"measure": Schema(Pixels), "nothing": Schema(None)}
    return Outputs(texts, schemas=schemas, asked_by="resize", offloaded=offloaded)


def test_a_context_knows_which_attempt_it_is_for(a_context) -> None:
    ctx = a_context(input=Pixels(width=1))

    assert (ctx.run_id, ctx.workflow_id, ctx.stage_id, ctx.stage_name) == ("run-1", "albums", "resize", "Resize")
    assert (ctx.stage_number, ctx.execution, ctx.attempt, ctx.deadline) == (1, 1, 1, None)
    assert ctx.input == Pixels(width=1)
    assert "width" not in repr(ctx)


@pytest.mark.parametrize("key", [measure, "measure"])
def test_require_gives_the_typed_output_of_a_stage(a_context, key: Stage[Any, Any, Any] | str) -> None:
    ctx = a_context(outputs=outputs(measure=b'{"width": 3}'))

    assert ctx.require(key) == Pixels(width=3)
    assert ctx.require(key) is ctx.outputs["measure"]


def test_require_of_a_stage_that_has_not_completed_names_those_that_have(a_context) -> None:
    ctx = a_context(outputs=outputs(nothing=b"null"))

    with pytest.raises(MissingOutput, match=r'"measure" has no output in this run.*Outputs at hand: nothing'):
        ctx.require(measure)


def test_require_of_an_output_that_was_not_loaded_says_how_to_declare_it(a_context) -> None:
    ctx = a_context(outputs=outputs(offloaded=frozenset({"measure"})))

    with pytest.raises(OutputNotLoaded, match=r'@stage\("resize", dependencies=\["measure"\]\)'):
        ctx.require(measure)
    with pytest.raises(OutputNotLoaded):
        ctx.optional("measure")


def test_none_is_an_output_like_any_other(a_context) -> None:
    ctx = a_context(outputs=outputs(nothing=b"null"))

    assert ctx.require(nothing) is None
    assert "nothing" in ctx.outputs


def test_optional_is_none_when_the_stage_has_not_completed(a_context) -> None:
    ctx = a_context(outputs=outputs(measure=b'{"width": 3}'))

    assert ctx.optional(measure) == Pixels(width=3)
    assert ctx.optional("nothing") is None


def test_outputs_are_a_mapping_of_what_is_at_hand(a_context) -> None:
    found = a_context(outputs=outputs(measure=b'{"width": 3}', offloaded=frozenset({"nothing"}))).outputs

    assert dict(found) == {"measure": Pixels(width=3)}
    assert (len(found), list(found), "nothing" in found, found.get("nothing", 7)) == (1, ["measure"], False, 7)


def test_an_output_that_nobody_asks_for_is_not_read(a_context) -> None:
    ctx = a_context(outputs=outputs(measure=b"damaged", nothing=b"null"))

    assert ctx.require(nothing) is None


def test_a_service_is_given_by_name_and_type(a_context) -> None:
    class Speaks(Protocol):
        def speak(self) -> str: ...

    ctx = a_context(services={"numbers": [1, 2]})

    assert ctx.service("numbers", list) == [1, 2]
    assert ctx.service("numbers", Speaks) == [1, 2]  # type: ignore[type-abstract]


def test_a_service_that_is_not_there_is_named_with_the_fix(a_context) -> None:
    with pytest.raises(InvalidStage, match=r'needs the service "http".*services=\{"http": factory\}.*numbers'):
        a_context(services={"numbers": []}).service("http", list)


def test_a_service_of_another_type_is_refused(a_context) -> None:
    with pytest.raises(InvalidStage, match='service "numbers" is a list, not a dict'):
        a_context(services={"numbers": []}).service("numbers", dict)


@pytest.mark.parametrize("level, kept", [("info", "INFO"), ("Warning", "WARN"), ("ERROR", "ERROR"), ("loud", "INFO")])
def test_a_log_line_has_one_of_four_levels(a_context, port, level, kept) -> None:
    a_context().log(level, "resized", width=3)

    assert port.logged == [(kept, "resized", {"width": 3})]


def test_logging_nonsense_does_not_fail_the_stage(a_context, port) -> None:
    a_context().log(None, 3, what=object())

    assert [(level, message) for level, message, _ in port.logged] == [("INFO", "3")]


@pytest.mark.parametrize("value, kept", [(0.25, 0.25), (1, 1.0), (math.nan, 0.0), (math.inf, 0.0), ("half", 0.0)])
def test_progress_is_a_finite_number_whatever_is_reported(a_context, port, value, kept) -> None:
    a_context().progress(value, "resizing", photo=3)

    assert port.reported == [(kept, "resizing", {"photo": 3})]


def test_an_annotation_is_about_the_stage_unless_told_otherwise(a_context, port) -> None:
    ctx = a_context()
    ctx.annotate(Decision.confidence, 0.5)
    ctx.annotate("photo.owner", {"name": "Ada"}, scope="run", actor=Actor(kind="user", id="ada"), payload=[1])

    first, second = port.annotated
    assert (first.key, first.value, first.scope, first.scope_id) == ("decision.confidence", b"0.5", "stage", None)
    assert (second.value, second.scope, second.scope_id, second.payload) == (b'{"name":"Ada"}', "run", None, b"[1]")
    assert second.actor == "user:ada"


def test_an_annotation_of_none_is_not_made(a_context, port) -> None:
    a_context().annotate("photo.owner", None)

    assert port.annotated == []


@pytest.mark.parametrize(
    "key, value, error",
    [
        (Decision.confidence, "high", InvalidInput),
        (TypedKey("photo.sharpness", float), math.nan, PayloadRefused),
        ("photo.owner", object(), PayloadRefused),
        ("Photo Owner", 1, InvalidCommand),
        ("legacy.metadata.x", 1, InvalidCommand),
    ],
)
def test_an_annotation_that_cannot_be_kept_is_refused(a_context, port, key, value, error) -> None:
    with pytest.raises(error):
        a_context().annotate(key, value)

    assert port.annotated == []


def test_leaving_a_cancelled_body_is_not_stopped_by_a_broad_handler(a_context, port) -> None:
    ctx = a_context()
    ctx.raise_if_cancelled()
    assert not ctx.cancelled

    port.is_cancelled = True

    with pytest.raises(BodyCancelled):
        try:
            ctx.raise_if_cancelled()
        except Exception:  # noqa: BLE001  # what careless user code does
            pytest.fail("swallowed")
