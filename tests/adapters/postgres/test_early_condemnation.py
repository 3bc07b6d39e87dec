"""A dead process is noticed by its lock, long before its lease ends; a living one is not condemned by mistake."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from anyio import sleep
from anyio.to_thread import run_sync

from adapters.postgres.early_condemnation import BETWEEN_LOOKS_S, Watch
from tests.adapters.postgres.stores import Home, until

LEASE = timedelta(seconds=10)
RENEWED = datetime(2026, 11, 1, tzinfo=UTC)
LATER = RENEWED + timedelta(seconds=3)

# -- what is concluded from looks -------------------------------------------------------------------------------------


def test_an_absence_counts_from_the_second_look_a_second_later() -> None:
    watch = Watch()

    assert watch.look({"a": RENEWED}, 100.0, LEASE) is None
    assert watch.look({"a": RENEWED}, 100.9, LEASE) is None
    assert watch.look({"a": RENEWED}, 101.0, LEASE) == ("a", RENEWED)


def test_who_has_renewed_in_between_begins_anew() -> None:
    watch = Watch()
    watch.look({"a": RENEWED}, 100.0, LEASE)

    assert watch.look({"a": LATER}, 101.5, LEASE) is None
    assert watch.look({"a": LATER}, 102.5, LEASE) == ("a", LATER)


def test_who_was_back_in_between_begins_anew() -> None:
    watch = Watch()
    watch.look({"a": RENEWED}, 100.0, LEASE)
    watch.look({}, 100.5, LEASE)

    assert watch.look({"a": RENEWED}, 101.5, LEASE) is None


def test_two_that_are_absent_at_once_are_left_to_their_leases() -> None:
    watch = Watch()

    assert watch.look({"a": RENEWED, "b": RENEWED}, 100.0, LEASE) is None
    assert watch.look({"a": RENEWED, "b": RENEWED}, 105.0, LEASE) is None


def test_two_that_are_absent_shortly_after_each_other_are_too() -> None:
    watch = Watch()
    watch.look({"a": RENEWED}, 100.0, LEASE)

    assert watch.look({"a": RENEWED, "b": RENEWED}, 100.5, LEASE) is None
    assert watch.look({"b": RENEWED}, 103.0, LEASE) is None
    assert watch.look({"b": RENEWED}, 109.0, LEASE) is None


def test_nothing_is_concluded_for_one_lease_after_our_own_connection_was_lost() -> None:
    watch = Watch()
    watch.distrust(100.0, LEASE)

    assert watch.look({"a": RENEWED}, 102.0, LEASE) is None
    assert watch.look({"a": RENEWED}, 109.9, LEASE) is None
    assert watch.look({"a": RENEWED}, 110.0, LEASE) is None
    assert watch.look({"a": RENEWED}, 111.0, LEASE) == ("a", RENEWED)


# -- on a server ------------------------------------------------------------------------------------------------------


class Living:
    """A process, as far as the others see it: a session and the connection that renews it."""

    def __init__(self, home: Home, session: str) -> None:
        self.session = session
        self.heartbeat = home.store.heartbeat(session)

    async def beat(self) -> bool:
        return (await run_sync(self.heartbeat.beat)).alive

    def die(self) -> None:
        """The connection goes with the process; nobody says goodbye."""
        line = self.heartbeat._line
        assert line is not None
        line.drop()
        self.heartbeat.close()


@pytest.fixture
async def living(home: Home) -> AsyncIterator[Callable[..., Awaitable[Living]]]:
    made: list[Living] = []

    async def make(lease: timedelta = timedelta(seconds=30)) -> Living:
        process = Living(home, await home.session(lease=lease))
        made.append(process)
        await process.beat()
        return process

    yield make
    for process in made:
        process.heartbeat.close()
        # Or the next test would see one more process that has died.
        await home.store.close_session(process.session)


SHORT = timedelta(seconds=4)
LONG = timedelta(days=30)


@pytest.mark.anyio
async def test_the_runs_of_a_dead_process_are_free_long_before_its_lease_has_ended(home: Home, living) -> None:
    survivor, victim = await living(SHORT), await living(SHORT)
    run = await home.started(victim.session)
    victim.die()
    died = home.now()

    async def noticed() -> bool:
        return (await run_sync(survivor.heartbeat.beat)).due > 0

    await until(noticed)

    assert home.now() - died < SHORT
    (claimed,) = await home.store.claim(survivor.session, 10)
    assert (claimed.history.head.run_id, claimed.previous_owner) == (run.id, victim.session)


@pytest.mark.anyio
async def test_a_process_that_only_lost_its_connection_takes_its_lock_again(
    home: Home, living, admin: asyncpg.Connection, schema: str
) -> None:
    process = await living()
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'leasehold renew'"
    )

    assert await process.beat()

    assert await admin.fetchval(
        f"SELECT {schema}.session_lock($1) IN (SELECT lock FROM {schema}.held_session_locks)", process.session
    )


@pytest.mark.anyio
async def test_a_session_without_a_lock_is_left_to_its_lease(home: Home, living) -> None:
    observer = await living()
    by_hand = await home.session()

    for _ in range(2):
        await observer.beat()
        await sleep(BETWEEN_LOOKS_S * 1.05)
    await observer.beat()

    assert (await home.store.renew(by_hand)).alive


@pytest.mark.anyio
async def test_the_verdict_is_the_database_s(home: Home, living, admin: asyncpg.Connection, schema: str) -> None:
    process = await living()
    condemn = process.heartbeat._sql_condemn
    renewed = await admin.fetchval(f"SELECT renewed_at FROM {schema}.sessions WHERE id = $1", process.session)

    # It holds its lock: whoever thinks otherwise looked at the wrong moment.
    assert await admin.fetch(condemn, process.session, renewed) == []

    process.die()
    # It has renewed since.
    assert await admin.fetch(condemn, process.session, renewed - timedelta(seconds=1)) == []


@pytest.mark.anyio
async def test_only_who_was_there_before_the_server_started_gets_a_lease_to_come_back(
    home: Home, living, admin: asyncpg.Connection, schema: str
) -> None:
    process = await living(LONG)
    condemn = process.heartbeat._sql_condemn
    process.die()

    async def unlocked() -> bool:
        held = f"SELECT {schema}.session_lock($1) IN (SELECT lock FROM {schema}.held_session_locks)"
        return not await admin.fetchval(held, process.session)

    await until(unlocked)
    opened = await admin.fetchval(f"SELECT registered_at FROM {schema}.sessions WHERE id = $1", process.session)
    reopen = (
        f"UPDATE {schema}.sessions SET registered_at = coalesce($2, pg_postmaster_start_time() - interval '1 second')"
        " WHERE id = $1 RETURNING renewed_at"
    )

    renewed = await admin.fetchval(reopen, process.session, None)
    assert await admin.fetch(condemn, process.session, renewed) == []

    renewed = await admin.fetchval(reopen, process.session, opened)
    assert len(await admin.fetch(condemn, process.session, renewed)) == 1


@pytest.mark.anyio
async def test_a_condemned_process_that_lives_after_all_says_so(
    home: Home, living, admin: asyncpg.Connection, schema: str
) -> None:
    process = await living()
    refused = f"SELECT refused_at IS NOT NULL FROM {schema}.sessions WHERE id = $1"
    await home.store.close_session(process.session)
    assert not await admin.fetchval(refused, process.session)

    assert not await process.beat()

    assert await admin.fetchval(refused, process.session)
