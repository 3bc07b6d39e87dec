"""A blob store, and journals, as seen by attempts: what is away for a while is waited for.

An attempt that runs must not be lost because the place of its large payloads does not answer: repeating it would cost
more than waiting. Callers outside of attempts get the store as it is, and its `Unavailable` with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeVar

import anyio

from kernel.errors import Unavailable
from kernel.model.run import RunState
from kernel.model.stage import Body
from kernel.ports.blobs import BlobStore
from kernel.ports.journals import Create, Decide, Journals
from kernel.ports.persistence import KeyRecord, NewRun
from runtime.narration import OutageLog

__all__ = ["PatientBlobs", "PatientJournals"]

T = TypeVar("T")
R = TypeVar("R")

PAUSE_MIN_S = 0.1
PAUSE_MAX_S = 5.0


class _Patience:
    """Repeats what is unavailable, at growing intervals, until it works or its caller is cancelled."""

    def __init__(self, failed: str, recovered: str) -> None:
        # One outage, however many attempts wait for its end. It is not over as long as one of them still fails: a
        # full disk can be read.
        self._outage = OutageLog(failed, recovered)
        self._failing = 0

    async def __call__(self, call: Callable[[], Awaitable[T]]) -> T:
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


class PatientBlobs:
    """`BlobStore` that repeats what is unavailable, at growing intervals, until it works or its caller is cancelled."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._patiently = _Patience("blobs.unavailable", "blobs.recovered")

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


class PatientJournals:
    """`Journals` for attempts that are executed from a queue: an end that cannot be recorded yet is not thrown away.

    The attempt's lease bounds the waiting: whoever keeps it cancels the attempt when it is over.
    """

    def __init__(self, journals: Journals) -> None:
        self._journals = journals
        self._patiently = _Patience("store.unavailable", "store.recovered")

    async def create(self, run_id: str, decide: Create[R], /, *, new: NewRun, key: KeyRecord | None) -> R:
        """As it is: an attempt creates no run."""
        return await self._journals.create(run_id, decide, new=new, key=key)

    async def record(self, run_id: str, decide: Decide[R], /, *, ends_attempt: bool = False) -> R:
        """Decide and append."""
        return await self._patiently(lambda: self._journals.record(run_id, decide, ends_attempt=ends_attempt))

    async def reopen(self, run_id: str, decide: Decide[R], /, *, key: KeyRecord | None = None) -> R:
        """As it is: no attempt begins a run again."""
        return await self._journals.reopen(run_id, decide, key=key)

    async def hand_over(self, state: RunState, decide: Decide[R], /) -> R:
        """As it is: no attempt hands a run over."""
        return await self._journals.hand_over(state, decide)

    async def payloads(self, run_id: str, bodies: Collection[Body], /) -> Mapping[Body, bytes]:
        """Read."""
        return await self._patiently(lambda: self._journals.payloads(run_id, bodies))
