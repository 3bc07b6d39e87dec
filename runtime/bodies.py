"""Calling user code: what a body is given, how it reaches out, and how whatever it does becomes data.

`perform` and `perform_blocking` are the one place between the engine and a stage's body or check, in the event loop
and in a thread. They return an outcome for everything that user code may return or raise. The only thing that passes
through is the cancellation of whoever waits here, and it always does.

Where a body runs, how long it may take and what happens to its outcome is not decided here.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, Protocol, TypeAlias, TypeVar, TypeVarTuple, Unpack

import anyio
import anyio.lowlevel

from kernel import CheckContext, InvalidCommand, InvalidInput, InvalidStage, Stage, StageContext
from kernel.authoring.context import BodyCancelled, BodyIdentity
from kernel.authoring.steps import RecordedStep, StepJournal
from kernel.authoring.storage import BlockingBlobs
from kernel.model.attempts import Note, Raised
from kernel.ports.blobs import BlobStore
from kernel.ports.clock import Clock
from kernel.ports.executor import Attempt, CheckAttempt
from runtime.cancellation import being_cancelled, find_cancellation
from runtime.logbook import LogBook
from runtime.loop_door import LoopDoor
from runtime.raised import cut_off, describe, raised_outcome, traceback_text

__all__ = [
    "AnyStage",
    "AttemptPort",
    "BodyCall",
    "BodyHost",
    "CallPort",
    "StepRecorder",
    "body_context",
    "call_body",
    "check_arguments",
    "identity_of",
    "perform",
    "perform_blocking",
]

T = TypeVar("T")

LINES_PER_ATTEMPT_MAX = 10_000
NOTES_PER_ATTEMPT_MAX = 1_000
"""How many lines of one attempt are kept: more than anybody reads, and a bound for a body that never stops."""

Ts = TypeVarTuple("Ts")
AnyStage: TypeAlias = Stage[Any, Any, Any]


class StepRecorder(Protocol):
    """Appends recorded steps to the history of the attempt's run."""

    async def record_step(self, attempt: Attempt, /, *, position: int, name: str, result: bytes) -> bool:
        """Append the step at this position (from 0); False when the attempt is superseded. Raises: Unavailable."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyHost:
    """What all bodies of a process share."""

    services: Mapping[str, Any]
    logs: LogBook
    blobs: BlobStore
    steps: StepRecorder
    clock: Clock


class AttemptPort:
    """What one body reaches out through; made in the event loop that `door` leads to, used wherever the body runs.

    `scope` ends the body when it is cancelled. `stopped` says that nobody waits for the body any more, `superseded`
    that its attempt lost its token. `last_seen` is where the body was when it was interrupted.
    """

    __slots__ = (
        "_attempt",
        "_door",
        "_host",
        "_lines",
        "identity",
        "last_seen",
        "notes",
        "scope",
        "stopped",
        "superseded",
    )

    def __init__(self, host: BodyHost, attempt: Attempt | CheckAttempt, door: LoopDoor) -> None:
        self.identity: BodyIdentity = identity_of(attempt)
        self.scope: anyio.CancelScope = anyio.CancelScope()
        self.notes: list[Note] = []
        self.stopped: bool = False
        self.superseded: bool = False
        self.last_seen: str | None = None
        self._host = host
        self._attempt = attempt
        self._door = door
        self._lines = 0

    def begin(self, timeout: timedelta | None) -> None:
        """The body's time begins now."""
        self.scope.deadline = math.inf if timeout is None else anyio.current_time() + timeout.total_seconds()

    @property
    def out_of_time(self) -> bool:
        """Whether the scope's deadline has passed."""
        return self.scope.deadline <= anyio.current_time()

    # -- BodyPort ------------------------------------------------------------------------------------------------------

    def log(self, level: str, message: str, fields: Mapping[str, object], /) -> None:
        """Take one line; past the bound of an attempt it is only counted."""
        self._lines += 1
        beyond = self._lines - LINES_PER_ATTEMPT_MAX
        if beyond > 0:
            # Said at once, and then seldom: a body that logs without end must not fill the store with that either.
            if beyond == 1 or beyond % LINES_PER_ATTEMPT_MAX == 0:
                self._host.logs.drop(self.identity, self._host.clock.now(), 1 if beyond == 1 else LINES_PER_ATTEMPT_MAX)
            return
        self._host.logs.log(self.identity, self._host.clock.now(), level, message, fields)

    def progress(self, value: float, message: str, details: Mapping[str, object], /) -> None:
        """Take one report."""
        self._host.logs.progress(self.identity, self._host.clock.now(), value, message, details)

    def dropped(self, lines: int) -> None:
        """Count lines that were lost on their way here."""
        self._host.logs.drop(self.identity, self._host.clock.now(), lines)

    def annotate(self, note: Note, /) -> None:
        """Keep one annotation for the end of the attempt. Raises: InvalidCommand, when there are too many."""
        if len(self.notes) >= NOTES_PER_ATTEMPT_MAX:
            raise InvalidCommand(
                f'Stage "{self.identity.stage_id}" annotates more than {NOTES_PER_ATTEMPT_MAX} times in one attempt.',
                field="annotate",
                hint="Every annotation is an event of the run's history. Log what is many: ctx.log.",
            )
        self.notes.append(note)

    def cancelled(self) -> bool:
        """Whether the result is no longer wanted."""
        if self.stopped or self.superseded:
            return True
        # A thread must not ask the scope, which lives in the event loop. A body in the loop may keep the loop from
        # noticing that its time is over, so it is told by the clock.
        return self._door.is_inside and (self.scope.cancel_called or self.out_of_time)

    @property
    def blobs(self) -> BlobStore:
        """The store, for bodies in the event loop."""
        return self._host.blobs

    @property
    def blocking_blobs(self) -> BlockingBlobs:
        """The store, for bodies in threads."""
        return _BlockingBlobs(self._host.blobs, self._wait_for)

    @property
    def steps(self) -> StepJournal:
        """The recorded steps. Raises: InvalidStage in a check, which is no part of an execution."""
        if not isinstance(self._attempt, Attempt):
            raise InvalidStage(self.identity.stage_id, "its check uses ctx.step", hint="Record steps in the body.")
        return self

    # -- StepJournal ---------------------------------------------------------------------------------------------------

    def find_step(self, position: int, /) -> RecordedStep | None:
        """The step that an earlier attempt recorded at this position, from 0."""
        assert isinstance(self._attempt, Attempt)
        recorded = self._attempt.steps
        if position >= len(recorded):
            return None
        name, result = recorded[position]
        return RecordedStep(name=name, result=result)

    async def record_step(self, position: int, name: str, result: bytes, /) -> None:
        """Append a step; when the attempt is superseded, the body is interrupted here."""
        if await self._record(position, name, result):
            return
        self.superseded = True
        self.scope.cancel()
        await anyio.lowlevel.checkpoint()
        raise BodyCancelled  # the body shields itself

    def record_step_blocking(self, position: int, name: str, result: bytes, /) -> None:
        """The same from a thread, which cannot be interrupted but can be told."""
        if not self._wait_for(self._record, position, name, result):
            self.superseded = True
            raise BodyCancelled

    async def _record(self, position: int, name: str, result: bytes) -> bool:
        assert isinstance(self._attempt, Attempt)
        return await self._host.steps.record_step(self._attempt, position=position, name=name, result=result)

    def _wait_for(self, function: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        if self._door.is_inside:
            raise InvalidStage(
                self.identity.stage_id,
                "its body waits, in the event loop, for something that the event loop has to do",
                hint="Await ctx.storage and ctx.step themselves; their .blocking is for def bodies.",
            )
        if self.stopped:
            raise BodyCancelled
        try:
            return self._door.wait_for(function, *args)
        except BaseException:
            if self.stopped:
                raise BodyCancelled from None
            raise


class _BlockingBlobs:
    """A blob store whose calls wait."""

    __slots__ = ("_blobs", "_wait_for")

    def __init__(self, blobs: BlobStore, wait_for: Callable[..., Any]) -> None:
        self._blobs = blobs
        self._wait_for = wait_for

    def put(self, key: str, data: bytes, /) -> None:
        self._wait_for(self._blobs.put, key, data)

    def get(self, key: str, /) -> bytes:
        data: bytes = self._wait_for(self._blobs.get, key)
        return data

    def has(self, key: str, /) -> bool:
        found: bool = self._wait_for(self._blobs.has, key)
        return found

    def delete(self, key: str, /) -> None:
        self._wait_for(self._blobs.delete, key)

    def list(self, prefix: str, /) -> Sequence[str]:
        keys: Sequence[str] = self._wait_for(self._blobs.list, prefix)
        return keys


# -- what a body is given ---------------------------------------------------------------------------------------------


def identity_of(attempt: Attempt | CheckAttempt) -> BodyIdentity:
    """Who is running, for contexts and log lines."""
    stage = attempt.stage
    return BodyIdentity(
        run_id=attempt.run_id,
        workflow_id=attempt.workflow.id,
        stage_id=stage.id,
        stage_name=stage.name,
        stage_number=stage.number,
        execution=attempt.execution,
        attempt=attempt.number,
    )


def body_context(
    attempt: Attempt, stage: AnyStage, port: AttemptPort, services: Mapping[str, Any], deadline: datetime | None
) -> StageContext[Any, Any, Any]:
    """The context of a body, read from the raw JSON of its attempt.

    Raises: InvalidInput, InvalidConfig, MissingOutput, when what is stored does not fit the stage of today.
    """
    workflow, schemas = attempt.workflow, stage.schemas
    resume_state = None
    if attempt.resume_state is not None and schemas.state is not None:
        resume_state = schemas.state.decode(attempt.resume_state, where=_state_of(stage), refuse=InvalidInput)
    return StageContext(
        port.identity,
        input=workflow.stage_input(stage.id, attempt.outputs, attempt.input),
        config=workflow.stage_config(stage.id, attempt.config),
        outputs=workflow.stage_outputs(stage.id, attempt.outputs, attempt.offloaded),
        port=port,
        services=services,
        resume_state=resume_state,
        deadline=deadline,
    )


def check_arguments(
    check: CheckAttempt, stage: AnyStage, port: AttemptPort, services: Mapping[str, Any], deadline: datetime | None
) -> tuple[Any, CheckContext[Any]]:
    """What a check is given. Raises: InvalidInput when the stored state does not fit today's model; InvalidConfig."""
    schema = stage.schemas.state
    assert schema is not None, "only a batch stage suspends, and build() refuses one without a state"
    state = schema.decode(check.state, where=_state_of(stage), refuse=InvalidInput)
    config = check.workflow.stage_config(stage.id, check.config)
    context: CheckContext[Any] = CheckContext(
        port.identity, config=config, port=port, services=services, deadline=deadline
    )
    return state, context


def _state_of(stage: AnyStage) -> str:
    return f'stage "{stage.id}" (suspended state)'


# -- calling it -------------------------------------------------------------------------------------------------------


class CallPort(Protocol):
    """What calling user code in an event loop needs to know of its surroundings."""

    scope: anyio.CancelScope
    last_seen: str | None

    @property
    def out_of_time(self) -> bool:
        """Whether the scope's deadline has passed."""
        ...

    def log(self, level: str, message: str, fields: Mapping[str, object], /) -> None:
        """Take one line."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyCall(Generic[T]):
    """One call of user code: how to prepare its arguments, and how to turn what it returns into an outcome.

    Both may raise, and that is treated as if the body had raised it. `what` names the call in messages.
    """

    what: str
    attempt: Attempt | CheckAttempt | None
    stage: AnyStage
    port: CallPort
    function: Callable[..., Any]
    prepare: Callable[[], tuple[Any, ...]]
    encode: Callable[[object], T]


async def call_body(
    attempt: Attempt | CheckAttempt | None,  # noqa: ARG001 - read from this frame, see below
    function: Callable[..., Awaitable[object]],
    arguments: tuple[Any, ...],
) -> object:
    """Await user code. From another thread, this frame tells which attempt keeps the event loop busy."""
    return await function(*arguments)


async def perform(call: BodyCall[T]) -> T | Raised:
    """Run user code in the event loop, within `call.port.scope`. Raises: cancellation that is meant for us, only."""
    try:
        return call.encode(await call_body(call.attempt, call.function, call.prepare()))
    except GeneratorExit:
        raise  # the event loop is being torn down around us
    except BaseException as error:  # whatever user code raises is the outcome of its attempt
        if find_cancellation(error) is error and being_cancelled():
            if call.port.out_of_time:
                call.port.last_seen = traceback_text(error)
            raise
        return await _outcome_of(error, call)


def perform_blocking(call: BodyCall[T]) -> T | Raised:
    """Run user code in this thread. Raises nothing."""
    try:
        return call.encode(call.function(*call.prepare()))
    except BaseException as error:  # noqa: BLE001 - whatever user code raises is the outcome of its attempt
        return raised_outcome(error, call.stage.retry)


async def _outcome_of(error: BaseException, call: BodyCall[Any]) -> Raised:
    """What it means that the body raised this, which is not simply our own cancellation passing through."""
    port = call.port
    if being_cancelled() or (isinstance(error, BodyCancelled) and port.out_of_time):
        port.last_seen = traceback_text(error)
        said = (
            "" if isinstance(error, BodyCancelled) else f"While it was being interrupted, it raised {describe(error)}"
        )
        if port.out_of_time:
            return cut_off(call.what, stack=port.last_seen, last_words=said)
        if said:
            port.log("ERROR", said, {"traceback": port.last_seen})
        cancellation = find_cancellation(error)
        if cancellation is not None:
            raise cancellation
        await anyio.lowlevel.checkpoint()
        # Still here: asyncio cancelled the task by itself, and the body has swallowed that.
    if find_cancellation(error) is error:
        message = "the body let a cancellation escape that nobody had asked for, perhaps of a task that it awaited"
        return raised_outcome(error, call.stage.retry, message=message)
    return raised_outcome(error, call.stage.retry)
