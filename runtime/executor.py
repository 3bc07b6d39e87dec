"""The executor of a process: runs stage bodies and checks where they belong, and ends them when their time is over.

An `async def` runs in the event loop, a `def` in a worker thread, an isolated stage in a child interpreter. The timeout
of an attempt counts from the moment when its body begins, not while it waits for a thread or a process. Whatever a
body does becomes an outcome; the cancellation of the caller interrupts the body and passes through.

Retries, histories and leases are not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar, cast

import anyio

from kernel import EngineError, ErrorInfo, Failed
from kernel.authoring.outcomes import CheckAgain, encode_check_result, encode_result
from kernel.authoring.payload_guard import PAYLOAD_BYTES_MAX
from kernel.model.attempts import Raised
from kernel.ports.blobs import BlobStore
from kernel.ports.clock import Clock
from kernel.ports.executor import (
    Attempt,
    BodyCompleted,
    BodyOutcome,
    CheckAttempt,
    CheckFailed,
    CheckNotReady,
    CheckOutcome,
    CheckRaised,
    CheckReady,
)
from runtime.bodies import (
    AnyStage,
    AttemptPort,
    BodyCall,
    BodyHost,
    StepRecorder,
    body_context,
    check_arguments,
    perform,
    perform_blocking,
)
from runtime.logbook import LogBook
from runtime.loop_door import LoopDoor
from runtime.process_messages import Backend, make_job
from runtime.processes import ProcessPool
from runtime.raised import MESSAGE_LENGTH_MAX, cut_off, raised_outcome
from runtime.storable_text import storable_text
from runtime.threads import BodyThreads
from telemetry.logs import log_fields

__all__ = ["LocalExecutor"]

T = TypeVar("T")

CHECK_TIMEOUT = timedelta(minutes=5)
"""A check asks a question, so it has a bound even when its stage has none."""
BEGIN_S = 60.0
"""How long a child interpreter may take to start and to import its stage's module."""


class LocalExecutor:
    """Runs bodies in this process and its children; implements the kernel's `Executor`.

    `services` are entered already and reach bodies in the loop and in threads as they are. At most `threads` bodies
    run in threads and `processes` in child interpreters; bodies in the loop are bounded by whoever starts attempts. At
    most `checks` checks of suspended stages run at a time, in the order in which they were asked for.
    `run_services` must run beside attempts of isolated stages, since it ends the child interpreters.
    """

    def __init__(
        self,
        *,
        services: Mapping[str, Any],
        processes: int,
        logs: LogBook,
        blobs: BlobStore,
        steps: StepRecorder,
        clock: Clock,
        threads: int = 40,
        checks: int = 100,
        payload_bytes_max: int = PAYLOAD_BYTES_MAX,
        check_timeout: timedelta = CHECK_TIMEOUT,
    ) -> None:
        self._host = BodyHost(services=services, logs=logs, blobs=blobs, steps=steps, clock=clock)
        self._threads = BodyThreads(threads)
        self._processes = ProcessPool(processes)
        self._bytes_max = payload_bytes_max
        self._check_timeout = check_timeout
        self._checks = anyio.CapacityLimiter(checks)
        self._door: LoopDoor | None = None

    @property
    def abandoned_threads(self) -> int:
        """How many threads still run a body whose result nobody waits for."""
        return self._threads.abandoned

    async def run_services(self) -> None:
        """Keep child interpreters for the next attempts; cancelled, end them."""
        try:
            await anyio.sleep_forever()
        finally:
            await self._processes.close()

    async def run(self, attempt: Attempt, /) -> BodyOutcome:
        """Run the body to its end, its timeout or the cancellation of the caller.

        Raises: OSError when a child interpreter cannot be started.
        """
        with _lines_of(attempt):
            return await self._run(attempt)

    async def _run(self, attempt: Attempt) -> BodyOutcome:
        stage = attempt.workflow.get_stage(attempt.stage.id)
        port = AttemptPort(self._host, attempt, self._door_here())
        if stage.isolation == "process":
            return await self._run_in_process(attempt, stage, port)
        timeout = stage.timeout

        def prepare() -> tuple[Any, ...]:
            return (body_context(attempt, stage, port, self._host.services, self._deadline(timeout)),)

        call: BodyCall[BodyOutcome] = BodyCall(
            what=_what(stage, timeout),
            attempt=attempt,
            stage=stage,
            port=port,
            function=stage.body,
            prepare=prepare,
            encode=partial(encode_result, stage, bytes_max=self._bytes_max),
        )
        outcome = await self._carry_out(call, port, bound=timeout, in_loop=stage.is_async)
        return replace(outcome, notes=tuple(port.notes)) if port.notes else outcome

    async def check(self, check: CheckAttempt, /) -> CheckOutcome:
        """Call the stage's check, on the same terms; it may take `check_timeout`, or the stage's if that is longer."""
        with _lines_of(check):
            return await self._check(check)

    async def _check(self, check: CheckAttempt) -> CheckOutcome:
        stage = check.workflow.get_stage(check.stage.id)
        assert stage.check_function is not None, "build() refuses a batch stage without a check"
        port = AttemptPort(self._host, check, self._door_here())
        timeout = max(stage.timeout or self._check_timeout, self._check_timeout)

        def prepare() -> tuple[Any, ...]:
            return check_arguments(check, stage, port, self._host.services, self._deadline(timeout))

        call: BodyCall[CheckOutcome] = BodyCall(
            what=f"the check of {_what(stage, timeout)}",
            attempt=check,
            stage=stage,
            port=port,
            function=stage.check_function,
            prepare=prepare,
            encode=partial(_check_outcome, stage, self._bytes_max),
        )
        # Whoever has waited longest is next, so no run that has many of them starves the others.
        async with self._checks:
            outcome = await self._carry_out(call, port, bound=timeout, in_loop=stage.schemas.check_is_async)
        if isinstance(outcome, Raised):
            outcome = CheckRaised(error=outcome.error, cause=outcome.cause, retry_after=outcome.retry_after)
        return replace(outcome, notes=tuple(port.notes)) if port.notes else outcome

    def _door_here(self) -> LoopDoor:
        # Made by the first attempt, since an executor may be made before its event loop runs.
        if self._door is None:
            self._door = LoopDoor()
        return self._door

    def _deadline(self, timeout: timedelta | None) -> datetime | None:
        return None if timeout is None else self._host.clock.now() + timeout

    async def _carry_out(
        self, call: BodyCall[T], port: AttemptPort, *, bound: timedelta | None, in_loop: bool
    ) -> T | Raised:
        try:
            if in_loop:
                port.begin(bound)
                with port.scope:
                    return await perform(call)
                return _interrupted(call.what, port)
            return await self._in_thread(call, port, bound)
        finally:
            port.stopped = True

    async def _in_thread(self, call: BodyCall[T], port: AttemptPort, bound: timedelta | None) -> T | Raised:
        async with self._threads.slot() as slot:
            port.begin(bound)
            with port.scope:
                try:
                    outcome = await slot.run(partial(perform_blocking, call))
                except BaseException:
                    # Only cancellation comes here, and where the thread is now tells what it was waiting for.
                    port.last_seen = slot.stack()
                    port.stopped = True
                    raise
                return _superseded(call.what) if port.superseded else outcome
            return _interrupted(call.what, port)

    async def _run_in_process(self, attempt: Attempt, stage: AnyStage, port: AttemptPort) -> BodyOutcome:
        what = _what(stage, stage.timeout)
        begun = False

        def begin() -> None:
            nonlocal begun
            begun = True
            port.begin(stage.timeout)

        async with self._processes.slot():
            try:
                job = make_job(
                    attempt, stage, now=self._host.clock.now(), bytes_max=self._bytes_max, backend=_backend()
                )
            except EngineError as error:
                return raised_outcome(error, stage.retry)
            port.begin(timedelta(seconds=BEGIN_S))
            with port.scope:
                return await self._processes.run(job, port, begin)
        if begun:
            return cut_off(what)
        message = f"{what} could not begin: its child process did not start and import it within {BEGIN_S:.0f} s"
        return Raised(error=ErrorInfo(type="ProcessDied", message=message), cause="timeout")


