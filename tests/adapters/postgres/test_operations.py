"""What OPERATIONS.md advises is done here as it stands there, by the roles that it is meant for."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg
import pytest
from anyio import run_process
from pydantic import BaseModel

from adapters.embedded_postgres.installation import find_installation
from adapters.postgres import migrate
from adapters.postgres.diagnosis import open_diagnosis
from kernel import CancelRun, NonRetryable, RunFailed, RunNotFound, StageContext, Unavailable, WorkflowBuilder, stage
from runtime import App, Client, RunHandle, Settings, Supervisor
from tests.architecture.operations import ALERTS, SQL
from tests.conftest import execute, with_database
from tests.runtime.gates import Gate
from tests.runtime.shared_store import until

pytestmark = pytest.mark.anyio


class Doc(BaseModel):
    text: str


@stage("read")
async def read(ctx: StageContext[Doc]) -> Doc:
    ctx.log("info", "reading")
    ctx.annotate("doc.read", True)
    return ctx.input


@stage("judge")
async def judge(ctx: StageContext[Doc]) -> Doc:
    if ctx.input.text == "bad":
        raise NonRetryable("bad")
    return Doc(text=ctx.input.text * 30_000) if ctx.input.text == "large" else ctx.input


DOCS = WorkflowBuilder("docs", input=Doc, output=Doc).pipe(read).pipe(judge).build()
APP = App(workflows=[DOCS])


def of_role(url: str, role: str) -> str:
    """The same database, as this role."""
    parts = urlsplit(url)
    given = [(name, value) for name, value in parse_qsl(parts.query) if name not in {"user", "password"}]
    return urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}", query=urlencode(given)))


@pytest.fixture(scope="module")
def ruled(postgres_url: str) -> Iterator[str]:
    """A database with the page's roles, migrated by the one that may."""
    name = f"leasehold_roles_{secrets.token_hex(4)}"
    execute(postgres_url, f"CREATE DATABASE {name}")
    url = with_database(postgres_url, name)
    execute(url, SQL["roles"])
    try:
        with ThreadPoolExecutor(max_workers=1) as thread:
            try:
                thread.submit(asyncio.run, migrate(of_role(url, "leasehold_owner"))).result()
            except Unavailable as error:
                pytest.skip(f"this server does not let roles in without a password: {error}")
        yield url
    finally:
        execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")
        for role in ("leasehold_engine", "leasehold_owner"):
            execute(postgres_url, f"DROP ROLE {role}")


@pytest.fixture
def engine(ruled: str) -> str:
    return of_role(ruled, "leasehold_engine")


