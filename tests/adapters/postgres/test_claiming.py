"""Claims among many that sleep, many that are gone, and many that are not ours."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from time import monotonic
from typing import Any

import asyncpg
import pytest
from anyio import create_task_group

from adapters.conformance.store.builders import KnownRun
from adapters.postgres.claims import LONG_AGO, Mark
from adapters.postgres.statements import Schema, statement
from kernel.model.facts import FORMAT
from kernel.ports.persistence import Claimed
from tests.adapters.postgres.conftest import Open
from tests.adapters.postgres.stores import Home
from tests.conftest import execute

pytestmark = pytest.mark.anyio

SLEEPERS = 50_000

# Heads alone: claiming does not read more.
HEADS = """
INSERT INTO {schema}.runs (id, wake_at, created_at, updated_at, workflow_key, seq, format, priority, status, phase,
                           fingerprint)
SELECT {schema}.mint_run_id(), clock_timestamp() + $2 + n * interval '1 ms', clock_timestamp(), clock_timestamp(),
       (SELECT workflow_key FROM {schema}.workflows WHERE id = $1), 1, $4, n % 10, 'RUNNING', 'suspended', 'f'
FROM generate_series(1, $3) AS n
"""


@pytest.fixture(scope="module")
def full_schema(adapter_url: str, schema: str) -> str:
    """The schema of this file, filled once: it takes seconds."""
    fill = HEADS.format(schema=schema).replace("$1", "'sleepy'").replace("$2", "interval '1 h'")
    define = f"INSERT INTO {schema}.workflows (id, version, fingerprint, plan, description)"
    execute(adapter_url, f"{define} VALUES ('sleepy', '1', 'f', '{{}}', '{{}}')")
    execute(adapter_url, fill.replace("$3", str(SLEEPERS)).replace("$4", str(FORMAT)))
    execute(adapter_url, f"ANALYZE {schema}.runs")
    return schema


@pytest.fixture
async def sleepers(home: Home, admin: asyncpg.Connection, full_schema: str) -> AsyncIterator[Home]:
    """Somebody whose workflow has many runs that sleep."""
    yield replace(home, workflow="sleepy")
    await admin.execute(f"DELETE FROM {full_schema}.runs WHERE wake_at IS NULL OR wake_at < now() + interval '30 min'")
    await admin.execute(f"VACUUM {full_schema}.runs")


async def heads(
    admin: asyncpg.Connection, schema: str, home: Home, due_in: timedelta, count: int, format: int = FORMAT
) -> None:
    await admin.execute(HEADS.format(schema=schema), home.workflow, due_in, count, format)


async def pages_read(
    admin: asyncpg.Connection, schema: str, session: str, limit: int, lower: Any = LONG_AGO
) -> tuple[int, int]:
    """How many pages a claim looks at, and how many runs it would take; nothing is changed."""
    sql = statement("claim", Schema(schema))
    for setting in ("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit"):
        await admin.execute(f"SET {setting} = off")
    await admin.execute("SET plan_cache_mode = force_generic_plan")
    transaction = admin.transaction()
    await transaction.start()
    try:
        await admin.execute(f"PREPARE claiming AS {sql}")
        explained = await admin.fetchval(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE claiming"
            f"('{session}', {limit}, '{lower.isoformat()}', {FORMAT})"
        )
    finally:
        await transaction.rollback()
        await admin.execute("DEALLOCATE claiming")
    plan = json.loads(explained)[0]["Plan"]
    (taken,) = [node for node in plan["Plans"] if node.get("Subplan Name") == "CTE taken"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], taken["Actual Rows"]


async def test_claiming_nothing_costs_the_same_however_many_sleep(
    sleepers: Home, admin: asyncpg.Connection, schema: str
) -> None:
    pages, taken = await pages_read(admin, schema, await sleepers.session(), 100)

    assert taken == 0
    # A descent of the index per priority, and the few pages of sessions.
    assert pages < 100


async def test_claiming_a_hundred_among_fifty_thousand_sleepers_reads_about_what_it_takes(
    sleepers: Home, admin: asyncpg.Connection, schema: str
) -> None:
    await heads(admin, schema, sleepers, timedelta(seconds=-10), 500)

    pages, taken = await pages_read(admin, schema, await sleepers.session(), 100)

    assert taken == 100
    # Each one taken is looked up, locked, moved, and leaves its old place in and enters seven indexes.
    assert pages < 100 * 60


async def test_runs_of_workflows_that_the_session_does_not_know_cost_nothing(
    sleepers: Home, admin: asyncpg.Connection, schema: str
) -> None:
    stranger = Home(sleepers.store, sleepers.now)
    await stranger.open()
    await heads(admin, schema, sleepers, timedelta(seconds=-10), 5_000)

    pages, taken = await pages_read(admin, schema, await stranger.session(), 100)

    assert (taken, pages < 100) == (0, True)


async def test_runs_of_a_dead_owner_that_nobody_here_knows_cost_nothing(
    sleepers: Home, admin: asyncpg.Connection, schema: str
) -> None:
    stranger = Home(sleepers.store, sleepers.now)
    await stranger.open()
    dead = await sleepers.session()
    await heads(admin, schema, sleepers, timedelta(seconds=-10), 5_000)
    await admin.execute(f"UPDATE {schema}.runs SET owner = $1, wake_at = NULL WHERE wake_at < now()", dead)
    await sleepers.store.close_session(dead)

    pages, taken = await pages_read(admin, schema, await stranger.session(), 100)

    assert (taken, pages < 100) == (0, True)


async def test_the_mark_keeps_a_claim_off_what_was_taken_before(
    sleepers: Home, admin: asyncpg.Connection, holder: asyncpg.Connection, schema: str
) -> None:
    session = await sleepers.session()
    await heads(admin, schema, sleepers, timedelta(minutes=-1), 5_000)
    async with holder.transaction(isolation="repeatable_read"):
        # Somebody's old snapshot keeps every dead index entry alive for the scan.
        await holder.fetchval("SELECT 1")
        await admin.execute(f"UPDATE {schema}.runs SET wake_at = wake_at + interval '20 min' WHERE wake_at < now()")
        await sleepers.store.claim(session, 100)

        from_the_beginning, _ = await pages_read(admin, schema, session, 100)
        from_the_mark, _ = await pages_read(admin, schema, session, 100, sleepers.store._store.marks.of(session).at)

    assert from_the_mark < 100
    assert from_the_beginning > 10 * from_the_mark


async def test_a_backlog_that_is_older_than_the_margin_is_claimed_to_its_end(
    home: Home, admin: asyncpg.Connection, schema: str
) -> None:
    session = await home.session()
    created = [await home.create(priority=n % 10) for n in range(40)]
    await admin.execute(
        f"UPDATE {schema}.runs SET wake_at = wake_at - (random() * interval '10 min') WHERE id = ANY($1)",
        [run.id for run in created],
    )

    taken: list[Claimed] = []
    while claimed := await home.store.claim(session, 7):
        taken += claimed

    assert {claimed.history.head.run_id for claimed in taken} == {run.id for run in created}


async def test_a_run_that_appears_below_the_mark_is_found_soon(
    home: Home, admin: asyncpg.Connection, schema: str
) -> None:
    session = await home.session()
    await home.store.claim(session, 10)
    late = await home.create()
    # As by a transaction that was long in committing.
    await admin.execute(f"UPDATE {schema}.runs SET wake_at = wake_at - interval '1 min' WHERE id = $1", late.id)
    mark = home.store._store.marks.of(session)
    assert list(await home.store.claim(session, 10)) == []

    mark.unmarked_due = 0.0

    assert [claimed.history.head.run_id for claimed in await home.store.claim(session, 10)] == [late.id]


async def test_the_cost_of_a_scan_without_the_mark_decides_when_the_next_one_is_made(home: Home) -> None:

    cheap, dear, endless = Mark(), Mark(), Mark()
    now = monotonic()
    cheap.scanned(LONG_AGO, 0.001)
    dear.scanned(LONG_AGO, 0.05)
    endless.scanned(LONG_AGO, 10.0)

    assert [round(mark.unmarked_due - now) for mark in (cheap, dear, endless)] == [1, 5, 30]


async def test_a_heartbeat_hears_of_a_run_below_the_mark(home: Home, admin: asyncpg.Connection, schema: str) -> None:
    session = await home.session()
    await home.store.claim(session, 10)
    late = await home.create()
    await admin.execute(f"UPDATE {schema}.runs SET wake_at = wake_at - interval '1 min' WHERE id = $1", late.id)

    assert (await home.store.renew(session)).due == 1


async def test_two_processes_that_claim_at_once_share_what_is_due(home: Home, open_at: Open, adapter_url: str) -> None:
    runs: list[KnownRun] = [await home.create() for _ in range(60)]
    taken: list[str] = []

    async with open_at(adapter_url) as other:
        sessions = [await home.session(), await home.session(store=other)]

        async def work(store: Any, session: str) -> None:
            while claimed := await store.claim(session, 5):
                taken.extend(run.history.head.run_id for run in claimed)

        async with create_task_group() as group:
            group.start_soon(work, home.store, sessions[0])
            group.start_soon(work, other, sessions[1])

    assert sorted(taken) == sorted(run.id for run in runs)


async def test_runs_of_a_newer_format_do_not_hide_those_behind_them(
    home: Home, admin: asyncpg.Connection, schema: str
) -> None:
    await heads(admin, schema, home, timedelta(minutes=-5), 300, FORMAT + 1)
    run = await home.create()

    claimed = await home.store.claim(await home.session(), 5)

    assert [one.history.head.run_id for one in claimed] == [run.id]
