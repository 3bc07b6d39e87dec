"""Child interpreters for bodies that must not share ours: a pool of workers, each running one attempt at a time.

A worker is `python -m runtime.process_worker` with one end of a socket pair, in a process group of its own. It may be
used again when its attempt has left nothing behind. Interrupted (a timeout, a cancellation), a worker is told so and
has a moment to leave; then its whole group is killed. A worker exits by itself when its socket closes, so none
outlives this process, however this one ends.

A child that dies without an answer is data, the outcome of its attempt. Trouble in starting one is not: it comes out
as an exception, since no body is to blame.
"""

from __future__ import annotations

import os
import signal
import site
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio.abc import Process

from kernel import ErrorInfo
from kernel.model.attempts import Raised
from kernel.ports.executor import BodyCompleted
from runtime.bodies import AttemptPort
from runtime.frames import Frame, FrameReader, NotAFrame
from runtime.process_messages import Answer, Job, job_frame, read_answer
from telemetry import remote
from telemetry.logs import configured_logging

__all__ = ["ProcessPool"]

LEAVE_S = 0.5
"""How long an interrupted body may take to notice; a cancelled run shall be interrupted within a second."""
EXIT_S = 2.0
RECEIVE_BYTES = 256 * 1024


class WorkerGone(Exception):
    """The child has closed its end, is dead, or does not speak our protocol."""


class ProcessPool:
    """At most `total` attempts in child interpreters at once; as many idle workers are kept for the next ones."""

    def __init__(self, total: int) -> None:
        self._room = anyio.CapacityLimiter(total)
        self._idle: list[_Worker] = []

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None, None]:
        """Wait for room for one attempt."""
        place = object()
        await self._room.acquire_on_behalf_of(place)
        try:
            yield
        finally:
            self._room.release_on_behalf_of(place)

    async def run(self, job: Job, port: AttemptPort, begun: Callable[[], None]) -> BodyCompleted | Raised:
        """Run the job in a worker; `begun` is called when the child has imported the stage and begins with the body.

        Cancelled, it ends the body and passes the cancellation on. Raises: OSError when no child can be started.
        """
        while True:
            worker = await self._take_idle()
            fresh = worker is None
            if worker is None:
                worker = await _start()
            try:
                answer = await self._converse(worker, job, port, begun)
            except WorkerGone as gone:
                exit_code = await worker.end()
                if fresh or worker.has_begun:
                    return _died(exit_code, str(gone), begun=worker.has_begun)
                # A used worker may die of what is left in it. The body had not begun, so another may.
                continue
            if answer.reusable:
                self._idle.append(worker)
            else:
                await worker.end()
            port.dropped(answer.dropped)
            return answer.outcome

    async def close(self) -> None:
        """End all idle workers; those at work are ended by the cancellation of their attempts."""
        idle, self._idle = self._idle, []
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                for worker in idle:
                    tasks.start_soon(worker.leave)

    async def _take_idle(self) -> _Worker | None:
        while self._idle:
            worker = self._idle.pop()
            if worker.usable:
                return worker
            await worker.end()
        return None

    async def _converse(self, worker: _Worker, job: Job, port: AttemptPort, begun: Callable[[], None]) -> Answer:
        worker.has_begun = False
        try:
            await worker.send(job_frame(job))
            return await worker.receive_answer(port, begun)
        except WorkerGone:
            raise
        except BaseException:
            with anyio.CancelScope(shield=True):
                if await worker.leaves_body(job.token, port):
                    self._idle.append(worker)
                else:
                    await worker.end()
            raise