async def query(url: str, sql: str) -> list[asyncpg.Record]:
    """The rows of the last statement; each one is sent by itself, as psql does it."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        rows: list[asyncpg.Record] = []
        for one in [part for part in sql.split(";\n") if part.strip()]:
            rows = await connection.fetch(one, timeout=30)
        return rows
    finally:
        await connection.close(timeout=10)


def supervising(url: str, **settings: object) -> Supervisor:
    return Supervisor(APP, settings=Settings(database_url=url, direct_url=url, **settings))


async def ended(run: RunHandle[Doc]) -> str:
    try:
        await run.result(timeout=20)
    except RunFailed:
        return "FAILED"
    return "COMPLETED"


# -- roles -------------------------------------------------------------------------------------------------------------


async def do_everything(engine: str) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    later = datetime.now(UTC) + timedelta(hours=1)
    async with supervising(engine) as supervisor, Client(APP, database=engine) as client:
        run = await client.start(DOCS, Doc(text="x"), idempotency_key=secrets.token_hex(4), annotations={"doc.by": 1})
        large = await supervisor.start(DOCS, Doc(text="large"))
        failed = await client.start(DOCS, Doc(text="bad"))
        waits = await client.start(DOCS, Doc(text="x"), run_at=later)
        assert [await ended(each) for each in (run, large, failed)] == ["COMPLETED", "COMPLETED", "FAILED"]

        await supervisor.kernel.schedule(CancelRun(run_id=waits.id), at=soon)
        await run.rerun_from(judge)
        assert await ended(run) == "COMPLETED"
        assert not await run.cancel()
        assert not await run.unpark()
        await run.annotate("doc.seen", True)

        assert [a.key for a in await run.annotations()] == ["doc.by", "doc.read", "doc.seen"]
        assert (await run.describe()).status == "COMPLETED"
        assert (await client.list_runs(status="FAILED")).items[0].id == failed.id

        async def both_are_there() -> bool:
            return (await waits.describe()).status == "CANCELLED" and bool(await run.logs())

        await until(both_are_there)
    made = await query(engine, """SELECT leasehold.create_run('docs', '{"text": "sql"}') AS id""")
    assert await query(engine, f"SELECT * FROM leasehold.stages WHERE run_id = '{made[0]['id']}'")


async def test_the_engine_s_role_can_do_all_that_the_engine_does(engine: str) -> None:
    assert (await query(engine, "SELECT current_user"))[0][0] == "leasehold_engine"

    await do_everything(engine)


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE leasehold.runs",
        "TRUNCATE leasehold.logs",
        "ALTER TABLE leasehold.runs ADD COLUMN x integer",
        "ALTER TABLE leasehold.history DETACH PARTITION leasehold.history_after",
        "CREATE TABLE leasehold.x ()",
        "CREATE SCHEMA other",
        "DROP SCHEMA leasehold CASCADE",
        "SELECT leasehold.add_history_month('2031-01-01')",
    ],
)
async def test_the_engine_s_role_cannot_touch_the_schema(engine: str, sql: str) -> None:
    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.RaiseError)):
        await query(engine, sql)


async def test_a_schema_that_was_there_before_its_roles_is_granted(ruled: str, engine: str) -> None:
    owner = of_role(ruled, "leasehold_owner")
    await query(owner, "REVOKE ALL ON ALL TABLES IN SCHEMA leasehold FROM leasehold_engine")
    await query(owner, "REVOKE ALL ON SCHEMA leasehold FROM leasehold_engine")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await query(engine, "SELECT FROM leasehold.runs")

    await query(owner, SQL["grants"])

    await do_everything(engine)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await query(engine, "UPDATE leasehold.migrations SET version = 9")


async def test_the_doctor_finds_nothing_wrong_with_the_engine_s_role(engine: str) -> None:
    async with open_diagnosis(engine) as checks:
        found = {check.name: await check.look() for check in checks}

    assert [name for name, finding in found.items() if finding.status == "problem"] == []
    assert (found["role"].status, found["role"].figures["may_migrate"]) == ("ok", False)


async def test_others_see_nothing(ruled: str, postgres_url: str) -> None:
    execute(postgres_url, "CREATE ROLE leasehold_nobody LOGIN")
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await query(of_role(ruled, "leasehold_nobody"), "SELECT FROM leasehold.runs")
    finally:
        execute(postgres_url, "DROP ROLE leasehold_nobody")


async def test_the_settings_for_a_pooled_role_are_accepted(ruled: str, engine: str) -> None:
    await query(ruled, SQL["pooled role"])

    assert (await query(engine, "SHOW plan_cache_mode"))[0][0] == "force_generic_plan"
    assert (await query(engine, "SHOW lock_timeout"))[0][0] == "250ms"


# -- alerts ------------------------------------------------------------------------------------------------------------

ROUSING = {
    "no worker": "UPDATE leasehold.sessions SET condemned_at = clock_timestamp()",
    "backlog": "UPDATE leasehold.runs SET wake_at = clock_timestamp() - interval '6 minutes' WHERE id = $run",
    "jobs": "INSERT INTO leasehold.jobs (run_id, due_at, workflow_key, priority, stage_id, queue) "
    "VALUES ($run, clock_timestamp() - interval '6 minutes', 1, 5, 'read', 'gpu')",
    "parked": "UPDATE leasehold.runs SET parked_reason = 'undecidable: x', wake_at = NULL WHERE id = $run",
    "failed": 'UPDATE leasehold.runs SET completed_at = clock_timestamp(), error = \'{"type": "X"}\' WHERE id = $run',
    "commands": "INSERT INTO leasehold.scheduled_commands (key, schedule_id, due_at, command, state) "
    "VALUES ('k', gen_random_uuid(), clock_timestamp(), '{}', 'failed')",
    "dead letters": "INSERT INTO leasehold.dead_letters (run_id, seq, sink, error, tries) "
    "VALUES ($run, 1, 's', 'e', 3)",
    "months": "SELECT 1",
    "old transaction": "SELECT 1",
}


@pytest.mark.parametrize("name", ALERTS)
async def test_an_alert_is_silent_while_all_is_well_and_speaks_when_not(ruled: str, engine: str, name: str) -> None:
    await query(ruled, "DELETE FROM leasehold.runs;\nDELETE FROM leasehold.jobs")
    async with supervising(engine):
        assert await query(engine, ALERTS[name]) == []
        async with Client(APP, database=engine) as client:
            run = await client.start(DOCS, Doc(text="x"), run_at=datetime.now(UTC) + timedelta(hours=1))
    # Nobody is there any more who would mend it. What cannot be brought about is looked at from another time.
    await query(ruled, ROUSING[name].replace("$run", f"'{run.id}'"))
    later = ALERTS[name].replace("interval '2 months'", "interval '9 months'").replace("'10 minutes'", "'-1 minutes'")

    assert await query(engine, later) != []


def test_every_alert_of_the_page_is_tried() -> None:
    assert set(ALERTS) == set(ROUSING)


# -- retention ---------------------------------------------------------------------------------------------------------


async def aged(ruled: str, run: RunHandle[Doc], place: int) -> str:
    """Let the run have been created, and have ended, a hundred days ago; its id of then."""
    new = f"leasehold.lowest_run_id(clock_timestamp() - interval '{100 * 24 + place} hours')"
    old_id = str((await query(ruled, f"SELECT overlay({new}::text PLACING '7' FROM 15)::uuid"))[0][0])
    for table, column in (("runs", "id"), ("history", "run_id"), ("logs", "run_id"), ("idempotency_keys", "run_id")):
        await query(ruled, f"UPDATE leasehold.{table} SET {column} = '{old_id}' WHERE {column} = '{run.id}'")
    ago = "clock_timestamp() - interval '99 days'"
    await query(
        ruled, f"UPDATE leasehold.runs SET completed_at = {ago} WHERE id = '{old_id}' AND completed_at IS NOT NULL"
    )
    return old_id


async def rows_of(url: str, run_id: str) -> dict[str, int]:
    tables = {"runs": "id", "history": "run_id", "logs": "run_id", "idempotency_keys": "run_id"}
    counts = {
        table: (await query(url, f"SELECT count(*) FROM leasehold.{table} WHERE {column} = '{run_id}'"))[0][0]
        for table, column in tables.items()
    }
    return {table: count for table, count in counts.items() if count}


async def test_old_runs_are_deleted_with_all_that_is_theirs_and_no_others(ruled: str, engine: str) -> None:
    async with supervising(engine) as supervisor:
        runs = [await supervisor.start(DOCS, Doc(text=t), idempotency_key=f"old {t}") for t in ("x", "bad", "large")]
        young = await supervisor.start(DOCS, Doc(text="large"), idempotency_key="young")
        assert [await ended(run) for run in (*runs, young)] == ["COMPLETED", "FAILED", "COMPLETED", "COMPLETED"]

        async def all_have_logged() -> bool:
            return all([await run.logs() for run in (*runs, young)])

        await until(all_have_logged)
        waits = await supervisor.start(DOCS, Doc(text="x"), run_at=datetime.now(UTC) + timedelta(hours=1))
    old = [await aged(ruled, run, place) for place, run in enumerate(runs)]
    active = await aged(ruled, waits, 10)
    before = await rows_of(engine, young.id)
    assert set(before) == {"runs", "history", "logs", "idempotency_keys"}
    assert [set(await rows_of(engine, run_id)) for run_id in old] == [set(before)] * 3

    assert (await query(engine, SQL["retention"]))[0]["deleted"] == 3
    assert (await query(engine, SQL["retention"]))[0]["deleted"] == 0

    assert [await rows_of(engine, run_id) for run_id in old] == [{}] * 3
    assert await rows_of(engine, young.id) == before
    assert set(await rows_of(engine, active)) == {"runs", "history"}


async def test_payloads_without_a_run_and_other_leftovers_are_deleted(ruled: str, engine: str) -> None:
    async with supervising(engine) as supervisor:
        gone, kept = [await supervisor.start(DOCS, Doc(text="large")) for _ in range(2)]
        assert [await ended(run) for run in (gone, kept)] == ["COMPLETED"] * 2
    await query(ruled, f"DELETE FROM leasehold.runs WHERE id = '{gone.id}'")
    await query(ruled, "UPDATE leasehold.blobs SET created_at = clock_timestamp() - interval '100 days'")

    await query(engine, SQL["blobs"])
    await query(engine, SQL["leftovers"])

    keys = [row["key"] for row in await query(engine, "SELECT key FROM leasehold.blobs")]
    assert [key for key in keys if gone.id in key] == []
    assert [key for key in keys if kept.id in key] != []


async def test_a_month_of_histories_is_dropped_while_others_work(ruled: str, engine: str) -> None:
    now = datetime.now(UTC)
    first = now.replace(day=1)
    after = (first + timedelta(days=32)).replace(day=1)
    sql = SQL["month"].replace("2026_01", f"{first:%Y_%m}").replace("2026-01-01", f"{first:%Y-%m-%d}")
    sql = sql.replace("2026-02-01", f"{after:%Y-%m-%d}")
    await query(ruled, "DELETE FROM leasehold.runs")

    assert await query(of_role(ruled, "leasehold_owner"), sql) == []

    month = f"leasehold.history_{first:%Y_%m}"
    assert (await query(ruled, f"SELECT to_regclass('{month}')"))[0][0] is None
    await query(of_role(ruled, "leasehold_owner"), f"SELECT leasehold.add_history_month('{first:%Y-%m-%d}')")
    await do_everything(engine)


# -- backup ------------------------------------------------------------------------------------------------------------


async def test_a_restored_database_goes_on_from_what_its_histories_say(
    ruled: str, postgres_url: str, engine: str, tmp_path: Path
) -> None:
    def pg(name: str) -> str:
        return str(find_installation().program(name))

    target = f"leasehold_restored_{secrets.token_hex(4)}"
    restored, dump = with_database(postgres_url, target), tmp_path / "leasehold.dump"
    gate, executed = Gate(), list[str]()

    @stage("first")
    async def first(ctx: StageContext[Doc]) -> Doc:
        executed.append(ctx.stage_id)
        return ctx.input

    @stage("second")
    async def second(ctx: StageContext[Doc]) -> Doc:
        executed.append(ctx.stage_id)
        await gate.admit(ctx)
        return ctx.input

    flow = WorkflowBuilder("restored", input=Doc, output=Doc).pipe(first).pipe(second).build()
    short = {"lease": timedelta(seconds=1), "renew": timedelta(seconds=0.3), "drain_grace": timedelta(0)}
    async with Supervisor(App(workflows=[flow]), settings=Settings(database_url=engine, **short)) as supervisor:
        run = await supervisor.start(flow, Doc(text="x"))
        await until(lambda: gate.entered)
        await run_process([pg("pg_dump"), "--format=custom", "--schema=leasehold", f"--file={dump}", ruled])
        lost = await supervisor.start(flow, Doc(text="x"), run_at=datetime.now(UTC) + timedelta(hours=1))
    execute(postgres_url, f"CREATE DATABASE {target}")
    try:
        await run_process([pg("pg_restore"), f"--dbname={restored}", str(dump)])
        gate.open()
        executed.clear()
        settings = Settings(database_url=of_role(restored, "leasehold_engine"))
        async with Supervisor(App(workflows=[flow]), settings=settings) as supervisor:
            assert await supervisor.run(run.id, flow).result(timeout=20) == Doc(text="x")
            with pytest.raises(RunNotFound):
                await supervisor.run(lost.id).describe()
        # What the backup says has been done is not done again.
        assert executed == ["second"]
    finally:
        execute(postgres_url, f"DROP DATABASE {target} WITH (FORCE)")
