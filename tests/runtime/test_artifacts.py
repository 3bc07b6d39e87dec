"""What a stage keeps beside its result is found again: by its name, in whatever store, until a rerun discards it."""

from __future__ import annotations

import hashlib
import io
from datetime import timedelta

import pytest
from pydantic import BaseModel

from kernel import (
    ArtifactNotFound,
    BlobNotFound,
    CheckContext,
    InvalidCommand,
    InvalidOutput,
    Ready,
    RunNotFound,
    StageContext,
    StageNotFound,
    StageResult,
    Suspend,
    WorkflowBuilder,
    batch_stage,
    stage,
)
from kernel.model.facts import CorruptHistory
from runtime import App, Settings, Supervisor
from runtime.commandline.artifacts import _deliver
from runtime.commandline.invocation import Artifacts
from runtime.commandline.screen import Screen

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\0" * 10_000
LONG = "a" * 200


class Table(BaseModel):
    rows: list[int]


class Batch(BaseModel):
    id: str


@stage("draw")
async def draw(_ctx: StageContext[None]) -> StageResult[int]:
    return StageResult(
        1, artifacts={"chart.png": PNG, "table": Table(rows=[1, 2]), "empty": b"", "../../etc/passwd": b"x"}
    )


@batch_stage("ask")
async def ask(_ctx: StageContext[int]) -> Suspend[Batch] | str:
    return Suspend(state=Batch(id="b"), poll_interval=timedelta(0))


@ask.check
async def asked(_state: Batch, _ctx: CheckContext) -> Ready[str]:
    return Ready("done", artifacts={"answers": [True]})


@stage(LONG)
async def long(_ctx: StageContext[None]) -> StageResult[None]:
    return StageResult(None, artifacts={"漢" * 200: b"1"})


@stage("remember")
def remember(ctx: StageContext[None]) -> list[int]:
    """Count its own executions, once for the stage and once for the run."""
    counts: list[int] = []
    for storage in (ctx.storage.blocking, ctx.storage.shared.blocking):
        count = storage.get("count", int) + 1 if storage.has("count") else 1
        storage.put("count", count)
        counts.append(count)
    return counts


remembering = WorkflowBuilder("remembering", input=None, output=list[int]).pipe(remember).build()
drawing = WorkflowBuilder("drawing", input=None, output=str).pipe(draw).pipe(ask).build()
naming = WorkflowBuilder(LONG, input=None).pipe(long).build()
app = App(workflows=[drawing, naming, remembering])


@pytest.fixture(params=["memory", "postgres", "bucket"])
async def supervisor(request: pytest.FixtureRequest, anyio_backend_name: str):
    url, blob_url = "memory://", None
    if request.param == "postgres":
        url = request.getfixturevalue("migrated_database_url")
    elif request.param == "bucket":
        blob_url = request.getfixturevalue("s3_url")
    async with Supervisor(app, settings=Settings(database_url=url, blob_url=blob_url)) as supervisor:
        yield supervisor


@pytest.fixture
async def in_memory(anyio_backend_name: str):
    async with Supervisor(app, settings=Settings(database_url="memory://")) as supervisor:
        yield supervisor


async def test_an_artifact_is_read_as_it_was_kept(supervisor: Supervisor):
    run = await supervisor.start(drawing, None)
    await run.result(timeout=30)

    assert await run.artifact(draw, "chart.png") == PNG
    assert await run.artifact("draw", "table") == b'{"rows":[1,2]}'
    assert await run.artifact(draw, "table", Table) == Table(rows=[1, 2])
    assert await run.artifact(draw, "empty") == b""
    assert await run.artifact(draw, "../../etc/passwd") == b"x"


async def test_the_artifacts_of_a_check_are_those_of_its_stage(in_memory: Supervisor):
    run = await in_memory.start(drawing, None)
    await run.result(timeout=30)

    assert await run.artifact(ask, "answers", list[bool]) == [True]


