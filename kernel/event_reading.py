"""From stored appends to events: what observers and sinks are shown of a history, with its payloads.

One that is shown an output may need more than its own append: large payloads lie in the blob store, and the output of
a run in the completions of its last stages. All of it is fetched when an event is asked for, and not before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from pydantic_core import from_json

from kernel.errors import BlobNotFound, EngineError
from kernel.events import Event, public_event
from kernel.journal import fetch_payloads, inline_bodies
from kernel.model.facts import AnnotationCreated, Fact, RunCompleted, RunRerun, StageCompleted, decode_facts
from kernel.model.run import RunState, fold
from kernel.model.stage import Body
from kernel.ports.blobs import BlobStore
from kernel.ports.persistence import Histories, HistoryRow
from kernel.unreadable import NamedFailures, Unreadable

__all__ = ["EventReader", "EventReadingPorts"]


class EventReadingPorts(Protocol):
    """Where what an event shows is to be found."""

    @property
    def store(self) -> Histories:
        """Where the rest of the history is."""
        ...

    @property
    def blobs(self) -> BlobStore:
        """Where large payloads are."""
        ...


class EventReader:
    """Makes the events of some appends of one run; they are in order and have their bodies.

    A payload that cannot be read for one of the reasons in `marks` is shown as `Unreadable`, and an error otherwise.
    """

    def __init__(
        self,
        run_id: str,
        rows: Sequence[HistoryRow],
        ports: EventReadingPorts,
        *,
        marks: tuple[type[EngineError], ...] = (),
    ) -> None:
        self._run_id = run_id
        self._rows = rows
        self._ports = ports
        self._blobs = NamedFailures(ports.blobs)
        self._marks = marks
        self._inline: Mapping[int, bytes] = inline_bodies(rows)
        # What the output of a run is read from may lie anywhere in its history.
        self._whole: Sequence[HistoryRow] | None = rows if rows and rows[0].first_seq == 1 else None

    def facts(self, *, after: int) -> Iterator[tuple[int, datetime, Fact]]:
        """The facts above `after` with their sequence number and time. Raises: CorruptHistory."""
        for row in self._rows:
            for seq, fact in enumerate(decode_facts(row.events, run_id=self._run_id), start=row.first_seq):
                if seq > after:
                    yield seq, row.at, fact

    async def events(self, *, after: int) -> list[Event]:
        """All events above `after`. Raises: CorruptHistory, BlobNotFound, Unavailable."""
        return [await self.event(seq, at, fact) for seq, at, fact in self.facts(after=after)]

    async def event(self, seq: int, at: datetime, fact: Fact) -> Event:
        """The event of one of these facts; a payload that a rerun has discarded since is None.

        Raises: CorruptHistory, BlobNotFound, Unavailable.
        """
        try:
            body = await self._shown(fact, seq)
        except EngineError as error:
            if isinstance(error, BlobNotFound) and await self._is_discarded(fact, seq):
                body = None
            elif isinstance(error, self._marks):
                body = Unreadable(error)
            else:
                raise
        return public_event(fact, run_id=self._run_id, seq=seq, at=at, body=body)

    async def _is_discarded(self, fact: Fact, seq: int) -> bool:
        """Whether a rerun came after this event and discarded its payload."""
        later = await self._ports.store.load(self._run_id, after=seq, bodies=False)
        stage_id = fact.stage_id if isinstance(fact, StageCompleted) else None
        return any(
            isinstance(other, RunRerun) and (stage_id is None or stage_id in other.discarded)
            for row in later.rows
            for other in decode_facts(row.events, run_id=self._run_id)
        )

    async def _shown(self, fact: Fact, seq: int) -> Any:
        """The payload that the event of this fact shows, as plain JSON."""
        match fact:
            case StageCompleted():
                body = Body(seq, fact.output_blob)
            case AnnotationCreated():
                body = Body(seq)
            case RunCompleted():
                return await self._output(await self._state_at(seq))
            case _:
                return None
        return from_json((await self._fetched([body]))[body])

    async def _fetched(self, bodies: Sequence[Body]) -> Mapping[Body, bytes]:
        return await fetch_payloads(self._run_id, bodies, self._inline, self._blobs)

    async def _state_at(self, seq: int) -> RunState:
        """The run as it was after this event, with whatever was appended together with it."""
        if self._whole is None:
            self._whole = (await self._ports.store.load(self._run_id)).rows
            self._inline = inline_bodies(self._whole)
        rows = [row for row in self._whole if row.first_seq <= seq]
        facts = ((row.first_seq, row.at, decode_facts(row.events, run_id=self._run_id)) for row in rows)
        return fold(self._run_id, facts)

    async def _output(self, state: RunState) -> Any:
        group = state.last_group
        bodies = {stage.id: stage.output for stage in state.in_group(group.number) if stage.output is not None}
        payloads = await self._fetched(list(bodies.values()))
        outputs = {stage_id: from_json(payloads[body]) for stage_id, body in bodies.items()}
        return outputs if group.parallel else next(iter(outputs.values()), None)
