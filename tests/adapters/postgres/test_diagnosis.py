"""Databases that were broken on purpose, and what the checks say of each; and that looking changes nothing."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg
import pytest

from adapters.postgres import migrate
from adapters.postgres.diagnosis import CHECKS, Thresholds, open_diagnosis
from adapters.postgres.diagnosis.patient import Patient
from adapters.postgres.statements import checked_schema, qualify
from kernel.errors import EngineError, Unavailable
from kernel.ports.diagnosis import CheckSkipped, Finding
from tests.adapters.postgres.pooler import Pooler
from tests.adapters.postgres.stores import Home
from tests.conftest import execute

pytestmark = pytest.mark.anyio

NAMES = [name for name, _ in CHECKS]
AT_ONCE = Thresholds(idle_warning_s=0.0, open_problem_s=0.0, dead_rows_least=0, dead_rows_warning=0.001)

Look = Callable[..., Awaitable[Finding]]


@pytest.fixture
async def broken(adapter_url: str, new_schema: str) -> str:
    """A schema of the test's own, to be broken."""
    await migrate(adapter_url, schema=new_schema)
    return new_schema


@pytest.fixture
def sql(admin: asyncpg.Connection, broken: str) -> Callable[[str], Awaitable[Any]]:
    """Do something to that schema."""

    async def do(text: str) -> Any:
        return await admin.execute(qualify(text, checked_schema(broken)))

    return do


@pytest.fixture
def look(adapter_url: str, broken: str) -> Look:
    """What one check finds there."""

    async def at(name: str, url: str = adapter_url, schema: str = broken, **options: Any) -> Finding:
        async with open_diagnosis(url, schema=schema, **options) as checks:
            (check,) = [check for check in checks if check.name == name]
            found = await check.look()
            json.dumps(dict(found.figures), allow_nan=False)
            return found

    return at


async def all_of(url: str, **options: Any) -> dict[str, Finding | EngineError]:
    found: dict[str, Finding | EngineError] = {}
    async with open_diagnosis(url, **options) as checks:
        for check in checks:
            try:
                found[check.name] = await check.look()
            except EngineError as error:
                found[check.name] = error
    return found


def statuses(found: dict[str, Finding | EngineError]) -> dict[str, str]:
    return {name: f.status if isinstance(f, Finding) else type(f).__name__ for name, f in found.items()}


@asynccontextmanager
async def a_role(admin: asyncpg.Connection, url: str, schema: str, *grants: str) -> AsyncIterator[str]:
    """The URL of a role that may do this and nothing else."""
    role = f"doctor_{secrets.token_hex(4)}"
    await admin.execute(f"CREATE ROLE {role} LOGIN")
    try:
        for grant in grants:
            await admin.execute(f"{grant} TO {role}".replace("leasehold", schema))
        yield of_role(url, role)
    finally:
        await admin.execute(f"DROP OWNED BY {role}")
        await admin.execute(f"DROP ROLE {role}")


def of_role(url: str, role: str) -> str:
    parts = urlsplit(url)
    given = [(name, value) for name, value in parse_qsl(parts.query) if name not in {"user", "password"}]
    return urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}", query=urlencode(given)))


async def test_a_database_that_is_well_is_found_so(adapter_url: str, broken: str, sql: Any) -> None:
    await a_session(sql)

    found = await all_of(adapter_url, schema=broken)

    assert statuses(found) == dict.fromkeys(NAMES, "ok")


# -- the server, and the way to it -------------------------------------------------------------------------------------


async def test_a_server_that_is_not_there_is_said_once_and_the_rest_is_skipped() -> None:
    found = await all_of("postgresql://u:hidden@127.0.0.1:1/d")

    assert isinstance(found["database"], Unavailable)
    assert "127.0.0.1:1" in found["database"].message
    assert "hidden" not in str(found["database"])
    assert set(statuses(found).values()) == {"Unavailable", "CheckSkipped"}


async def test_a_read_only_database_is_a_problem(look: Look, database_url: str) -> None:
    execute(database_url, f"ALTER DATABASE {urlsplit(database_url).path[1:]} SET default_transaction_read_only = on")

    found = await look("server", url=database_url)

    assert (found.status, found.figures["read_only"]) == ("problem", True)
    assert "read-only" in found.found
    assert "RESET default_transaction_read_only" in (found.advice or "")


