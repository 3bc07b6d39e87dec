"""What only a store across a network can get wrong: absent buckets, silence, refusals, parts, neighbours."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute

from adapters.blobs import s3
from adapters.blobs.s3 import S3BlobStore
from kernel.errors import BlobNotFound, EngineError, Unavailable
from runtime.blob_urls import BlobBucket

pytestmark = pytest.mark.anyio

DENIED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 40\r\n\r\n<Error><Code>AccessDenied</Code></Error>\n"
LISTING = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
LISTED = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(LISTING), LISTING)
NO_KEY = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
STORED = b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\nETag: "1"\r\n\r\n'
GONE = b"HTTP/1.1 204 No Content\r\n\r\n"
UNKNOWN = b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 42\r\n\r\n<Error><Code>NotImplemented</Code></Error>\n"
BUSY = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n"
FOUND = (
    b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "1"\r\nLast-Modified: Sat, 21 Nov 2026 06:00:00 GMT\r\n\r\nbytes'
)

CALLS: list[Callable[[S3BlobStore], Awaitable[object]]] = [
    lambda store: store.put("a/b", b"1"),
    lambda store: store.get("a/b"),
    lambda store: store.has("a/b"),
    lambda store: store.delete("a/b"),
    lambda store: store.list("a/"),
]
every_call = pytest.mark.parametrize("call", CALLS, ids=["put", "get", "has", "delete", "list"])


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any the library would look for those of a machine in Amazon's network."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")


def a_store(place: BlobBucket, **changes: object) -> S3BlobStore:
    given: dict[str, object] = {"bucket": place.bucket, "prefix": f"{place.prefix}/{uuid4()}", **changes}
    return S3BlobStore(str(given["bucket"]), prefix=str(given["prefix"]), endpoint=place.endpoint, region=place.region)


@asynccontextmanager
async def answering(*answers: bytes | None) -> AsyncIterator[S3BlobStore]:
    """A store whose server gives these answers, one to each connection; None is silence, and the last one stays."""
    left = list(answers)

    async def answer(stream: ByteStream) -> None:
        async with stream:
            await stream.receive()
            said = left.pop(0) if len(left) > 1 else left[0]
            if said is None:
                await anyio.sleep_forever()
            else:
                await stream.send(said)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, answer)
        port = listener.extra(SocketAttribute.local_port)
        yield S3BlobStore("blobs", endpoint=f"http://127.0.0.1:{port}", region="eu-west-1", deadline_s=2)
        group.cancel_scope.cancel()


@every_call
async def test_an_absent_bucket_is_an_error_and_not_an_absent_blob(
    s3_place: BlobBucket, call: Callable[[S3BlobStore], Awaitable[object]]
) -> None:
    store = a_store(s3_place, bucket="nobody-has-made-this-one")

    with pytest.raises(Unavailable) as failed:
        await call(store)

    assert "nobody-has-made-this-one" in str(failed.value)
    assert failed.value.field == "blobs"


@every_call
async def test_a_server_that_refuses_is_named_with_its_reason_and_the_way_out(
    credentials: None, call: Callable[[S3BlobStore], Awaitable[object]]
) -> None:
    async with answering(DENIED) as store:
        with pytest.raises(Unavailable, match=r"AccessDenied|403 Forbidden") as failed:
            await call(store)

    assert "credentials" in str(failed.value)
    assert "hidden" not in str(failed.value)


@every_call
async def test_a_server_that_says_nothing_is_unavailable_when_the_deadline_is_over(
    credentials: None, monkeypatch: pytest.MonkeyPatch, call: Callable[[S3BlobStore], Awaitable[object]]
) -> None:
    monkeypatch.setattr(s3, "RETRIES_MAX", 0)
    async with answering(None) as store:
        store._deadline_s = 0.2
        with anyio.fail_after(10), pytest.raises(Unavailable, match=r"within 0\.2 s"):
            await call(store)


async def test_a_call_that_is_cancelled_does_not_wait_for_the_server(credentials: None) -> None:
    async with answering(None) as store:
        with anyio.fail_after(1.5), anyio.move_on_after(0.05) as scope:
            await store.get("a")

    assert scope.cancelled_caught


async def test_a_server_that_asks_for_patience_is_asked_again(credentials: None) -> None:
    async with answering(BUSY, FOUND) as store:
        assert await store.get("a") == b"bytes"


async def test_a_server_that_is_not_there_is_unavailable(credentials: None) -> None:
    store = S3BlobStore("blobs", endpoint="http://127.0.0.1:1", region="eu-west-1", deadline_s=2)

    with pytest.raises(Unavailable, match="s3://blobs/") as failed:
        await store.put("a", b"1")

    assert "endpoint" in str(failed.value)


async def test_a_blob_that_is_not_there_is_asked_for_once_the_bucket_has_answered(s3_place: BlobBucket) -> None:
    store = a_store(s3_place)

    assert not await store.has("a")
    with pytest.raises(BlobNotFound):
        await store.get("a")
    await store.delete("a")


async def test_a_blob_beyond_one_request_is_sent_in_parts(
    s3_place: BlobBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "WHOLE_BYTES_MAX", 1_000_000)
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 1024 * 1024)  # the least that S3 takes
    data = bytes(range(256)) * 45_000
    store = a_store(s3_place)

    await store.put("large", data)

    assert await store.get("large") == data


async def test_stores_below_different_prefixes_do_not_meet(s3_place: BlobBucket) -> None:
    one, other, longer = (a_store(s3_place, prefix=f"{s3_place.prefix}/{name}") for name in ("a", "b", "ab"))
    await one.put("k", b"1")
    await longer.put("k", b"3")

    assert not await other.has("k")
    assert (list(await one.list("")), list(await other.list("")), list(await longer.list(""))) == (["k"], [], ["k"])
    assert await one.get("k") == b"1"


async def test_two_stores_of_one_place_share_their_blobs(s3_place: BlobBucket) -> None:
    await a_store(s3_place, prefix="shared").put("a/b", b"1")

    assert await a_store(s3_place, prefix="shared").get("a/b") == b"1"


async def test_nothing_that_the_library_raises_leaves_the_store(credentials: None) -> None:
    for nonsense in (b"no http at all\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b""):
        async with answering(nonsense) as store:
            for call in CALLS:
                with suppress(EngineError):  # the head of an answer is enough for some
                    await call(store)
            with pytest.raises(Unavailable):
                await store.get("a/b")


# -- before anything is stored ----------------------------------------------------------------------------------------


async def test_a_check_of_a_bucket_that_can_be_used_leaves_nothing_in_it(s3_place: BlobBucket) -> None:
    store = a_store(s3_place)

    await store.check()
    await store.check()

    assert await store.list("") == []


async def test_a_check_finds_an_absent_bucket(s3_place: BlobBucket) -> None:
    with pytest.raises(Unavailable, match=r"s3://nobody-has-made-this-one.*NoSuchBucket.*LEASEHOLD_BLOB_URL"):
        await a_store(s3_place, bucket="nobody-has-made-this-one").check()


@pytest.mark.parametrize("answers", [(DENIED,), (LISTED, DENIED), (LISTED, NO_KEY, DENIED)], ids=["list", "get", "put"])
async def test_a_check_finds_out_what_is_not_allowed(credentials: None, answers: tuple[bytes, ...]) -> None:
    async with answering(*answers) as store:
        with pytest.raises(Unavailable, match=r"(AccessDenied|403 Forbidden).*LEASEHOLD_BLOB_URL") as refused:
            await store.check()

    assert "credentials" in str(refused.value)


async def test_a_check_takes_back_what_a_server_without_conditions_has_stored(credentials: None) -> None:
    async with answering(LISTED, NO_KEY, STORED, DENIED) as store:
        with pytest.raises(Unavailable, match="AccessDenied"):  # of the deletion
            await store.check()
    async with answering(LISTED, NO_KEY, STORED, GONE) as store:
        await store.check()


async def test_a_check_passes_over_a_server_that_says_it_knows_no_conditions(credentials: None) -> None:
    async with answering(LISTED, NO_KEY, UNKNOWN) as store:
        await store.check()


async def test_a_check_finds_a_server_that_is_not_there(credentials: None) -> None:
    store = S3BlobStore("blobs", endpoint="http://127.0.0.1:1", region="eu-west-1", deadline_s=2)

    with pytest.raises(Unavailable, match=r"s3://blobs/.*LEASEHOLD_BLOB_URL"):
        await store.check()
