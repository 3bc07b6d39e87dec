"""What a body reaches out to, in memory; and a way to finish a coroutine that never really waits."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import pytest

from kernel.authoring import BodyIdentity, NoConfig, RecordedStep, StageContext
from kernel.authoring.outputs import Outputs
from kernel.errors import BlobNotFound
from kernel.model.notes import Note

T = TypeVar("T")


class BlobsInMemory:
    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def put(self, key: str, data: bytes, /) -> None:
        self.data[key] = data

    def get(self, key: str, /) -> bytes:
        if key not in self.data:
            raise BlobNotFound(key)
        return self.data[key]

    def has(self, key: str, /) -> bool:
        return key in self.data

    def delete(self, key: str, /) -> None:
        self.data.pop(key, None)

    def list(self, prefix: str, /) -> Sequence[str]:
        return sorted(key for key in self.data if key.startswith(prefix))


class AwaitedBlobs:
    def __init__(self, blobs: BlobsInMemory) -> None:
        self.blobs = blobs

    async def put(self, key: str, data: bytes, /) -> None:
        self.blobs.put(key, data)

    async def get(self, key: str, /) -> bytes:
        return self.blobs.get(key)

    async def has(self, key: str, /) -> bool:
        return self.blobs.has(key)

    async def delete(self, key: str, /) -> None:
        self.blobs.delete(key)

    async def list(self, prefix: str, /) -> Sequence[str]:
        return self.blobs.list(prefix)


class StepsInMemory:
    def __init__(self) -> None:
        self.recorded: list[RecordedStep] = []

    def find_step(self, position: int, /) -> RecordedStep | None:
        return self.recorded[position] if position < len(self.recorded) else None

    async def record_step(self, position: int, name: str, result: bytes, /) -> None:
        self.record_step_blocking(position, name, result)

    def record_step_blocking(self, position: int, name: str, result: bytes, /) -> None:
        assert position == len(self.recorded)
        self.recorded.append(RecordedStep(name=name, result=result))


class Port:
    def __init__(self) -> None:
        self.logged: list[tuple[str, str, Mapping[str, object]]] = []
        self.reported: list[tuple[float, str, Mapping[str, object]]] = []
        self.annotated: list[Note] = []
        self.is_cancelled = False
        self.blocking_blobs = BlobsInMemory()
        self.blobs = AwaitedBlobs(self.blocking_blobs)
        self.steps = StepsInMemory()

    def log(self, level: str, message: str, fields: Mapping[str, object], /) -> None:
        self.logged.append((level, message, fields))

    def progress(self, value: float, message: str, details: Mapping[str, object], /) -> None:
        self.reported.append((value, message, details))

    def annotate(self, annotation: Note, /) -> None:
        self.annotated.append(annotation)

    def cancelled(self) -> bool:
        return self.is_cancelled


@pytest.fixture
def port() -> Port:
    return Port()


@pytest.fixture
def a_context(port: Port) -> Callable[..., StageContext[Any]]:
    """A context of stage "resize" in run "run-1", with what a test wants to be different."""

    def build(**changes: Any) -> StageContext[Any]:
        identity = BodyIdentity(
            run_id=changes.pop("run_id", "run-1"),
            workflow_id=changes.pop("workflow_id", "albums"),
            stage_id=changes.pop("stage_id", "resize"),
            stage_name="Resize",
            stage_number=1,
            execution=1,
            attempt=1,
        )
        given = {"input": None, "config": NoConfig(), "services": {}, "port": port} | changes
        outputs = given.pop("outputs", Outputs({}, schemas={}, asked_by=identity.stage_id))
        return StageContext(identity, outputs=outputs, **given)

    return build


@pytest.fixture
def finish() -> Callable[[Coroutine[Any, Any, T]], T]:
    """Runs a coroutine that waits for nothing to its end, without an event loop."""

    def run(coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            coroutine.send(None)
        except StopIteration as stopped:
            result: T = stopped.value
            return result
        raise AssertionError("the coroutine waits for something")

    return run