class _Worker:
    """One child interpreter and our end of its socket."""

    def __init__(self, process: Process, connection: socket.socket) -> None:
        self.has_begun = False
        self._process = process
        self._connection = connection
        self._reader = FrameReader()

    @property
    def usable(self) -> bool:
        """Whether it lives and is silent, as it must while it has nothing to do."""
        if self._process.returncode is not None:
            return False
        try:
            self._connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # closed, or speaking out of turn

    async def send(self, frame: Frame) -> None:
        """Send a frame. Raises: WorkerGone."""
        data = memoryview(frame.encode())
        try:
            while data:
                try:
                    data = data[self._connection.send(data) :]
                except BlockingIOError:
                    await anyio.wait_writable(self._connection)
        except OSError as error:
            raise WorkerGone(str(error)) from None

    async def receive_answer(self, port: AttemptPort, begun: Callable[[], None]) -> Answer:
        """Read until the body has ended; what it logs meanwhile goes to the port. Raises: WorkerGone."""
        while True:
            for frame in self._frames_of(await self._receive()):
                match frame.kind:
                    case "begun":
                        self.has_begun = True
                        begun()
                    case "log":
                        port.log(frame.header["level"], frame.header["message"], frame.header["fields"])
                    case "progress":
                        port.progress(frame.header["value"], frame.header["message"], frame.header["details"])
                    case _:
                        answer = read_answer(frame)
                        if answer is not None:
                            return answer

    def _frames_of(self, data: bytes) -> Iterator[Frame]:
        try:
            yield from self._reader.feed(data)
        except NotAFrame as error:
            raise WorkerGone(f"something else was written to the engine's descriptor: {error}") from None

    async def _receive(self) -> bytes:
        while True:
            try:
                data = self._connection.recv(RECEIVE_BYTES)
            except BlockingIOError:
                await anyio.wait_readable(self._connection)
                continue
            except OSError as error:
                raise WorkerGone(str(error)) from None
            if not data:
                raise WorkerGone("it closed its end of the connection")
            return data

    async def leaves_body(self, token: str, port: AttemptPort) -> bool:
        """Tell the body to stop, and wait a moment; whether the worker can be used again afterwards."""
        try:
            with anyio.move_on_after(LEAVE_S):
                await self.send(Frame("cancel", {"token": token}))
                return (await self.receive_answer(port, _nothing)).reusable
        except WorkerGone:
            pass
        return False

    async def leave(self) -> None:
        """Let an idle worker exit by itself, for a moment."""
        self._connection.close()
        with anyio.move_on_after(EXIT_S):
            await self._process.wait()
        await self._kill()

    async def end(self) -> int | None:
        """Kill the worker and everything that it started; its exit code (negative: the signal)."""
        with anyio.CancelScope(shield=True):
            if not self.usable:
                # It is about to exit, and its own exit code says more than our signal.
                with anyio.move_on_after(EXIT_S):
                    await self._process.wait()
            self._connection.close()
            await self._kill()
        return self._process.returncode

    async def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # nothing is left of the group; macOS says it by the second
        with anyio.move_on_after(EXIT_S):
            await self._process.aclose()


async def _start() -> _Worker:
    """Start a worker and greet it."""
    ours, theirs = socket.socketpair()
    try:
        ours.setblocking(False)
        command = [sys.executable, "-P", "-m", "runtime.process_worker", str(theirs.fileno())]
        process = await anyio.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=None,
            stderr=None,
            env=_environment(),
            # A group of its own: killed as a whole, and out of reach of the terminal's interrupt key.
            start_new_session=True,
            pass_fds=[theirs.fileno()],
        )
    except BaseException:
        ours.close()  # whatever has been started of it reads the end of its connection, and exits
        raise
    finally:
        theirs.close()
    worker = _Worker(process, ours)
    try:
        await worker.send(Frame("hello", _surroundings()))
    except WorkerGone:
        pass  # the first job will meet the same and say why
    except BaseException:
        await worker.end()
        raise
    return worker


def _surroundings() -> dict[str, object]:
    """What the child takes over: where modules are found, and how lines of log are written, when that is our say.

    It is told as well whether we export, because it then need not say of a collector what we do.
    """
    return {
        "path": sys.path,
        "pythonpath": os.environ.get("PYTHONPATH"),
        "logging": configured_logging(),
        "exports": remote.is_exporting(),
    }


def _environment() -> dict[str, str]:
    """Ours, with the way to our own packages where they are not installed (the child takes it out again)."""
    environment = dict(os.environ)
    root = str(Path(__file__).parents[1])
    if root not in site.getsitepackages():
        environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [environment.get("PYTHONPATH")])])
    return environment


def _died(exit_code: int | None, reason: str, *, begun: bool) -> Raised:
    when = "while it executed the body" if begun else "before it could begin with the body"
    message = f"the child process ended {when}, without an answer: {_exit_text(exit_code)} ({reason})"
    return Raised(error=ErrorInfo(type="ProcessDied", message=message))


def _exit_text(exit_code: int | None) -> str:
    if exit_code is None:
        return "it did not exit, and was killed"
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = str(-exit_code)
    return f"signal {name}"


def _nothing() -> None:
    """The body's beginning does not matter any more."""
