"""How fast any engine could write these rows through this driver to this server: the benchmark's measuring rod.

A loop without an engine: the appends of a model run, whose rows a real engine wrote, are written again for many runs,
batched as the committer batches (one statement per batch, two of them under way, one history row and one head update
per append, the session checked), with nothing decided, validated or waited for in between. What an engine achieves is
given as a ratio to this, because the ratio says more than a figure of one machine on one day.

Knows the tables and the driver; must not share the committer's code, or what slows that would slow the rod too.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from adapters.postgres.append_queue import ROWS_MAX
from adapters.postgres.committer import LANES
from adapters.postgres.connections import Target, connect
from adapters.postgres.failures import mapped
from adapters.postgres.statements import Schema, checked_schema, qualify, statement
from kernel.errors import InvalidCommand, RunNotFound
from kernel.model.ids import run_id_from

if TYPE_CHECKING:
    from asyncpg import Connection, Record

__all__ = ["BareResult", "write_bare_runs"]

RUNS_AT_ONCE = 1000
"""As many runs as a supervisor drives at a time by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BareResult:
    """What the loop did: runs and appends written, and the seconds that it took, without connecting."""

    runs: int
    appends_per_run: int
    took_s: float


@dataclass(frozen=True, slots=True)
class _Row:
    """One append of the model run."""

    expected: int
    seq: int
    events: str
    bodies: str | None


async def write_bare_runs(url: str, *, schema: str, model_run_id: str, runs: int, warm_up: int = 0) -> BareResult:
    """Write the rows of this run again, for `runs` new ones, and say how long it took; needs asyncio.

    `warm_up` runs are written first and not counted. The model run has to be in the schema and to have ended.
    Raises: RunNotFound, Unavailable.
    """
    name = checked_schema(schema)
    target = Target(url=url, purpose="bare limit")
    connections = [await connect(target) for _ in range(LANES)]
    try:
        with mapped("write the rows of the bare limit"):
            model = await _read_model(connections[0], name, model_run_id)
            session = await _open_session(connections[0], name)
            key = await _workflow_key(connections[0], name, model_run_id)
            if warm_up:
                await _Loop(connections, name, model, session, key, warm_up).run()
            began = time.perf_counter()
            await _Loop(connections, name, model, session, key, runs).run()
            took_s = time.perf_counter() - began
    finally:
        for connection in connections:
            connection.terminate()
    return BareResult(runs=runs, appends_per_run=len(model), took_s=took_s)


async def _read_model(connection: Connection[Record], schema: Schema, run_id: str) -> Sequence[_Row]:
    sql = "SELECT first_seq - 1, seq, events, bodies FROM leasehold.history WHERE run_id = $1 ORDER BY seq"
    rows = [_Row(*row) for row in await connection.fetch(qualify(sql, schema), run_id)]
    if not rows:
        raise RunNotFound(run_id)
    return rows


async def _open_session(connection: Connection[Record], schema: Schema) -> str:
    session = str(uuid4())
    sql = (
        "INSERT INTO leasehold.sessions (id, lease_expires_at, lease, workflow_keys, info) "
        "VALUES ($1, clock_timestamp() + interval '1 hour', interval '1 hour', '{}', '{}')"
    )
    await connection.execute(qualify(sql, schema), session)
    return session


async def _workflow_key(connection: Connection[Record], schema: Schema, run_id: str) -> int:
    key = await connection.fetchval(qualify("SELECT workflow_key FROM leasehold.runs WHERE id = $1", schema), run_id)
    return int(key)


class _Loop:
    """One pass: so many runs from their first append to their last."""

    def __init__(
        self,
        connections: Sequence[Connection[Record]],
        schema: Schema,
        model: Sequence[_Row],
        session: str,
        workflow_key: int,
        runs: int,
    ) -> None:
        self._connections = connections
        self._create = statement("bare_create", schema)
        self._append = statement("bare_append", schema)
        self._model = model
        self._session = session
        self._workflow_key = workflow_key
        self._to_create = runs
        self._to_end = runs
        self._alive = 0
        self._ready: deque[tuple[str, int]] = deque()
        self._work = asyncio.Event()

    async def run(self) -> None:
        """Write them all."""
        async with asyncio.TaskGroup() as lanes:
            for connection in self._connections:
                lanes.create_task(self._drive(connection))

    async def _drive(self, connection: Connection[Record]) -> None:
        while self._to_end:
            room = min(self._to_create, RUNS_AT_ONCE - self._alive, ROWS_MAX)
            if room > 0:
                await self._begin(connection, room)
            elif self._ready:
                await self._go_on(connection, [self._ready.popleft() for _ in range(min(len(self._ready), ROWS_MAX))])
            else:
                self._work.clear()
                await self._work.wait()

    async def _begin(self, connection: Connection[Record], count: int) -> None:
        self._to_create -= count
        self._alive += count
        now = datetime.now(UTC)
        run_ids = sorted(run_id_from(now, os.urandom(10)) for _ in range(count))
        first = self._model[0]
        await self._write(
            connection.fetchval(
                self._create,
                self._session,
                self._workflow_key,
                first.seq,
                _array(run_ids),
                _append_ids(count),
                [first.events] * count,
                [first.bodies] * count,
            ),
            [(run_id, 1) for run_id in run_ids],
        )

    async def _go_on(self, connection: Connection[Record], batch: list[tuple[str, int]]) -> None:
        # In the order of ids, so that two batches never lock in opposite orders.
        batch.sort()
        rows = [self._model[place] for _, place in batch]
        last = len(self._model) - 1
        await self._write(
            connection.fetchval(
                self._append,
                self._session,
                _array(run_id for run_id, _ in batch),
                _append_ids(len(batch)),
                _array(str(row.expected) for row in rows),
                _array(str(row.seq) for row in rows),
                _array("true" if place == last else "false" for _, place in batch),
                [row.events for row in rows],
                [row.bodies for row in rows],
            ),
            [(run_id, place + 1) for run_id, place in batch],
        )

    async def _write(self, sending: Coroutine[object, object, int], followers: Sequence[tuple[str, int]]) -> None:
        written = await sending
        if written != len(followers):
            raise InvalidCommand(
                f"{written} of {len(followers)} appends of the bare limit were written.",
                field="schema",
                hint="Nobody else may write to the schema of a benchmark.",
            )
        ended = 0
        for follower in followers:
            if follower[1] == len(self._model):
                ended += 1
            else:
                self._ready.append(follower)
        self._to_end -= ended
        self._alive -= ended
        self._work.set()


def _array(words: Iterable[str]) -> str:
    """The text of an array of words that need no quotes; the driver would encode each element on its own."""
    return "{" + ",".join(words) + "}"


def _append_ids(count: int) -> str:
    return _array(str(uuid4()) for _ in range(count))
