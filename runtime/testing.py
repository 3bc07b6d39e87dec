"""Instruments for testing workflows without a database, a clock or a wait.

`run_workflow` drives a run to its end on the memory adapter with the real supervisor, actor and executor; delays
between attempts and polls are skipped, and only what a body itself waits for takes time. `run_stage` and `check_stage`
call one body or check alone. `memory_kernel` is a kernel to be driven by hand.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Generic, cast

import anyio
from anyio import to_thread
from anyio.lowlevel import checkpoint
from pydantic import BaseModel
from typing_extensions import TypeVar

from adapters.memory import MemoryBlobStore, MemoryJobTransport, MemoryPersistence
from adapters.system import RandomIds, SystemClock
from kernel.authoring.context import CheckContext, StageContext
from kernel.authoring.dataflow import StageGroup
from kernel.authoring.outcomes import CheckAgain, encode_check_result, encode_result
from kernel.authoring.outputs import Outputs
from kernel.authoring.plugins import Plugin
from kernel.authoring.results import Failed, NotReady, Ready, StageResult, Suspend
from kernel.authoring.schema import Schema, Value
from kernel.authoring.stage import BatchStage, Stage
from kernel.authoring.workflow import Workflow
from kernel.dispatch import Kernel
from kernel.errors import ErrorInfo, InvalidInput, InvalidOutput, RunCancelled, RunFailed
from kernel.events import Event, EventType
from kernel.plugin_runner import PluginRunner
from kernel.ports.clock import Clock
from kernel.ports.executor import Attempt, BodyCompleted, BodyOutcome, CheckAttempt, CheckOutcome
from kernel.ports.scheduler import ScheduledCommand
from kernel.ports.sinks import EventSink, subscriptions_of
from kernel.publishing import record_of
from runtime.app import App, ServiceFactory
from runtime.bodies import AttemptPort, BodyHost, identity_of
from runtime.bootstrap import Storage
from runtime.client import GivenConfig, workflow_record
from runtime.config import Settings
from runtime.executor import LocalExecutor
from runtime.info import StageInfo
from runtime.logbook import LogBook
from runtime.loop_door import LoopDoor
from runtime.mailbox import Mailbox
from runtime.recorded_steps import record_step
from runtime.side_by_side import SideBySide
from runtime.supervisor import Supervisor

__all__ = [
    "CollectingEventSink",
    "FakeClock",
    "Finished",
    "InMemoryBlobStore",
    "MemoryJobTransport",
    "MemoryPersistence",
    "NoopScheduler",
    "check_stage",
    "memory_kernel",
    "run_stage",
    "run_workflow",
]

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741
O_co = TypeVar("O_co", covariant=True)
S = TypeVar("S", bound=BaseModel)

InMemoryBlobStore = MemoryBlobStore
"""A blob store for tests, under the name that says where it keeps them."""

FOREVER = timedelta(days=36_500)
"""A lease that skipped time does not end."""


class FakeClock:
    """Time that moves only when told to; begins on 1 January 2025, UTC."""

    def __init__(self, now: datetime = datetime(2025, 1, 1, tzinfo=UTC)) -> None:
        self._now = now

    def now(self) -> datetime:
        """The present moment, aware UTC."""
        return self._now

    def advance(self, by: timedelta | float) -> None:
        """Move on by a duration, or by so many seconds. Raises: ValueError, when it is negative."""
        step = by if isinstance(by, timedelta) else timedelta(seconds=by)
        if step < timedelta(0):
            raise ValueError(f"time does not go back, got {step}")
        self._now += step

    def set(self, now: datetime) -> None:
        """Make it this moment. Raises: ValueError, when it is not aware."""
        if now.tzinfo is None:
            raise ValueError("the moment must be an aware datetime")
        self._now = now.astimezone(UTC)


class NoopScheduler:
    """A scheduler that dispatches nothing: `scheduled` are the commands that it was given, in order."""

    def __init__(self) -> None:
        self.scheduled: list[ScheduledCommand] = []

    async def schedule(self, command: ScheduledCommand, /) -> None:
        """Remember the command."""
        await checkpoint()
        self.scheduled.append(command)

    async def cancel(self, _key: str, /) -> bool:
        """Do nothing."""
        await checkpoint()
        return False

    def clear(self) -> None:
        """Forget all."""
        self.scheduled.clear()


class CollectingEventSink:
    """An event sink that keeps what it is given, in the order in which it is given; `len` counts it.

    `fail_next(error)` has it refuse the next event, once.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._failures: list[Exception] = []

    async def publish(self, event: Event, /) -> None:
        """Keep the event, or raise what was to be raised next."""
        await checkpoint()
        if self._failures:
            raise self._failures.pop(0)
        self.events.append(event)

    def of_type(self, type: EventType) -> list[Event]:
        """The events of one type."""
        return [event for event in self.events if event.type == type]

    def fail_next(self, error: Exception) -> None:
        """Raise this instead of taking the next event."""
        self._failures.append(error)

    def clear(self) -> None:
        """Forget everything, also what was to fail."""
        self.events.clear()
        self._failures.clear()

    def __len__(self) -> int:
        """How many events it has."""
        return len(self.events)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Generic[O_co]):
    """How a run ended: its `status`, its output or its error, its stages in definition order and all its events."""

    status: str
    output: O_co | None
    error: ErrorInfo | None
    stages: tuple[StageInfo, ...]
    events: tuple[Event, ...]

    def stage(self, stage_id: str) -> StageInfo:
        """One stage by its id. Raises: KeyError."""
        return {stage.id: stage for stage in self.stages}[stage_id]


