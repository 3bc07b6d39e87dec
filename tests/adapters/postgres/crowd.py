"""A schema as it is after months: 100,000 runs have ended, thousands sleep, some are due, owned, orphaned or parked.

A run of each sort is made by the real kernel and store, and then copied by the server, row for row, under new ids: so
the rows are as long and as many as those of real runs, whatever columns they have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg

from adapters.conformance.store.builders import (
    KnownRun,
    a_definition,
    a_key,
    annotating,
    cancelling,
    completing,
    failing,
    starting,
    suspending,
)
from adapters.postgres import PostgresPersistence
from adapters.postgres.statements import Schema, qualify
from kernel.journal import fold_stored
from kernel.ports.persistence import Lease, SessionInfo
from tests.adapters.postgres.stores import LONG, Home

ENDED = 100_000
WORKFLOWS = [f"crowd-{n}" for n in range(5)]

SLEEPING = 3_000
WAITING = 2_000
DUE = 3_000
OWNED = 200
ORPHANS = 300
PARKED = 100
LOG_LINES = 20_000
OWED = 5_000
OWED_DUE = 1_000
DEAD = 5_000
SINK = "webhook"
TOKEN = "22222222-2222-4222-8222-222222222222"
BLOBS = 5_000
COMMANDS = 5_000
COMMANDS_DUE = 500
SCHEDULE_ID = "00000000-0000-4000-8000-000000000001"
JOBS = SLEEPING


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """Who is there: a session that owns `OWNED` runs, one that does not know the workflow of the orphans, and all runs
    by their sort; of some that are owned or free also their states."""

    session: str
    newcomer: str
    token: str
    workflow_keys: Mapping[str, int]
    runs: Mapping[str, list[str]]
    owned: list[KnownRun]
    free: list[KnownRun]


def utc_now() -> datetime:
    return datetime.now(UTC)


async def gather(store: PostgresPersistence, connection: asyncpg.Connection, schema: Schema) -> Crowd:
    """Fill the schema; takes some seconds."""
    home = Home(store, utc_now, workflow=WORKFLOWS[0])
    await store.register_workflows([a_definition(workflow) for workflow in WORKFLOWS])
    info = SessionInfo(name="worker", hostname="host", pid=1, started_at=utc_now())
    known = [(workflow, "1") for workflow in WORKFLOWS]
    session, condemned = [await store.open_session(info, known, lease=LONG) for _ in range(2)]
    newcomer = await store.open_session(info, known[1:], lease=LONG)
    samples = await make_samples(home, session, condemned)
    await connection.execute(qualify(copying(samples, await columns(connection, schema)), schema), timeout=60)
    await connection.execute(qualify(queueing(session, condemned), schema), timeout=60)
    await store.close_session(condemned)
    rows = await connection.fetch(qualify("SELECT id, workflow_key FROM leasehold.workflows ORDER BY id", schema))
    runs = {
        sort: [row[0] for row in await connection.fetch("SELECT id::text FROM made WHERE sort = $1 ORDER BY id", sort)]
        for sort in samples
    }
    return Crowd(
        session=session,
        newcomer=newcomer,
        token=TOKEN,
        workflow_keys={row["id"]: row["workflow_key"] for row in rows},
        runs=runs,
        owned=[await known_run(store, run_id) for run_id in runs["owned"][:50]],
        free=[await known_run(store, run_id) for run_id in runs["sleeping"][:50]],
    )


async def known_run(store: PostgresPersistence, run_id: str) -> KnownRun:
    stored = await store.load(run_id)
    owner = stored.head.owner
    lease = None if owner is None else Lease(session_id=owner, claim=stored.head.claim)
    return KnownRun(fold_stored(stored), utc_now, lease)


# -- one of each sort --------------------------------------------------------------------------------------------------


async def make_samples(home: Home, session: str, condemned: str) -> dict[str, str]:
    """The id of one run per sort; three sorts have ended."""
    owned, orphan = await home.started(session), await home.started(condemned)
    due = await home.create()
    ended = {change.__name__: await three_stages(home, session, change) for change in (completing, failing, cancelling)}
    sleeping, waiting, parked = [await home.started(session) for _ in range(3)]
    await waiting.land(home.store, waiting.owned(suspending))
    await home.store.append(sleeping.release())
    await home.store.append(waiting.release())
    await home.store.append(parked.park("corrupt_history"))
    return {
        "completed": ended["completing"].id,
        "failed": ended["failing"].id,
        "cancelled": ended["cancelling"].id,
        "sleeping": sleeping.id,
        "waiting": waiting.id,
        "parked": parked.id,
        "due": due.id,
        "owned": owned.id,
        "orphan": orphan.id,
    }


async def three_stages(home: Home, session: str, last: Any) -> KnownRun:
    """As a client's run of three stages: created with a key, claimed by nobody, and four more appends."""
    run = await home.create(owner=session, key=a_key(last.__name__, scope=home.workflow), change=starting)
    changes = (annotating, completing, completing) if last is completing else (annotating, annotating, last)
    for change in changes:
        await run.land(home.store, run.owned(change))
    return run


