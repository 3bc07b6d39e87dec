"""Large payloads, outside the database's rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

__all__ = ["BlobReading", "BlobStore"]


class BlobReading(Protocol):
    """The part of a blob store that reading a payload needs."""

    async def get(self, key: str, /) -> bytes:
        """The bytes. Raises: BlobNotFound, Unavailable."""
        ...


@runtime_checkable
class BlobStore(Protocol):
    """Bytes under keys. Keys are slash-separated texts; engine keys contain an attempt's token and are written once.

    Every call may raise Unavailable, which is how a store says that it cannot be reached, whatever its driver raises:
    who waits for its return knows it by that.
    """

    async def put(self, key: str, data: bytes, /) -> None:
        """Store the bytes durably, replacing what was there.

        Raises: PayloadRefused, when the key is longer than 700 bytes or not names between single slashes.
        """
        ...

    async def get(self, key: str, /) -> bytes:
        """The bytes. Raises: BlobNotFound."""
        ...

    async def has(self, key: str, /) -> bool:
        """Whether the key exists."""
        ...

    async def delete(self, key: str, /) -> None:
        """Remove the key; an absent key is no error."""
        ...

    async def list(self, prefix: str, /) -> Sequence[str]:
        """The keys that begin with the prefix, in the order of their characters."""
        ...