async def run_workflow(
    workflow: Workflow[I, O],
    input: I,
    *,
    config: GivenConfig | None = None,
    services: Mapping[str, ServiceFactory] | None = None,
    plugins: Sequence[Plugin] | PluginRunner = (),
) -> Finished[O]:
    """Run a workflow to its end in memory, skipping every wait between attempts and polls.

    When it returns, every plugin has been told of what it wants, once; one that fails is logged and not tried again.
    Never raises for a run that fails; what makes it impossible to start (InvalidInput, InvalidConfig) is raised.
    """
    clock = FakeClock()

    async def wait(mailbox: Mailbox, seconds: float | None) -> None:
        if seconds is None:
            await mailbox.wait(None)
        else:
            clock.advance(max(seconds, 0.0))

    app = App(workflows=[workflow], services=services, plugins=plugins)
    queues = tuple(dict.fromkeys(stage.queue for stage in workflow.stages if stage.queue is not None))
    settings = Settings(
        database_url="memory://", lease=FOREVER, passivate_after=FOREVER, queues=queues or Settings().queues
    )
    async with Supervisor(app, settings=settings, storage=_memory(clock), wait=wait, skip=clock.advance) as supervisor:
        run = await supervisor.start(workflow, input, config=config)
        output: O | None = None
        error: ErrorInfo | None = None
        try:
            output = await run.result()
        except RunFailed as failed:
            error = failed.error
        except RunCancelled:
            pass
        info = await run.describe()
        return Finished(
            status=info.status,
            output=output,
            error=error,
            stages=info.stages or (),
            events=tuple(await run.history()),
        )


@asynccontextmanager
async def _memory(clock: FakeClock) -> AsyncGenerator[Storage]:
    persistence = MemoryPersistence(clock, lease=FOREVER)
    yield Storage(
        persistence=persistence,
        scheduler=persistence.scheduler,
        jobs=persistence.jobs,
        blobs=MemoryBlobStore(),
        clock=clock,
        ids=RandomIds(),
        database="memory of this test",
    )


# -- the kernel by hand ------------------------------------------------------------------------------------------------


