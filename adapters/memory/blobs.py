"""Blobs in a dictionary; replaces the durable stores where nothing has to outlive the process."""

from __future__ import annotations

from collections.abc import Sequence

from anyio.lowlevel import checkpoint

from adapters.blob_keys import checked_key
from kernel.errors import BlobNotFound

__all__ = ["MemoryBlobStore"]


class MemoryBlobStore:
    """A `BlobStore` that gives way to other tasks at every call, as a store across a network would."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    async def put(self, key: str, data: bytes, /) -> None:
        self._blobs[checked_key(key)] = bytes(data)
        await checkpoint()

    async def get(self, key: str, /) -> bytes:
        await checkpoint()
        try:
            return self._blobs[key]
        except KeyError:
            raise BlobNotFound(key) from None

    async def has(self, key: str, /) -> bool:
        await checkpoint()
        return key in self._blobs

    async def delete(self, key: str, /) -> None:
        self._blobs.pop(key, None)
        await checkpoint()

    async def list(self, prefix: str, /) -> Sequence[str]:
        await checkpoint()
        return sorted(key for key in self._blobs if key.startswith(prefix))
