"""Blobs as objects in a bucket of anything that speaks S3, through `obstore` (the extra `[s3]`).

Separate from its neighbours so that nobody who keeps blobs elsewhere imports the library. Credentials are not its
business: the library finds them as every tool for S3 does (`AWS_ACCESS_KEY_ID` and the like, a role of the machine or
of the container), and renews them.

Its blocking calls run in worker threads, which serves both event loops alike; its own asynchronous ones are for
asyncio only. Every call has a deadline: a request that does not end by itself is left to end without us, which is
harmless since engine keys are written once.

An absent bucket answers like an absent object. So nothing is called absent before the bucket has answered.

Whether blobs may be stored is found out by one that is to replace a version which nobody has: a server first asks
whether it is allowed, and then refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
import obstore
from anyio import to_thread
from obstore.exceptions import BaseError, GenericError, NotSupportedError, PreconditionError
from obstore.store import S3Store

from adapters.blob_keys import checked_key
from kernel.errors import BlobNotFound, PayloadRefused, Unavailable

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import S3Config

__all__ = ["S3BlobStore"]

T = TypeVar("T")

DEADLINE_S = 60.0
"""As long as a database has for a large value."""
CONNECT_S = 5.0
REQUESTS_MAX = 100
"""Calls at a time; the others wait. As many bodies execute at a time by default."""
RETRIES_MAX = 2
"""For what servers ask to repeat (503, a dropped connection); whoever can wait longer repeats the call."""
WHOLE_BYTES_MAX = 64 * 1024 * 1024
"""Up to this size an object is sent in one request: parts that were never put together stay in a bucket unseen."""
PART_BYTES = 16 * 1024 * 1024

_NOT_THERE = FileNotFoundError
_FAILURES = (BaseError, OSError, ValueError)
_CODE = re.compile(r"<Code>(\w+)</Code>")
_SHOWN_MAX = 300
_PROBE = "leasehold-check"
_NO_VERSION = '"0"'


class S3BlobStore:
    """A `BlobStore` in one bucket, below `prefix`. Any number of processes may use it at once.

    `endpoint` (such as "http://127.0.0.1:9000") and `region` are those of the environment when they are not given.
    """

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        endpoint: str | None = None,
        region: str | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        deadline = timedelta(seconds=deadline_s)
        # Whoever names an endpoint without TLS means it, and single deletions are understood by every server.
        config: S3Config = {"disable_bulk_delete": True}
        if endpoint is not None:
            config["endpoint"] = endpoint
        if region is not None:
            config["region"] = region
        self._store = S3Store(
            bucket,
            prefix=prefix or None,
            config=config,
            client_options={
                "allow_http": True,
                "connect_timeout": min(timedelta(seconds=CONNECT_S), deadline),
                "timeout": deadline,
            },
            retry_config={"max_retries": RETRIES_MAX, "retry_timeout": deadline},
        )
        self._name = f"s3://{bucket}/{prefix}"
        self._bucket = bucket
        self._deadline_s = deadline_s
        self._room = anyio.CapacityLimiter(REQUESTS_MAX)
        self._bucket_answered = False

    def __repr__(self) -> str:
        return f"<S3BlobStore {self._name}>"

    async def check(self) -> None:
        """Find out whether blobs can be listed, read and stored here, and leave nothing behind. Raises: Unavailable."""
        await self._look_at_bucket()
        await self.has(_PROBE)
        await self._call("store a blob", lambda: _try_to_store(self._store))

    async def put(self, key: str, data: bytes, /) -> None:
        path, whole = checked_key(key), bytes(data)
        in_parts = len(whole) > WHOLE_BYTES_MAX
        send = partial(obstore.put, self._store, path, whole, use_multipart=in_parts, chunk_size=PART_BYTES)
        try:
            await self._call("store a blob", send)
        except _NOT_THERE as error:
            raise self._no_bucket() from error

    async def get(self, key: str, /) -> bytes:
        if not _may_exist(key):
            raise BlobNotFound(key)
        try:
            return await self._call("read a blob", lambda: obstore.get(self._store, key).bytes().to_bytes())
        except _NOT_THERE:
            await self._look_at_bucket()
            raise BlobNotFound(key) from None

    async def has(self, key: str, /) -> bool:
        if not _may_exist(key):
            return False
        try:
            await self._call("look for a blob", lambda: obstore.head(self._store, key))
        except _NOT_THERE:
            if not self._bucket_answered:
                await self._look_at_bucket()
            return False
        return True

    async def delete(self, key: str, /) -> None:
        if not _may_exist(key):
            return
        try:
            await self._call("delete a blob", lambda: obstore.delete(self._store, key))
        except _NOT_THERE:
            # Amazon's answer is the same whether the object was there; others tell the truth.
            await self._look_at_bucket()

    async def list(self, prefix: str, /) -> Sequence[str]:
        above, slash, _ = prefix.rpartition("/")
        if slash and not _may_exist(above):
            return ()
        # The library compares whole parts of keys, the port any beginning.
        keys = await self._call("list blobs", lambda: _keys(self._store, above or None))
        return sorted(key for key in keys if key.startswith(prefix))

    async def _look_at_bucket(self) -> None:
        """Raises: Unavailable, when the bucket is not there."""
        await self._call("look at the bucket", lambda: next(_pages(self._store, None), None))

    async def _call(self, doing: str, work: Callable[[], T]) -> T:
        """What the library answers, in time. Raises: FileNotFoundError, when it is not there; Unavailable."""
        try:
            with anyio.fail_after(self._deadline_s):
                answer = await to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._room)
        except _NOT_THERE:
            raise
        except TimeoutError as error:
            raise Unavailable(
                f"The blob store {self._name} did not {doing} within {self._deadline_s:g} s.", field="blobs"
            ) from error
        except _FAILURES as error:
            raise self._unavailable(doing, error) from error
        self._bucket_answered = True
        return answer

    def _unavailable(self, doing: str, error: Exception) -> Unavailable:
        hint = (
            "Check bucket, endpoint and region (LEASEHOLD_BLOB_URL, AWS_ENDPOINT_URL, AWS_REGION), and the credentials "
            "(AWS_ACCESS_KEY_ID, or the role of this machine): they must allow to get, put and delete objects and to "
            "list the bucket."
        )
        reason = _reason(str(error))
        return Unavailable(f"The blob store {self._name} did not {doing}: {reason}.", field="blobs", hint=hint)

    def _no_bucket(self) -> Unavailable:
        return Unavailable(
            f'There is no bucket "{self._bucket}" for the blobs of {self._name}.',
            field="blobs",
            hint="Make it, or name another one in LEASEHOLD_BLOB_URL.",
        )


def _try_to_store(store: S3Store) -> None:
    """Raises: what the library does, when it is not allowed."""
    try:
        obstore.put(store, _PROBE, b"", use_multipart=False, mode={"e_tag": _NO_VERSION})
    except (PreconditionError, NotSupportedError):
        return
    except GenericError as error:
        if _reason(str(error)) != "NotImplemented":
            raise
        return
    # A server that knows no conditions has taken it.
    obstore.delete(store, _PROBE)


def _keys(store: S3Store, above: str | None) -> list[str]:
    return [found["path"] for page in _pages(store, above) for found in page]


def _pages(store: S3Store, above: str | None) -> Iterator[Sequence[ObjectMeta]]:
    # Its overload for Arrow is partly untyped.
    return iter(obstore.list(store, above))  # pyright: ignore[reportUnknownMemberType]


def _may_exist(key: str) -> bool:
    """Whether a blob can have this key; no other key is worth a question."""
    try:
        checked_key(key)
    except PayloadRefused:
        return False
    return True


def _reason(text: str) -> str:
    """What went wrong, in few words: the server's own code where it gave one."""
    code = _CODE.search(text)
    if code is not None:
        return code.group(1)
    line = text.strip().splitlines()[0] if text.strip() else "no reason was given"
    return line[:_SHOWN_MAX].rstrip(".")
