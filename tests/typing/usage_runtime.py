"""What users write against the runtime, and the types that they get."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, assert_never, assert_type
from uuid import UUID

from pydantic import BaseModel

from adapters.sinks import log_events, webhook
from kernel import (
    Actor,
    Annotation,
    BlobStore,
    CreateRun,
    CreateRunResult,
    Decision,
    Event,
    EventSink,
    FlushOutbox,
    FlushOutboxResult,
    NewAnnotations,
    PluginRunner,
    RerunFromResult,
    Sink,
    StageContext,
    Subscription,
    Trigger,
    Workflow,
    WorkflowBuilder,
    plugin,
    stage,
)
from runtime import App, Client, Page, RunHandle, RunInfo, Supervisor, run_and_wait
from runtime.testing import Finished, run_workflow
from telemetry.names import PayloadName


class Doc(BaseModel):
    path: str


class LongDoc(Doc):
    pages: int = 0


class Report(BaseModel):
    words: int


@stage("count")
async def count(ctx: StageContext[Doc]) -> Report:
    return Report(words=len(ctx.input.path))


@stage("nightly")
async def nightly_stage(ctx: StageContext[None]) -> Report:
    return Report(words=ctx.attempt)


documents = WorkflowBuilder("documents", input=Doc, output=Report).pipe(count).build()
nightly = WorkflowBuilder("nightly", output=Report).pipe(nightly_stage).build()
assert_type(documents, Workflow[Doc, Report])


def redact(name: PayloadName, value: Any) -> Any:
    match name:
        case "run.input" | "stage.config":
            return None
        case "stage.output" | "stage.state":
            return value
        case _:
            assert_never(name)


app = App(workflows=[documents, nightly], services={"http": dict[str, str]}, redact=redact)


@plugin("audit", on=["run.completed"])
async def audit(event: Event) -> None: ...


class Archive:
    async def publish(self, event: Event, /) -> None: ...


archive: EventSink = Archive()
runner: EventSink = PluginRunner([audit], max_retries=5)
told = App(
    workflows=[documents],
    plugins=[audit],
    sinks=[
        webhook("https://example.com/", secret="sixteen or more characters", events=["run.completed"]),
        log_events(),
        Sink(name="archive", open=Archive),
        Subscription(name="other archive", sink=archive),
    ],
)
patient = App(workflows=[documents], plugins=PluginRunner([audit]))


class Shelf:
    async def put(self, key: str, data: bytes, /) -> None: ...

    async def get(self, key: str, /) -> bytes:
        return key.encode()

    async def has(self, key: str, /) -> bool:
        return bool(key)

    async def delete(self, key: str, /) -> None: ...

    async def list(self, prefix: str, /) -> Sequence[str]:
        return [prefix]


async def shelf() -> BlobStore:
    return Shelf()


@asynccontextmanager
async def open_shelf() -> AsyncGenerator[Shelf]:
    yield Shelf()


for factory in (Shelf, shelf, open_shelf):
    App(workflows=[documents], blob_store=factory)


async def flush(supervisor: Supervisor) -> None:
    assert_type(await supervisor.kernel.dispatch(FlushOutbox(max_events=10)), FlushOutboxResult)


async def start_and_wait() -> None:
    async with Supervisor(app, database="postgresql://db/app") as supervisor:
        assert_type(supervisor, Supervisor)
        run = await supervisor.start(documents, Doc(path="a.txt"), idempotency_key="a.txt")
        assert_type(run, RunHandle[Report])
        assert_type(await run.result(timeout=3), Report)
        await supervisor.start(documents, LongDoc(path="a"), config={count: {}, "count": {}})
        await supervisor.start(nightly, None)
        by_id = await supervisor.start("documents", {"path": "x"})
        assert_type(await by_id.result(), Any)
        many = await supervisor.start_many(documents, [Doc(path="a")], idempotency_key=lambda doc: doc.path)
        assert_type(many, list[RunHandle[Report]])
        assert_type(await supervisor.kernel.dispatch(CreateRun(workflow_id="w", input={})), CreateRunResult)


async def observe() -> None:
    async with Client(app) as client:
        assert_type(client.run("id", documents), RunHandle[Report])
        assert_type(client.run("id"), RunHandle[Any])
        assert_type(client.run(UUID(int=7), documents), RunHandle[Report])
        assert_type(await client.find(documents, "key"), RunHandle[Report] | None)
        assert_type(await client.list_runs(workflow=documents), Page[RunInfo])
        run = client.run("id", documents)
        assert_type(await run.describe(), RunInfo)
        assert_type(await run.rerun_from(count, keep_completed=True, idempotency_key="k"), RerunFromResult)
        assert_type(await run.rerun_from("count"), RerunFromResult)
        assert_type(await run.annotate(Decision.confidence, 0.5, stage=count, actor=Actor(kind="user")), int)
        assert_type(await run.annotate({Decision.outcome: "go", "doc.pages": 3}, idempotency_key="k"), int)
        assert_type(await run.annotate("doc.pages", 3, scope="page", scope_id="7", emit_event=True), int)
        assert_type(await run.annotations(key=Decision.confidence, limit=3), Sequence[Annotation[float]])
        assert_type(await run.annotations(key_prefix="doc.", stage=count), Sequence[Annotation[Any]])
        assert_type(await client.kernel.annotations.list("id", key=Decision.outcome), Sequence[Annotation[str]])
        assert_type(await client.kernel.annotations.attach("id", {Decision.outcome: "go"}), int)
        await client.start(documents, Doc(path="a"), annotations={Trigger.source: "api"})
        await client.start(documents, Doc(path="a"), annotations=[NewAnnotations(attributes={"doc.pages": 3})])
        async for event in run.events(after=3):
            assert_type(event, Event)
            if event.type == "stage.completed":
                print(event.duration_s, event.output)


async def other_ways() -> None:
    assert_type(await run_and_wait(app, documents, Doc(path="a")), Report)
    finished = await run_workflow(documents, Doc(path="a"))
    assert_type(finished, Finished[Report])
    assert_type(finished.output, Report | None)