async def test_a_run_is_described_with_its_artifacts_and_not_their_bytes(in_memory: Supervisor):
    run = await in_memory.start(drawing, None)
    await run.result(timeout=30)

    stages = (await run.describe()).stages
    assert stages is not None
    assert list(stages[0].artifacts) == ["chart.png", "table", "empty", "../../etc/passwd"]
    chart = stages[0].artifacts["chart.png"]
    assert (chart.size_bytes, chart.sha256) == (50_000, hashlib.sha256(PNG).hexdigest())


async def test_the_longest_ids_and_names_have_artifacts_too(supervisor: Supervisor):
    run = await supervisor.start(naming, None)
    await run.result(timeout=30)

    assert await run.artifact(long, "漢" * 200) == b"1"


async def test_what_is_not_there_is_said_with_what_is(in_memory: Supervisor):
    run = await in_memory.start(drawing, None)
    await run.result(timeout=30)

    with pytest.raises(ArtifactNotFound, match=r'no artifact "char".*chart\.png, table') as missing:
        await run.artifact(draw, "char")
    with pytest.raises(StageNotFound, match="draw, ask"):
        await run.artifact("drawn", "chart.png")
    with pytest.raises(RunNotFound):
        await in_memory.run("01a1fb81-0915-7f00-8a2b-22bf95bcc5b0").artifact(draw, "chart.png")
    with pytest.raises(InvalidOutput, match='artifact "table" of stage "draw"'):
        await run.artifact(draw, "table", int)

    assert missing.value.field == "name"


async def test_an_artifact_whose_bytes_are_gone_or_are_others_is_not_returned(in_memory: Supervisor):
    run = await in_memory.start(drawing, None)
    await run.result(timeout=30)
    blobs = in_memory.storage.blobs
    [key] = [key for key in await blobs.list("") if "chart" in key]

    await blobs.put(key, b"another picture")
    with pytest.raises(CorruptHistory):
        await run.artifact(draw, "chart.png")
    await blobs.delete(key)
    with pytest.raises(BlobNotFound):
        await run.artifact(draw, "chart.png")


async def test_a_rerun_discards_the_artifacts_of_what_is_done_again_and_keeps_the_others(supervisor: Supervisor):
    run = await supervisor.start(drawing, None)
    await run.result(timeout=30)
    blobs = supervisor.storage.blobs
    before = set(await blobs.list(f"runs/drawing/{run.id}/"))

    await run.rerun_from(ask)
    await run.result(timeout=30)

    after = set(await blobs.list(f"runs/drawing/{run.id}/"))
    assert {key.split("/")[3] for key in before - after} == {"ask"}
    assert await run.artifact(draw, "chart.png") == PNG
    assert await run.artifact(ask, "answers") == b"[true]"


async def test_an_artifact_that_is_discarded_while_it_is_read_is_read_again(
    in_memory: Supervisor, monkeypatch: pytest.MonkeyPatch
):
    run = await in_memory.start(drawing, None)
    await run.result(timeout=30)
    get = in_memory.storage.blobs.get

    async def get_too_late(key: str, /) -> bytes:
        monkeypatch.setattr(in_memory.storage.blobs, "get", get)
        await run.rerun_from(draw)
        await run.result(timeout=30)
        return await get(key)

    monkeypatch.setattr(in_memory.storage.blobs, "get", get_too_late)
    assert await run.artifact(draw, "chart.png") == PNG


async def test_what_is_in_storage_outlives_a_rerun(supervisor: Supervisor):
    run = await supervisor.start(remembering, None)
    assert await run.result(timeout=30) == [1, 1]

    await run.rerun_from(remember)

    assert await run.result(timeout=30) == [2, 2]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_a_terminal_is_not_shown_what_is_no_text(anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")
    seen = Terminal()
    screen = Screen(out=seen, err=io.StringIO())
    command = Artifacts(run="r", stage="draw", name="chart.png")

    await _deliver("Grüße\n".encode(), command, screen)
    for secret in (PNG, b"\x1b[2J"):
        with pytest.raises(InvalidCommand, match="--output FILE"):
            await _deliver(secret, command, screen)

    assert seen.getvalue() == "Grüße\n"
