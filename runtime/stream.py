"""The events of one run as a stream: first what its history has, then what is new, as it is committed.

A stream reads what lies above the last event that it gave, so a hint that gets lost or comes twice changes nothing. It
is an object and no generator, because whoever stops in the middle of a loop should have nothing to close.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anyio
from pydantic_core import from_json

from kernel.errors import BlobNotFound, Unavailable
from kernel.events import Event, Log, StageProgress, public_event
from kernel.journal import fetch_payloads, inline_bodies
from kernel.model.facts import AnnotationCreated, Fact, RunCompleted, RunRerun, StageCompleted, decode_facts
from kernel.model.machine import ENDED
from kernel.model.run import RunState, fold
from kernel.model.stage import Body
from kernel.ports.blobs import BlobStore
from kernel.ports.persistence import LogLine, StoredHistory
from telemetry.logs import EventLogger, get_logger

if TYPE_CHECKING:
    from runtime.client import Client

__all__ = ["EventStream", "read_events"]

logger: EventLogger = get_logger("leasehold.runtime")

RETRY_S = 0.5
LOG_POLL_S = 0.5
"""How often the log of a running run is read while somebody watches; committed events come by hint, not by this."""
LOG_LINES_MAX = 1000


async def read_events(client: Client, run_id: str, *, after: int) -> Sequence[Event]:
    """The events above `after` that are in the history now, in order. Raises: RunNotFound, Unavailable."""
    return await _events(client, await client.storage.persistence.load(run_id, after=after), after)


class EventStream(AsyncIterator[Event]):
    """Events above `after` in order of `seq`, without gaps or repeats; ends with the event that ends the run.

    Log lines and reports of progress come in between, by their time as far as they are known by then. An unavailable
    store is waited out. Raises: RunNotFound.
    """

    def __init__(self, client: Client, run_id: str, *, after: int) -> None:
        self._client = client
        self._run_id = run_id
        self._seq = after
        # Who comes back has seen the lines so far; who begins has not.
        self._line_id = None if after else 0
        self._ready: deque[Event] = deque()
        self._ended = False

    async def __anext__(self) -> Event:
        while not self._ready:
            if self._ended:
                raise StopAsyncIteration
            try:
                await self._read()
            except Unavailable as error:
                logger.warning("store.unavailable", run_id=self._run_id, error=str(error))
                await anyio.sleep(RETRY_S)
        return self._ready.popleft()

    async def _read(self) -> None:
        """Take in what is new, or wait for it; interrupted, it has taken nothing."""
        if self._line_id is None:
            self._line_id = _last_id(await self._lines(0), 0)
        stored = await self._client.storage.persistence.load(self._run_id, after=self._seq)
        events = await _events(self._client, stored, self._seq)
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


async def _events(client: Client, stored: StoredHistory, after: int) -> list[Event]:
    run_id, inline = stored.head.run_id, inline_bodies(stored.rows)
    whole: StoredHistory | None = None
    events: list[Event] = []
    for row in stored.rows:
        for seq, fact in enumerate(decode_facts(row.events, run_id=run_id), start=row.first_seq):
            if seq <= after:
                continue
            if isinstance(fact, RunCompleted) and whole is None:
                # Its output may lie anywhere in the history.
                whole = await client.storage.persistence.load(run_id)
                inline = inline_bodies(whole.rows)
            try:
                body = await _shown(fact, seq, whole, inline, client.storage.blobs, run_id)
            except BlobNotFound:
                if not await _is_discarded(client, run_id, fact, seq):
                    raise
                body = None
            events.append(public_event(fact, run_id=run_id, seq=seq, at=row.at, body=body))
    return events


async def _is_discarded(client: Client, run_id: str, fact: Fact, seq: int) -> bool:
    """Whether a rerun came after this event and discarded its payload."""
    later = await client.storage.persistence.load(run_id, after=seq, bodies=False)
    stage_id = fact.stage_id if isinstance(fact, StageCompleted) else None
    reruns = [
        other
        for row in later.rows
        for other in decode_facts(row.events, run_id=run_id)
        if isinstance(other, RunRerun) and (stage_id is None or stage_id in other.discarded)
    ]
    return bool(reruns)


async def _shown(
    fact: Fact, seq: int, whole: StoredHistory | None, inline: Mapping[int, bytes], blobs: BlobStore, run_id: str
) -> Any:
    """The payload that the event of this fact shows, as plain JSON."""
    match fact:
        case StageCompleted():
            body = Body(seq, fact.output_blob)
        case AnnotationCreated():
            body = Body(seq)
        case RunCompleted():
            assert whole is not None
            return await _output(_state_at(whole, seq), inline, blobs)
        case _:
            return None
    return from_json((await fetch_payloads(run_id, [body], inline, blobs))[body])


def _state_at(whole: StoredHistory, seq: int) -> RunState:
    """The run as it was after this event, with whatever was appended together with it."""
    run_id = whole.head.run_id
    rows = [row for row in whole.rows if row.first_seq <= seq]
    return fold(run_id, ((row.first_seq, row.at, decode_facts(row.events, run_id=run_id)) for row in rows))


async def _output(state: RunState, inline: Mapping[int, bytes], blobs: BlobStore) -> Any:
    group = state.last_group
    bodies = {stage.id: stage.output for stage in state.in_group(group.number) if stage.output is not None}
    payloads = await fetch_payloads(state.run_id, bodies.values(), inline, blobs)
    outputs = {stage_id: from_json(payloads[body]) for stage_id, body in bodies.items()}
    return outputs if group.parallel else next(iter(outputs.values()), None)


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
