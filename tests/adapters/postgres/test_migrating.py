"""The schema: made once, by one at a time, and refused when it is not one that this release can run on."""

from __future__ import annotations

from datetime import UTC, datetime

import asyncpg
import pytest
from anyio import create_task_group

from adapters.postgres import migrate, open_postgres, schema_sql
from adapters.postgres.migrating import NEWEST, OLDEST
from kernel.errors import InvalidCommand, NoDatabase, SchemaOutdated, Unavailable
from tests.conftest import execute, with_database

pytestmark = pytest.mark.anyio

TABLES = {
    *("workflows", "runs", "history", "sessions", "jobs", "idempotency_keys", "deliveries", "dead_letters", "sinks"),
    *("logs", "ai_calls", "scheduled_commands", "maintenance", "blobs", "migrations"),
}


async def tables_of(admin: asyncpg.Connection, schema: str) -> set[str]:
    rows = await admin.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind IN ('r', 'p')"
        " AND NOT relispartition",
        schema,
    )
    return {row["relname"] for row in rows}


async def test_every_table_exists_from_the_first_migration(admin: asyncpg.Connection, schema: str) -> None:
    assert await tables_of(admin, schema) == TABLES


async def test_migrating_again_changes_nothing(adapter_url: str, new_schema: str) -> None:
    assert await migrate(adapter_url, schema=new_schema) == ["0001_first"]

    assert await migrate(adapter_url, schema=new_schema) == []


async def test_of_several_that_migrate_at_once_one_does_it(adapter_url: str, new_schema: str) -> None:
    applied: list[str] = []

    async def one() -> None:
        applied.extend(await migrate(adapter_url, schema=new_schema))

    async with create_task_group() as group:
        for _ in range(3):
            group.start_soon(one)

    assert applied == ["0001_first"]


async def test_the_printed_script_makes_the_same_schema(
    adapter_url: str, new_schema: str, schema: str, admin: asyncpg.Connection
) -> None:
    await admin.execute(schema_sql(new_schema))

    assert await tables_of(admin, new_schema) == await tables_of(admin, schema)
    async with open_postgres(adapter_url, schema=new_schema):
        pass


def test_the_script_of_the_default_schema_is_the_file_as_it_is() -> None:
    assert "CREATE TABLE leasehold.runs (" in schema_sql()
    assert "-- Schema map" in schema_sql()


async def test_months_exist_half_a_year_ahead_between_two_catch_alls(admin: asyncpg.Connection, schema: str) -> None:
    rows = await admin.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = $1::regclass", f"{schema}.history"
    )

    names = {row["name"].partition(".")[2] for row in rows}
    now = datetime.now(UTC)
    months = [divmod(now.month - 1 + ahead, 12) for ahead in range(7)]
    assert {f"history_{now.year + years}_{month + 1:02}" for years, month in months} <= names
    assert {"history_before", "history_after"} <= names


async def test_a_database_without_a_schema_is_refused(adapter_url: str, new_schema: str) -> None:
    with pytest.raises(SchemaOutdated) as refused:
        async with open_postgres(adapter_url, schema=new_schema):
            pass

    assert refused.value.found is None
    assert "leasehold migrate" in str(refused.value)


@pytest.mark.parametrize("version", [OLDEST - 1, NEWEST + 1])
async def test_a_schema_of_another_time_is_refused(
    adapter_url: str, new_schema: str, admin: asyncpg.Connection, version: int
) -> None:
    await migrate(adapter_url, schema=new_schema)
    await admin.execute(f"UPDATE {new_schema}.migrations SET version = {version}")

    with pytest.raises(SchemaOutdated) as refused:
        async with open_postgres(adapter_url, schema=new_schema):
            pass

    assert (refused.value.found, refused.value.oldest, refused.value.newest) == (version, OLDEST, NEWEST)


async def test_a_schema_of_the_next_release_is_accepted(
    adapter_url: str, new_schema: str, admin: asyncpg.Connection
) -> None:
    await migrate(adapter_url, schema=new_schema)
    await admin.execute(f"INSERT INTO {new_schema}.migrations (version, name) VALUES ({NEWEST}, 'next')")

    async with open_postgres(adapter_url, schema=new_schema):
        pass


async def test_a_newer_schema_is_not_migrated(adapter_url: str, new_schema: str, admin: asyncpg.Connection) -> None:
    await migrate(adapter_url, schema=new_schema)
    await admin.execute(f"UPDATE {new_schema}.migrations SET version = {NEWEST + 1}")

    with pytest.raises(SchemaOutdated):
        await migrate(adapter_url, schema=new_schema)


@pytest.mark.parametrize("name", ["", "Bench", "my-schema", 'a"b', "1st", "pg_mine", "x" * 64, "a; drop table runs"])
async def test_a_name_that_cannot_be_a_schema_s_is_refused(adapter_url: str, name: str) -> None:
    with pytest.raises(InvalidCommand) as refused:
        await migrate(adapter_url, schema=name)

    assert refused.value.field == "schema"


async def test_a_reserved_word_can_be_a_schema_s_name(adapter_url: str, admin: asyncpg.Connection) -> None:
    await migrate(adapter_url, schema="order")

    async with open_postgres(adapter_url, schema="order") as store:
        assert await store.live_workflows() == []
    await admin.execute('DROP SCHEMA "order" CASCADE')


async def test_a_database_that_is_not_utf8_is_refused(postgres_url: str) -> None:
    name = "leasehold_ascii"
    execute(postgres_url, f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(InvalidCommand, match="SQL_ASCII"):
            await migrate(with_database(postgres_url, name))
    finally:
        execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_database_that_does_not_exist_is_named_and_the_password_is_not(postgres_url: str) -> None:
    url = with_database(postgres_url, "nowhere")

    with pytest.raises(Unavailable, match='There is no database "nowhere"'):
        async with open_postgres(url):
            pass


async def test_a_parameter_that_the_driver_refuses_is_named_with_its_reason() -> None:
    with pytest.raises(NoDatabase, match="sslmode"):
        await migrate("postgresql://ada@127.0.0.1:1/engine?sslmode=foo")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:lovelace@127.0.0.1:1/engine",
        "postgresql://ada:lovelace@no-such-host.invalid/engine",
        "postgresql://ada:lovelace@/engine?host=/no/such/folder",
    ],
)
async def test_a_server_that_cannot_be_reached_is_named_and_the_password_is_not(url: str) -> None:
    with pytest.raises(Unavailable, match='"engine"') as failed:
        async with open_postgres(url):
            pass

    assert "lovelace" not in str(failed.value)
    assert failed.value.field == "database"


@pytest.mark.parametrize("url", ["mysql://ada:lovelace@host/engine", "postgresql://ada:lovelace@host:port/engine", ""])
async def test_a_url_that_is_none_of_postgres_is_refused(url: str) -> None:
    with pytest.raises((NoDatabase, Unavailable)) as failed:
        await migrate(url)

    assert "lovelace" not in str(failed.value)
