"""The suites for adapters find what they are there to find: for every check there is an adapter that it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import pytest
from anyio.lowlevel import checkpoint

from adapters.conformance import (
    BLOB_STORE_CHECKS,
    EVENT_SINK_CHECKS,
    Arrived,
    BlobStoreCheck,
    BrokenPromise,
    EventSinkCheck,
)
from adapters.memory import MemoryBlobStore
from kernel import Event
from kernel.errors import BlobNotFound, PayloadRefused

pytestmark = pytest.mark.anyio


class Adds(MemoryBlobStore):
    async def get(self, key, /):
        return await super().get(key) + b"!"


class BuiltInError(MemoryBlobStore):
    async def get(self, key, /):
        return self._blobs[key]


class Text(MemoryBlobStore):
    async def put(self, key, data, /):
        await super().put(key, data.decode(errors="ignore").encode())


class Overwrites(MemoryBlobStore):
    async def put(self, key, data, /):
        await super().put(key, data + self._blobs.get(key, b"")[len(data) :])


class Keeps(MemoryBlobStore):
    async def delete(self, key, /):
        await checkpoint()


class MissesTheDeleted(MemoryBlobStore):
    async def delete(self, key, /):
        if key not in self._blobs:
            raise BlobNotFound(key)
        await super().delete(key)


class Buries(MemoryBlobStore):
    async def delete(self, key, /):
        self.buried = {key}
        await super().delete(key)

    async def get(self, key, /):
        if key in getattr(self, "buried", ()):
            raise BlobNotFound(key)
        return await super().get(key)


class IgnoresCase(MemoryBlobStore):
    async def put(self, key, data, /):
        await super().put(key.casefold(), data)

    async def get(self, key, /):
        return await super().get(key.casefold())


class ListsFolders(MemoryBlobStore):
    async def list(self, prefix, /):
        folder = prefix.rstrip("/") + "/" if prefix else ""
        return await super().list(folder)


class TakesAll(MemoryBlobStore):
    async def put(self, key, data, /):
        self._blobs[key] = data
        await checkpoint()


class RefusesToLook(MemoryBlobStore):
    async def has(self, key, /):
        if not key or key.startswith("/"):
            raise PayloadRefused("a key", "it is bad", field="key")
        return await super().has(key)


class Unsorted(MemoryBlobStore):
    async def list(self, prefix, /):
        return [key for key in self._blobs if key.startswith(prefix)]


class Patterns(MemoryBlobStore):
    async def list(self, prefix, /):
        return sorted(key for key in self._blobs if fnmatchcase(key, f"{prefix}*"))


class Dictionary(MemoryBlobStore):
    async def list(self, prefix, /):
        return sorted(await super().list(prefix), key=lambda key: (key.casefold(), key))


class LosesUpdates(MemoryBlobStore):
    async def put(self, key, data, /):
        seen = dict(self._blobs)
        await checkpoint()
        self._blobs = {**seen, key: bytes(data)}


class Tears(MemoryBlobStore):
    async def put(self, key, data, /):
        self._blobs[key] = b""
        for start in range(0, len(data), 50_000):
            self._blobs[key] += data[start : start + 50_000]
            await checkpoint()


BROKEN_STORES = dict(
    zip(
        BLOB_STORE_CHECKS,
        [
            *(
                Adds,
                BuiltInError,
                Text,
                Overwrites,
                Keeps,
                MissesTheDeleted,
                Buries,
                IgnoresCase,
                ListsFolders,
                TakesAll,
            ),
            *(RefusesToLook, Unsorted, Patterns, Dictionary, LosesUpdates, Tears, LosesUpdates),
        ],
        strict=True,
    )
)


@pytest.mark.parametrize("check", BLOB_STORE_CHECKS, ids=lambda check: check.__name__)
async def test_a_store_that_breaks_the_promise_is_refused(check: BlobStoreCheck) -> None:
    with pytest.raises((BrokenPromise, BlobNotFound, PayloadRefused)):
        await check(BROKEN_STORES[check]())


class Receiver:
    """A sink that is its own receiver."""

    def __init__(self) -> None:
        self.came: list[tuple[str, int]] = []

    async def publish(self, event: Event, /) -> None:
        await checkpoint()
        await self.take(event)

    async def take(self, event: Event) -> None:
        self.came.append((event.run_id, event.seq))

    async def arrived(self) -> Sequence[tuple[str, int]]:
        return self.came


class LeavesOut(Receiver):
    async def take(self, event):
        if event.type != "stage.skipped":
            await super().take(event)


class Postpones(Receiver):
    last: Event | None = None

    async def take(self, event):
        if self.last is not None:
            await super().take(self.last)
        self.last = event


class RefusesTheSecondTime(Receiver):
    async def take(self, event):
        if (event.run_id, event.seq) in self.came:
            raise ValueError("it has come already")
        await super().take(event)


class Small(Receiver):
    async def take(self, event):
        if len(repr(event)) < 10_000:
            await super().take(event)


class OneAtATime(Receiver):
    busy = False

    async def take(self, event):
        if self.busy:
            return
        self.busy = True
        await checkpoint()
        await super().take(event)
        self.busy = False


class NeverRecovers(Receiver):
    broken = False

    async def publish(self, event, /):
        was, self.broken = self.broken, True
        await checkpoint()
        self.broken = False
        if not was:
            await self.take(event)


BROKEN_SINKS = dict(
    zip(
        EVENT_SINK_CHECKS,
        [LeavesOut, Postpones, RefusesTheSecondTime, Small, OneAtATime, NeverRecovers],
        strict=True,
    )
)


@pytest.mark.parametrize("check", EVENT_SINK_CHECKS, ids=lambda check: check.__name__)
async def test_a_sink_that_breaks_the_promise_is_refused(check: EventSinkCheck) -> None:
    sink = BROKEN_SINKS[check]()
    arrived: Arrived = sink.arrived

    with pytest.raises((BrokenPromise, ValueError, ExceptionGroup)):
        await check(sink, arrived)


async def test_a_refusal_tells_what_was_promised_and_what_was_found() -> None:
    [check] = [check for check in BLOB_STORE_CHECKS if check.__name__ == "check_what_was_put_is_got"]

    with pytest.raises(BrokenPromise, match=r"what was put is got: expected b'.*', found b'.*!'\.") as broken:
        await check(Adds())

    assert (broken.value.promise, broken.value.expected) == ("what was put is got", b'{"a":1}')