# -- many of each sort -------------------------------------------------------------------------------------------------


async def columns(connection: asyncpg.Connection, schema: Schema) -> dict[str, list[str]]:
    rows = await connection.fetch(
        """
        SELECT table_name, array_agg(column_name::text ORDER BY ordinal_position) AS columns
        FROM information_schema.columns
        WHERE table_schema = $1 AND table_name IN ('runs', 'history', 'idempotency_keys') AND is_generated = 'NEVER'
        GROUP BY table_name
        """,
        schema,
    )
    return {row["table_name"]: row["columns"] for row in rows}


def copying(samples: Mapping[str, str], columns: Mapping[str, list[str]]) -> str:
    """The statements that make a crowd of the samples. Sorts of ended runs are mixed, and so are workflows."""
    soon = "clock_timestamp() + interval '1 hour' + made.n * interval '1 millisecond'"
    passed = "clock_timestamp() - made.n * interval '1 millisecond'"
    heads = copied(
        "runs",
        columns["runs"],
        id="made.id",
        # Keys begin with 1, and nobody else has registered anything.
        workflow_key=f"CASE WHEN made.sort = 'orphan' THEN 1 ELSE 1 + made.n % {len(WORKFLOWS)} END",
        priority="made.n / 7 % 10",
        publish_at=f"CASE WHEN made.sort = 'waiting' THEN {passed} END",
        wake_at=f"CASE WHEN made.sort IN ('sleeping', 'waiting') THEN {soon} WHEN made.sort = 'due' THEN {passed} END",
    )
    histories = copied("history", columns["history"], run_id="made.id")
    # A part is due, and many have failed.
    passed_by_age = f"clock_timestamp() + (n - {2 * COMMANDS_DUE}) * interval '1 second'"
    keys = copied("idempotency_keys", columns["idempotency_keys"], key="made.id::text", run_id="made.id")
    sizes = {"sleeping": SLEEPING, "waiting": WAITING, "due": DUE, "owned": OWNED, "orphan": ORPHANS, "parked": PARKED}
    others = " ".join(
        f"UNION ALL SELECT n, n, '{sort}' FROM generate_series(1, {size}) AS n" for sort, size in sizes.items()
    )
    return f"""
        CREATE TEMPORARY TABLE sample AS
        SELECT * FROM (VALUES {", ".join(f"('{sort}', '{run_id}'::uuid)" for sort, run_id in samples.items())})
            AS t (sort, sample);
        CREATE TEMPORARY TABLE made AS
        SELECT n, sort, sample, {new_id("(extract(epoch FROM clock_timestamp()) * 1000)::bigint - age_ms")} AS id
        FROM (
            SELECT n, {ENDED} - n AS age_ms,
                   CASE WHEN n % 100 = 7 THEN 'failed' WHEN n % 200 = 9 THEN 'cancelled' ELSE 'completed' END AS sort
            FROM generate_series(1, {ENDED}) AS n
            {others}
        ) AS wanted
        JOIN sample USING (sort);
        {heads} FROM made JOIN leasehold.runs AS t ON t.id = made.sample ORDER BY made.id;
        {histories} FROM made JOIN leasehold.history AS t ON t.run_id = made.sample ORDER BY made.id, t.seq;
        {keys} FROM made JOIN leasehold.idempotency_keys AS t ON t.run_id = made.sample;
        INSERT INTO leasehold.logs (run_id, stage_id, at, level, message)
        SELECT id, 'extract', clock_timestamp(), CASE WHEN n % 10 = 0 THEN 'PROGRESS' ELSE 'INFO' END, 'said'
        FROM (SELECT id FROM made WHERE sort = 'completed' ORDER BY id LIMIT {LOG_LINES // 20}) AS chosen
        CROSS JOIN generate_series(1, 20) AS n;
        INSERT INTO leasehold.blobs (key, data)
        SELECT 'runs/' || id || '/output', '\\x00' FROM made WHERE sort = 'completed' ORDER BY id LIMIT {BLOBS};
        INSERT INTO leasehold.scheduled_commands (key, schedule_id, due_at, workflow_id, command, state)
        SELECT 'command ' || n, '{SCHEDULE_ID}', {passed_by_age}, CASE WHEN n % 2 = 0 THEN '{WORKFLOWS[1]}' ELSE '' END,
               '{{}}', CASE WHEN n % 2 = 0 OR n <= {2 * COMMANDS_DUE} THEN 'waiting' ELSE 'failed' END
        FROM generate_series(1, {COMMANDS}) AS n;
        INSERT INTO leasehold.deliveries (run_id, sink, next_seq, last_seq, token, due_at)
        SELECT id, CASE WHEN n % 2 = 0 THEN '{SINK}' ELSE 'other' END, 2, 4, '{TOKEN}',
               CASE WHEN n <= {2 * OWED_DUE} THEN {passed} ELSE {soon} END
        FROM made WHERE sort = 'completed' ORDER BY n LIMIT {2 * OWED};
        INSERT INTO leasehold.dead_letters (run_id, sink, seq, error, tries)
        SELECT id, '{SINK}', 1, 'ValueError: no', 3 FROM made WHERE sort = 'completed' ORDER BY id LIMIT {DEAD};
    """


