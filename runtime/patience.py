"""A blob store as seen by attempts: one that is away for a while is waited for.

An attempt that runs must not be lost because the place of its large payloads does not answer: repeating it would cost
more than waiting. Callers outside of attempts get the store as it is, and its `Unavailable` with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

from kernel.errors import Unavailable
from kernel.ports.blobs import BlobStore
from runtime.narration import OutageLog

__all__ = ["PatientBlobs"]

T = TypeVar("T")

PAUSE_MIN_S = 0.1
PAUSE_MAX_S = 5.0


class PatientBlobs:
    """`BlobStore` that repeats what is unavailable, at growing intervals, until it works or its caller is cancelled."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        # One outage, however many attempts wait for its end. It is not over as long as one of them still fails: a
        # full disk can be read.
        self._outage = OutageLog("blobs.unavailable", "blobs.recovered")
        self._failing = 0

    async def put(self, key: str, data: bytes, /) -> None:
        """Store the bytes; keys are written once, so repeating is harmless."""
        await self._patiently(lambda: self._blobs.put(key, data))

    async def get(self, key: str, /) -> bytes:
        """The bytes. Raises: BlobNotFound."""
        return await self._patiently(lambda: self._blobs.get(key))

    async def has(self, key: str, /) -> bool:
        """Whether the key exists."""
        return await self._patiently(lambda: self._blobs.has(key))

    async def delete(self, key: str, /) -> None:
        """Remove the key."""
        await self._patiently(lambda: self._blobs.delete(key))

    async def list(self, prefix: str, /) -> Sequence[str]:
        """The keys that begin with the prefix, in order."""
        return await self._patiently(lambda: self._blobs.list(prefix))

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        try:
            return await call()
        except Unavailable as error:
            self._outage.failed(error)
        self._failing += 1
        try:
            found = await self._again(call)
        finally:
            self._failing -= 1
        if not self._failing:
            self._outage.worked()
        return found

    async def _again(self, call: Callable[[], Awaitable[T]]) -> T:
        pause_s = PAUSE_MIN_S
        while True:
            await anyio.sleep(pause_s)
            try:
                return await call()
            except Unavailable as error:
                self._outage.failed(error)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)