def memory_kernel(
    workflows: Sequence[Workflow[Any, Any]],
    *,
    services: Mapping[str, ServiceFactory] | None = None,
    clock: Clock | None = None,
    lease: timedelta = timedelta(seconds=10),
    event_sink: EventSink | None = None,
) -> Kernel:
    """A kernel that knows these workflows, over a store, blobs and an executor in memory; nothing runs by itself.

    `kernel.ports.store` is the store: sessions are opened and histories read there. Services are opened for each
    attempt and closed after it. `event_sink` is given events by `FlushOutbox`. Nothing has to be
    closed. Raises: InvalidWorkflow, when one is listed twice.
    """
    app, clock = App(workflows=workflows, services=services), clock or SystemClock()
    store = MemoryPersistence(
        clock,
        lease=lease,
        workflows=[workflow_record(workflow) for workflow in workflows],
        sinks=[record_of(subscription) for subscription in subscriptions_of(event_sink)],
    )
    executor = _ExecutorByHand(app)
    kernel = Kernel(
        persistence=store,
        blob_store=MemoryBlobStore(),
        clock=clock,
        ids=RandomIds(),
        registry=app,
        executor=executor,
        event_sink=event_sink,
        scheduler=store.scheduler,
        concurrency=SideBySide(),
        job_transport=store.jobs,
    )
    executor.kernel = kernel
    return kernel