async def test_a_role_that_lacks_privileges_is_told_which(
    look: Look, admin: asyncpg.Connection, adapter_url: str, broken: str
) -> None:
    grants = ["GRANT USAGE ON SCHEMA leasehold", "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA leasehold"]
    async with a_role(admin, adapter_url, broken, *grants) as url:
        found = await look("role", url=url)

    missing = found.figures["missing"]
    assert found.status == "problem"
    assert "DELETE on runs" in missing
    assert not [line for line in missing if "migrations" in line or "INSERT" in line or "EXECUTE" in line]
    assert f"lacks {len(missing)} privileges: {', '.join(missing[:3])} and {len(missing) - 3} more." in found.found
    assert not found.details
    assert "OPERATIONS.md" in (found.advice or "")


async def test_checks_that_a_role_may_not_make_do_not_keep_it_from_the_others(
    admin: asyncpg.Connection, adapter_url: str, broken: str
) -> None:
    async with a_role(admin, adapter_url, broken) as url:
        found = await all_of(url, schema=broken)

    said = statuses(found)
    assert [said[name] for name in ("database", "server", "clock", "listen", "role")] == ["ok"] * 4 + ["problem"]
    assert {said[name] for name in ("sessions", "backlog", "jobs", "parked")} == {"InvalidCommand"}


@pytest.mark.parametrize("version, status", [(0, "problem"), (9, "problem"), (2, "ok")])
async def test_a_schema_that_is_too_old_or_too_new_is_a_problem(
    look: Look, sql: Any, version: int, status: str
) -> None:
    await sql(f"UPDATE leasehold.migrations SET version = {version}")

    found = await look("migrations")

    assert (found.status, found.figures["version"]) == (status, version)
    assert ("leasehold migrate" in (found.advice or "")) == (version == 0)


async def test_a_database_without_a_schema_has_nothing_to_look_at(adapter_url: str, new_schema: str) -> None:
    found = await all_of(adapter_url, schema=new_schema)

    migrations = found["migrations"]
    assert isinstance(migrations, Finding)
    assert (migrations.status, migrations.found) == ("problem", f'There is no schema "{new_schema}".')
    assert isinstance(found["backlog"], CheckSkipped)
    assert statuses(found)["listen"] == "ok"


@pytest.mark.parametrize(
    "ahead, status, direction",
    [
        (timedelta(minutes=10), "problem", "ahead of"),
        (timedelta(seconds=-3), "warning", "behind"),
        (None, "ok", "within"),
    ],
)
async def test_a_host_whose_clock_is_wrong_is_told_by_how_much(
    look: Look, ahead: timedelta | None, status: str, direction: str
) -> None:
    off = ahead or timedelta(0)

    found = await look("clock", wall=lambda: datetime.now(UTC) + off)

    assert found.status == status
    assert direction in found.found
    assert found.figures["offset_s"] == pytest.approx(off.total_seconds(), abs=0.9)


async def test_a_transaction_pooler_costs_wake_ups_unless_there_is_a_way_around_it(
    look: Look, adapter_url: str
) -> None:
    with Pooler(adapter_url) as pooler:
        alone = [await look(name, url=pooler.url) for name in ("pooler", "listen", "backlog")]
        beside = [await look(name, url=pooler.url, direct_url=adapter_url) for name in ("pooler", "listen")]

    assert [found.status for found in alone] == ["warning", "warning", "ok"]
    assert "LEASEHOLD_DIRECT_URL" in (alone[0].advice or "")
    assert "statement_timeout" in alone[0].found
    assert (beside[1].status, beside[1].figures["round_trip_s"] < 2) == ("ok", True)
    assert "LEASEHOLD_DIRECT_URL" not in (beside[0].advice or "")


