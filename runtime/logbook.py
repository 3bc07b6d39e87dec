"""What bodies log and report: collected from any thread without waiting, written to the store in batches.

Theory of operation. A line goes into one ordered buffer and wakes the writer if it sleeps. The writer writes what
there is, then gathers for an interval before it writes again; when the buffer is empty it sleeps without a timer, so
an idle process does nothing. A report of progress replaces the one that its attempt has in the buffer. A batch that
the store cannot take now stays where it is and is sent again; only when the buffer is full are new lines dropped,
counted, and reported in one line per attempt.

Nothing here may fail or delay a stage: `log` and `progress` never wait and never raise.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from datetime import datetime
from itertools import count, islice
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus

from kernel import EngineError, Unavailable
from kernel.authoring.context import BodyIdentity
from kernel.ports.persistence import LogLine, Logs
from runtime.loop_door import LoopDoor
from runtime.storable_text import storable_fields, storable_text

__all__ = ["LINES_MAX", "PROGRESS", "LogBook"]

PROGRESS = "PROGRESS"
"""The level of a report of progress; its fields are `progress` (a share from 0 to 1) and `details`."""

LINES_MAX = 10_000
BATCH_LINES_MAX = 500
INTERVAL_S = 0.2
RETRY_S_MIN = 0.1
RETRY_S_MAX = 5.0
WRITE_S_MAX = 10.0
LAST_FLUSH_S = 2.0
MESSAGE_LENGTH_MAX = 16_384


class LogBook:
    """The log lines of all attempts of one process, on their way to the store.

    `run` is the writer; lines that come before it are kept for it. `dropped` counts lines that were never written.
    `interval_s` is the least time between two writes, `last_flush_s` how long the writer takes at most to leave.
    """

    def __init__(
        self,
        store: Logs,
        *,
        lines_max: int = LINES_MAX,
        interval_s: float = INTERVAL_S,
        last_flush_s: float = LAST_FLUSH_S,
    ) -> None:
        self.dropped: int = 0
        self._store = store
        self._lines_max = lines_max
        self._interval_s = interval_s
        self._last_flush_s = last_flush_s
        # Reentrant: the garbage collector may run a user's finaliser, which may log, while this thread holds it.
        self._lock = threading.RLock()
        self._pending: dict[object, LogLine] = {}
        self._writing: list[LogLine] = []
        self._missing: dict[BodyIdentity, tuple[int, datetime]] = {}
        self._numbers = count()
        self._door: LoopDoor | None = None
        self._bell = anyio.Event()
        self._awake = False
        self._flushing = anyio.Lock()

    # -- from any thread ---------------------------------------------------------------------------------------------

    def log(self, source: BodyIdentity, at: datetime, level: str, message: str, fields: Mapping[str, Any]) -> None:
        """Take one line of an attempt."""
        self._take(next(self._numbers), source, at, level, message, fields)

    def progress(
        self, source: BodyIdentity, at: datetime, value: float, message: str, details: Mapping[str, Any]
    ) -> None:
        """Take one report of an attempt; it replaces the one that has not been written yet."""
        self._take(source, source, at, PROGRESS, message, {"progress": value, "details": details})

    def drop(self, source: BodyIdentity, at: datetime, lines: int) -> None:
        """Count lines of an attempt that were lost on their way here."""
        if lines > 0:
            with self._lock:
                self._count_dropped(source, at, lines)
            self._wake()

    @property
    def waiting(self) -> int:
        """How many lines are not written yet."""
        return len(self._pending) + len(self._writing)

    def _take(
        self, key: object, source: BodyIdentity, at: datetime, level: str, message: str, fields: Mapping[str, Any]
    ) -> None:
        try:
            message, fields = storable_text(message, length_max=MESSAGE_LENGTH_MAX), storable_fields(fields)
        except Exception as error:  # noqa: BLE001 - a user's value may raise anything, and logging never fails
            message, fields = f"(a log line with unreadable fields: {type(error).__name__})", {}
        line = _line(source, at, level, message, fields)
        with self._lock:
            # A newer report goes to the end, where it belongs by its time.
            replaced = self._pending.pop(key, None)
            if replaced is None and self.waiting >= self._lines_max:
                self._count_dropped(source, at, 1)
            else:
                self._pending[key] = line
        self._wake()

    def _count_dropped(self, source: BodyIdentity, at: datetime, lines: int) -> None:
        self.dropped += lines
        if source in self._missing or len(self._missing) < self._lines_max:
            self._missing[source] = (self._missing.get(source, (0, at))[0] + lines, at)

    def _wake(self) -> None:
        door = self._door
        if door is None or self._awake:
            return  # asked without the lock: whoever set it wakes the writer, which looks again before it sleeps
        with self._lock:
            first, self._awake = not self._awake, True
        if first:
            door.call(self._ring)

    def _ring(self) -> None:
        self._bell.set()

    # -- the writer --------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Write lines as they come; cancel to stop. It then writes what is left, and may be begun again."""
        self._door = LoopDoor()
        task_status.started()
        try:
            while True:
                await self._asleep()
                async with self._flushing:
                    await self._write_all(until=math.inf)
                await anyio.sleep(self._interval_s)
        finally:
            self._door = None
            await self.flush()

    async def flush(self) -> None:
        """Write what is there now, for a short time and whatever is cancelled meanwhile; keep what is left."""
        until = anyio.current_time() + self._last_flush_s
        with anyio.CancelScope(shield=True, deadline=until):
            async with self._flushing:
                await self._write_all(until=until)

    async def _asleep(self) -> None:
        """Return when there is something to write."""
        with self._lock:
            self._awake = bool(self._pending or self._writing or self._missing)
            if self._awake:
                return
            self._bell = anyio.Event()
        await self._bell.wait()

    async def _write_all(self, *, until: float) -> None:
        """Write what is there, waiting out a store that cannot be used; what comes meanwhile is for the next time."""
        retry_s = max(self._interval_s, RETRY_S_MIN)
        while self._next_batch():
            full = len(self._writing) >= BATCH_LINES_MAX
            deadline = min(until, anyio.current_time() + WRITE_S_MAX)
            try:
                # A write that was begun is finished, so that no line is written twice for having been interrupted.
                with anyio.CancelScope(shield=True, deadline=deadline):
                    await self._write()
                    self._writing = []
            except Unavailable:
                await anyio.sleep(retry_s)
                retry_s = min(2 * retry_s, RETRY_S_MAX)
                continue
            await anyio.lowlevel.checkpoint()
            if not full:
                return

    async def _write(self) -> None:
        try:
            await self._store.write_logs(self._writing)
        except Unavailable:
            raise
        except EngineError:
            # The store refuses something in the batch; its neighbours are innocent.
            while self._writing:
                await self._write_one(self._writing[0])
                self._writing = self._writing[1:]

    async def _write_one(self, line: LogLine) -> None:
        try:
            await self._store.write_logs([line])
        except Unavailable:
            raise
        except EngineError:
            self.dropped += 1

    def _next_batch(self) -> bool:
        """Move lines from the buffer into the batch, unless one waits to be sent again; False when nothing is left."""
        with self._lock:
            if not self._writing:
                keys = list(islice(self._pending, BATCH_LINES_MAX))
                self._writing = [self._pending.pop(key) for key in keys]
                if not self._pending:
                    missing, self._missing = self._missing, {}
                    self._writing += [_missing_line(source, at, lines) for source, (lines, at) in missing.items()]
            return bool(self._writing)


def _line(source: BodyIdentity, at: datetime, level: str, message: str, fields: Mapping[str, Any]) -> LogLine:
    return LogLine(
        run_id=source.run_id,
        stage_id=source.stage_id,
        execution=source.execution,
        attempt=source.attempt,
        at=at,
        level=level,
        message=message,
        fields=fields,
    )


def _missing_line(source: BodyIdentity, at: datetime, lines: int) -> LogLine:
    message = f"{lines} log line(s) of this attempt were dropped, because there was no room for them"
    return _line(source, at, "WARN", message, {"dropped": lines})
