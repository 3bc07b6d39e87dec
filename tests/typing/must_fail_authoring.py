"""Mistakes that type checkers must find: every line that ends in "# E" fails under both, and no other line does."""

from __future__ import annotations

from pydantic import BaseModel

from kernel import (
    CheckContext,
    Event,
    NotReady,
    Ready,
    StageContext,
    Suspend,
    TypedKey,
    WorkflowBuilder,
    batch_stage,
    plugin,
    stage,
)


class Photo(BaseModel):
    url: str


class Pixels(BaseModel):
    width: int


class Album(BaseModel):
    labels: list[str]


class ResizeConfig(BaseModel):
    edge: int = 256


class Ticket(BaseModel):
    number: str


SHARPNESS = TypedKey("photo.sharpness", float)


@stage("resize")
async def resize(ctx: StageContext[Photo, ResizeConfig]) -> Pixels:
    ctx.config.colour  # E  # noqa: B018
    ctx.annotate(SHARPNESS, "sharp")  # E
    ctx.annotate("photo.owner", object())  # E
    album: Album = ctx.require(other)  # E
    return album  # E


@stage("other")
def other(ctx: StageContext[Pixels]) -> Pixels:
    return ctx.input


@batch_stage("review")
async def review(ctx: StageContext[Pixels, ResizeConfig]) -> Suspend[Ticket] | Album:
    return Suspend(state=Ticket(number="7"))


@stage("suspends")  # E
async def suspends(ctx: StageContext[Pixels]) -> Suspend[Ticket] | Album:
    return Suspend(state=Ticket(number="7"))


@stage("object")  # E
def anything(ctx: StageContext[Pixels]) -> object:
    return ctx.input


@stage("two-parameters")  # E
def two_parameters(ctx: StageContext[Pixels], more: int) -> Pixels:
    return ctx.input


@stage("bad-isolation", isolation="thread")  # E
def bad_isolation(ctx: StageContext[Pixels]) -> Pixels:
    return ctx.input


@review.check  # E
async def another_output(state: Ticket, ctx: CheckContext[ResizeConfig]) -> Ready[Pixels] | NotReady:
    return NotReady()


@review.check  # E
async def another_state(state: Photo, ctx: CheckContext[ResizeConfig]) -> Ready[Album] | NotReady:
    return NotReady()


@review.check  # E
async def no_output(state: Ticket, ctx: CheckContext[ResizeConfig]) -> Ready | NotReady:
    return NotReady()


builder = WorkflowBuilder("albums", input=Photo, output=Album)
builder.pipe(other)  # E
builder.parallel([resize, other])  # E
builder.parallel([resize], on_failure="ignore")  # E
builder.pipe(resize).build()  # E
WorkflowBuilder("nightly", output=Album).pipe(resize)  # E


@plugin("audit", on=["run.complete"])  # E
async def audit(event: Event) -> None: ...


@plugin("quiet", on=["run.completed"])  # E
def not_async(event: Event) -> None: ...