async def test_a_direct_url_to_somewhere_else_is_a_problem(look: Look, adapter_url: str, database_url: str) -> None:
    with Pooler(adapter_url) as pooler:
        pooled = await look("pooler", direct_url=pooler.url)
    elsewhere = await look("pooler", direct_url=database_url)
    nowhere = await look("pooler", direct_url="postgresql://u:hidden@127.0.0.1:1/d")

    assert [found.status for found in (pooled, elsewhere, nowhere)] == ["problem"] * 3
    assert "transaction pooler as well" in pooled.found
    assert "another database" in elsewhere.found
    assert "127.0.0.1:1" in nowhere.found
    assert "hidden" not in nowhere.found


# -- upkeep ------------------------------------------------------------------------------------------------------------


async def test_a_transaction_that_somebody_keeps_open_is_named(look: Look, holder: asyncpg.Connection) -> None:
    await holder.execute("SET application_name = 'forgotten psql'")
    await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await holder.execute("SELECT 1")

    usual = await look("transactions")
    found = await look("transactions", thresholds=AT_ONCE)

    await holder.execute("ROLLBACK")
    assert usual.status == "ok"
    assert (found.status, found.figures["idle_in_transaction"] >= 1) == ("problem", True)
    (line,) = [line for line in found.details if "forgotten psql" in line]
    assert f"pid {holder.get_server_pid()}" in line
    assert "idle for" in line
    assert "pg_terminate_backend" in (found.advice or "")


async def test_dead_rows_that_nobody_removes_are_counted(look: Look, admin: asyncpg.Connection, sql: Any) -> None:
    await sql("INSERT INTO leasehold.sinks (name) SELECT n::text FROM generate_series(1, 200) AS n")
    await sql("DELETE FROM leasehold.sinks")
    await admin.execute("SELECT pg_stat_force_next_flush()")

    found = await look("vacuum", thresholds=AT_ONCE)

    assert found.status in {"warning", "problem"}
    assert found.figures["late"]["sinks"]["dead_rows"] == 200
    assert (await look("vacuum")).status == "ok"


async def test_a_table_without_autovacuum_is_a_problem(look: Look, sql: Any) -> None:
    await sql("ALTER TABLE leasehold.runs SET (autovacuum_enabled = off)")

    found = await look("vacuum")

    assert (found.status, "off for runs" in found.found) == ("problem", True)


async def test_months_that_run_out_are_noticed_before(look: Look) -> None:
    found = await look("months", wall=lambda: datetime.now(UTC) + timedelta(days=170))

    assert (found.status, found.figures["months_ahead"] < 2) == ("warning", True)
    assert "leasehold migrate" in (found.advice or "")


# -- work --------------------------------------------------------------------------------------------------------------


async def a_session(sql: Any, *, lease: str = "10 s", left: str = "9 s", workflow_keys: str = "{}") -> None:
    await sql(
        "INSERT INTO leasehold.sessions (id, lease, lease_expires_at, workflow_keys, info) VALUES "
        f"('11111111-1111-4111-8111-111111111111', '{lease}', clock_timestamp() + interval '{left}', "
        f"""'{workflow_keys}', '{{"name": "worker", "hostname": "north", "pid": 7}}')"""
    )


async def a_workflow(sql: Any) -> None:
    await sql(
        "INSERT INTO leasehold.workflows (id, version, fingerprint, plan, description) VALUES ('w','1','f','{}','{}')"
    )


async def a_run(sql: Any, **columns: str) -> None:
    values = {
        "id": "leasehold.mint_run_id()",
        "created_at": "now()",
        "updated_at": "now()",
        "workflow_key": "1",
        "seq": "1",
        "format": "1",
        "priority": "5",
        "status": "'RUNNING'",
        "phase": "'running'",
        "fingerprint": "'f'",
        **columns,
    }
    await sql(f"INSERT INTO leasehold.runs ({', '.join(values)}) VALUES ({', '.join(values.values())})")


OWNER = "'11111111-1111-4111-8111-111111111111'"
LONG_AGO = "clock_timestamp() - interval '6 minutes'"


async def test_a_dead_process_whose_runs_nobody_took_is_named(look: Look, sql: Any) -> None:
    await a_session(sql, left="-2 minutes")
    await a_workflow(sql)
    await a_run(sql, owner=OWNER)

    found = await look("sessions")

    assert (found.status, found.figures["dead_with_runs"], found.figures["orphans"]) == ("problem", 1, 1)
    assert "worker (host north, pid 7): dead for 2 min, 1 run" in found.details
    assert "leasehold up" in (found.advice or "")


