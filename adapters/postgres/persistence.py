"""The whole store on PostgreSQL: what `open_postgres` opens and `kernel.ports.persistence` describes.

Everything is put together here and done elsewhere: the parts speak asyncio, and the classes below carry each call
to them from whichever event loop the caller runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

from anyio import CancelScope

from adapters.postgres.blobs import Blobs, blob_line
from adapters.postgres.bridge import Direct, EventLoop, Runner, current_event_loop, run_in_asyncio, runner_for
from adapters.postgres.claims import Claims, Marks
from adapters.postgres.clock import DatabaseClock
from adapters.postgres.committer import Committer
from adapters.postgres.connections import Deadlines, Line, Target
from adapters.postgres.heartbeat import PostgresHeartbeat
from adapters.postgres.hints import Hints
from adapters.postgres.inspection import Inspections
from adapters.postgres.jobs import Jobs, PostgresJobTransport
from adapters.postgres.joining import Joining
from adapters.postgres.listings import Listings
from adapters.postgres.logs import Logs
from adapters.postgres.migrating import check_version, migrated
from adapters.postgres.notes import Notes
from adapters.postgres.outbox import Outbox
from adapters.postgres.partitions import extended_history
from adapters.postgres.pooling import connect_two
from adapters.postgres.reading import Histories
from adapters.postgres.repairs import Repairs
from adapters.postgres.scheduler import ScheduledCommands
from adapters.postgres.sessions import Sessions
from adapters.postgres.statements import DEFAULT_SCHEMA, Schema, checked_schema
from adapters.postgres.workflows import WorkflowKeys, Workflows
from kernel.errors import InvalidCommand
from kernel.model.head import Head
from kernel.ports.diagnosis import SessionSeen, SinkDebt
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
from kernel.ports.scheduler import ScheduledCommand, TakenCommand
from telemetry.observing import BatchObserver

__all__ = ["PostgresBlobStore", "PostgresPersistence", "PostgresScheduler", "migrate", "open_postgres"]

LEASE = timedelta(seconds=10)


@asynccontextmanager
async def open_postgres(
    url: str,
    *,
    lease: timedelta = LEASE,
    schema: str = DEFAULT_SCHEMA,
    direct_url: str | None = None,
    migrate: bool = False,
    event_loop: EventLoop | None = None,
    deadlines: Deadlines | None = None,
    advice: str | None = None,
) -> AsyncGenerator[PostgresPersistence]:
    """Connect, check the schema, and serve until the block is left.

    `lease` is what sessions get that name none. `direct_url` leads to the server itself when `url` leads to a
    transaction pooler. `migrate` brings the schema up to date first. `event_loop` is that of the caller; it is found
    when it is not named. `advice` is what to do when the server cannot be reached, for one that nobody has named.
    Leaving the block sends what is queued, for a few seconds at most.
    Raises: NoDatabase, SchemaOutdated, Unavailable; InvalidCommand for a name that cannot be a schema's.
    """
    name = checked_schema(schema)
    target = Target(url=url, purpose="read", deadlines=deadlines or Deadlines())
    if advice is not None:
        target = replace(target, advice=advice)
    direct = None if direct_url is None else Target(url=direct_url, purpose="direct", deadlines=target.deadlines)
    async with runner_for(event_loop or current_event_loop()) as runner:
        store = await runner.call(lambda: _open_store(target, direct, name, migrate=migrate))
        try:
            yield PostgresPersistence(store, runner, lease)
        finally:
            await _shielded_close(store, runner)


async def _shielded_close(store: _Store, runner: Runner) -> None:
    """Close whatever happens to the task that leaves; every step of it has a deadline of its own."""
    with CancelScope(shield=True):
        await runner.call(store.close)


async def migrate(url: str, *, schema: str = DEFAULT_SCHEMA, event_loop: EventLoop | None = None) -> Sequence[str]:
    """Bring a schema up to date and return the names of the migrations that were applied.

    Also sees to it that the months of the history reach half a year ahead. (Opening with `migrate=True` does not: it
    may have to wait for the transactions of others, and nothing depends on it for months.)
    Raises: NoDatabase, Unavailable; SchemaOutdated, when it is newer than this release knows; InvalidCommand, when
    the database cannot hold it.
    """
    name = checked_schema(schema)
    target = Target(url=url, purpose="migrate")

    async def both() -> Sequence[str]:
        applied = await migrated(target, name)
        await extended_history(target, name)
        return applied

    return await run_in_asyncio(event_loop or current_event_loop(), both)


class _Store:
    """The parts, on the asyncio side."""

    def __init__(self, target: Target, direct: Target, schema: Schema) -> None:
        self.target = target
        self.direct = direct
        self.schema = schema
        self.line: Line = Line(target.to("read"))
        self.marks: Marks = Marks()
        self.clock: DatabaseClock = DatabaseClock()
        self.hints: Hints = Hints(direct, schema)
        self.keys: WorkflowKeys = WorkflowKeys(self.line, schema)
        self.committer: Committer = Committer(target, schema, self.keys, self.hints.tell)
        self.histories: Histories = Histories(self.line, schema)
        self.workflows: Workflows = Workflows(self.line, schema)
        self.sessions: Sessions = Sessions(self.line, schema, self.keys, self.marks)
        self.repairs: Repairs = Repairs(self.line, schema, self.hints.tell)
        self.claims: Claims = Claims(self.line, schema, self.keys, self.marks)
        self.jobs: Jobs = Jobs(self.line, schema, self.keys)
        self.listings: Listings = Listings(self.line, schema)
        self.logs: Logs = Logs(self.line, schema)
        self.notes: Notes = Notes(self.line, schema)
        self.commands: ScheduledCommands = ScheduledCommands(self.line, schema)
        self.outbox: Outbox = Outbox(self.line, schema)
        self.inspections: Inspections = Inspections(self.line, schema)
        self.blob_line: Line = blob_line(target)
        self.blobs: Blobs = Blobs(self.blob_line, schema)
        self.joining: Joining = Joining(self.line, schema, self.keys, self.hints.tell)

    async def close(self) -> None:
        """Send what is queued, then let go of every connection."""
        await self.committer.close()
        await self.hints.close()
        await asyncio.gather(self.line.close(), self.blob_line.close())


async def _open_store(target: Target, direct: Target | None, schema: Schema, *, migrate: bool) -> _Store:
    if migrate:
        await migrated(direct or target, schema)
    target, connections = await connect_two(target.to("append"))
    store = _Store(target, direct or target, schema)
    try:
        for line, made in zip(store.committer.lines, connections, strict=True):
            line.adopt(made)
        connection = await store.line.connection()
        await check_version(connection, schema)
        store.clock.observe(await connection.fetchval("SELECT clock_timestamp()"))
        await store.hints.open()
    except BaseException:
        await store.close()
        raise
    store.committer.start()
    return store


class PostgresPersistence:
    """`kernel.ports.persistence.Persistence` on PostgreSQL; made by `open_postgres`."""

    def __init__(self, store: _Store, runner: Runner, lease: timedelta) -> None:
        self._store = store
        self._runner = runner
        self._call = runner.call
        self._lease = lease
        self.blobs: PostgresBlobStore = PostgresBlobStore(store.blobs, runner)
        self.scheduler: PostgresScheduler = PostgresScheduler(store.commands, runner)
        self.jobs: PostgresJobTransport = PostgresJobTransport(store.jobs, runner)
        self.inspection: PostgresInspection = PostgresInspection(store.inspections, runner)
        self.clock: DatabaseClock = store.clock

    @property
    def unanswered(self) -> int:
        """How many appends of this process are queued or on their way; readable from any thread.

        Those that no owner makes wait outside while there are `committer.QUEUE_MAX`.
        """
        return self._store.committer.unanswered

    @property
    def listening(self) -> tuple[float | None, int]:
        """Seconds since the listening connection proved to be alive (None: there is none), and how often it broke."""
        return self._store.hints.silence_s, self._store.hints.outages

    def observe_batches(self, observer: BatchObserver) -> None:
        """Have it told of every batch of appends from now on; nothing is measured while there is no observer."""
        self._store.committer.observe(observer)

    async def append(self, append: Append, /) -> bool:
        return await self._call(lambda: self._store.committer.append(append), detach=True)

    async def joined(self, connection: object, /) -> Joined:
        if not isinstance(self._runner, Direct):
            raise InvalidCommand(
                "connection= needs asyncio, the event loop of asyncpg's connections; this is trio.",
                field="connection",
                hint="Start the run after your own commit, with an idempotency_key.",
            )
        appends, borrowed = await self._store.joining.join(connection)
        return Joined(appends=appends, blobs=PostgresBlobStore(Blobs(borrowed, self._store.schema), self._runner))

    async def load(self, run_id: str, /, *, after: int = 0, bodies: bool = True) -> StoredHistory:
        return await self._call(lambda: self._store.histories.load(run_id, after, bodies))

    async def endings(self, run_ids: Sequence[str], /, *, limit: int) -> Mapping[str, StoredHistory | None]:
        return await self._call(lambda: self._store.histories.endings(run_ids, limit))

    async def heads(self, run_ids: Sequence[str], /) -> Mapping[str, HeadRow]:
        return await self._call(lambda: self._store.histories.heads(run_ids))

    async def find_key(self, command_type: str, scope: str, key: str, /) -> str | None:
        return await self._call(lambda: self._store.histories.find_key(command_type, scope, key))

    async def register_workflows(self, records: Sequence[WorkflowRecord], /) -> None:
        await self._call(lambda: self._store.workflows.register_workflows(records))

    async def find_workflow(self, workflow_id: str, version: str, /) -> WorkflowRecord | None:
        return await self._call(lambda: self._store.workflows.find_workflow(workflow_id, version))

    async def unpark_workflows(self, definitions: Sequence[tuple[str, str, str | None]], /) -> int:
        return await self._call(lambda: self._store.workflows.unpark_workflows(definitions))

    async def open_session(
        self,
        info: SessionInfo,
        workflows: Sequence[tuple[str, str]],
        /,
        *,
        lease: timedelta | None = None,
        queues: Sequence[str] = (),
    ) -> str:
        length = self._lease if lease is None else lease
        return await self._call(lambda: self._store.sessions.open_session(info, workflows, length, queues))

    async def renew(self, session_id: str, /) -> Beat:
        return await self._call(lambda: self._store.sessions.renew(session_id))

    async def extend_history(self) -> Sequence[str]:
        """Add months to the history, half a year ahead, and return the names of the partitions made; idempotent.

        For maintenance; needs the rights of the role that migrates, and a direct connection.
        Raises: Unavailable.
        """
        return await self._call(lambda: extended_history(self._store.direct, self._store.schema))

    def heartbeat(self, session_id: str, /) -> PostgresHeartbeat:
        return PostgresHeartbeat(
            self._store.direct, self._store.schema, session_id, self._store.marks, self._store.clock
        )

    async def close_session(self, session_id: str, /) -> None:
        await self._call(lambda: self._store.sessions.close_session(session_id))

    async def condemn_expired(self, limit: int, /) -> Sequence[str]:
        return await self._call(lambda: self._store.sessions.condemn_expired(limit))

    async def claim(self, session_id: str, limit: int, /) -> Sequence[Claimed]:
        return await self._call(lambda: self._store.claims.claim(session_id, limit))

    async def find_stuck(self, *, after: str | None, limit: int, events_max: int) -> Suspects:
        return await self._call(lambda: self._store.repairs.find_stuck(after, limit, events_max))

    async def find_unknown(self, *, grace: timedelta, limit: int) -> Sequence[str]:
        return await self._call(lambda: self._store.repairs.find_unknown(grace, limit))

    async def heal(self, run_id: str, head: Head, /, *, expected: int, seq: int) -> bool:
        return await self._call(lambda: self._store.repairs.heal(run_id, head, expected, seq))

    async def take_chore(self, name: str, session_id: str, /, *, every: timedelta) -> bool:
        return await self._call(lambda: self._store.repairs.take_chore(name, session_id, every))

    async def hold_suspended(
        self, workflows: Sequence[tuple[str, str]], limit: int, /, *, hold: timedelta
    ) -> SuspendedRuns:
        return await self._call(lambda: self._store.claims.hold_suspended(workflows, limit, hold))

    async def look_due(self, definitions: Sequence[tuple[str, str]], limit: int, /) -> Sequence[StoredHistory]:
        return await self._call(lambda: self._store.claims.look_due(definitions, limit))

    async def list_runs(self, query: RunQuery, /) -> Page:
        return await self._call(lambda: self._store.listings.list_runs(query))

    async def find_runs(self, suffix: str, /) -> Sequence[str]:
        return await self._call(lambda: self._store.listings.find_runs(suffix))

    async def live_workflows(self) -> Sequence[tuple[str, str]]:
        return await self._call(self._store.listings.live_workflows)

    async def backlog(self) -> Backlog:
        return await self._call(self._store.listings.backlog)

    async def write_logs(self, lines: Sequence[LogLine], /) -> None:
        await self._call(lambda: self._store.logs.write_logs(lines))

    async def read_logs(self, run_id: str, /, *, after: int = 0, limit: int = 1000) -> Sequence[LogLine]:
        return await self._call(lambda: self._store.logs.read_logs(run_id, after, limit))

    async def read_progress(self, run_id: str, /) -> Mapping[str, LogLine]:
        return await self._call(lambda: self._store.logs.read_progress(run_id))

    async def register_sinks(self, sinks: Sequence[SinkRecord], /) -> None:
        await self._call(lambda: self._store.outbox.register_sinks(sinks))

    async def forget_sink(self, name: str, /) -> bool:
        return await self._call(lambda: self._store.outbox.forget_sink(name))

    async def list_sinks(self) -> Sequence[SinkRecord]:
        return await self._call(self._store.outbox.list_sinks)

    async def spread(self, limit: int, /) -> int:
        return await self._call(lambda: self._store.outbox.spread(limit))

    async def claim_deliveries(self, sink: str, limit: int, /, *, lease: timedelta) -> Sequence[Delivery]:
        return await self._call(lambda: self._store.outbox.claim_deliveries(sink, limit, lease=lease))

    async def settle(self, settlements: Sequence[Settlement], /) -> None:
        await self._call(lambda: self._store.outbox.settle(settlements))

    async def replay_dead_letters(self, limit: int, /) -> int:
        return await self._call(lambda: self._store.outbox.replay_dead_letters(limit))

    async def list_dead_letters(self, *, after: int = 0, limit: int = 100) -> DeadLetterPage:
        return await self._call(lambda: self._store.outbox.list_dead_letters(after, limit))

    async def read_notes(self, run_id: str, /, *, after: int = 0, limit: int = 1000) -> Sequence[StoredNote]:
        return await self._call(lambda: self._store.notes.read_notes(run_id, after, limit))

    async def next_hint(self) -> bool:
        return await self._call(self._store.hints.next_hint)


class PostgresInspection:
    """`kernel.ports.diagnosis.Inspection` on PostgreSQL; `PostgresPersistence.inspection`."""

    def __init__(self, inspections: Inspections, runner: Runner) -> None:
        self._inspections = inspections
        self._call = runner.call

    async def sessions(self) -> Sequence[SessionSeen]:
        return await self._call(self._inspections.sessions)

    async def debts(self, run_id: str, /) -> Sequence[SinkDebt]:
        return await self._call(lambda: self._inspections.debts(run_id))


class PostgresBlobStore:
    """`kernel.ports.blobs.BlobStore` in the same database; `PostgresPersistence.blobs`."""

    def __init__(self, blobs: Blobs, runner: Runner) -> None:
        self._blobs = blobs
        self._call = runner.call

    async def put(self, key: str, data: bytes, /) -> None:
        await self._call(lambda: self._blobs.put(key, data))

    async def get(self, key: str, /) -> bytes:
        return await self._call(lambda: self._blobs.get(key))

    async def has(self, key: str, /) -> bool:
        return await self._call(lambda: self._blobs.has(key))

    async def delete(self, key: str, /) -> None:
        await self._call(lambda: self._blobs.delete(key))

    async def list(self, prefix: str, /) -> Sequence[str]:
        return await self._call(lambda: self._blobs.list(prefix))


class PostgresScheduler:
    """`kernel.ports.scheduler.CommandSchedule` in the same database; `PostgresPersistence.scheduler`."""

    def __init__(self, commands: ScheduledCommands, runner: Runner) -> None:
        self._commands = commands
        self._call = runner.call

    async def schedule(self, command: ScheduledCommand, /) -> None:
        await self._call(lambda: self._commands.schedule(command))

    async def cancel(self, key: str, /) -> bool:
        return await self._call(lambda: self._commands.cancel(key))

    async def take_due(self, workflow_ids: Sequence[str], limit: int, /, *, lease: timedelta) -> Sequence[TakenCommand]:
        return await self._call(lambda: self._commands.take_due(workflow_ids, limit, lease))

    async def postpone(self, taken: TakenCommand, delay: timedelta, /, *, error: str | None = None) -> bool:
        return await self._call(lambda: self._commands.postpone(taken, delay, error))

    async def settle(self, taken: TakenCommand, /, *, error: str | None = None) -> None:
        await self._call(lambda: self._commands.settle(taken, error))