class _ExecutorByHand:
    """The runtime's executor, anew for every attempt: nothing is opened before it and nothing is left behind."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.kernel: Kernel | None = None

    async def run(self, attempt: Attempt, /) -> BodyOutcome:
        async with self._opened() as executor:
            return await executor.run(attempt)

    async def check(self, check: CheckAttempt, /) -> CheckOutcome:
        async with self._opened() as executor:
            return await executor.check(check)

    async def record_step(self, attempt: Attempt, /, *, position: int, name: str, result: bytes) -> bool:
        assert self.kernel is not None
        return await record_step(self.kernel.ports, attempt, position=position, name=name, result=result)

    @asynccontextmanager
    async def _opened(self) -> AsyncGenerator[LocalExecutor]:
        assert self.kernel is not None
        ports = self.kernel.ports
        logs = LogBook(ports.store)
        async with self._app.open_services({}) as services:
            executor = LocalExecutor(
                services=services, processes=1, logs=logs, blobs=ports.blobs, steps=self, clock=ports.clock
            )
            try:
                yield executor
            finally:
                await logs.flush()
                with anyio.CancelScope() as ending:
                    # The executor ends its child interpreters when its service is cancelled.
                    ending.cancel()
                    await executor.run_services()


# -- one body alone ----------------------------------------------------------------------------------------------------


async def run_stage(
    stage: Stage[I, O, Any],
    input: I,
    *,
    config: BaseModel | Mapping[str, Any] | None = None,
    outputs: Mapping[str | Stage[Any, Any, Any], Any] | None = None,
    services: Mapping[str, ServiceFactory] | None = None,
    resume_state: BaseModel | None = None,
    attempt: int = 1,
) -> StageResult[O] | Suspend[Any]:
    """Call the body of a stage once, in this process, with what a run would give it, and return what it returned.

    A bare output comes as `StageResult(output)`. Outputs and states are validated and read back from their JSON.
    `outputs` are those of earlier stages, by stage or id. There are no retries: what the body raises is raised here,
    and a timeout is a TimeoutError. What it logs is dropped, and what it stores or records is gone afterwards.
    Raises: InvalidInput, InvalidConfig, InvalidOutput, InvalidStage, PayloadRefused, TimeoutError.
    """
    where, schemas = f'stage "{stage.id}"', stage.schemas
    bench = _Bench(stage, config, attempt)
    value = schemas.input.validate(input, where=where, refuse=InvalidInput)
    async with App(workflows=(), services=services).open_services({}) as opened:
        context: StageContext[Any, Any, Any] = StageContext(
            identity_of(bench.attempt),
            input=value,
            config=bench.config,
            outputs=_outputs(outputs or {}, asked_by=stage.id),
            port=bench.port(opened),
            services=opened,
            resume_state=resume_state,
            deadline=None if stage.timeout is None else bench.clock.now() + stage.timeout,
        )
        returned = await _called(stage, partial(stage.body, context), in_loop=stage.is_async)
    completed = encode_result(stage, returned)
    if not isinstance(completed, BodyCompleted):
        suspended: Suspend[Any] = returned
        return suspended
    output: O = schemas.output.decode(completed.output, where=where, refuse=InvalidOutput)
    if not isinstance(returned, StageResult):
        return StageResult(output)
    result = cast("StageResult[O]", returned)
    return replace(result, output=output)


async def check_stage(
    stage: BatchStage[Any, O, Any, S],
    state: S,
    *,
    config: BaseModel | Mapping[str, Any] | None = None,
    services: Mapping[str, ServiceFactory] | None = None,
    attempt: int = 1,
) -> Ready[O] | NotReady | Failed:
    """Call the check of a batch stage once with this suspended state, and return what it returned, validated.

    On the same terms as `run_stage`. Raises: InvalidInput, InvalidConfig, InvalidOutput, InvalidStage, TimeoutError.
    """
    where, schemas = f'stage "{stage.id}"', stage.schemas
    stage.check_runnable()
    assert schemas.state is not None
    assert stage.check_function is not None
    bench = _Bench(stage, config, attempt)
    value = schemas.state.validate(state, where=f"{where} (suspended state)", refuse=InvalidInput)
    async with App(workflows=(), services=services).open_services({}) as opened:
        context: CheckContext[Any] = CheckContext(
            identity_of(bench.attempt), config=bench.config, port=bench.port(opened), services=opened
        )
        call = partial(stage.check_function, value, context)
        returned = await _called(stage, call, in_loop=schemas.check_is_async)
    match encode_check_result(stage, returned):
        case BodyCompleted(output=text):
            output: O = schemas.output.decode(text, where=where, refuse=InvalidOutput)
            return Ready(output, metrics=returned.metrics, artifacts=returned.artifacts)
        case CheckAgain() | Failed():
            again: NotReady | Failed = returned
            return again


class _Bench:
    """A stage as the only one of a workflow, about to be attempted."""

    def __init__(self, stage: Stage[Any, Any, Any], config: object, number: int) -> None:
        workflow: Workflow[Any, Any] = Workflow(
            stage.id,
            name=stage.name,
            description="",
            version="1",
            groups=[StageGroup(stages=(stage,))],
            input_schema=stage.schemas.input,
            output_schema=stage.schemas.output,
            output_declared=False,
        )
        self.clock = SystemClock()
        given = workflow.merge_config(None if config is None else {stage.id: config})
        self.config = workflow.stage_config(stage.id, given)
        self.attempt = Attempt(
            workflow=workflow,
            stage=workflow.execution_plan().stages[stage.id],
            run_id=RandomIds().run_id(self.clock.now()),
            execution=1,
            number=number,
            token="",
            started_at=self.clock.now(),
            input=b"null",
            config=given,
            outputs={},
        )

    def port(self, services: Mapping[str, object]) -> AttemptPort:
        """What the body reaches out through."""
        logs = LogBook(MemoryPersistence(self.clock))
        host = BodyHost(services=services, logs=logs, blobs=MemoryBlobStore(), steps=self, clock=self.clock)
        return AttemptPort(host, self.attempt, LoopDoor())

    async def record_step(self, _attempt: Attempt, /, **_step: object) -> bool:
        """Forget it: there is no other attempt that could ask for it."""
        await checkpoint()
        return True


async def _called(stage: Stage[Any, Any, Any], call: Callable[[], Any], *, in_loop: bool) -> Value:
    with anyio.fail_after(None if stage.timeout is None else stage.timeout.total_seconds()):
        return await call() if in_loop else await to_thread.run_sync(call, abandon_on_cancel=True)


def _outputs(given: Mapping[str | Stage[Any, Any, Any], Any], *, asked_by: str) -> Outputs:
    """Outputs of earlier stages as a body sees them; the type of one that is given by id is its value's own."""
    raw: dict[str, bytes] = {}
    schemas: dict[str, Schema] = {}
    for key, value in given.items():
        stage_id = key if isinstance(key, str) else key.id
        if isinstance(key, Stage):
            schemas[stage_id] = key.schemas.output
        elif isinstance(value, BaseModel):
            schemas[stage_id] = Schema(type(value))
        else:
            schemas[stage_id] = Schema(Any)
        raw[stage_id] = schemas[stage_id].encode(value, where=f'stage "{stage_id}"', refuse=InvalidOutput)
    return Outputs(raw, schemas=schemas, asked_by=asked_by)
