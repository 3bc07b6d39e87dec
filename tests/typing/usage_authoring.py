"""Workflows written as users write them; every type that a checker infers here is asserted.

Runs too: `test_typing.py` imports it, so what the checkers believe is also what happens.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from datetime import timedelta
from typing import Any, assert_type

from pydantic import BaseModel
from typing_extensions import TypedDict

from kernel import (
    AIConfig,
    BatchStage,
    CheckContext,
    Event,
    Failed,
    FeatureFlagsConfig,
    NotReady,
    Ready,
    RetryPolicy,
    Stage,
    StageContext,
    StageResult,
    Suspend,
    TypedKey,
    Workflow,
    WorkflowBuilder,
    batch_stage,
    define_stage_ids,
    plugin,
    stage,
    stage_id_enum,
)


class Photo(BaseModel):
    url: str


class RawPhoto(Photo):
    exposure: float = 0.0


class Pixels(BaseModel):
    width: int
    height: int


class Label(BaseModel):
    text: str


class SureLabel(Label):
    certainty: float = 1.0


class Album(BaseModel):
    labels: list[str]


class Sizes(TypedDict):
    width: int
    height: int


class ResizeConfig(AIConfig, FeatureFlagsConfig):
    edge: int = 256


class Ticket(BaseModel):
    number: str


SHARPNESS = TypedKey("photo.sharpness", float)


def describe(ctx: StageContext) -> str:
    """A function that several bodies share takes any context."""
    return f"{ctx.run_id}/{ctx.stage_id}"


async def double(value: int) -> int:
    return value * 2


def half(value: int) -> float:
    return value / 2


@stage("resize", retry=RetryPolicy(max_attempts=5), timeout=timedelta(minutes=1), dependencies=[])
async def resize(ctx: StageContext[Photo, ResizeConfig]) -> Pixels:
    assert_type(ctx.input, Photo)
    assert_type(ctx.config, ResizeConfig)
    assert_type(ctx.config.edge, int)
    assert_type(ctx.config.feature_flags, dict[str, bool])
    assert_type(ctx.outputs, Mapping[str, Any])
    assert_type(await ctx.step("double", double, 21), int)
    assert_type(await ctx.step("half", half, 21), float)
    assert_type(await ctx.storage.get("thumbnail", Photo), Photo)
    assert_type(await ctx.storage.shared.has("thumbnail"), bool)
    assert_type(ctx.service("http", dict), dict[Any, Any])
    ctx.annotate(SHARPNESS, 0.9)
    ctx.annotate("photo.camera", {"maker": "Leica"})
    ctx.annotate({SHARPNESS: 0.9, "photo.camera": None}, scope="page", scope_id="7", emit_event=True)
    ctx.log("info", describe(ctx), size=3)
    ctx.progress(0.5, "half way", photos=2)
    return Pixels(width=ctx.config.edge, height=ctx.config.edge)


@stage("label")
def label(ctx: StageContext[Pixels]) -> SureLabel:
    assert_type(ctx.config, BaseModel)
    assert_type(ctx.step.blocking("half", half, 4), float)
    ctx.storage.blocking.put("label", b"cat")
    ctx.raise_if_cancelled()
    return SureLabel(text="cat")


@stage("measured")
async def measured(ctx: StageContext[Pixels]) -> Label | StageResult[Label]:
    return StageResult(Label(text="cat"), metrics={"total_tokens": 12})


@stage("wrapped")
def wrapped(ctx: StageContext[Pixels]) -> StageResult[list[int]]:
    return StageResult([ctx.input.width])


@stage("sizes")
async def sizes(ctx: StageContext[Pixels]) -> Sizes:
    return Sizes(width=ctx.input.width, height=ctx.input.height)


@stage("nothing")
async def nothing(ctx: StageContext[Pixels]) -> None:
    return None


@stage("perhaps")
def perhaps(ctx: StageContext[Pixels]) -> Label | None:
    return None


@stage("forwarded")
def forwarded(ctx: StageContext[Pixels]) -> Awaitable[Label]:
    raise NotImplementedError


@batch_stage("review")
async def review(ctx: StageContext[Pixels, ResizeConfig]) -> Suspend[Ticket] | Label:
    assert_type(ctx.config, ResizeConfig)
    return Suspend(state=Ticket(number="7"), poll_interval=timedelta(minutes=5), max_wait=timedelta(days=2))


@review.check
async def review_done(state: Ticket, ctx: CheckContext[ResizeConfig]) -> Ready[Label] | NotReady | Failed:
    assert_type(ctx.config, ResizeConfig)
    return Ready(Label(text=state.number)) if ctx.config.edge else NotReady(state=Ticket(number="8"))


@batch_stage("approve")
def approve(ctx: StageContext[Pixels, ResizeConfig, Ticket]) -> Suspend[Ticket] | None:
    assert_type(ctx.resume_state, Ticket | None)
    return Suspend(state=Ticket(number="7"))


@approve.check
def approved(state: Ticket, ctx: CheckContext) -> Ready | NotReady:
    return Ready()


@batch_stage("print")
def print_out(ctx: StageContext[Pixels]) -> Suspend[Ticket] | StageResult[Album]:
    return StageResult(Album(labels=[]))


@print_out.check
def printed(state: Ticket, ctx: CheckContext) -> Ready[Album] | Failed:
    return Failed("out of paper", retry=True)


@stage("collect")
async def collect(ctx: StageContext[None]) -> Album:
    assert_type(ctx.require(label), SureLabel)
    assert_type(ctx.require(wrapped), list[int])
    assert_type(ctx.require(review), Label)
    assert_type(ctx.optional(sizes), Sizes | None)
    found: Label = ctx.require("label")
    return Album(labels=[found.text])


assert_type(resize, Stage[Photo, Pixels, ResizeConfig])
assert_type(label, Stage[Pixels, SureLabel, BaseModel])
assert_type(measured, Stage[Pixels, Label, BaseModel])
assert_type(wrapped, Stage[Pixels, list[int], BaseModel])
assert_type(sizes, Stage[Pixels, Sizes, BaseModel])
assert_type(nothing, Stage[Pixels, None, BaseModel])
assert_type(perhaps, Stage[Pixels, Label | None, BaseModel])
assert_type(forwarded, Stage[Pixels, Label, BaseModel])
assert_type(review, BatchStage[Pixels, Label, ResizeConfig, Ticket])
assert_type(approve, BatchStage[Pixels, None, ResizeConfig, Ticket])
assert_type(print_out, BatchStage[Pixels, Album, BaseModel, Ticket])

albums = (
    WorkflowBuilder("albums", name="Albums", input=Photo, output=Album, version="2")
    .pipe(resize)
    .parallel([label, measured, wrapped, sizes, review], on_failure="cancel")
    .pipe(collect)
    .build()
)
assert_type(albums, Workflow[Photo, Album])
assert_type(albums.output_value({"collect": b'{"labels": ["cat"]}'}), Album)
albums.estimate_cost(RawPhoto(url="a"))
albums.validate_config({resize: ResizeConfig(edge=1), "review": {"edge": 2}})

inferred = WorkflowBuilder("inferred", input=Photo).pipe(resize).pipe(label).build()
assert_type(inferred, Workflow[Photo, SureLabel])

# The declared output may be a base of what the last stage returns.
declared_base = WorkflowBuilder("declared-base", input=Photo, output=Label).pipe(resize).pipe(label).build()
assert_type(declared_base, Workflow[Photo, Label])


@stage("clock")
async def clock(ctx: StageContext[None]) -> Album:
    return Album(labels=[])


nightly = WorkflowBuilder("nightly", output=Album).pipe(clock).build()
assert_type(nightly, Workflow[None, Album])

fan_out = WorkflowBuilder("fan-out", input=Pixels).parallel([label, nothing, perhaps]).build()
assert_type(fan_out, Workflow[Pixels, Any])

# A stage that takes a base may follow one that gives a subclass.
raw = WorkflowBuilder("raw", input=RawPhoto).pipe(resize).build()
assert_type(raw, Workflow[RawPhoto, Pixels])

assert_type(stage_id_enum(albums).COLLECT == "collect", bool)
assert_type(define_stage_ids(["a-b"]).A_B.value, str)


@plugin("audit", on=["run.completed", "stage.failed"])
async def audit(event: Event) -> None:
    assert_type(event.run_id, str)
    assert_type(event.seq, int)
    if event.type == "stage.failed":
        assert_type(event.error.retryable, bool)