def _lines_of(attempt: Attempt | CheckAttempt) -> log_fields:
    """Whatever is logged inside, by whomever, says whose it is."""
    return log_fields(
        run_id=attempt.run_id,
        workflow_id=attempt.workflow.id,
        stage_id=attempt.stage.id,
        attempt=attempt.number,
    )


def _what(stage: AnyStage, timeout: timedelta | None) -> str:
    return f'stage "{stage.id}"' if timeout is None else f'stage "{stage.id}" (timeout {timeout})'


def _interrupted(what: str, port: AttemptPort) -> Raised:
    """The outcome of a call whose own scope was cancelled, for one of two reasons."""
    return _superseded(what) if port.superseded else cut_off(what, stack=port.last_seen)


def _superseded(what: str) -> Raised:
    """The outcome of an attempt that has lost its token; nobody will record it."""
    message = f"{what} was stopped, because its attempt has been superseded"
    return Raised(error=ErrorInfo(type="Superseded", message=message))


def _check_outcome(stage: AnyStage, bytes_max: int, returned: object) -> CheckOutcome:
    """What a check's answer means. Raises: InvalidOutput, InvalidStage, PayloadRefused."""
    match encode_check_result(stage, returned, bytes_max=bytes_max):
        case BodyCompleted(output=output, metrics=metrics, artifacts=artifacts):
            return CheckReady(output=output, metrics=metrics, artifacts=artifacts)
        case CheckAgain(next_check_in=pause, state=state):
            return CheckNotReady(next_check_in_s=None if pause is None else pause.total_seconds(), state=state)
        case Failed(error=said, retry=retry):
            message = storable_text(said, length_max=MESSAGE_LENGTH_MAX)
            return CheckFailed(error=ErrorInfo(type="CheckFailed", message=message, retryable=retry), retry=retry)


def _backend() -> Backend:
    """The event loop that runs here, for async bodies in child interpreters: they use the same one."""
    return cast("Backend", anyio.get_cancelled_exc_class().__module__.partition(".")[0])
