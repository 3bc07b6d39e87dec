"""A run that is started on the caller's connection exists exactly when the caller's transaction commits."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import asyncpg
import pytest

from kernel import IdempotencyInProgress, IdempotencyKeyReused, InvalidCommand, InvalidConfig, InvalidInput
from runtime import Client
from tests.runtime.gates import Doc, echo
from tests.runtime.shared_store import SharedStore, until

pytestmark = pytest.mark.anyio

ECHO = echo()
EVERYTHING = """
    SELECT (SELECT count(*) FROM leasehold.runs) + (SELECT count(*) FROM leasehold.history)
         + (SELECT count(*) FROM leasehold.idempotency_keys) + (SELECT count(*) FROM leasehold.blobs)
"""
LARGE = Doc(text="x" * 20_000)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The loop of the driver's connections; what another one is told, a test below says."""
    return "asyncio"


@pytest.fixture
async def mine(postgres: SharedStore) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the caller's own."""
    connection = await asyncpg.connect(postgres.url, timeout=10)
    yield connection
    await connection.close(timeout=10)


@pytest.fixture
async def client(postgres: SharedStore) -> AsyncIterator[Client]:
    async with postgres.client(ECHO) as client:
        yield client


async def listed(client: Client) -> list[str]:
    return [run.id for run in (await client.list_runs()).items]


# -- committing and not ------------------------------------------------------------------------------------------------


async def test_the_run_exists_when_the_transaction_commits_and_then_it_runs(
    postgres: SharedStore, client: Client, mine: asyncpg.Connection
):
    async with postgres.supervisor(ECHO, renew=0.05):
        async with mine.transaction():
            run = await client.start(ECHO, Doc(text="x"), connection=mine)
            assert await listed(client) == []

        assert await listed(client) == [run.id]
        assert await run.result(timeout=20) == Doc(text="x")


async def test_a_transaction_that_is_rolled_back_leaves_nothing_not_even_the_key(
    client: Client, mine: asyncpg.Connection
):
    transaction = mine.transaction()
    await transaction.start()
    await client.start(ECHO, LARGE, connection=mine, idempotency_key="order 7")
    assert await mine.fetchval(EVERYTHING) == 4

    await transaction.rollback()

    assert await mine.fetchval(EVERYTHING) == 0
    assert await client.find(ECHO, "order 7") is None


async def test_a_caller_that_dies_before_its_commit_leaves_neither_run_nor_key(
    postgres: SharedStore, client: Client, mine: asyncpg.Connection
):
    doomed = await asyncpg.connect(postgres.url, timeout=10)
    await doomed.transaction().start()
    await client.start(ECHO, Doc(text="x"), connection=doomed, idempotency_key="k")
    doomed.terminate()

    async def gone() -> bool:
        return await mine.fetchval("SELECT count(*) = 0 FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'")

    await until(gone)
    assert await mine.fetchval(EVERYTHING) == 0


async def test_without_a_transaction_the_run_exists_at_once(client: Client, mine: asyncpg.Connection):
    run = await client.start(ECHO, Doc(text="x"), connection=mine, idempotency_key="k")

    found = await client.find(ECHO, "k")
    assert found is not None
    assert found.id == run.id


async def test_a_transaction_that_was_begun_with_sql_will_do(client: Client, mine: asyncpg.Connection):
    await mine.execute("BEGIN")
    run = await client.start(ECHO, Doc(text="x"), connection=mine)
    await mine.execute("COMMIT")

    assert await listed(client) == [run.id]


