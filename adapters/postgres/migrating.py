"""The schema's versions: numbered migrations, forward only, one process at a time.

A release runs on the schema of the release before it and of the one after it, so that a rolling deploy needs no
order; every other one is refused with the command that helps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from adapters.postgres.connections import Target, connect
from adapters.postgres.failures import mapped
from adapters.postgres.statements import DEFAULT_SCHEMA, Schema, checked_schema, migration_files, qualify
from kernel.errors import InvalidCommand, SchemaOutdated, Unavailable

if TYPE_CHECKING:
    from asyncpg import Connection, Record

__all__ = ["NEWEST", "OLDEST", "check_version", "migrate_with", "migrated", "schema_sql"]

CURRENT = migration_files()[-1][0]
OLDEST = max(CURRENT - 1, 1)
NEWEST = CURRENT + 1

_LOCK_KEY = "hashtextextended('leasehold migrations', 0)"
_MIGRATION_S = 300.0


async def migrated(target: Target, schema: Schema) -> list[str]:
    """Bring the schema up to date over a connection of its own; see `migrate_with`."""
    connection = await connect(target.to("migrate", statement_timeout="0", lock_timeout="0"))
    try:
        with mapped("migrate"):
            return await migrate_with(connection, schema)
    finally:
        connection.terminate()


async def migrate_with(connection: Connection[Record], schema: Schema) -> list[str]:
    """Apply what is missing, in one transaction, and return the names of what was applied.

    Two that migrate at once wait for each other, and the second finds nothing to do.
    Raises: InvalidCommand, when the database is not UTF-8 or the server too old; SchemaOutdated, when the schema is
    newer than this release knows.
    """
    if connection.get_server_version() < (14,):
        found = connection.get_server_version()
        raise InvalidCommand(
            f"PostgreSQL {found.major}.{found.minor} is too old.", field="database", hint="Use PostgreSQL 14 or newer."
        )
    encoding = await connection.fetchval("SHOW server_encoding", timeout=_MIGRATION_S)
    if encoding != "UTF8":
        raise InvalidCommand(
            f"The database's encoding is {encoding}.", field="database", hint="Create it with ENCODING 'UTF8'."
        )
    async with connection.transaction():
        await connection.execute(f"SELECT pg_advisory_xact_lock({qualify(_LOCK_KEY, schema)})", timeout=_MIGRATION_S)
        version = await find_version(connection, schema)
        if version is not None and version > NEWEST:
            raise SchemaOutdated(found=version, oldest=OLDEST, newest=NEWEST)
        missing = [migration for migration in migration_files() if migration[0] > (version or 0)]
        for number, name, text in missing:
            await connection.execute(qualify(text, schema), timeout=_MIGRATION_S)
            await connection.execute(
                qualify("INSERT INTO leasehold.migrations (version, name) VALUES ($1, $2)", schema), number, name
            )
    return [name for _, name, _ in missing]


async def find_version(connection: Connection[Record], schema: Schema) -> int | None:
    """The number of the last migration, or None when there is no schema of ours."""
    table = await connection.fetchval(qualify("SELECT to_regclass('leasehold.migrations')::oid", schema))
    if table is None:
        return None
    version: int | None = await connection.fetchval(qualify("SELECT max(version) FROM leasehold.migrations", schema))
    return version


async def check_version(connection: Connection[Record], schema: Schema) -> None:
    """Refuse a schema that this release cannot run on. Raises: SchemaOutdated, Unavailable."""
    try:
        with mapped("tell the version of its schema"):
            version = await find_version(connection, schema)
    except asyncpg.InsufficientPrivilegeError as error:
        raise Unavailable(
            f'The role may not read the schema "{schema}".',
            field="database",
            hint="Grant it USAGE on the schema and rights on its tables, or migrate with this role.",
        ) from error
    if version is None or not OLDEST <= version <= NEWEST:
        raise SchemaOutdated(found=version, oldest=OLDEST, newest=NEWEST)


def schema_sql(schema: str = DEFAULT_SCHEMA) -> str:
    """All migrations as one script for `psql`, for whoever may not or does not want to let a program migrate.

    Behind a transaction pooler our connections cannot carry settings of their own, so the script ends with those that
    belong to the role that runs the engine, as comments to be filled in.
    """
    name = checked_schema(schema)
    parts = ["BEGIN;", f"SELECT pg_advisory_xact_lock({qualify(_LOCK_KEY, name)});"]
    for number, migration, text in migration_files():
        own = text if name == DEFAULT_SCHEMA else qualify(text, name)
        insert = f"INSERT INTO leasehold.migrations (version, name) VALUES ({number}, '{migration}');"  # noqa: S608 - ours
        parts += [own.rstrip(), qualify(insert, name)]
    parts += ["COMMIT;", _ROLE_SETTINGS]
    return "\n\n".join(parts)


_ROLE_SETTINGS = """\
-- With a transaction pooler between the engine and the server, give these to the role that runs the engine:
-- ALTER ROLE <role> SET statement_timeout = '10s';
-- ALTER ROLE <role> SET lock_timeout = '250ms';
-- ALTER ROLE <role> SET idle_in_transaction_session_timeout = '10s';
-- ALTER ROLE <role> SET synchronous_commit = on;
-- ALTER ROLE <role> SET plan_cache_mode = force_generic_plan;
-- ALTER ROLE <role> SET jit = off;
"""
