"""A store of runs in this process's memory, as strict as the durable ones.

Each call is one transaction: `MemoryPersistence` gives way to other tasks, then does the whole work at once under a
lock (heartbeats come from other threads), then gives way again, so that a caller learns of its own effect no sooner
than anybody else may. The work itself is plain functions over `Tables` in the neighbouring modules.

Several supervisors may share one object, as several processes share a database. Time is the given clock's alone:
leases end and runs fall due when it says so. Everybody who waits for hints must do so in one event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import islice
from threading import Lock
from typing import Protocol, TypeVar
from uuid import uuid4

from anyio import Event, get_current_task
from anyio.lowlevel import checkpoint

from adapters.log_lines import storable_line
from adapters.memory import appends, jobs, leases, listings, logs, notes, outbox, repairs
from adapters.memory.payloads import check_append, check_workflow
from adapters.memory.scheduler import MemoryScheduler
from adapters.memory.tables import Tables, head_row, history_of
from kernel.errors import EngineError, InvalidCommand, RunNotFound
from kernel.model.head import Head
from kernel.ports.clock import Clock
from kernel.ports.jobs import Definition, ExpiredJob, Holder, JobInfo, JobLease, LeasedJob
from kernel.ports.outbox import DeadLetterPage, Delivery, Settlement, SinkRecord
from kernel.ports.persistence import (
    Append,
    Backlog,
    Beat,
    Claimed,
    HeadRow,
    Joined,
    LogLine,
    Page,
    RunQuery,
    SessionInfo,
    StoredHistory,
    StoredNote,
    Suspects,
    SuspendedRuns,
    WorkflowRecord,
)

__all__ = ["MemoryHeartbeat", "MemoryJobTransport", "MemoryPersistence"]

T = TypeVar("T")


class InTurn(Protocol):
    """One call of the store: the work is done at once, on its tables and by its clock."""

    async def __call__(self, work: Callable[[Tables, datetime], T], /) -> T: ...


class MemoryPersistence:
    """`Persistence` without a database.

    `lease` is what a session gets that names none. `session_ids` draws the ids of sessions; a simulation passes one
    that its seed determines. `workflows` and `sinks` are registered from the beginning.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        lease: timedelta = timedelta(seconds=10),
        session_ids: Callable[[], str] = lambda: str(uuid4()),
        workflows: Sequence[WorkflowRecord] = (),
        sinks: Sequence[SinkRecord] = (),
    ) -> None:
        self._clock = clock
        self._lease = lease
        self._session_ids = session_ids
        self._tables = Tables(workflows=_checked(workflows))
        outbox.register(self._tables, sinks)
        self._lock = Lock()
        self._hints = 0
        # How many hints each waiting task has heard of: those that come while it is busy are kept for it as one.
        self._heard: dict[int, int] = {}
        self._listening: set[Event] = set()
        self.scheduler: MemoryScheduler = MemoryScheduler(self._in_turn)
        self.jobs: MemoryJobTransport = MemoryJobTransport(self._in_turn)

    # -- Appends ------------------------------------------------------------------------------------------------------

    async def append(self, append: Append, /) -> bool:
        bodies = check_append(append)
        try:
            await checkpoint()
        except BaseException:
            # Sent is sent: it lands although nobody waits for the answer any more, and a refusal has no listener.
            with suppress(EngineError):
                self._write(append, bodies)
            raise
        owned = self._write(append, bodies)
        await checkpoint()
        return owned

    def _write(self, append: Append, bodies: Mapping[str, bytes]) -> bool:
        news, owned = self._at_once(
            lambda tables, now: (
                appends.write(tables, append, bodies, now),
                append.lease is None and tables.runs[append.run_id].owner is not None,
            )
        )
        if news:
            self._hints += 1
            for event in self._listening:
                event.set()
        return owned

    # -- Transactions -------------------------------------------------------------------------------------------------

    async def joined(self, _connection: object, /) -> Joined:
        await checkpoint()
        raise InvalidCommand(
            "A store in memory has no transactions that a connection could bring along.",
            field="connection",
            hint="Name a Postgres database, or leave the connection out.",
        )

    # -- Histories ----------------------------------------------------------------------------------------------------

    async def load(self, run_id: str, /, *, after: int = 0, bodies: bool = True) -> StoredHistory:
        def read(tables: Tables, now: datetime) -> StoredHistory:
            if run_id not in tables.runs:
                raise RunNotFound(run_id)
            return history_of(tables, tables.runs[run_id], now, after=after, bodies=bodies)

        return await self._in_turn(read)

    async def endings(self, run_ids: Sequence[str], /, *, limit: int) -> Mapping[str, StoredHistory | None]:
        def read(tables: Tables, now: datetime) -> Mapping[str, StoredHistory | None]:
            runs = (tables.runs[run_id] for run_id in run_ids if run_id in tables.runs)
            ended = islice((run for run in runs if run.head.completed_at is not None), limit)
            return {
                **{run_id: None for run_id in run_ids if run_id not in tables.runs},
                **{run.run_id: history_of(tables, run, now, after=0, bodies=True) for run in ended},
            }

        return await self._in_turn(read)

    async def heads(self, run_ids: Sequence[str], /) -> Mapping[str, HeadRow]:
        def read(tables: Tables, now: datetime) -> Mapping[str, HeadRow]:
            found = (tables.runs[run_id] for run_id in run_ids if run_id in tables.runs)
            return {run.run_id: head_row(tables, run, now) for run in found}

        return await self._in_turn(read)

    async def find_key(self, command_type: str, scope: str, key: str, /) -> str | None:
        def read(tables: Tables, now: datetime) -> str | None:
            holder = tables.keys.get((command_type, scope, key))
            return holder.run_id if holder is not None and holder.expires_at > now else None

        return await self._in_turn(read)

    # -- Workflows ----------------------------------------------------------------------------------------------------

    async def register_workflows(self, records: Sequence[WorkflowRecord], /) -> None:
        definitions = _checked(records)
        await self._in_turn(lambda tables, _now: tables.workflows.update(definitions))

    async def find_workflow(self, workflow_id: str, version: str, /) -> WorkflowRecord | None:
        return await self._in_turn(lambda tables, _now: tables.workflows.get((workflow_id, version)))

    async def unpark_workflows(self, definitions: Sequence[tuple[str, str, str | None]], /) -> int:
        return await self._in_turn(lambda tables, now: appends.unpark_all(tables, definitions, now))

    # -- Sessions -----------------------------------------------------------------------------------------------------

    async def open_session(
        self,
        info: SessionInfo,
        workflows: Sequence[tuple[str, str]],
        /,
        *,
        lease: timedelta | None = None,
        queues: Sequence[str] = (),
    ) -> str:
        session_id = self._session_ids()
        length = self._lease if lease is None else lease
        await self._in_turn(
            lambda tables, now: leases.open_new(
                tables, session_id, info, workflows, lease=length, queues=queues, now=now
            )
        )
        return session_id

    async def renew(self, session_id: str, /) -> Beat:
        return await self._in_turn(lambda tables, now: leases.beat(tables, session_id, now, adrift=False))

    def heartbeat(self, session_id: str, /) -> MemoryHeartbeat:
        return MemoryHeartbeat(
            lambda adrift: self._at_once(lambda tables, now: leases.beat(tables, session_id, now, adrift=adrift))
        )

    async def close_session(self, session_id: str, /) -> None:
        await self._in_turn(lambda tables, _now: leases.close(tables, session_id))

    async def condemn_expired(self, limit: int, /) -> Sequence[str]:
        return await self._in_turn(lambda tables, now: leases.condemn(tables, now, limit=limit))

    # -- Claims -------------------------------------------------------------------------------------------------------

    async def claim(self, session_id: str, limit: int, /) -> Sequence[Claimed]:
        return await self._in_turn(lambda tables, now: leases.take(tables, session_id, limit, now))

    async def look_due(self, definitions: Sequence[tuple[str, str]], limit: int, /) -> Sequence[StoredHistory]:
        return await self._in_turn(lambda tables, now: leases.look(tables, definitions, limit, now))

    # -- Repairs ------------------------------------------------------------------------------------------------------

    async def find_stuck(self, *, after: str | None, limit: int, events_max: int) -> Suspects:
        return await self._in_turn(
            lambda tables, _now: repairs.suspects_in(tables, after=after, limit=limit, events_max=events_max)
        )

    async def find_unknown(self, *, grace: timedelta, limit: int) -> Sequence[str]:
        return await self._in_turn(lambda tables, now: repairs.unknown_in(tables, grace=grace, limit=limit, now=now))

    async def heal(self, run_id: str, head: Head, /, *, expected: int, seq: int) -> bool:
        return await self._in_turn(
            lambda tables, now: repairs.mend(tables, run_id, head, expected=expected, seq=seq, now=now)
        )

    async def take_chore(self, name: str, _session_id: str, /, *, every: timedelta) -> bool:
        return await self._in_turn(lambda tables, now: repairs.take_turn(tables, name, every=every, now=now))

    # -- Polls --------------------------------------------------------------------------------------------------------

    async def hold_suspended(
        self, workflows: Sequence[tuple[str, str]], limit: int, /, *, hold: timedelta
    ) -> SuspendedRuns:
        return await self._in_turn(lambda tables, now: leases.hold_suspended(tables, workflows, limit, hold, now))

    # -- Listings -----------------------------------------------------------------------------------------------------

    async def list_runs(self, query: RunQuery, /) -> Page:
        return await self._in_turn(lambda tables, now: listings.page_of(tables, query, now))

    async def find_runs(self, suffix: str, /) -> Sequence[str]:
        return await self._in_turn(lambda tables, _now: listings.ending_with(tables, suffix))

    async def live_workflows(self) -> Sequence[tuple[str, str]]:
        def read(tables: Tables, now: datetime) -> Sequence[tuple[str, str]]:
            return sorted({pair for session in tables.live_sessions(now) for pair in session.definitions})

        return await self._in_turn(read)

    async def backlog(self) -> Backlog:
        return await self._in_turn(listings.backlog_of)

    # -- Logs ---------------------------------------------------------------------------------------------------------

    async def write_logs(self, lines: Sequence[LogLine], /) -> None:
        storable = [storable_line(line) for line in lines]
        await self._in_turn(lambda tables, _now: logs.keep(tables, storable))

    async def read_logs(self, run_id: str, /, *, after: int = 0, limit: int = 1000) -> Sequence[LogLine]:
        return await self._in_turn(lambda tables, _now: logs.lines_of(tables, run_id, after=after, limit=limit))

    async def read_progress(self, run_id: str, /) -> Mapping[str, LogLine]:
        return await self._in_turn(lambda tables, _now: logs.progress_of(tables, run_id))

    # -- Outbox -------------------------------------------------------------------------------------------------------

    async def register_sinks(self, sinks: Sequence[SinkRecord], /) -> None:
        await self._in_turn(lambda tables, _now: outbox.register(tables, sinks))

    async def forget_sink(self, name: str, /) -> bool:
        return await self._in_turn(lambda tables, _now: outbox.forget(tables, name))

    async def list_sinks(self) -> Sequence[SinkRecord]:
        return await self._in_turn(lambda tables, _now: outbox.known_sinks(tables))

    async def spread(self, limit: int, /) -> int:
        return await self._in_turn(lambda tables, now: outbox.spread(tables, limit, now))

    async def claim_deliveries(self, sink: str, limit: int, /, *, lease: timedelta) -> Sequence[Delivery]:
        return await self._in_turn(lambda tables, now: outbox.claim(tables, sink, limit, lease=lease, now=now))

    async def settle(self, settlements: Sequence[Settlement], /) -> None:
        await self._in_turn(lambda tables, now: outbox.settle(tables, settlements, now))

    async def replay_dead_letters(self, limit: int, /) -> int:
        return await self._in_turn(lambda tables, now: outbox.replay(tables, limit, now))

    async def list_dead_letters(self, *, after: int = 0, limit: int = 100) -> DeadLetterPage:
        return await self._in_turn(lambda tables, _now: outbox.dead_letters(tables, after=after, limit=limit))

    # -- Notes --------------------------------------------------------------------------------------------------------

    async def read_notes(self, run_id: str, /, *, after: int = 0, limit: int = 1000) -> Sequence[StoredNote]:
        return await self._in_turn(lambda tables, _now: notes.notes_of(tables, run_id, after=after, limit=limit))

    # -- Hints --------------------------------------------------------------------------------------------------------

    async def next_hint(self) -> bool:
        me = get_current_task().id
        await checkpoint()
        while self._heard.get(me, 0) == self._hints:
            event = Event()
            self._listening.add(event)
            try:
                await event.wait()
            finally:
                self._listening.discard(event)
        self._heard[me] = self._hints
        return True

    # -- one call, one transaction -----------------------------------------------------------------------------------

    async def _in_turn(self, work: Callable[[Tables, datetime], T]) -> T:
        await checkpoint()
        result = self._at_once(work)
        await checkpoint()
        return result

    def _at_once(self, work: Callable[[Tables, datetime], T]) -> T:
        with self._lock:
            return work(self._tables, self._clock.now())


