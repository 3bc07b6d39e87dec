"""Persistence and blobs on PostgreSQL, by the append protocol.

`open_postgres` is the way in. `committer` is the heart: it makes one statement out of the appends of many runs; the
statements themselves stand in `sql/`, the tables in `migrations/`. Everything above the driver speaks the kernel's
ports and errors; nothing outside this package imports the driver.
"""

from adapters.postgres.connections import Deadlines
from adapters.postgres.migrating import schema_sql
from adapters.postgres.persistence import (
    PostgresBlobStore,
    PostgresPersistence,
    PostgresScheduler,
    migrate,
    open_postgres,
)
from adapters.postgres.statements import DEFAULT_SCHEMA

__all__ = [
    "DEFAULT_SCHEMA",
    "Deadlines",
    "PostgresBlobStore",
    "PostgresPersistence",
    "PostgresScheduler",
    "migrate",
    "open_postgres",
    "schema_sql",
]
