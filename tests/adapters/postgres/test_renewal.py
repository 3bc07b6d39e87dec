"""The renewal of a session: on a thread and a connection of its own, and never for a lease that has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import asyncpg
import pytest
from anyio import create_task_group, fail_after
from anyio.to_thread import run_sync

from adapters.conformance.store.builders import annotating, completing
from adapters.postgres.heartbeat import PostgresHeartbeat
from kernel.errors import LeaseLost, Unavailable
from kernel.ports.persistence import Beat, Claimed
from tests.adapters.postgres.conftest import Open
from tests.adapters.postgres.stores import Home, until
from tests.adapters.postgres.wire import Wire

pytestmark = pytest.mark.anyio

Renewal = Callable[[str], PostgresHeartbeat]


@pytest.fixture
def renewal(home: Home) -> Iterator[Renewal]:
    made: list[PostgresHeartbeat] = []

    def make(session: str) -> PostgresHeartbeat:
        made.append(home.store.heartbeat(session))
        return made[-1]

    yield make
    for heartbeat in made:
        heartbeat.close()


async def test_a_renewal_that_waited_for_a_lock_does_not_revive_a_lease_that_has_ended(
    home: Home, renewal: Renewal, holder: asyncpg.Connection, admin: asyncpg.Connection, schema: str
) -> None:
    session = await home.session()
    heartbeat = renewal(session)
    await run_sync(heartbeat.beat)
    beats: list[Beat] = []

    async def beat() -> None:
        beats.append(await run_sync(heartbeat.beat))

    soon = "lease_expires_at = clock_timestamp() + interval '100 ms'"
    await admin.execute(f"UPDATE {schema}.sessions SET {soon} WHERE id = $1", session)
    async with create_task_group() as group, holder.transaction():
        # The lease ends while it waits for this row, of which nothing is changed: the server does not look again at a
        # condition that was true when the waiting began.
        await holder.execute(f"SELECT FROM {schema}.sessions WHERE id = $1 FOR UPDATE", session)
        group.start_soon(beat)
        await until(lambda: is_waiting(admin))
        await holder.execute("SELECT pg_sleep(0.11)")

    assert not beats[0].alive
    assert not (await home.store.renew(session)).alive


async def is_waiting(admin: asyncpg.Connection) -> bool:
    return await admin.fetchval(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'leasehold renew' AND wait_event_type = 'Lock')"
    )


async def test_a_blocked_event_loop_does_not_cost_the_lease(home: Home, renewal: Renewal) -> None:
    session = await home.session(lease=timedelta(milliseconds=400))
    heartbeat = renewal(session)
    stop = False
    beats: list[Beat] = []

    def renew() -> None:
        while not stop:
            beats.append(heartbeat.beat())
            time.sleep(0.05)

    async with create_task_group() as group:
        group.start_soon(run_sync, renew)
        await until(lambda: has(beats))
        # What user code does that knows nothing of event loops.
        time.sleep(1.0)  # noqa: ASYNC251
        stop = True

    assert all(beat.alive for beat in beats)
    assert (await home.store.renew(session)).alive


async def has(beats: list[Beat]) -> bool:
    return bool(beats)


async def test_a_connection_that_broke_is_replaced_within_the_same_beat(
    home: Home, renewal: Renewal, admin: asyncpg.Connection
) -> None:
    heartbeat = renewal(await home.session())
    await run_sync(heartbeat.beat)
    await end_renewals(admin)

    assert (await run_sync(heartbeat.beat)).alive


async def end_renewals(admin: asyncpg.Connection) -> None:
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'leasehold renew'"
    )


async def test_a_beat_that_gets_no_answer_ends_by_its_deadline(home: Home, open_at: Open, wire: Wire) -> None:
    session = await home.session()
    async with open_at(wire.url) as far:
        heartbeat = far.heartbeat(session)
        try:
            await run_sync(heartbeat.beat)
            wire.lose_answers()

            with fail_after(10), pytest.raises(Unavailable):
                await run_sync(heartbeat.beat)

            wire.cut()
            assert (await run_sync(heartbeat.beat)).alive
        finally:
            heartbeat.close()


async def test_a_closed_heartbeat_does_not_beat(home: Home) -> None:
    heartbeat = home.store.heartbeat(await home.session())
    await run_sync(heartbeat.beat)

    heartbeat.close()
    heartbeat.close()

    with pytest.raises(Unavailable):
        heartbeat.beat()


async def test_it_lists_what_the_session_owns_when_asked(home: Home, renewal: Renewal) -> None:
    session = await home.session()
    runs = [await home.started(session) for _ in range(3)]
    heartbeat = renewal(session)

    asked = await run_sync(lambda: heartbeat.beat(adrift=True))

    assert sorted(asked.adrift) == sorted((run.id, 1) for run in runs)
    assert (await run_sync(heartbeat.beat)).adrift == []


async def test_it_names_the_runs_that_somebody_else_appended_to(home: Home, renewal: Renewal) -> None:
    session = await home.session()
    runs = [await home.started(session) for _ in range(3)]
    heartbeat = renewal(session)
    assert (await run_sync(heartbeat.beat)).attention == []

    await runs[1].land(home.store, runs[1].foreign(annotating))

    assert (await run_sync(heartbeat.beat)).attention == [runs[1].id]


async def test_beats_of_many_sessions_at_once_do_not_deadlock(home: Home, renewal: Renewal) -> None:
    ended = [await home.session(lease=timedelta(milliseconds=1)) for _ in range(5)]
    heartbeats = [renewal(await home.session()) for _ in range(8)]
    beats: list[Beat] = []

    async def renew(heartbeat: PostgresHeartbeat) -> None:
        for _ in range(5):
            beat = await run_sync(heartbeat.beat)
            beats.append(beat)

    async with create_task_group() as group:
        for heartbeat in heartbeats:
            group.start_soon(renew, heartbeat)

    assert all(beat.alive for beat in beats)
    assert not any([(await home.store.renew(session)).alive for session in ended])


async def test_a_session_that_is_condemned_while_its_batch_waits_commits_nothing_after_its_runs_are_taken(
    home: Home, holder: asyncpg.Connection, schema: str
) -> None:
    session, heir = await home.session(), await home.session()
    run = await home.started(session)
    landed: list[bool] = []
    taken: list[Claimed] = []

    async def append() -> None:
        try:
            await home.store.append(run.owned(completing))
        except LeaseLost:
            landed.append(False)
        else:
            # Sent while the session lived, it may be carried out for as long as nobody has taken the run.
            landed.append(True)

    async def taking() -> bool:
        taken.extend(await home.store.claim(heir, 10))
        return bool(taken)

    async with create_task_group() as group:
        async with holder.transaction():
            # Somebody has the run's row; the owner's append is tried again and again meanwhile.
            await holder.execute(f"SELECT FROM {schema}.runs WHERE id = $1 FOR UPDATE", run.id)
            group.start_soon(append)
            await home.store.close_session(session)
        await until(taking)

    assert len(await home.append_ids(run)) == 1 + landed[0]
    assert (await home.store.load(run.id)).head.seq == taken[0].history.head.seq


async def test_sessions_that_nothing_names_any_more_are_forgotten(
    home: Home, admin: asyncpg.Connection, schema: str
) -> None:
    free, named = await home.session(), await home.session()
    await home.started(named)
    for session in (free, named):
        await home.store.close_session(session)
    await admin.execute(f"UPDATE {schema}.sessions SET condemned_at = condemned_at - interval '2 h'")

    await home.session()

    kept = {str(row["id"]) for row in await admin.fetch(f"SELECT id FROM {schema}.sessions")}
    assert named in kept
    assert free not in kept