def queueing(session: str, condemned: str) -> str:
    """The statement that gives sleeping runs a job each, half of them due, and waiting ones a job that is taken."""
    return f"""
        INSERT INTO leasehold.jobs
            (run_id, stage_id, workflow_key, priority, queue, due_at, token, session, lease_until)
        SELECT id, 'extract', 1 + n % {len(WORKFLOWS)}, n / 7 % 10, CASE WHEN n % 3 = 0 THEN 'cpu' ELSE 'gpu' END,
               clock_timestamp() + CASE WHEN n % 2 = 0 THEN 1 ELSE -1 END * n * interval '1 second', NULL, NULL, NULL
        FROM made WHERE sort = 'sleeping'
        UNION ALL
        SELECT id, 'extract', 1 + n % {len(WORKFLOWS)}, 5, 'gpu', clock_timestamp(), 'token-' || n,
               CASE WHEN n <= 200 THEN '{session}'::uuid WHEN n > 1950 THEN '{condemned}'::uuid END,
               CASE WHEN n BETWEEN 201 AND 1900 THEN clock_timestamp() + interval '1 hour'
                    WHEN n BETWEEN 1901 AND 1950 THEN clock_timestamp() - interval '1 minute' END
        FROM made WHERE sort = 'waiting';
    """


def new_id(milliseconds: str) -> str:
    """A run id of this moment in SQL; `mint_run_id` is of the present one, and takes longer."""
    chance = "gen_random_uuid()::text"
    digits = f"lpad(to_hex({milliseconds}), 12, '0') || '7' || substr({chance}, 2, 1) || '00' || substr({chance}, 20)"
    return f"({digits})::uuid"


def copied(table: str, columns: list[str], **changed: str) -> str:
    values = ", ".join(changed.get(column, f"t.{column}") for column in columns)
    return f"INSERT INTO leasehold.{table} ({', '.join(columns)}) SELECT {values}"
