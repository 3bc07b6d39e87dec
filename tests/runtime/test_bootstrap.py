"""Which database settings lead to, and what an open store has."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from adapters.blobs import FilesystemBlobStore
from adapters.blobs.s3 import S3BlobStore
from kernel import InvalidCommand, NoDatabase, SchemaOutdated, Unavailable
from runtime.blob_urls import BlobBucket
from runtime.bootstrap import Storage, _in_thread, choose_database, migrate_database, open_storage, schema_sql
from runtime.config import Settings
from runtime.database_urls import masked_url

pytestmark = pytest.mark.anyio


async def test_the_database_that_is_named_is_used() -> None:
    assert choose_database(Settings(database_url="postgresql://h/d")) == "postgresql://h/d"


async def test_without_a_name_it_is_the_embedded_one() -> None:
    assert choose_database(Settings()) == "embedded"


async def test_production_forbids_falling_back() -> None:
    with pytest.raises(NoDatabase, match="LEASEHOLD_ENV=production") as refused:
        choose_database(Settings(env="production"))

    assert "LEASEHOLD_DATABASE_URL" in str(refused.value)


async def test_production_allows_the_embedded_database_by_name() -> None:
    assert choose_database(Settings(env="production", database_url="embedded")) == "embedded"


async def test_memory_is_a_store_of_its_own_each_time() -> None:
    async with (
        open_storage(Settings(database_url="memory://")) as one,
        open_storage(Settings(database_url="memory://")) as other,
    ):
        assert one.persistence is not other.persistence
        assert one.notice is None
        assert one.clock.now().utcoffset() == timedelta(0)


class Slow:
    """A blocking context manager that is entered when it is told to, unless nobody wants it any more."""

    def __init__(self) -> None:
        self.waits, self.inside, self.may_enter = threading.Event(), False, threading.Event()

    @contextmanager
    def __call__(self, heed: Callable[[], None]) -> Generator[str]:
        self.waits.set()
        while not self.may_enter.wait(0.01):
            heed()
        self.inside = True
        try:
            yield "entered"
        finally:
            self.inside = False


async def test_who_is_cancelled_while_a_server_starts_does_not_wait_for_it() -> None:
    slow = Slow()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stay_in, slow)
        await anyio.to_thread.run_sync(slow.waits.wait)
        tasks.cancel_scope.cancel()

    slow.may_enter.set()
    assert not slow.inside


@pytest.mark.parametrize("entered", [False, True])
async def test_a_timeout_of_asyncio_leaves_nothing_entered(anyio_backend_name: str, *, entered: bool) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has only one kind of cancellation")
    slow = Slow()
    if entered:
        slow.may_enter.set()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await stay_in(slow)

    slow.may_enter.set()
    assert slow.waits.is_set()
    assert not slow.inside


async def stay_in(slow: Slow) -> None:
    async with _in_thread(slow):
        await anyio.sleep_forever()


async def test_an_empty_database_is_refused_with_the_command_that_helps(database_url: str) -> None:
    with pytest.raises(SchemaOutdated, match="leasehold migrate"):
        async with open_storage(Settings(database_url=database_url)):
            pass


async def test_migrating_makes_the_schema_and_can_be_repeated(database_url: str) -> None:
    settings = Settings(database_url=database_url)

    first, second = await migrate_database(settings), await migrate_database(settings)

    assert first.applied
    assert not second.applied
    async with open_storage(settings) as storage:
        assert storage.database == masked_url(database_url)
        assert await storage.persistence.live_workflows() == []
        await storage.blobs.put("a/b", b"x")
        assert await storage.blobs.get("a/b") == b"x"


async def test_a_database_that_does_not_answer_is_unavailable() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        async with open_storage(Settings(database_url="postgresql://u:hidden@127.0.0.1:1/d")):
            pass


async def test_payloads_can_go_to_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "large ones"
    async with open_storage(Settings(database_url="memory://", blob_url=folder.as_uri())) as storage:
        await storage.blobs.put("a", b"x")

    assert await FilesystemBlobStore(folder).get("a") == b"x"


async def test_payloads_can_go_to_a_bucket(s3_place: BlobBucket, s3_url: str) -> None:
    async with open_storage(Settings(database_url="memory://", blob_url=s3_url)) as storage:
        await storage.blobs.put("a", b"x")

    assert await S3BlobStore(s3_place.bucket, prefix=s3_place.prefix, endpoint=s3_place.endpoint).get("a") == b"x"


async def test_a_bucket_without_its_library_is_refused_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, "adapters.blobs.s3", raising=False)

    with pytest.raises(InvalidCommand, match=r'pip install "leasehold\[s3\]"') as refused:
        async with open_storage(Settings(database_url="memory://", blob_url="s3://blobs/runs")):
            pass

    assert refused.value.field == "blob_url"


@pytest.mark.parametrize("anyio_backend", ["trio"])  # asyncio starts one in the end-to-end tests
async def test_the_embedded_database_migrates_itself_and_says_where_it_is_unless_it_was_asked_for() -> None:
    told: list[str] = []
    with tempfile.TemporaryDirectory(prefix="leasehold-") as directory:
        # As root the server runs as another user, who has to reach its data through this folder.
        Path(directory).chmod(0o755)
        settings = Settings(data_dir=Path(directory, "state"))
        async with (
            open_storage(settings, tell=told.append) as chosen,
            open_storage(replace(settings, database_url="embedded"), tell=told.append) as asked_for,
        ):
            assert await chosen.persistence.live_workflows() == []
            assert chosen.database == asked_for.database == f"embedded Postgres in {directory}/state"

    assert told == [f"No database is configured, so this uses an embedded Postgres in {directory}/state."]


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_the_hint_of_an_embedded_database_that_is_away_speaks_of_its_log_and_of_no_url() -> None:
    with tempfile.TemporaryDirectory(prefix="leasehold-") as directory:
        Path(directory).chmod(0o755)
        state = Path(directory, "state")
        async with open_storage(Settings(data_dir=state, database_url="embedded")) as storage:
            # Its server stops when it notices.
            state.rename(Path(directory, "elsewhere"))
            with pytest.raises(Unavailable, match="cannot be reached") as away, anyio.fail_after(30):
                while True:
                    await _ask_until_unreachable(storage)

    assert str(state / "postgres.log") in str(away.value.hint)
    assert "URL" not in str(away.value.hint)


async def _ask_until_unreachable(storage: Storage) -> None:
    try:
        await storage.persistence.live_workflows()
    except Unavailable as error:
        if "cannot be reached" in str(error):
            raise


async def test_a_store_in_memory_has_no_schema_to_migrate() -> None:
    with pytest.raises(InvalidCommand, match="memory"):
        await migrate_database(Settings(database_url="memory://"))


async def test_the_schema_can_be_printed() -> None:
    assert "CREATE TABLE leasehold.runs" in schema_sql()
