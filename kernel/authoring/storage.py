"""`ctx.storage`: small named values that a stage keeps in the blob store, under its own run and stage.

The keys are scoped so that two runs can never meet. What is stored is not fenced: an attempt that was superseded may
still write, and a rerun finds what an earlier execution left. It is a scratch pad and a place for large things, not a
result; results are returned.

Bytes are stored as they are, so that what is stored can be opened with other tools. Everything else is stored as JSON
behind one RS byte, the mark of a JSON text in RFC 7464; bytes that begin with RS themselves get a second one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, overload

from kernel.authoring.payload_guard import decode_payload, encode_payload
from kernel.authoring.schema import Schema, Value
from kernel.errors import InvalidCommand, InvalidInput
from kernel.payloads import blob_key
from kernel.ports.blobs import BlobStore

__all__ = ["BlockingBlobs", "BlockingStorage", "Storage"]

T = TypeVar("T")

KEY_BYTES_MAX = 400
"""What stands before it has at most 270 bytes, and a store takes 700."""

_RS = b"\x1e"


class BlockingBlobs(Protocol):
    """A blob store for a body in a worker thread: as `BlobStore`, but each call waits."""

    def put(self, key: str, data: bytes, /) -> None:
        """Store the bytes durably, replacing what was there."""
        ...

    def get(self, key: str, /) -> bytes:
        """The bytes. Raises: BlobNotFound."""
        ...

    def has(self, key: str, /) -> bool:
        """Whether the key exists."""
        ...

    def delete(self, key: str, /) -> None:
        """Remove the key; an absent key is no error."""
        ...

    def list(self, prefix: str, /) -> Sequence[str]:
        """The keys that begin with the prefix, in order."""
        ...


class BlobAccess(Protocol):
    """Where a context's storage reads and writes."""

    @property
    def blobs(self) -> BlobStore:
        """The store, for bodies in the event loop."""
        ...

    @property
    def blocking_blobs(self) -> BlockingBlobs:
        """The store, for bodies in worker threads."""
        ...


class Storage:
    """The values of one stage of one run; `shared` are those of the whole run, `blocking` is for `def` bodies."""

    __slots__ = ("_access", "_run_prefix", "_scope")

    def __init__(self, access: BlobAccess, *, workflow_id: str, run_id: str, stage_id: str | None) -> None:
        self._access = access
        self._run_prefix = (workflow_id, run_id)
        names = ("run",) if stage_id is None else ("stages", stage_id)
        self._scope = blob_key(workflow_id, run_id, "storage", *names, "")

    @property
    def shared(self) -> Storage:
        """The storage that all stages of the run share."""
        workflow_id, run_id = self._run_prefix
        return Storage(self._access, workflow_id=workflow_id, run_id=run_id, stage_id=None)

    @property
    def blocking(self) -> BlockingStorage:
        """The same values for a body in a worker thread: the calls wait instead of being awaited."""
        return BlockingStorage(self._access.blocking_blobs, self._scope)

    async def put(self, key: str, value: object, /) -> None:
        """Keep bytes or a JSON value (models included), replacing what was there. Raises: PayloadRefused."""
        await self._access.blobs.put(_full_key(self._scope, key), _packed(key, value))

    @overload
    async def get(self, key: str, /) -> Value: ...
    @overload
    async def get(self, key: str, type_: type[T], /) -> T: ...
    async def get(self, key: str, type_: type[Any] | None = None, /) -> Value:
        """The value, read as `type_` when one is given. Raises: BlobNotFound; InvalidInput when it is not a `type_`."""
        return _unpacked(key, await self._access.blobs.get(_full_key(self._scope, key)), type_)

    async def has(self, key: str, /) -> bool:
        """Whether there is a value."""
        return await self._access.blobs.has(_full_key(self._scope, key))

    async def delete(self, key: str, /) -> None:
        """Remove the value; an absent one is no error."""
        await self._access.blobs.delete(_full_key(self._scope, key))

    async def list(self, prefix: str = "", /) -> Sequence[str]:
        """The keys that begin with `prefix`, in order, as they were given to `put`."""
        return _own_keys(self._scope, await self._access.blobs.list(self._scope + prefix))


class BlockingStorage:
    """`Storage` for `def` bodies."""

    __slots__ = ("_blobs", "_scope")

    def __init__(self, blobs: BlockingBlobs, scope: str) -> None:
        self._blobs = blobs
        self._scope = scope

    def put(self, key: str, value: object, /) -> None:
        """Keep bytes or a JSON value (models included), replacing what was there. Raises: PayloadRefused."""
        self._blobs.put(_full_key(self._scope, key), _packed(key, value))

    @overload
    def get(self, key: str, /) -> Value: ...
    @overload
    def get(self, key: str, type_: type[T], /) -> T: ...
    def get(self, key: str, type_: type[Any] | None = None, /) -> Value:
        """The value, read as `type_` when one is given. Raises: BlobNotFound; InvalidInput when it is not a `type_`."""
        return _unpacked(key, self._blobs.get(_full_key(self._scope, key)), type_)

    def has(self, key: str, /) -> bool:
        """Whether there is a value."""
        return self._blobs.has(_full_key(self._scope, key))

    def delete(self, key: str, /) -> None:
        """Remove the value; an absent one is no error."""
        self._blobs.delete(_full_key(self._scope, key))

    def list(self, prefix: str = "", /) -> Sequence[str]:
        """The keys that begin with `prefix`, in order, as they were given to `put`."""
        return _own_keys(self._scope, self._blobs.list(self._scope + prefix))


def _full_key(scope: str, key: object) -> str:
    problem: str | None = None
    if not isinstance(key, str):
        raise InvalidCommand(f"Storage key {key!r} must be a string.", field="key")
    if not key.isprintable():
        problem = "must not contain control characters"
    elif not 0 < len(key.encode()) <= KEY_BYTES_MAX:
        problem = f"must have 1 to {KEY_BYTES_MAX} bytes"
    elif any(segment in ("", ".", "..") for segment in key.split("/")):
        problem = 'must not have empty, "." or ".." segments'
    if problem is not None:
        raise InvalidCommand(f"Storage key {key!r} {problem}.", field="key")
    return scope + key


def _own_keys(scope: str, keys: Sequence[str]) -> Sequence[str]:
    return [key.removeprefix(scope) for key in keys]


def _packed(key: str, value: object) -> bytes:
    if isinstance(value, bytes | bytearray):
        data = bytes(value)
        return _RS + data if data.startswith(_RS) else data
    return _RS + encode_payload(value, what=f'Storage value "{key}"', field="value")


def _unpacked(key: str, data: bytes, type_: type[Any] | None) -> Value:
    if not data.startswith(_RS) or data.startswith(_RS + _RS):
        stored = data[1:] if data.startswith(_RS) else data
        if type_ is None or type_ is bytes:
            return stored
        finding = {"loc": (), "msg": "bytes are stored under this key, not JSON", "type": "bytes_stored"}
        raise InvalidInput(f'storage key "{key}"', [finding])
    text = data[1:]
    if type_ is None:
        return decode_payload(text)
    return Schema(type_).decode(text, where=f'storage key "{key}"', refuse=InvalidInput)