def _checked(records: Sequence[WorkflowRecord]) -> dict[tuple[str, str], WorkflowRecord]:
    for record in records:
        check_workflow(record)
    return {(record.workflow_id, record.version): record for record in records}


class MemoryHeartbeat:
    """`Heartbeat` for any thread."""

    def __init__(self, beat: Callable[[bool], Beat]) -> None:
        self._beat = beat

    def beat(self, *, adrift: bool = False) -> Beat:
        return self._beat(adrift)

    def close(self) -> None:
        """Nothing is held."""


class MemoryJobTransport:
    """`JobTransport` over the jobs that a store's appends have made; `MemoryPersistence.jobs`."""

    def __init__(self, in_turn: InTurn) -> None:
        self._in_turn = in_turn

    async def dequeue(
        self, queues: Sequence[str], definitions: Sequence[Definition], tokens: Sequence[str], /, *, holder: Holder
    ) -> Sequence[LeasedJob]:
        return await self._in_turn(
            lambda tables, now: jobs.dequeue(tables, set(queues), set(definitions), tokens, holder, now)
        )

    async def take(self, run_id: str, stage_id: str, token: str, /, *, holder: Holder) -> LeasedJob | None:
        return await self._in_turn(lambda tables, now: jobs.take(tables, run_id, stage_id, token, holder, now))

    async def find_leased(self, lease: JobLease, /) -> LeasedJob | None:
        return await self._in_turn(lambda tables, _now: jobs.find_leased(tables, lease))

    async def heartbeat(self, leases: Sequence[JobLease], /, *, lease: timedelta) -> Collection[JobLease]:
        return await self._in_turn(lambda tables, now: jobs.beat(tables, leases, now, lease=lease))

    async def held_by(self, session_id: str, /) -> Sequence[LeasedJob]:
        return await self._in_turn(lambda tables, _now: jobs.held_by(tables, session_id))

    async def release(self, lease: JobLease, /, *, delay: timedelta = timedelta(0)) -> bool:
        return await self._in_turn(lambda tables, now: jobs.release(tables, lease, delay, now))

    async def discard(self, lease: JobLease, /) -> bool:
        return await self._in_turn(lambda tables, _now: jobs.discard(tables, lease))

    async def take_expired(
        self, definitions: Sequence[Definition], tokens: Sequence[str], /, *, lease: timedelta
    ) -> Sequence[ExpiredJob]:
        return await self._in_turn(lambda tables, now: jobs.take_expired(tables, set(definitions), tokens, lease, now))

    async def jobs_of(self, *run_ids: str) -> Sequence[JobInfo]:
        return await self._in_turn(lambda tables, now: jobs.infos(tables, run_ids, now))
