"""Heads are updated in place: an append that moved an index entry of `runs` would cost several times as much."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import asyncpg
import pytest
from anyio import create_task_group

from adapters.conformance.store.builders import KnownRun, annotating, completing, starting
from adapters.postgres import open_postgres
from kernel.journal import fold_stored
from kernel.ports.outbox import SinkRecord
from tests.adapters.postgres.stores import Home, until

pytestmark = pytest.mark.anyio

RUNS = 200
AT_ONCE = 10

# What stays as it is while a run is being driven, and so may be indexed. `error` and `completed_at` change once, when a
# run ends and its owner with it.
INDEXABLE = {"id", "workflow_key", "priority", "wake_at", "owner", "attention", "publish_at", "parked_reason", "error"}
INDEXABLE |= {"completed_at"}
# `cancelled` changes when a run is cancelled.
INDEXABLE |= {"cancelled"}


def utc_now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
async def fresh(database_url: str) -> AsyncIterator[Home]:
    """In a database of its own, because old row versions stay while anybody in the same one may still see them."""
    async with open_postgres(database_url, migrate=True) as store:
        home = Home(store, utc_now)
        await home.open()
        yield home


async def test_most_updates_of_runs_that_are_created_owned_are_heap_only(fresh: Home) -> None:
    session = await fresh.session()

    async def three_stages() -> None:
        await execute_the_rest(fresh, await fresh.started(session))

    assert await best_share_of_heap_only_updates(fresh, three_stages, updates=3, enough=0.60) >= 0.60


async def test_almost_half_of_the_updates_of_runs_that_a_client_creates_are_heap_only(fresh: Home) -> None:
    session = await fresh.session()

    async def three_stages() -> None:
        await fresh.create()
        (claimed,) = await fresh.store.claim(session, 1)
        run = KnownRun(fold_stored(claimed.history), utc_now, claimed.lease)
        await run.land(fresh.store, run.owned(starting))
        await execute_the_rest(fresh, run)

    assert await best_share_of_heap_only_updates(fresh, three_stages, updates=5, enough=0.45) >= 0.45


async def test_what_a_run_appends_stays_heap_only_when_its_events_go_to_a_sink(fresh: Home) -> None:
    session = await fresh.session()
    await fresh.store.register_sinks([SinkRecord(name="audit")])

    async def three_stages() -> None:
        await execute_the_rest(fresh, await fresh.started(session))
        # Once for a run as short as this, and this update alone moves an entry: nothing is left to publish.
        await fresh.store.spread(1)

    assert await best_share_of_heap_only_updates(fresh, three_stages, updates=4, enough=0.45) >= 0.45


async def test_an_index_names_only_what_stays_as_it_is_while_a_run_is_driven(
    admin: asyncpg.Connection, schema: str
) -> None:
    # Columns of keys, of expressions and of predicates alike: an index depends on all of them.
    rows = await admin.fetch(
        """
        SELECT DISTINCT a.attname
        FROM pg_index AS i
        JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
             AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid > 0
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = d.refobjsubid
        WHERE i.indrelid = $1::text::regclass AND NOT i.indisprimary
        """,
        f"{schema}.runs",
    )

    named = {row["attname"] for row in rows}
    assert {"workflow_key", "wake_at", "owner", "parked_reason"} <= named
    assert named <= INDEXABLE


async def execute_the_rest(home: Home, run: KnownRun) -> None:
    # The workflow has two stages; an annotation changes the head as the end of one more would.
    for change in (annotating, completing, completing):
        await run.land(home.store, run.owned(change))


async def best_share_of_heap_only_updates(
    home: Home, run_to_its_end: Callable[[], Awaitable[None]], *, updates: int, enough: float
) -> float:
    """Of all updates of heads, so many per run. The best of three, since a long look of the server at its own tables
    (ANALYZE) lowers one; an index too many lowers all."""
    shares = [0.0]
    before = await counts(home, at_least=0)
    while max(shares) < enough and len(shares) <= 3:
        left = list(range(RUNS))

        async def work(left: list[int]) -> None:
            while left:
                left.pop()
                await run_to_its_end()

        async with create_task_group() as group:
            for _ in range(AT_ONCE):
                group.start_soon(work, left)
        after = await counts(home, at_least=before[0] + updates * RUNS)
        shares.append((after[1] - before[1]) / (after[0] - before[0]))
        before = after
    return max(shares)


async def counts(home: Home, *, at_least: int) -> tuple[int, int]:
    """Of all updates of heads so far, and of those that were heap-only, once all have been reported."""
    store = home.store._store

    async def reported() -> tuple[int, int] | None:
        # Otherwise a server process reports what it has done at its next statement, and at most once a second.
        for line in (store.line, *store.committer.lines):
            await (await line.connection()).execute("SELECT pg_stat_force_next_flush()")
        connection = await store.line.connection()
        row = await connection.fetchrow(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'leasehold.runs'::regclass"
        )
        assert row is not None
        return (row["n_tup_upd"], row["n_tup_hot_upd"]) if row["n_tup_upd"] >= at_least else None

    found = await until(reported)
    assert found is not None
    return found