@pytest.mark.parametrize("left, status, state", [("9 s", "ok", "live"), ("2 s", "warning", "expiring")])
async def test_a_session_that_is_not_renewed_in_time_is_a_warning(
    look: Look, sql: Any, left: str, status: str, state: str
) -> None:
    await a_session(sql, left=left)

    found = await look("sessions")

    assert (found.status, found.figures["sessions"][0]["state"]) == (status, state)


async def test_runs_that_wait_while_no_live_process_knows_them_are_a_problem(look: Look, sql: Any) -> None:
    await a_workflow(sql)
    await a_run(sql, wake_at=LONG_AGO)
    await a_session(sql, workflow_keys="{2}")
    alone = await look("backlog")
    await sql("UPDATE leasehold.sessions SET workflow_keys = '{1}'")
    late = await look("backlog")

    assert (alone.status, alone.figures["due"], alone.figures["workflows"][0]["known"]) == ("problem", 1, False)
    assert "no live process knows it" in alone.details[0]
    assert (late.status, late.figures["workflows"][0]["known"]) == ("problem", True)
    assert "more processes" in (late.advice or "")


async def test_runs_of_a_dead_process_wait_like_those_that_nobody_has_had(look: Look, sql: Any) -> None:
    await a_workflow(sql)
    await a_session(sql, workflow_keys="{1}")
    await a_run(sql, owner="(SELECT id FROM leasehold.sessions)", wake_at="NULL")
    alive = await look("backlog")
    await sql("UPDATE leasehold.sessions SET condemned_at = clock_timestamp()")
    dead = await look("backlog")

    assert (alive.status, alive.figures["due"]) == ("ok", 0)
    assert (dead.status, dead.figures["due"]) == ("warning", 1)
    assert "no live process knows it" in dead.details[0]


async def test_a_run_that_has_just_become_due_is_no_problem_yet(look: Look, sql: Any) -> None:
    await a_workflow(sql)
    await a_run(sql, wake_at="clock_timestamp()")
    alone = await look("backlog")
    await a_session(sql, workflow_keys="{1}")

    assert (alone.status, (await look("backlog")).status) == ("warning", "ok")


async def test_a_queue_that_nobody_serves_is_named(look: Look, sql: Any) -> None:
    await a_session(sql)
    await sql(
        "INSERT INTO leasehold.jobs (run_id, due_at, workflow_key, priority, stage_id, queue) "
        f"VALUES (leasehold.mint_run_id(), {LONG_AGO}, 1, 5, 'draw', 'gpu')"
    )

    found = await look("jobs")

    assert (found.status, found.figures["queues"][0]["served"]) == ("problem", False)
    assert "leasehold up --queues gpu" in (found.advice or "")


async def test_a_job_whose_holder_is_gone_waits_too(look: Look, sql: Any) -> None:
    await sql(
        "INSERT INTO leasehold.jobs (run_id, due_at, workflow_key, priority, stage_id, queue, token, lease_until) "
        f"VALUES (leasehold.mint_run_id(), {LONG_AGO}, 1, 5, 'draw', 'gpu', 'lost', {LONG_AGO}), "
        f"(leasehold.mint_run_id(), {LONG_AGO}, 1, 5, 'draw', 'gpu', 'held', clock_timestamp() + interval '1 hour')"
    )

    found = await look("jobs")

    assert (found.status, found.figures["due"]) == ("problem", 1)
    assert "1 of them taken by somebody who is gone" in found.details[0]


async def test_runs_that_were_set_aside_are_counted_by_reason(look: Look, sql: Any) -> None:
    await a_workflow(sql)
    await a_run(sql, parked_reason="'definition_changed: a stage is gone'")

    found = await look("parked")

    assert (found.status, found.figures["runs"]) == ("problem", 1)
    assert "definition_changed" in found.details[0]


