"""Processes that the benchmark starts, asks and ends; the other end of the pipe is in `child`.

Each is its leader's own process group, so that Ctrl-C in a terminal reaches the benchmark alone, which then ends them
one by one, by their ids. Each ends by itself when its standard input is closed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from runtime.bench.messages import Message, Role, decoded, encoded, settings_message
from runtime.config import Settings

__all__ = ["BenchProcess", "ProcessFailed", "bench_process"]

START_S = 60.0
LEAVE_S = 15.0
LINE_BYTES_MAX = 16_777_216
COMPLAINT_CHARACTERS_MAX = 2000

_HOME = Path(__file__).parents[2]
# -P and the end of sys.path: a file in the working directory must not be imported instead of ours.
_PROGRAM = "import sys; sys.path.append(sys.argv.pop(1)); from runtime.bench.child import main; main()"


class ProcessFailed(Exception):
    """A process of the benchmark ended, or did not answer in time; `complaint` is what it wrote to standard error."""

    def __init__(self, role: Role, what: str, complaint: str) -> None:
        self.role = role
        self.complaint = complaint
        tail = f" It wrote: {complaint}" if complaint else ""
        super().__init__(f"The benchmark's {role} {what}.{tail}")


class BenchProcess:
    """One process; made by `bench_process`. Ask it one thing at a time."""

    def __init__(self, role: Role, process: Process, complaints: IO[bytes]) -> None:
        assert process.stdin is not None, "a pipe was asked for"
        assert process.stdout is not None, "a pipe was asked for"
        self.role: Role = role
        self.pid: int = process.pid
        self._process = process
        self._stdin = process.stdin
        self._stdout = BufferedByteReceiveStream(process.stdout)
        self._complaints = complaints
        self._alone = anyio.Lock()

    async def ask(self, do: str, *, within_s: float = 60.0, **details: object) -> Message:
        """Have it do something, and return its answer. Raises: ProcessFailed."""
        async with self._alone:
            await self.tell({"do": do, **details})
            return await self.answer(within_s)

    async def tell(self, message: Message) -> None:
        """Send a line. Raises: ProcessFailed."""
        try:
            await self._stdin.send(encoded(message))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise self._failed("has ended") from error

    async def answer(self, within_s: float) -> Message:
        """The next line that it writes. Raises: ProcessFailed."""
        try:
            with anyio.fail_after(within_s):
                return decoded(await self._stdout.receive_until(b"\n", LINE_BYTES_MAX))
        except TimeoutError as error:
            raise self._failed(f"did not answer within {within_s:g} s") from error
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError) as error:
            raise self._failed("has ended") from error

    async def leave(self) -> None:
        """Let it end by itself, so that the server has its counts. Raises: ProcessFailed."""
        await self.tell({"do": "leave"})
        await self.answer(LEAVE_S)
        with anyio.move_on_after(LEAVE_S):
            await self._process.wait()

    async def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would; idempotent."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    def _failed(self, what: str) -> ProcessFailed:
        self._complaints.seek(0)
        text = self._complaints.read().decode(errors="replace").strip()
        return ProcessFailed(self.role, what, text[-COMPLAINT_CHARACTERS_MAX:])


@asynccontextmanager
async def bench_process(
    role: Role, settings: Settings, schema: str, *, sampled: float | None = None, **overrides: object
) -> AsyncGenerator[BenchProcess]:
    """Start a process and wait until it is ready; at the end of the block it is gone, whatever happened.

    `overrides` are settings of this process alone; `sampled` is the share of runs that the second one of rivals traces,
    None without telemetry. Raises: ProcessFailed.
    """
    with tempfile.TemporaryFile(prefix="leasehold-bench-") as complaints:
        process = await anyio.open_process(
            [sys.executable, "-P", "-c", _PROGRAM, str(_HOME)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            start_new_session=True,
        )
        try:
            opened = BenchProcess(role, process, complaints)
            first = {"role": role, "schema": schema, "sampled": sampled}
            await opened.tell({**first, "settings": settings_message(settings, **overrides)})
            await opened.answer(START_S)
            yield opened
        finally:
            with anyio.CancelScope(shield=True):
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
                await process.aclose()
