"""A blob store that is away for a while costs an attempt time, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest
from structlog.testing import LogCapture

from adapters.memory import MemoryBlobStore
from kernel import BlobNotFound, Unavailable
from runtime.patience import PatientBlobs

pytestmark = pytest.mark.anyio


class Away(MemoryBlobStore):
    """A store that is away for its first few calls."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def _answer(self) -> None:
        if self.calls:
            self.calls -= 1
            raise Unavailable("The blob store is away.")

    async def put(self, key: str, data: bytes, /) -> None:
        self._answer()
        await super().put(key, data)

    async def get(self, key: str, /) -> bytes:
        self._answer()
        return await super().get(key)

    async def list(self, prefix: str, /) -> Sequence[str]:
        self._answer()
        return await super().list(prefix)


async def test_what_is_unavailable_is_repeated_until_it_works():
    store = Away(2)
    patient = PatientBlobs(store)

    await patient.put("runs/a", b"1")

    assert store.calls == 0
    assert await patient.get("runs/a") == b"1"
    assert list(await patient.list("runs/")) == ["runs/a"]


async def test_an_outage_is_one_line_however_many_wait_for_its_end(log: LogCapture):
    patient = PatientBlobs(Away(20))

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(patient.put, f"runs/{number}", b"1")

    assert [entry["event"] for entry in log.entries] == ["blobs.unavailable", "blobs.recovered"]


async def test_what_works_while_something_else_does_not_ends_no_outage(log: LogCapture):
    store = Away(1)
    patient = PatientBlobs(store)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(patient.put, "runs/a", b"1")
        await anyio.wait_all_tasks_blocked()
        assert not await patient.has("runs/a")
        assert [entry["event"] for entry in log.entries] == ["blobs.unavailable"]


async def test_what_does_not_exist_is_said_at_once():
    with pytest.raises(BlobNotFound):
        await PatientBlobs(Away(0)).get("absent")