async def test_scheduled_commands_that_are_late_or_failed_are_counted(look: Look, sql: Any) -> None:
    await sql(
        "INSERT INTO leasehold.scheduled_commands (key, schedule_id, due_at, state, command) VALUES "
        f"('a', gen_random_uuid(), {LONG_AGO}, 'waiting', '{{}}'), "
        f"('b', gen_random_uuid(), {LONG_AGO}, 'failed', '{{}}')"
    )

    found = await look("commands")

    assert (found.status, found.figures["late"], found.figures["failed"]) == ("problem", 1, 1)


async def test_a_sink_that_does_not_answer_and_what_it_refused_are_told_apart(look: Look, sql: Any) -> None:
    await sql("INSERT INTO leasehold.sinks (name) VALUES ('audit')")
    await sql(
        "INSERT INTO leasehold.deliveries (run_id, sink, next_seq, last_seq, tries, due_at, error) VALUES "
        "(leasehold.mint_run_id(), 'audit', 1, 3, 2, clock_timestamp() - interval '20 minutes', 'TimeoutError')"
    )
    await sql(
        "INSERT INTO leasehold.dead_letters (run_id, seq, sink, error, tries) VALUES "
        "(leasehold.mint_run_id(), 2, 'audit', 'ValueError: no', 3)"
    )

    outbox, dead = await look("outbox"), await look("dead letters")

    assert (outbox.status, outbox.figures["lag_s"] > 1000) == ("problem", True)
    assert "tried 2 times: TimeoutError" in outbox.details[0]
    assert (dead.status, dead.figures["sinks"]) == ("problem", {"audit": 1})
    assert "leasehold dlq replay" in (dead.advice or "")


# -- looking -----------------------------------------------------------------------------------------------------------


async def test_who_may_only_read_can_make_every_check_and_nothing_is_changed(
    admin: asyncpg.Connection, adapter_url: str, broken: str, sql: Any
) -> None:
    await a_session(sql)
    await a_workflow(sql)
    await a_run(sql, owner=OWNER)
    before = await content(admin, broken)
    grants = ["GRANT USAGE ON SCHEMA leasehold", "GRANT SELECT ON ALL TABLES IN SCHEMA leasehold"]

    async with a_role(admin, adapter_url, broken, *grants) as url:
        await admin.execute(f"ALTER ROLE {urlsplit(url).username} SET default_transaction_read_only = on")
        found = statuses(await all_of(url, schema=broken))

    assert {name: status for name, status in found.items() if status != "ok"} == {
        "role": "problem",
        "server": "problem",
    }
    assert await content(admin, broken) == before


async def test_a_check_cannot_write_even_if_it_tried(adapter_url: str, broken: str) -> None:
    patient = Patient(adapter_url, None, checked_schema(broken), thresholds=Thresholds())
    sql = f"INSERT INTO {broken}.sinks (name) VALUES ('audit')"

    with pytest.raises(Unavailable, match="read-only transaction"):
        await patient.use(lambda connection: connection.execute(sql))
    await patient.close()


async def content(admin: asyncpg.Connection, schema: str) -> dict[str, str]:
    tables = await admin.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", schema)
    return {
        name: await admin.fetchval(f"SELECT md5(string_agg(t::text || t.xmin::text, '')) FROM {schema}.{name} AS t")
        for (name,) in tables
    }


async def test_sessions_and_what_sinks_refused_explain_a_run(
    home: Home, admin: asyncpg.Connection, schema: str
) -> None:
    owner = await home.session()
    run = await home.create(owner=owner)
    await admin.execute(f"INSERT INTO {schema}.sinks (name) VALUES ('audit') ON CONFLICT DO NOTHING")
    await admin.execute(
        f"INSERT INTO {schema}.dead_letters (run_id, seq, sink, error, tries) VALUES ('{run.id}', 1, 'audit', 'no', 3)"
    )

    (seen,) = [seen for seen in await home.store.inspection.sessions() if seen.id == owner]
    (debt,) = await home.store.inspection.debts(run.id)

    assert (seen.state, seen.name, seen.pid, seen.runs) == ("live", "worker", 1, 1)
    assert seen.workflows == ((home.workflow, "1"),)
    assert (debt.sink, debt.owed, debt.dead, debt.dead_error) == ("audit", 0, 1, "no")
