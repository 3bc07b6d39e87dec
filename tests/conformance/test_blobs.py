"""One suite for all blob stores: bytes under keys, whatever the keys look like and wherever the bytes lie."""

from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest
from anyio import create_task_group

from adapters.blobs import FilesystemBlobStore
from adapters.blobs.s3 import S3BlobStore
from adapters.memory import MemoryBlobStore
from adapters.postgres import open_postgres
from kernel.errors import BlobNotFound, PayloadRefused
from kernel.ports.blobs import BlobStore

pytestmark = pytest.mark.anyio

ODD_KEYS = [
    "a/b",
    "a/b/c",
    "Runs/A.JSON",
    "runs/a.json",
    "my run/an output .json",
    "..a/...b/c..",
    "a.dir/b.blob/c.part/.blob",
    "100%/%2f/%%",
    "übersicht/漢字/😀",
    'con/a:b*c?"<>|\\d',
    "a_b%c*d[e]?",
    "x" * 300 + "/y",
    "漢" * 100,
    "a/" * 349 + "zz",
]

BAD_KEYS = ["", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\0b", "a\nb", "\ud800", "a" * 701]


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


async def test_what_was_put_is_got(blobs: BlobStore) -> None:
    await blobs.put("runs/1/output.json", b'{"a":1}')

    assert await blobs.get("runs/1/output.json") == b'{"a":1}'
    assert await blobs.has("runs/1/output.json")


async def test_what_was_not_put_is_not_found(blobs: BlobStore) -> None:
    await blobs.put("runs/1/output.json", b"")

    with pytest.raises(BlobNotFound) as missing:
        await blobs.get("runs/1/output")

    assert missing.value.key == "runs/1/output"
    assert not await blobs.has("runs/1/output")
    assert not await blobs.has("runs/1")


@pytest.mark.parametrize("data", [b"", bytes(range(256)), b"x" * 5_000_000], ids=["empty", "every byte", "large"])
async def test_any_bytes_come_back_the_same(blobs: BlobStore, data: bytes) -> None:
    await blobs.put("a", data)

    assert await blobs.get("a") == data


async def test_putting_again_replaces(blobs: BlobStore) -> None:
    await blobs.put("a", b"long before")
    await blobs.put("a", b"after")

    assert await blobs.get("a") == b"after"
    assert list(await blobs.list("")) == ["a"]


async def test_what_was_deleted_is_gone(blobs: BlobStore) -> None:
    await blobs.put("a/b", b"1")
    await blobs.put("a/c", b"2")

    await blobs.delete("a/b")

    assert not await blobs.has("a/b")
    with pytest.raises(BlobNotFound):
        await blobs.get("a/b")
    assert list(await blobs.list("")) == ["a/c"]


async def test_deleting_what_is_not_there_is_no_error(blobs: BlobStore) -> None:
    await blobs.delete("a/b")
    await blobs.put("a/b", b"1")
    await blobs.delete("a/b")

    await blobs.delete("a/b")

    assert list(await blobs.list("")) == []


async def test_a_key_can_be_put_again_after_it_was_deleted(blobs: BlobStore) -> None:
    await blobs.put("a/b", b"1")
    await blobs.delete("a/b")

    await blobs.put("a/b", b"2")

    assert await blobs.get("a/b") == b"2"


async def test_odd_keys_live_side_by_side(blobs: BlobStore) -> None:
    for key in ODD_KEYS:
        await blobs.put(key, key.encode())

    assert [await blobs.get(key) for key in ODD_KEYS] == [key.encode() for key in ODD_KEYS]
    assert list(await blobs.list("")) == sorted(ODD_KEYS)


async def test_odd_keys_can_be_listed_and_deleted(blobs: BlobStore) -> None:
    for key in ODD_KEYS:
        await blobs.put(key, b"1")
        assert list(await blobs.list(key)) == [key]
        assert list(await blobs.list(key[:-1])) == [key]

        await blobs.delete(key)

        assert list(await blobs.list("")) == []


async def test_a_bad_key_is_refused(blobs: BlobStore) -> None:
    for key in BAD_KEYS:
        with pytest.raises(PayloadRefused) as refused:
            await blobs.put(key, b"1")
        assert refused.value.field == "key"

    assert list(await blobs.list("")) == []


async def test_nothing_is_under_a_bad_key(blobs: BlobStore) -> None:
    await blobs.put("a/b", b"1")

    for key in BAD_KEYS:
        assert not await blobs.has(key)
        with pytest.raises(BlobNotFound):
            await blobs.get(key)
        await blobs.delete(key)

    assert list(await blobs.list("")) == ["a/b"]


async def test_keys_are_listed_by_their_beginning_and_in_order(blobs: BlobStore) -> None:
    keys = ["runs/10/a", "runs/1/b", "runs/1/a", "runs/1", "rums/1/a", "runs/1/a/x", "runs/2/a", "Runs/1/a"]
    for key in keys:
        await blobs.put(key, b"")

    assert list(await blobs.list("runs/1/")) == ["runs/1/a", "runs/1/a/x", "runs/1/b"]
    assert list(await blobs.list("runs/1")) == ["runs/1", "runs/1/a", "runs/1/a/x", "runs/1/b", "runs/10/a"]
    assert list(await blobs.list("runs/1/a")) == ["runs/1/a", "runs/1/a/x"]
    assert list(await blobs.list("")) == sorted(keys)


async def test_a_beginning_that_no_key_has_finds_nothing(blobs: BlobStore) -> None:
    await blobs.put("runs/1/a", b"1")

    for prefix in ["runs/3", "%", "_", "run_/", "../", "/", "runs//", "a\0", "\ud800", "*"]:
        assert list(await blobs.list(prefix)) == []


async def test_the_order_is_that_of_the_characters_whatever_the_locale(blobs: BlobStore) -> None:
    keys = ["a", "B", "b", "A", "a-b", "a/b", "ab", "Z", "é", "z", "漢", "😀", "_"]
    for key in keys:
        await blobs.put(key, b"")

    assert list(await blobs.list("")) == sorted(keys)


async def test_what_the_caller_changes_afterwards_is_stored_as_given(blobs: BlobStore) -> None:
    data = bytearray(b"before")
    await blobs.put("a", data)
    data[:] = b"after!"

    assert await blobs.get("a") == b"before"


async def test_many_puts_at_once_all_land(blobs: BlobStore) -> None:
    keys = [f"runs/{n % 7}/{n}" for n in range(40)]

    async with create_task_group() as group:
        for key in keys:
            group.start_soon(blobs.put, key, key.encode())

    assert list(await blobs.list("runs/")) == sorted(keys)
    assert await blobs.get("runs/3/10") == b"runs/3/10"


async def test_of_puts_of_one_key_at_once_one_stays_whole(blobs: BlobStore) -> None:
    values = [bytes([n]) * 100_000 for n in range(8)]

    async with create_task_group() as group:
        for value in values:
            group.start_soon(blobs.put, "a", value)

    assert await blobs.get("a") in values


async def test_putting_and_deleting_in_one_folder_at_once_loses_nothing(blobs: BlobStore) -> None:
    async def come_and_go(n: int) -> None:
        for _ in range(10):
            await blobs.put(f"deep/folder/{n}", b"1")
            await blobs.delete(f"deep/folder/{n}")
        await blobs.put(f"deep/folder/{n}", b"2")

    async with create_task_group() as group:
        for n in range(6):
            group.start_soon(come_and_go, n)

    assert list(await blobs.list("deep/")) == [f"deep/folder/{n}" for n in range(6)]