async def test_a_connection_of_a_pool_will_do(postgres: SharedStore, client: Client):
    async with (
        asyncpg.create_pool(postgres.url, min_size=1, max_size=1, timeout=10) as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        run = await client.start(ECHO, Doc(text="x"), connection=connection)
    assert await listed(client) == [run.id]


async def test_codecs_of_the_connection_change_nothing(client: Client, mine: asyncpg.Connection):
    for kind in ("json", "jsonb"):
        await mine.set_type_codec(kind, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    await mine.set_type_codec("uuid", encoder=str, decoder=str, schema="pg_catalog")
    async with mine.transaction():
        run = await client.start(
            ECHO, Doc(text="x"), connection=mine, metadata={"a": [1]}, config={"repeat": {"times": 3}}
        )

    info = await run.describe()
    assert (info.input, info.metadata) == ({"text": "x"}, {"a": [1]})


async def test_everything_that_start_takes_is_kept(postgres: SharedStore, client: Client, mine: asyncpg.Connection):
    at = datetime.now(UTC) + timedelta(hours=1)
    async with mine.transaction():
        run = await client.start(
            ECHO, Doc(text="x"), connection=mine, priority=9, metadata={"by": "Ada"}, run_at=at, idempotency_key="k"
        )

    info = await run.describe()
    assert (info.priority, info.metadata, info.run_at, info.idempotency_key) == (9, {"by": "Ada"}, at, "k")
    assert info.waiting_for == "delayed_until"


async def test_a_supervisor_does_not_own_what_may_be_rolled_back(postgres: SharedStore, mine: asyncpg.Connection):
    async with postgres.supervisor(ECHO, renew=0.05) as supervisor:
        async with mine.transaction():
            run = await supervisor.start(ECHO, Doc(text="x"), connection=mine)
            assert supervisor.stats().actors == 0
        assert await run.result(timeout=20) == Doc(text="x")


async def test_a_large_input_is_of_the_same_transaction(
    postgres: SharedStore, client: Client, mine: asyncpg.Connection
):
    async with postgres.supervisor(ECHO, renew=0.05):
        async with mine.transaction():
            run = await client.start(ECHO, LARGE, connection=mine)
        assert await run.result(timeout=20) == LARGE


# -- keys --------------------------------------------------------------------------------------------------------------


async def test_the_same_key_answers_with_the_same_run_within_and_after_the_transaction(
    client: Client, mine: asyncpg.Connection
):
    async with mine.transaction():
        first = await client.start(ECHO, Doc(text="x"), connection=mine, idempotency_key="k")
        again = await client.start(ECHO, Doc(text="x"), connection=mine, idempotency_key="k")
    later = await client.start(ECHO, Doc(text="x"), idempotency_key="k")

    assert first.id == again.id == later.id
    assert await listed(client) == [first.id]


async def test_a_key_with_another_payload_is_refused_and_the_transaction_goes_on(
    client: Client, mine: asyncpg.Connection
):
    first = await client.start(ECHO, Doc(text="x"), idempotency_key="k")
    async with mine.transaction():
        with pytest.raises(IdempotencyKeyReused) as refused:
            await client.start(ECHO, Doc(text="y"), connection=mine, idempotency_key="k")
        other = await client.start(ECHO, Doc(text="y"), connection=mine, idempotency_key="k2")

    assert (refused.value.run_id, refused.value.paths) == (first.id, ("input.text",))
    assert set(await listed(client)) == {first.id, other.id}


async def test_a_key_of_the_same_transaction_with_another_payload_is_refused(client: Client, mine: asyncpg.Connection):
    async with mine.transaction():
        first = await client.start(ECHO, Doc(text="x"), connection=mine, idempotency_key="k")
        with pytest.raises(IdempotencyKeyReused) as refused:
            await client.start(ECHO, LARGE, connection=mine, idempotency_key="k")

    assert refused.value.run_id == first.id


async def test_an_expired_key_is_free(client: Client, mine: asyncpg.Connection):
    first = await client.start(ECHO, Doc(text="x"), idempotency_key="k")
    await mine.execute("UPDATE leasehold.idempotency_keys SET expires_at = clock_timestamp() - interval '1 second'")

    async with mine.transaction():
        second = await client.start(ECHO, Doc(text="y"), connection=mine, idempotency_key="k")

    assert second.id != first.id
    assert len(await listed(client)) == 2


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_two_transactions_with_one_key_make_one_run(
    postgres: SharedStore, client: Client, mine: asyncpg.Connection, end: str
):
    other = await asyncpg.connect(postgres.url, timeout=10)
    transaction, ids = mine.transaction(), []
    await transaction.start()
    ids.append((await client.start(ECHO, Doc(text="x"), connection=mine, idempotency_key="k")).id)

    async def second() -> None:
        async with other.transaction():
            ids.append((await client.start(ECHO, Doc(text="x"), connection=other, idempotency_key="k")).id)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(second)
        waiting = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"
        await until(lambda: mine.fetchval(waiting))
        await (transaction.commit() if end == "commit" else transaction.rollback())

    await other.close(timeout=10)
    assert len(await listed(client)) == 1
    assert (ids[0] == ids[1]) is (end == "commit")


async def test_a_snapshot_that_is_older_than_the_key_says_that_the_transaction_must_be_repeated(
    client: Client, mine: asyncpg.Connection
):
    async with mine.transaction(isolation="repeatable_read"):
        await mine.fetchval("SELECT count(*) FROM leasehold.runs")
        await client.start(ECHO, Doc(text="x"), idempotency_key="k")

        with pytest.raises(IdempotencyInProgress):
            await client.start(ECHO, Doc(text="x"), connection=mine, idempotency_key="k")


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, error",
    [
        ({"input": {"txet": "x"}}, InvalidInput),
        ({"config": {"repeat": {"times": "many"}}}, InvalidConfig),
        ({"config": {"another": {}}}, InvalidConfig),
        ({"priority": 10}, InvalidCommand),
        ({"idempotency_key": " "}, InvalidCommand),
    ],
)
async def test_what_start_refuses_is_refused_and_the_transaction_goes_on(
    client: Client, mine: asyncpg.Connection, given: dict[str, Any], error: type[Exception]
):
    call: dict[str, Any] = {"input": {"text": "x"}, **given}
    async with mine.transaction():
        with pytest.raises(error):
            await client.start("echo", call.pop("input"), connection=mine, **call)
        run = await client.start(ECHO, Doc(text="x"), connection=mine)

    assert await listed(client) == [run.id]


async def refusal(client: Client, connection: object) -> str:
    with pytest.raises(InvalidCommand) as refused:
        await client.start(ECHO, Doc(text="x"), connection=connection)
    assert refused.value.field == "connection"
    return str(refused.value)


async def test_what_is_no_connection_of_the_driver_is_refused_by_what_it_is(postgres: SharedStore, client: Client):
    assert "not builtins.str" in await refusal(client, "postgresql://")
    async with asyncpg.create_pool(postgres.url, min_size=1, max_size=1, timeout=10) as pool:
        assert "pool.acquire()" in await refusal(client, pool)
        connection = await pool.acquire()
        await pool.release(connection)
        assert "released" in await refusal(client, connection)


async def test_a_closed_connection_is_refused(postgres: SharedStore, client: Client):
    connection = await asyncpg.connect(postgres.url, timeout=10)
    await connection.close(timeout=10)

    assert "connection is closed" in await refusal(client, connection)


async def test_a_connection_to_another_database_is_refused(postgres_url: str, client: Client):
    connection = await asyncpg.connect(postgres_url, timeout=10)
    try:
        assert "another database" in await refusal(client, connection)
    finally:
        await connection.close(timeout=10)


async def test_a_transaction_that_has_failed_is_refused(client: Client, mine: asyncpg.Connection):
    transaction = mine.transaction()
    await transaction.start()
    with pytest.raises(asyncpg.DivisionByZeroError):
        await mine.execute("SELECT 1 / 0")

    assert "failed already" in await refusal(client, mine)
    await transaction.rollback()


async def test_a_connection_that_is_in_use_is_refused(client: Client, mine: asyncpg.Connection):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(mine.execute, "SELECT pg_sleep(0.3)")
        await anyio.wait_all_tasks_blocked()

        assert "another operation" in await refusal(client, mine)


async def test_a_role_without_rights_is_refused_and_the_transaction_goes_on(client: Client, mine: asyncpg.Connection):
    async with mine.transaction():
        await mine.execute("CREATE ROLE leasehold_test_nobody; SET LOCAL ROLE leasehold_test_nobody")
        assert "permission denied" in await refusal(client, mine)
        await mine.execute("RESET ROLE; DROP ROLE leasehold_test_nobody")


async def test_a_store_in_memory_has_no_transactions(memory: SharedStore, mine: asyncpg.Connection):
    async with memory.client(ECHO) as client:
        assert "memory" in await refusal(client, mine)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_under_trio_the_refusal_says_why(postgres: SharedStore):
    async with postgres.client(ECHO) as client:
        assert "asyncio" in await refusal(client, object())
