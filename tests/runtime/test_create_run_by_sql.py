"""A run that was created by SQL: who takes it first checks what nobody has checked, and then it is like any other."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from kernel import RunFailed
from tests.runtime.gates import Doc, echo
from tests.runtime.shared_store import SharedStore, until

pytestmark = pytest.mark.anyio

ECHO = echo()
QUICK = {"renew": 0.05}
INPUT = '{"text": "x"}'
DEEP = '{"text": ' + "[" * 102 + "]" * 102 + "}"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def sql(postgres: SharedStore) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres.url, timeout=10)
    yield connection
    await connection.close(timeout=10)


async def created(sql: asyncpg.Connection, **arguments: Any) -> str:
    given = {"input": INPUT, **arguments}
    names = ", ".join(f"{name} => ${place}" for place, name in enumerate(given, start=2))
    return str(await sql.fetchval(f"SELECT leasehold.create_run($1, {names})", "echo", *given.values()))


async def test_a_run_of_sql_is_executed_when_its_transaction_has_committed(
    postgres: SharedStore, sql: asyncpg.Connection
):
    async with postgres.supervisor(ECHO, **QUICK) as supervisor:
        async with sql.transaction():
            run = supervisor.run(await created(sql, config='{"repeat": {"times": 2}}', metadata='{"by": "psql"}'), ECHO)

        assert await run.result(timeout=20) == Doc(text="xx")
        assert (await run.describe()).metadata == {"by": "psql"}


async def test_what_the_driver_answers_names_the_run(postgres: SharedStore, sql: asyncpg.Connection):
    async with postgres.supervisor(ECHO, **QUICK) as supervisor:
        run_id = await sql.fetchval("SELECT leasehold.create_run('echo', $1::text::json)", INPUT)

        assert await supervisor.run(run_id, ECHO).result(timeout=20) == Doc(text="x")


async def test_it_can_be_called_as_people_write_sql(postgres: SharedStore, sql: asyncpg.Connection):
    async with postgres.supervisor(ECHO, **QUICK) as supervisor:
        await sql.execute(
            """
            BEGIN;
            SELECT leasehold.create_run('echo', '{"text": "x"}', idempotency_key => 'order 7', priority => 7);
            COMMIT;
            """
        )

        run = await supervisor.find(ECHO, "order 7")
        assert run is not None
        assert await run.result(timeout=20) == Doc(text="x")
        assert (await run.describe()).priority == 7


@pytest.mark.parametrize(
    "wrong, error, where",
    [
        ({"input": '{"txet": "x"}'}, "InvalidInput", "text"),
        ({"input": "null"}, "InvalidInput", "Input"),
        ({"config": '{"repeat": {"times": "many"}}'}, "InvalidConfig", "repeat.times"),
        ({"config": '{"repeat": 5}'}, "InvalidConfig", "repeat"),
        ({"config": '{"another": {}}'}, "InvalidConfig", "another"),
    ],
    ids=["another field", "no input", "a value of config", "a stage's config", "an unknown stage"],
)
async def test_its_first_owner_fails_it_when_its_input_or_config_is_wrong(
    postgres: SharedStore, sql: asyncpg.Connection, wrong: dict[str, str], error: str, where: str
):
    async with postgres.supervisor(ECHO, **QUICK) as supervisor:
        run = supervisor.run(await created(sql, **wrong), ECHO)

        with pytest.raises(RunFailed) as failed:
            await run.result(timeout=10)

        assert (failed.value.error.type, failed.value.error.retryable) == (error, False)
        assert where in failed.value.error.message
        info = await run.describe()
        assert [stage.status for stage in info.stages or ()] == ["SKIPPED"]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/St_Johns"])
async def test_it_waits_for_its_time_in_whatever_zone_it_was_said(
    postgres: SharedStore, sql: asyncpg.Connection, zone: str
):
    later = datetime.now(UTC) + timedelta(hours=1)
    await sql.execute(f"SET timezone = '{zone}'")
    async with postgres.client(ECHO) as client:
        run = client.run(await created(sql, run_at=later))

        info = await run.describe()
        assert (info.status, info.waiting_for, info.run_at) == ("PENDING", "delayed_until", later)
        assert await run.cancel("not needed")


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"priority": 10}, "priority"),
        ({"priority": None}, "priority"),
        ({"metadata": "[1]"}, "metadata"),
        ({"config": "[1]"}, "config"),
        ({"config": '"repeat"'}, "config"),
        ({"input": DEEP}, "nested deeper"),
        ({"config": DEEP}, "nested deeper"),
        ({"metadata": DEEP}, "nested deeper"),
        ({"idempotency_key": " "}, "idempotency_key"),
    ],
)
async def test_what_no_reader_could_make_sense_of_is_refused_by_the_name_of_its_argument(
    postgres: SharedStore, sql: asyncpg.Connection, wrong: dict[str, Any], said: str
):
    async with postgres.client(ECHO) as client:
        with pytest.raises(asyncpg.InvalidParameterValueError, match=said):
            await created(sql, **wrong)

        assert (await client.list_runs()).items == []


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "20000-01-01", "0044-03-15 BC"])
async def test_a_moment_that_not_every_reader_has_is_refused(
    postgres: SharedStore, sql: asyncpg.Connection, moment: str
):
    async with postgres.client(ECHO):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="run_at"):
            await sql.execute(f"SELECT leasehold.create_run('echo', '{INPUT}', run_at => '{moment}')")


async def test_a_null_is_as_good_as_an_argument_that_is_left_out(postgres: SharedStore, sql: asyncpg.Connection):
    async with postgres.supervisor(ECHO, **QUICK) as supervisor:
        given = dict.fromkeys(["config", "idempotency_key", "metadata", "run_at", "workflow_version"])
        run = supervisor.run(await created(sql, **given), ECHO)

        assert await run.result(timeout=20) == Doc(text="x")


async def test_python_and_sql_agree_on_who_has_a_key(postgres: SharedStore, sql: asyncpg.Connection):
    async with postgres.client(ECHO) as client:
        of_sql = await created(sql, idempotency_key="a")
        of_python = await client.start(ECHO, Doc(text="x"), idempotency_key="b")

        assert (await client.start(ECHO, Doc(text="x"), idempotency_key="a")).id == of_sql
        assert await created(sql, idempotency_key="b") == of_python.id


async def test_the_newest_version_is_taken_unless_one_is_named(postgres: SharedStore, sql: asyncpg.Connection):
    async with postgres.client(ECHO) as client, postgres.client(echo(version="2")):
        newest, first = await created(sql), await created(sql, workflow_version="1")

        assert [(await client.run(run_id).describe()).workflow_version for run_id in (newest, first)] == ["2", "1"]


async def test_a_hint_by_hand_after_the_commit_wakes_an_idle_supervisor(postgres: SharedStore, sql: asyncpg.Connection):
    async with postgres.supervisor(ECHO, lease=60.0, renew=20.0) as supervisor:
        await until(lambda: supervisor.stats().degraded is None)
        run = supervisor.run(await created(sql), ECHO)
        await sql.execute("NOTIFY leasehold")

        assert await run.result(timeout=10) == Doc(text="x")


async def test_what_was_sent_is_shown_as_it_was_sent(postgres: SharedStore, sql: asyncpg.Connection):
    async with postgres.client(ECHO) as client:
        run = client.run(await created(sql, config='{"repeat": {"times": 2}}'))

        body = await sql.fetchval("SELECT body FROM leasehold.events WHERE run_id = $1", run.id)

        assert json.loads(body) == {"text": "x"} == (await run.describe()).input
