"""A blob store of the app's own: every process of the app keeps large payloads there, and knows when it cannot."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from adapters.memory import MemoryBlobStore
from kernel import InvalidCommand, StageContext, StageResult, Unavailable, WorkflowBuilder, stage
from runtime import App, Client, ServerlessHost, Settings, Supervisor
from tests.runtime.gates import Doc, echo
from tests.runtime.shared_store import SharedStore

pytestmark = pytest.mark.anyio

LARGE = "x" * 100_000


class Shelf(MemoryBlobStore):
    """One store that several processes open, as they would a bucket."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.away = False

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Shelf]:
        self.told.append("opened")
        yield self
        self.told.append("closed")

    async def has(self, key: str, /) -> bool:
        if self.away:
            raise Unavailable("The shelf is away.", field="blobs")
        return await super().has(key)


@stage("draw")
async def draw(ctx: StageContext[Doc]) -> StageResult[Doc]:
    await ctx.storage.put("note", "kept")
    return StageResult(Doc(text=LARGE), artifacts={"picture.png": b"png"})


drawing = WorkflowBuilder("drawing", input=Doc, output=Doc).pipe(draw).build()


async def test_what_is_large_lies_there_whoever_stores_or_reads_it(store: SharedStore):
    shelf = Shelf()
    app = App(workflows=[drawing], blob_store=shelf.opened)
    async with store.client(app) as client:
        run = await client.start(drawing, Doc(text=LARGE))
        async with store.supervisor(app):
            assert (await run.result(timeout=20)).text == LARGE
        assert await run.artifact(draw, "picture.png") == b"png"
        assert len(await shelf.list(f"runs/drawing/{run.id}/")) == 4
        async with store.opened() as storage:
            assert await storage.blobs.list("") == []
    assert shelf.told == ["opened", "opened", "closed", "closed"]


async def test_whatever_a_factory_makes_a_store_of_is_opened(memory: SharedStore):
    shelf = Shelf()

    async def awaited() -> Shelf:
        return shelf

    for factory in (lambda: shelf, awaited, shelf.opened):
        async with memory.client(App(workflows=[], blob_store=factory)) as client:
            assert client.storage.blobs is shelf


async def test_what_is_no_blob_store_is_refused(memory: SharedStore):
    wrong: object = dict
    with pytest.raises(InvalidCommand, match="makes no blob store but dict") as refused:
        async with memory.client(App(workflows=[], blob_store=wrong)):  # type: ignore[arg-type]
            pass
    assert refused.value.field == "blob_store"
    with pytest.raises(InvalidCommand, match="must be a function that makes a store, not a Shelf"):
        App(workflows=[], blob_store=Shelf())  # type: ignore[arg-type]


async def test_two_places_for_blobs_are_refused():
    settings = Settings(database_url="memory://", blob_url="file:///srv/blobs")
    with pytest.raises(InvalidCommand, match="two places for blobs"):
        async with Client(App(workflows=[], blob_store=Shelf), settings=settings):
            pass


@pytest.mark.parametrize("kind", [Supervisor, ServerlessHost])
async def test_who_executes_does_not_open_while_it_cannot_be_reached(kind: type[Client]):
    shelf = Shelf()
    shelf.away = True
    app = App(workflows=[echo()], blob_store=shelf.opened)
    with pytest.raises(Unavailable, match="The shelf is away"):
        async with kind(app, database="memory://"):
            pass
    assert shelf.told == ["opened", "closed"]


async def test_who_only_looks_opens_all_the_same(memory: SharedStore):
    shelf = Shelf()
    shelf.away = True
    async with memory.client(App(workflows=[], blob_store=shelf.opened)) as client:
        assert (await client.list_runs()).items == []


@pytest.mark.parametrize("kind", [Supervisor, ServerlessHost])
async def test_a_configured_place_is_checked_by_who_executes_before_it_is_open(kind: type[Client], s3_url: str):
    """And by nobody else."""
    wrong = s3_url.replace("s3://", "s3://not-", 1)
    settings = Settings(database_url="memory://", blob_url=wrong)
    with pytest.raises(Unavailable, match=r"NoSuchBucket.*LEASEHOLD_BLOB_URL"):
        async with kind(App(workflows=[echo()]), settings=settings):
            pass
    async with Client(App(workflows=[]), settings=settings) as client:
        assert (await client.list_runs()).items == []
    async with kind(App(workflows=[]), settings=Settings(database_url="memory://", blob_url=s3_url)):
        pass
