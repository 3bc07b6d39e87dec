"""The child interpreter of `isolation="process"`: `python -m runtime.process_worker DESCRIPTOR`.

The body runs in the main thread, where signals and most libraries expect it; the connection has threads of its own.
Only the end of the connection, or a kill by the parent, ends this process: signals that are sent to the whole service
are the parent's to handle.

Standard input is empty, standard output and error are the body's, and the connection is not inherited by what the
body starts.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from importlib import import_module
from typing import Any, NoReturn, cast

import anyio

from kernel import InvalidConfig, InvalidInput, InvalidStage, RetryPolicy, Stage, StageContext
from kernel.authoring.context import BodyCancelled, NoConfig
from kernel.authoring.outcomes import encode_result
from kernel.authoring.outputs import Outputs
from kernel.authoring.schema import Schema
from kernel.authoring.steps import StepJournal
from kernel.authoring.storage import BlockingBlobs
from kernel.model.attempts import Raised
from kernel.model.notes import Note
from kernel.ports.blobs import BlobStore
from kernel.ports.executor import BodyCompleted
from runtime.bodies import AnyStage, BodyCall, perform, perform_blocking
from runtime.frames import Frame
from runtime.loop_door import LoopDoor
from runtime.process_connection import Connection
from runtime.process_messages import Answer, Job, answer_frame
from runtime.raised import raised_outcome
from runtime.storable_text import storable_fields, storable_text
from telemetry import remote
from telemetry.logs import log_fields

__all__ = ["main"]

LINES_MAX = 10_000
"""Log lines that may wait for the connection; more are dropped and counted."""
THREAD_LEAVES_S = 0.05
MESSAGE_LENGTH_MAX = 16_384
LEAVE_S = 0.5
"""So long a body that leaves something behind waits for its spans to be sent."""
JOBS_MAX = 100
"""So many attempts share an interpreter at most, whatever their libraries leak."""


class ChildPort:
    """What a body in this process reaches out through: log, progress and cancellation; the rest is refused."""

    scope: anyio.CancelScope
    """Made in the event loop, when the body has one."""

    def __init__(self, connection: Connection, stage_id: str) -> None:
        self.last_seen: str | None = None
        self.out_of_time = False  # the parent keeps the time
        self.dropped: int = 0
        self._connection = connection
        self._stage_id = stage_id

    def log(self, level: str, message: str, fields: Mapping[str, object], /) -> None:
        """Send one line."""
        self._tell("log", fields, level=level, message=storable_text(message, length_max=MESSAGE_LENGTH_MAX))

    def progress(self, value: float, message: str, details: Mapping[str, object], /) -> None:
        """Send one report."""
        message = storable_text(message, length_max=MESSAGE_LENGTH_MAX)
        self._tell("progress", details, value=value, message=message)

    def annotate(self, note: Note, /) -> None:
        """Refused."""
        raise _refused(self._stage_id, f'annotates "{note.key}"')

    def cancelled(self) -> bool:
        """Whether the parent has asked the body to stop."""
        return self._connection.is_cancelled()

    @property
    def blobs(self) -> BlobStore:
        """Refused."""
        raise _refused(self._stage_id, "uses ctx.storage")

    @property
    def blocking_blobs(self) -> BlockingBlobs:
        """Refused."""
        raise _refused(self._stage_id, "uses ctx.storage")

    @property
    def steps(self) -> StepJournal:
        """Refused."""
        raise _refused(self._stage_id, "uses ctx.step")

    def _tell(self, kind: str, fields: Mapping[str, object], **header: object) -> None:
        if self._connection.backlog >= LINES_MAX:
            self.dropped += 1
            return
        name = "details" if kind == "progress" else "fields"
        try:
            frame = Frame(kind, {**header, name: storable_fields(fields)})
        except Exception as error:  # noqa: BLE001 - a user's value may raise anything, and logging never fails
            frame = Frame(kind, {**header, name: {"unreadable": type(error).__name__}})
        self._connection.send(frame)


class _RefusedServices(Mapping[str, Any]):
    """The services of the parent, which cannot be reached from here."""

    def __init__(self, stage_id: str) -> None:
        self._stage_id = stage_id

    def __getitem__(self, name: str) -> NoReturn:
        raise _refused(self._stage_id, f'uses the service "{name}"')

    def __contains__(self, name: object) -> NoReturn:
        raise _refused(self._stage_id, f'uses the service "{name}"')

    def __iter__(self) -> Iterator[str]:
        raise _refused(self._stage_id, "uses ctx.services")

    def __len__(self) -> int:
        raise _refused(self._stage_id, "uses ctx.services")


class _ReferencedSchemas(Mapping[str, Schema]):
    """The output schemas of other stages, found by their names when they are asked for."""

    def __init__(self, references: Mapping[str, str]) -> None:
        self._references = references

    def __getitem__(self, stage_id: str) -> Schema:
        try:
            return find_stage(self._references[stage_id]).schemas.output
        except (ImportError, AttributeError, InvalidStage):
            # Defined in a function, or in the parent's script: its output is then read as plain JSON.
            raise KeyError(stage_id) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._references)

    def __len__(self) -> int:
        return len(self._references)


def find_stage(reference: str) -> AnyStage:
    """The stage of this `module:name`. Raises: InvalidStage when something else is there; what the import raises."""
    module_name, _, qualified = reference.partition(":")
    if module_name == "__main__":
        raise InvalidStage(reference, "it is defined in the parent's main script")
    found: object = import_module(module_name)
    for name in qualified.split("."):
        found = getattr(found, name)
    if not isinstance(found, Stage):
        raise InvalidStage(reference, f"{reference} is not a stage but {type(found).__name__}")
    return cast("AnyStage", found)  # type: ignore[redundant-cast]  # pyright sees type parameters that it does not know


def run_job(job: Job, connection: Connection) -> tuple[BodyCompleted | Raised, int]:
    """Run one attempt, whatever it does: its outcome, and how many of its log lines were lost."""
    port = ChildPort(connection, job.identity.stage_id)
    received_s = time.monotonic()
    try:
        stage = find_stage(job.reference)
    except BaseException as error:  # noqa: BLE001 - importing runs the user's module, which may raise anything
        return raised_outcome(error, RetryPolicy()), 0
    if connection.is_cancelled():
        return raised_outcome(BodyCancelled(), stage.retry), 0
    # The parent must know before anything of the body happens: an attempt that has begun is not given to another child.
    connection.send_and_wait(Frame("begun", {"token": job.token}))
    now = job.now + timedelta(seconds=time.monotonic() - received_s)
    call = BodyCall(
        what=f'stage "{stage.id}"',
        attempt=None,
        stage=stage,
        port=port,
        function=stage.body,
        prepare=lambda: (_context(job, stage, port, now),),
        encode=partial(_encoded, job, stage),
    )
    if stage.is_async:
        return anyio.run(_in_loop, call, port, connection, backend=job.backend), port.dropped
    return perform_blocking(call), port.dropped


def _context(job: Job, stage: AnyStage, port: ChildPort, now: datetime) -> StageContext[Any, Any, Any]:
    schemas, where = stage.schemas, f'stage "{stage.id}"'
    config = NoConfig()
    if job.config is not None and schemas.config is not None:
        config = schemas.config.decode(job.config, where=where, refuse=InvalidConfig)
    return StageContext(
        job.identity,
        input=schemas.input.decode(job.input, where=where, refuse=InvalidInput),
        config=config,
        outputs=Outputs(
            job.outputs, schemas=_ReferencedSchemas(job.references), asked_by=stage.id, offloaded=job.offloaded
        ),
        port=port,
        services=_RefusedServices(stage.id),
        deadline=None if job.timeout_s is None else now + timedelta(seconds=job.timeout_s),
    )


def _encoded(job: Job, stage: AnyStage, returned: object) -> BodyCompleted:
    outcome = encode_result(stage, returned, bytes_max=job.bytes_max)
    assert isinstance(outcome, BodyCompleted), "a batch stage takes no isolation, and others may not suspend"
    return outcome


async def _in_loop(call: BodyCall[BodyCompleted], port: ChildPort, connection: Connection) -> BodyCompleted | Raised:
    door, port.scope = LoopDoor(), anyio.CancelScope()
    connection.when_cancelled(lambda: door.call(port.scope.cancel))
    with port.scope:
        return await perform(call)
    return raised_outcome(BodyCancelled(), call.stage.retry)


def _refused(stage_id: str, does: str) -> InvalidStage:
    return InvalidStage(
        stage_id,
        f'its body {does}, which is not possible with isolation="process"',
        hint="Log, progress and raise_if_cancelled work there; return a result, and do the rest in another stage.",
    )


class _Surroundings:
    """What an attempt may leave behind and the next one would find."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._directory = os.getcwd()  # noqa: PTH109 - compared, not used as a path
        self._environment = dict(os.environ)

    def are_unchanged(self) -> bool:
        """Whether the attempt has left no thread, no child process, and directory and environment as they were."""
        try:
            same = os.getcwd() == self._directory  # noqa: PTH109
        except OSError:  # the directory is gone
            return False
        return same and dict(os.environ) == self._environment and not _has_children() and not self._has_threads()

    def _has_threads(self) -> bool:
        started = set(threading.enumerate()) - self._threads
        for thread in started:
            thread.join(THREAD_LEAVES_S)  # an event loop's own threads are on their way out
        return any(thread.is_alive() for thread in started)


def _has_children() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _flush_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed by the body, or by whoever read it


def main(descriptor: int) -> None:
    """Run attempts until the parent closes the connection."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not SIG_IGN, which the body's own child processes would inherit.
        signal.signal(number, lambda _number, _frame: None)
    connection = Connection(descriptor)
    connection.start()
    for count, job in enumerate(iter(connection.jobs.get, None), start=1):
        # Its threads belong to the surroundings, not to the body.
        remote.prepare(job.traceparent, told_by_parent=connection.parent_exports)
        surroundings = _Surroundings()
        connection.begin(job.token)
        with log_fields(**job.log_ids), remote.within(job.traceparent):
            outcome, dropped = run_job(job, connection)
        _flush_output()
        reusable = count < JOBS_MAX and surroundings.are_unchanged()
        if not reusable:
            remote.leave(LEAVE_S)  # the parent will end this process as soon as it is answered
        connection.finish()
        connection.send_and_wait(answer_frame(job.token, Answer(outcome=outcome, reusable=reusable, dropped=dropped)))
    remote.leave()


if __name__ == "__main__":
    main(int(sys.argv[1]))
