"""Nothing is waited for without end: neither somebody's lock nor a server that has fallen silent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from time import monotonic

import asyncpg
import pytest
from anyio import CancelScope, create_task_group, fail_after

from adapters.conformance.store.builders import KnownRun, annotating, starting
from adapters.postgres import PostgresPersistence, open_postgres
from adapters.postgres.connections import Deadlines, Line, Target
from kernel.errors import EngineError, Unavailable
from kernel.journal import fold_stored
from tests.adapters.postgres.conftest import Open
from tests.adapters.postgres.stores import Home, note_outcome, outcome_of, until
from tests.adapters.postgres.wire import Wire

pytestmark = pytest.mark.anyio

NOBODY = "019a0000-0000-7000-8000-000000000000"

# Short, so that a test can await them.
DEADLINES = Deadlines(
    connect_s=0.3, statement_s=0.3, server_statement_s=3, beat_s=0.3, blob_s=0.3, patience_s=0.3, close_s=0.3
)

LEASE = timedelta(seconds=10)

# One way of each kind to the server: reading, claiming, a statement that is not repeated, a connection of its own.
CALLS: dict[str, Callable[[PostgresPersistence, str, Home], Awaitable[object]]] = {
    "load": lambda far, session, home: far.load(NOBODY),
    "claim": lambda far, session, home: far.claim(session, 1),
    "open_session": lambda far, session, home: home.session(store=far),
    "extend_history": lambda far, session, home: far.extend_history(),
    "put a blob": lambda far, session, home: far.blobs.put("k", b"v"),
    # None of those that take something may answer with nothing instead.
    "take a job": lambda far, session, home: far.jobs.dequeue(["q"], [(home.workflow, "1")], ["t"], holder=session),
    "take a command": lambda far, session, home: far.scheduler.take_due([], 1, lease=LEASE),
    "take suspended runs": lambda far, session, home: far.hold_suspended([(home.workflow, "1")], 1, hold=LEASE),
    "take deliveries": lambda far, session, home: far.claim_deliveries("sink", 1, lease=LEASE),
}


@pytest.fixture
async def remote(adapter_url: str, schema: str, wire: Wire) -> AsyncIterator[PostgresPersistence]:
    """The store behind a wire."""
    async with open_postgres(wire.url, schema=schema, deadlines=DEADLINES) as far:
        yield far
        wire.cut()


# -- a silent server ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
async def test_a_server_that_does_not_answer_is_unavailable_within_the_deadline(
    home: Home, remote: PostgresPersistence, wire: Wire, call: str
) -> None:
    session = await home.session()
    wire.lose_answers()

    with fail_after(10), pytest.raises(Unavailable):
        await CALLS[call](remote, session, home)


async def test_who_stands_in_line_for_a_silent_server_does_not_wait_for_all_before(
    remote: PostgresPersistence, wire: Wire
) -> None:
    wire.lose_answers()
    outcomes: list[EngineError | None] = []

    async def load() -> None:
        try:
            await remote.load(NOBODY)
        except EngineError as error:
            outcomes.append(error)

    with fail_after(3):
        async with create_task_group() as group:
            for _ in range(20):
                group.start_soon(load)

    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 20


async def test_a_server_that_takes_connections_and_says_nothing_cannot_be_opened(schema: str, wire: Wire) -> None:
    wire.lose_answers()

    with fail_after(10), pytest.raises(Unavailable, match="cannot be reached"):
        async with open_postgres(wire.url, schema=schema, deadlines=DEADLINES):
            pass


async def test_a_read_that_its_caller_gives_up_does_not_spoil_the_next_one(
    home: Home, holder: asyncpg.Connection, admin: asyncpg.Connection, schema: str
) -> None:
    run = await home.create()
    async with holder.transaction():
        await holder.execute(f"LOCK TABLE {schema}.workflows IN ACCESS EXCLUSIVE MODE")
        with CancelScope() as given_up:
            async with create_task_group() as group:
                group.start_soon(home.store.load, run.id)
                await until(lambda: waits_for_a_lock(admin, "leasehold read"))
                given_up.cancel()

    with fail_after(10):
        assert (await home.store.load(run.id)).head.run_id == run.id


# -- locks -------------------------------------------------------------------------------------------------------------


async def test_a_claim_passes_over_a_run_that_somebody_has_locked(
    home: Home, holder: asyncpg.Connection, schema: str
) -> None:
    locked, free = await home.create(), await home.create()
    session = await home.session()

    async with holder.transaction():
        await lock(holder, schema, locked)
        before = monotonic()
        claimed = await home.store.claim(session, 10)
        took_s = monotonic() - before

    assert [one.history.head.run_id for one in claimed] == [free.id]
    assert took_s < home.store._store.target.deadlines.lock_s
    assert [one.history.head.run_id for one in await home.store.claim(session, 10)] == [locked.id]


async def test_a_foreign_append_waits_for_a_lock_and_lands_when_it_is_gone(
    home: Home, holder: asyncpg.Connection, admin: asyncpg.Connection, schema: str
) -> None:
    run = await home.create()
    outcomes: list[EngineError | None] = []

    async with create_task_group() as group, holder.transaction():
        await lock(holder, schema, run)
        group.start_soon(note_outcome, outcomes, home.store, run.foreign(annotating))
        await until(lambda: waits_for_a_lock(admin, "leasehold append"))
        assert outcomes == []

    assert outcomes == [None]


async def test_an_append_that_waits_for_a_lock_holds_up_no_other(
    home: Home, admin: asyncpg.Connection, holder: asyncpg.Connection, adapter_url: str, schema: str
) -> None:
    locked, free = await home.create(), await home.started(await home.session())
    outcomes: list[EngineError | None] = []
    patient = Deadlines(lock_s=60, server_statement_s=60, statement_s=60)

    async with (
        open_postgres(adapter_url, schema=schema, deadlines=patient) as store,
        create_task_group() as group,
        holder.transaction(),
    ):
        await lock(holder, schema, locked)
        group.start_soon(note_outcome, outcomes, store, locked.foreign(annotating))
        await until(lambda: waits_for_a_lock(admin, "leasehold append"))
        with fail_after(10):
            await free.land(store, free.owned(annotating))
        assert outcomes == []

    assert outcomes == [None]


async def test_a_run_that_stays_locked_is_given_up_and_holds_up_no_other_for_longer(
    home: Home, open_at: Open, adapter_url: str, holder: asyncpg.Connection, schema: str
) -> None:
    stuck, *others = [await home.create() for _ in range(10)]

    async with holder.transaction():
        await lock(holder, schema, stuck)
        outcomes: list[EngineError | None] = []
        with fail_after(10):
            async with create_task_group() as group:
                group.start_soon(note_outcome, outcomes, home.store, stuck.foreign(annotating))
                for run in others:
                    group.start_soon(run.land, home.store, run.foreign(annotating))

    assert isinstance(outcomes[0], Unavailable)
    assert await outcome_of(home.store, stuck.foreign(annotating)) is None


async def test_claims_and_appends_of_owners_and_strangers_do_not_deadlock(
    seen_deadlocks: Callable[[], Awaitable[int]], home: Home, open_at: Open, adapter_url: str
) -> None:
    runs = [await home.create() for _ in range(100)]

    async def own(store: PostgresPersistence) -> None:
        session = await home.session(store=store)
        for _ in range(6):
            taken = await store.claim(session, 20)
            async with create_task_group() as group:
                for claimed in taken:
                    run = KnownRun(fold_stored(claimed.history), home.now, claimed.lease)
                    group.start_soon(outcome_of, store, run.owned(starting))

    async def interfere(store: PostgresPersistence) -> None:
        for order in (runs, runs[::-1], runs):
            async with create_task_group() as group:
                for run in order:
                    group.start_soon(outcome_of, store, run.foreign(annotating))

    async with open_at(adapter_url) as second, open_at(adapter_url) as third, create_task_group() as group:
        for store in (home.store, second, third):
            group.start_soon(own, store)
            group.start_soon(interfere, store)

    assert await seen_deadlocks() == 0


# -- settings ----------------------------------------------------------------------------------------------------------


async def test_every_connection_of_ours_bounds_what_the_server_waits_for(home: Home) -> None:
    store = home.store._store
    await home.store.blobs.has("k")

    for line in (*store.committer.lines, store.line, store.hints.line, store.blobs._line):
        assert await settings_of(line) == {
            "lock_timeout": "250ms",
            # A large blob takes its time.
            "statement_timeout": "1min" if line is store.blobs._line else "3s",
            "idle_in_transaction_session_timeout": "10s",
            "plan_cache_mode": "force_generic_plan",
            # What was acknowledged survives a crash of the server; a hint need not.
            "synchronous_commit": "off" if line is store.hints.line else "on",
        }


async def test_a_connection_that_is_left_in_a_transaction_is_ended(adapter_url: str) -> None:
    target = Target(url=adapter_url, purpose="idle", deadlines=Deadlines(idle_in_transaction_s=0.1))
    line = Line(target)
    connection = await line.connection()
    await connection.execute("BEGIN")

    async def ended() -> bool:
        return connection.is_closed()

    await until(ended)
    assert (await line.fetch("go on", "SELECT 1"))[0][0] == 1
    await line.close()


async def settings_of(line: Line) -> dict[str, str]:
    names = (
        *("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"),
        *("plan_cache_mode", "synchronous_commit"),
    )
    return {name: (await line.fetch("tell", f"SHOW {name}"))[0][0] for name in names}


# -- looking -----------------------------------------------------------------------------------------------------------


async def lock(holder: asyncpg.Connection, schema: str, run: KnownRun) -> None:
    await holder.execute(f"SELECT FROM {schema}.runs WHERE id = $1 FOR UPDATE", run.id)


async def waits_for_a_lock(admin: asyncpg.Connection, application: str) -> bool:
    found = await admin.fetchval(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = $1 AND wait_event_type = 'Lock')",
        application,
    )
    return bool(found)
