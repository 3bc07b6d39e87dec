"""Every blob store of ours keeps the promises that `adapters.conformance` holds those of others to."""

from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest

from adapters.blobs import FilesystemBlobStore
from adapters.blobs.s3 import S3BlobStore
from adapters.conformance import BLOB_STORE_CHECKS, BlobStoreCheck
from adapters.memory import MemoryBlobStore
from adapters.postgres import open_postgres
from kernel.ports.blobs import BlobStore

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=["memory", "filesystem", "s3", "postgres"])
async def served(
    request: pytest.FixtureRequest, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Callable[[], BlobStore]]:
    """How to get a store for one test, which need not be empty."""
    match request.param:
        case "memory":
            yield MemoryBlobStore
        case "filesystem":
            yield lambda: FilesystemBlobStore(tmp_path_factory.mktemp("blobs") / "not" / "yet")
        case "s3":
            # A prefix of its own for every store: whoever's bucket it is may keep other things there.
            place = request.getfixturevalue("s3_place")
            yield lambda: S3BlobStore(place.bucket, prefix=f"{place.prefix}/{uuid4()}", endpoint=place.endpoint)
        case _:
            async with open_postgres(request.getfixturevalue("shared_database"), migrate=True) as store:
                yield lambda: store.blobs


@pytest.fixture
async def blobs(served: Callable[[], BlobStore]) -> BlobStore:
    store = served()
    for key in await store.list(""):
        await store.delete(key)
    return store


@pytest.mark.parametrize("check", BLOB_STORE_CHECKS, ids=lambda check: check.__name__)
async def test_the_store_keeps_its_promises(blobs: BlobStore, check: BlobStoreCheck) -> None:
    await check(blobs)


async def test_what_the_caller_changes_afterwards_is_stored_as_given(blobs: BlobStore) -> None:
    data = bytearray(b"before")
    await blobs.put("a", data)
    data[:] = b"after!"

    assert await blobs.get("a") == b"before"
