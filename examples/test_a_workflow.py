"""A test of a stage that fails, one that waits for somebody else and a plugin: `pytest examples/test_a_workflow.py`."""

import pytest
from pydantic import BaseModel

from kernel import CheckContext, Event, Ready, StageContext, Suspend, WorkflowBuilder, batch_stage, plugin, stage
from runtime.testing import run_workflow


class Job(BaseModel):
    text: str


@stage("fetch")
async def fetch(ctx: StageContext[str]) -> str:
    if ctx.attempt == 1:
        raise ConnectionError("the line is busy")
    return f"text of {ctx.input}"


@batch_stage("translate")
async def translate(ctx: StageContext[str]) -> Suspend[Job] | str:
    return Suspend(state=Job(text=ctx.input))


@translate.check
async def translated(state: Job, _ctx: CheckContext) -> Ready[str]:
    return Ready(state.text.replace("text", "texte"))


@stage("shout")
def shout(ctx: StageContext[str]) -> str:
    return ctx.input.upper()


pages = WorkflowBuilder("pages", input=str, output=str).pipe(fetch).pipe(translate).pipe(shout).build()


@pytest.mark.anyio
async def test_a_page_is_fetched_again_then_translated_and_the_plugin_is_told() -> None:
    told: list[str] = []

    @plugin("told", on=["stage.retrying", "stage.suspended", "run.completed"])
    async def tell(event: Event) -> None:
        told.append(event.type)

    finished = await run_workflow(pages, "page 1", plugins=[tell])
    assert [finished.output, *told] == ["TEXTE OF PAGE 1", "stage.retrying", "stage.suspended", "run.completed"]
