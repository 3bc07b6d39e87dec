"""Workflows for the handlers' tests. Their bodies never run: what a stage gives is said by the test's executor."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from kernel import (
    CheckContext,
    NotReady,
    Ready,
    RetryPolicy,
    StageContext,
    Suspend,
    WorkflowBuilder,
    batch_stage,
    stage,
)

STEADY = RetryPolicy(max_attempts=2, jitter=False)


class Doc(BaseModel):
    path: str
    weight: float = 1.0


class Words(BaseModel):
    words: int


class Depth(BaseModel):
    chapters: int = 1
    pages: int


class ExtractConfig(BaseModel):
    max_chars: int = 100
    depth: Depth = Depth(pages=2)


class Batch(BaseModel):
    batch: int


@stage("extract", retry=STEADY)
async def extract(ctx: StageContext[Doc, ExtractConfig]) -> Words:
    raise AssertionError


@stage("keywords", retry=STEADY)
async def keywords(ctx: StageContext[Words]) -> Words:
    raise AssertionError


@stage("language", retry=STEADY)
async def language(ctx: StageContext[Words]) -> Words:
    raise AssertionError


@stage("report", dependencies=["extract"], retry=STEADY)
async def report(ctx: StageContext) -> Words:
    raise AssertionError


@stage("archive", dependencies=["report"], retry=STEADY)
async def archive(ctx: StageContext[Words]) -> Words:
    raise AssertionError


@stage("collect")
async def collect(ctx: StageContext[dict[str, Any]]) -> Words:
    raise AssertionError


@batch_stage("embed", retry=STEADY)
async def embed(ctx: StageContext[Doc]) -> Suspend[Batch] | Words:
    raise AssertionError


@embed.check
async def embed_ready(state: Batch, ctx: CheckContext) -> Ready[Words] | NotReady:
    raise AssertionError


@batch_stage("embed-too", retry=STEADY)
async def embed_too(ctx: StageContext[Doc]) -> Suspend[Batch] | Words:
    raise AssertionError


@embed_too.check
async def embed_too_ready(state: Batch, ctx: CheckContext) -> Ready[Words] | NotReady:
    raise AssertionError


documents = (
    WorkflowBuilder("documents", input=Doc, output=Words)
    .pipe(extract)
    .parallel([keywords, language])
    .pipe(report)
    .pipe(archive)
    .build()
)
single = WorkflowBuilder("single", input=Doc, output=Words).pipe(extract).build()
anything = WorkflowBuilder("anything", input=dict[str, Any], output=Words).pipe(collect).build()
waiting = WorkflowBuilder("waiting", input=Doc, output=Words).pipe(embed).build()
waiting_twice = WorkflowBuilder("waiting-twice", input=Doc).parallel([embed, embed_too]).build()
