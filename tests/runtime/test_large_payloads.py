"""Payloads beyond the inline bound live in the blob store, and nobody who reads them can tell."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from pydantic import BaseModel

from kernel import (
    CheckContext,
    Failed,
    NoConfig,
    NotReady,
    OutputNotLoaded,
    RetryPolicy,
    RunFailed,
    StageContext,
    Suspend,
    WorkflowBuilder,
    batch_stage,
    stage,
)
from runtime import App, Settings, Supervisor

pytestmark = pytest.mark.anyio

LARGE = 100_000


class Text(BaseModel):
    text: str


@stage("grow")
async def grow(ctx: StageContext[Text]) -> Text:
    return Text(text=ctx.input.text + "x" * LARGE)


@stage("measure")
async def measure(ctx: StageContext[Text]) -> int:
    return len(ctx.input.text)


@stage("compare", dependencies=["measure"])
async def compare(ctx: StageContext[int]) -> str:
    return ctx.require(grow).text


@batch_stage("wait", retry=RetryPolicy(initial_interval=timedelta(0)))
async def wait(ctx: StageContext[None, NoConfig, Text]) -> Suspend[Text] | Text:
    async def make() -> str:
        return "s" * LARGE

    if ctx.resume_state is not None:
        return Text(text=ctx.resume_state.text + "resumed")
    return Suspend(state=Text(text=await ctx.step("make", make)), poll_interval=timedelta(0))


@wait.check
async def waited(state: Text, _ctx: CheckContext) -> NotReady | Failed:
    if len(state.text) == LARGE:
        return NotReady(next_check_in=timedelta(0), state=Text(text=state.text * 2))
    return Failed("the first batch was lost", retry=True)


@stage("first")
async def first(ctx: StageContext[Text]) -> Text:
    await ctx.storage.put("note", f"{ctx.input.text} first")
    await ctx.storage.shared.put("note", ctx.input.text)
    return ctx.input


@stage("second")
async def second(ctx: StageContext[Text]) -> list[str]:
    await ctx.storage.put("note", f"{ctx.input.text} second")
    theirs = await ctx.storage.shared.get("note")
    return [f"{theirs} first", await ctx.storage.get("note"), theirs]


suspended = WorkflowBuilder("suspended", input=None, output=Text).pipe(wait).build()
large = WorkflowBuilder("large", input=Text, output=int).pipe(grow).pipe(measure).build()
undeclared = WorkflowBuilder("undeclared", input=Text, output=str).pipe(grow).pipe(measure).pipe(compare).build()
keeping = WorkflowBuilder("keeping", input=Text, output=list[str]).pipe(first).pipe(second).build()
app = App(workflows=[large, undeclared, suspended, keeping])


@pytest.fixture(params=["memory", "postgres", "folder", "bucket"])
async def supervisor(request: pytest.FixtureRequest, anyio_backend_name: str, tmp_path: Path):
    url, blob_url = "memory://", None
    match request.param:
        case "postgres":
            url = request.getfixturevalue("migrated_database_url")
        case "folder":
            blob_url = tmp_path.as_uri()
        case "bucket":
            blob_url = request.getfixturevalue("s3_url")
    async with Supervisor(app, settings=Settings(database_url=url, blob_url=blob_url)) as supervisor:
        yield supervisor


async def test_large_inputs_and_outputs_reach_the_next_stage_and_the_caller(supervisor: Supervisor):
    run = await supervisor.start(large, Text(text="y" * LARGE))

    assert await run.result(timeout=30) == 2 * LARGE
    info = await run.describe()
    assert info.input == {"text": "y" * LARGE}
    assert info.stages is not None
    assert len(info.stages[0].output["text"]) == 2 * LARGE
    assert len(await supervisor.storage.blobs.list(f"runs/large/{run.id}/")) == 2


async def test_large_steps_and_states_of_suspension_come_back_the_same(supervisor: Supervisor):
    run = await supervisor.start(suspended, None)

    assert (await run.result(timeout=30)).text == "s" * LARGE * 2 + "resumed"
    kinds = {key.rpartition("/")[2] for key in await supervisor.storage.blobs.list(f"runs/suspended/{run.id}/")}
    assert kinds == {"step-0.json", "state.json", "output.json"}


async def test_a_large_output_that_was_not_declared_is_not_loaded_and_the_error_says_how(supervisor: Supervisor):
    run = await supervisor.start(undeclared, Text(text="y"))

    with pytest.raises(RunFailed) as failed:
        await run.result(timeout=30)

    assert failed.value.error.type == OutputNotLoaded.__name__
    assert 'dependencies=["grow"]' in failed.value.error.message


async def test_a_payload_beyond_the_limit_is_refused_by_name(anyio_backend_name: str):
    settings = Settings(database_url="memory://", payload_bytes_max=50_000)
    async with Supervisor(app, settings=settings) as supervisor:
        with anyio.fail_after(30):
            run = await supervisor.start(large, Text(text="small"))
            with pytest.raises(RunFailed) as failed:
                await run.result()

    assert failed.value.stage_id == "grow"
    assert failed.value.error.type == "PayloadRefused"
    assert "payload_bytes_max" in failed.value.error.message


async def test_what_two_runs_and_two_stages_keep_under_one_key_does_not_meet(supervisor: Supervisor):
    one, other = [await supervisor.start(keeping, Text(text=name)) for name in ("one", "other")]

    assert await one.result(timeout=30) == ["one first", "one second", "one"]
    assert await other.result(timeout=30) == ["other first", "other second", "other"]
