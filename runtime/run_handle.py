"""One run as a program sees it: its result, its state, its events.

A handle holds nothing of the run; everything is asked of the client that made it, each time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypedDict, Unpack, overload

import anyio
from pydantic_core import from_json
from typing_extensions import TypeVar

from kernel.annotations import Annotation, AnnotationFilters
from kernel.authoring.annotations import Actor, Attributes, TypedKey
from kernel.authoring.schema import Payload, Schema
from kernel.authoring.stage import Stage
from kernel.authoring.workflow import Workflow
from kernel.commands.cancel_run import CancelRun
from kernel.commands.poll_suspended_stages import ask_for_looks
from kernel.commands.rerun_from import RerunFrom, RerunFromResult
from kernel.commands.unpark_run import UnparkRun
from kernel.ending import Ending
from kernel.errors import BlobNotFound, InvalidCommand, InvalidOutput, RunCancelled, RunFailed, RunNotFound
from kernel.events import Event
from kernel.journal import fetch_payloads
from kernel.model.machine import Status
from kernel.ports.persistence import LogLine
from runtime.artifacts import read_artifact
from runtime.description import describe_run, went_on
from runtime.info import RunInfo
from runtime.stream import EventStream, read_events

if TYPE_CHECKING:
    from runtime.client import Client

__all__ = ["Remark", "RunHandle"]

O_co = TypeVar("O_co", covariant=True)
T = TypeVar("T")


class Remark(TypedDict, total=False):
    """What annotations that are made together have in common; see `kernel.annotations.attach`."""

    scope: str | None
    scope_id: str | None
    stage: Stage[Any, Any, Any] | str | None
    actor: Actor | None
    payload: Payload
    idempotency_key: str | None
    emit_event: bool


class RunHandle(Generic[O_co]):
    """One run: its result, its state, its events. Holds nothing of the run itself; cheap to make and to drop."""

    __slots__ = ("_client", "_run_id", "_workflow")

    def __init__(self, client: Client, run_id: str, workflow: Workflow[Any, O_co] | None) -> None:
        self._client = client
        self._run_id = run_id
        self._workflow = workflow

    def __repr__(self) -> str:
        return f"<RunHandle {self._run_id}>"

    @property
    def id(self) -> str:
        """The run's id."""
        return self._run_id

    async def result(self, timeout: float | timedelta | None = None) -> O_co:  # noqa: ASYNC109 - it is the interface
        """Wait for the end and return the output, typed when the workflow is known here, else as plain JSON.

        Of a run that was rerun it is the next end.

        `timeout` is in seconds; when it elapses the run goes on.
        Raises: RunFailed, RunCancelled, TimeoutError, RunNotFound; InvalidCommand for a negative timeout.
        """
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        if seconds is not None and not seconds >= 0:  # which NaN is not either
            hint = "Leave it out to wait as long as it takes."
            raise InvalidCommand(f"timeout must be 0 s or more, got {seconds:g}.", field="timeout", hint=hint)
        with anyio.move_on_after(seconds):
            return await self._result()
        assert seconds is not None
        raise TimeoutError(f'Run "{self._run_id}" has not ended within {seconds:g} s; it goes on.')

    async def _result(self) -> O_co:
        while True:
            ending = await self._client.ended(self._run_id)
            if ending.status is not Status.COMPLETED:
                break
            try:
                output: O_co = await self._output(ending)
            except BlobNotFound:
                if not await went_on(self._client, self._run_id, ending.seq):
                    raise
            else:
                return output
        match ending.status:
            case Status.CANCELLED:
                raise RunCancelled(self._run_id, reason=ending.cancel_reason)
            case _:
                assert ending.error is not None
                raise RunFailed(
                    self._run_id,
                    workflow_id=ending.workflow_id,
                    stage_id=ending.error.stage_id,
                    attempt=ending.error.attempt,
                    error=ending.error.error,
                )

    async def _output(self, ending: Ending) -> Any:
        workflow = self._workflow or self._client.app.find_workflow(ending.workflow_id, ending.workflow_version)
        bodies, blobs = ending.outputs, self._client.storage.blobs
        payloads = await fetch_payloads(self._run_id, bodies.values(), ending.inline, blobs)
        outputs = {stage_id: payloads[body] for stage_id, body in bodies.items()}
        if workflow is None:
            plain = {stage_id: from_json(data) for stage_id, data in outputs.items()}
            return plain if ending.parallel else next(iter(plain.values()), None)
        return workflow.output_value(outputs)

    async def describe(self) -> RunInfo:
        """What is known of the run now, with its stages. Raises: RunNotFound.

        Where a large payload cannot be read now, an `Unreadable` that says why stands in its place.
        """
        return await describe_run(self._client, self._run_id)

    @overload
    async def artifact(self, stage: Stage[Any, Any, Any] | str, name: str) -> bytes: ...
    @overload
    async def artifact(self, stage: Stage[Any, Any, Any] | str, name: str, type_: type[T]) -> T: ...
    async def artifact(
        self, stage: Stage[Any, Any, Any] | str, name: str, type_: type[Any] | None = None
    ) -> bytes | Any:
        """What a stage kept under this name with its result: bytes as they were given, anything else as JSON text.

        With a `type_` the text is read as one. `describe()` names the artifacts of every stage.
        Raises: RunNotFound, StageNotFound, ArtifactNotFound; InvalidOutput when it is not a `type_`; BlobNotFound when
        its bytes have been lost.
        """
        stage_id = stage if isinstance(stage, str) else stage.id
        data = await read_artifact(self._client.storage, self._run_id, stage_id, name)
        if type_ is None:
            return data
        return Schema(type_).decode(data, where=f'artifact "{name}" of stage "{stage_id}"', refuse=InvalidOutput)

    async def cancel(self, reason: str | None = None) -> bool:
        """Cancel the run; False when it had ended already. Raises: RunNotFound."""
        return (await self._client.kernel.dispatch(CancelRun(run_id=self._run_id, reason=reason))).cancelled

    async def rerun_from(
        self,
        stage: Stage[Any, Any, Any] | str,
        *,
        keep_completed: bool = False,
        idempotency_key: str | None = None,
    ) -> RerunFromResult:
        """Begin the run, which has ended, again at this stage: its group and all later ones get a new execution.

        `keep_completed` keeps what has completed in the stage's own group. The same `idempotency_key` is one rerun.
        Raises: RunNotFound, StageNotFound, RunNotRerunnable, IdempotencyKeyReused.
        """
        command = RerunFrom(
            run_id=self._run_id,
            from_stage_id=stage if isinstance(stage, str) else stage.id,
            keep_completed=keep_completed,
            idempotency_key=idempotency_key,
        )
        return await self._client.kernel.dispatch(command)

    async def poll(self) -> Sequence[str]:
        """Have the checks of all suspended stages made now, and return the ids of these stages; empty when none is.

        Returns when that has been recorded. Whoever drives the run makes them within a second, in whatever process; a
        run that nobody drives is claimed for it, as soon as there is a process that knows its workflow. Repeated, they
        are made once more. Raises: RunNotFound.
        """
        return await ask_for_looks(self._run_id, self._client.kernel.ports)

    async def unpark(self) -> bool:
        """Give a parked run back to whoever can drive it; False when it was not parked. Raises: RunNotFound."""
        return (await self._client.kernel.dispatch(UnparkRun(run_id=self._run_id))).unparked

    @overload
    async def annotate(self, key: TypedKey[T], value: T, /, **common: Unpack[Remark]) -> int: ...
    @overload
    async def annotate(self, key: str, value: Payload, /, **common: Unpack[Remark]) -> int: ...
    @overload
    async def annotate(self, attributes: Attributes, /, **common: Unpack[Remark]) -> int: ...
    async def annotate(
        self, key: TypedKey[Any] | str | Attributes, value: Any = None, /, **common: Unpack[Remark]
    ) -> int:
        """Remark something about the run, at any time: one value under its key, or a mapping of several at once.

        Returns how many annotations were new: None as a value is left out, and with an `idempotency_key` each key is
        attached once. Raises: as `kernel.annotations.attach`.
        """
        attributes = {key: value} if isinstance(key, TypedKey | str) else key
        return await self._client.kernel.annotations.attach(self._run_id, attributes, **common)

    @overload
    async def annotations(
        self, *, key: TypedKey[T], **filters: Unpack[AnnotationFilters]
    ) -> Sequence[Annotation[T]]: ...
    @overload
    async def annotations(
        self, *, key: str | None = ..., **filters: Unpack[AnnotationFilters]
    ) -> Sequence[Annotation[Any]]: ...
    async def annotations(
        self, *, key: TypedKey[Any] | str | None = None, **filters: Unpack[AnnotationFilters]
    ) -> Sequence[Annotation[Any]]:
        """What was remarked about the run, oldest first. Filters and errors: as `kernel.annotations.list`."""
        return await self._client.kernel.annotations.list(self._run_id, key=key, **filters)

    async def history(self, after: int = 0) -> Sequence[Event]:
        """The events with a `seq` above `after`, in order; payloads as in `describe()`. Raises: RunNotFound."""
        return await read_events(self._client, self._run_id, after=after)

    def events(self, after: int = 0) -> AsyncIterator[Event]:
        """The events above `after`, then every new one as it is committed, up to the one that ends the run.

        Progress and log lines of running bodies come in between, with the `seq` of the last event before them.
        Raises: RunNotFound.
        """
        return EventStream(self._client, self._run_id, after=after)

    async def logs(self, after: int = 0) -> Sequence[LogLine]:
        """What bodies of this run have logged, in order; `after` is the `id` of a line. Raises: RunNotFound."""
        if self._run_id not in await self._client.storage.persistence.heads([self._run_id]):
            raise RunNotFound(self._run_id)
        return await self._client.storage.persistence.read_logs(self._run_id, after=after)
