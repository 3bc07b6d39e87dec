"""The events of one run as a stream: first what its history has, then what is new, as it is committed.

A stream reads what lies above the last event that it gave, so a hint that gets lost or comes twice changes nothing. It
is an object and no generator, because whoever stops in the middle of a loop should have nothing to close.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import anyio

from kernel.errors import BlobNotFound, Unavailable
from kernel.event_reading import EventReader
from kernel.events import Event, Log, StageProgress
from kernel.model.facts import CorruptHistory
from kernel.model.machine import ENDED
from kernel.ports.persistence import LogLine
from kernel.unreadable import PayloadAway
from runtime.narration import OutageLog

if TYPE_CHECKING:
    from runtime.client import Client

__all__ = ["EventStream", "Outage", "read_events"]

RETRY_S = 0.5
LOG_POLL_S = 0.5
"""How often the log of a running run is read while somebody watches; committed events come by hint, not by this."""
LOG_LINES_MAX = 1000
# Who streams waits for a store that is away, but not for what no store has.
_LOST = (BlobNotFound, CorruptHistory)


async def read_events(client: Client, run_id: str, *, after: int) -> Sequence[Event]:
    """The events above `after` that are in the history now, in order. Raises: RunNotFound, Unavailable.

    A payload that cannot be read is shown as `Unreadable`.
    """
    stored = await client.storage.persistence.load(run_id, after=after)
    return await EventReader(run_id, stored.rows, client.kernel.ports, marks=(*_LOST, PayloadAway)).events(after=after)


class Outage(Protocol):
    """Who is told that the store is away, every time it has been asked in vain, and that it answers (again)."""

    def failed(self, error: Exception, /, **fields: object) -> None:
        """It is away."""
        ...

    def worked(self, **fields: object) -> None:
        """It has answered."""
        ...


class EventStream(AsyncIterator[Event]):
    """Events above `after` in order of `seq`, without gaps or repeats; ends with the event that ends the run.

    Log lines and reports of progress come in between, by their time as far as they are known by then. An unavailable
    store is waited out; `outage` is told, else the log. A payload that is lost is shown as `Unreadable`.

    Raises: RunNotFound.
    """

    def __init__(self, client: Client, run_id: str, *, after: int, outage: Outage | None = None) -> None:
        self._client = client
        self._run_id = run_id
        self._seq = after
        # Who comes back has seen the lines so far; who begins has not.
        self._line_id = None if after else 0
        self._ready: deque[Event] = deque()
        self._ended = False
        self._outage = outage or OutageLog("store.unavailable", "store.recovered")

    async def __anext__(self) -> Event:
        while not self._ready:
            if self._ended:
                raise StopAsyncIteration
            try:
                await self._read()
            except Unavailable as error:
                self._outage.failed(error, run_id=self._run_id)
                await anyio.sleep(RETRY_S)
            else:
                self._outage.worked(run_id=self._run_id)
        return self._ready.popleft()

    async def _read(self) -> None:
        """Take in what is new, or wait for it; interrupted, it has taken nothing."""
        if self._line_id is None:
            self._line_id = _last_id(await self._lines(0), 0)
        stored = await self._client.storage.persistence.load(self._run_id, after=self._seq)
        reader = EventReader(self._run_id, stored.rows, self._client.kernel.ports, marks=_LOST)
        events = await reader.events(after=self._seq)
        lines = await self._lines(self._line_id)
        ended = stored.head.head.status in ENDED
        if not events and not lines and not ended:
            with anyio.move_on_after(LOG_POLL_S):
                await self._client.watch.moved(self._run_id, after=self._seq)
            return
        # What ends the run comes last, after what its bodies had to say.
        closing = [events.pop()] if ended and events else []
        self._ready.extend((*_by_time(events, lines, self._seq), *closing))
        self._seq = max(self._seq, stored.head.seq)
        self._line_id = _last_id(lines, self._line_id)
        self._ended = ended

    async def _lines(self, after: int) -> list[LogLine]:
        found: list[LogLine] = []
        persistence = self._client.storage.persistence
        while lines := await persistence.read_logs(self._run_id, after=_last_id(found, after), limit=LOG_LINES_MAX):
            found += lines
        return found


def _by_time(events: Sequence[Event], lines: Sequence[LogLine], seq: int) -> Iterator[Event]:
    """Both, each in its own order; a line has the `seq` of the last event before it, `seq` when there is none."""
    left = deque(events)
    for line in lines:
        while left and left[0].at <= line.at:
            event = left.popleft()
            seq = event.seq
            yield event
        yield _line_event(line, seq)
    yield from left


def _last_id(lines: Sequence[LogLine], before: int) -> int:
    return lines[-1].id if lines else before


def _line_event(line: LogLine, seq: int) -> Event:
    if line.level == "PROGRESS" and line.stage_id is not None:
        return StageProgress(
            run_id=line.run_id,
            seq=seq,
            at=line.at,
            stage_id=line.stage_id,
            execution=line.execution or 1,
            attempt=line.attempt or 1,
            progress=float(line.fields.get("progress", 0.0)),
            message=line.message,
            details=line.fields.get("details", {}),
        )
    return Log(
        run_id=line.run_id,
        seq=seq,
        at=line.at,
        level=line.level,
        message=line.message,
        stage_id=line.stage_id,
        fields=line.fields,
    )
