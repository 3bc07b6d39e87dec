"""A private Postgres for one directory, shared by every process that is started there.

    with embedded_postgres(Path(".leasehold")) as server:
        ...  # asyncpg.connect(server.url)

The first process that comes starts the server, the last one that leaves (or dies) stops it. Read `server` first; it
is the story, and the other modules are its vocabulary: `accounts` (as whom the server runs), `directory` (where the
data lives), `locks` (who is here), `installation` (the binaries), `cluster` (what Postgres is told) and `keeper` (the
process that holds the server).
"""

from adapters.embedded_postgres.directory import choose_home, holds_data
from adapters.embedded_postgres.errors import (
    DataDirectoryForeign,
    DataDirectoryGone,
    DataDirectoryInUse,
    DataDirectoryLocked,
    DataDirectoryUnusable,
    DiskFull,
    EmbeddedNotInstalled,
    EmbeddedPostgresError,
    NoServerAccount,
    ServerNotStarted,
    ServerSilent,
    SocketPathTooLong,
    WrongServerVersion,
    os_errors_named,
)
from adapters.embedded_postgres.installation import is_installed
from adapters.embedded_postgres.server import EmbeddedServer, embedded_postgres

__all__ = [
    "DataDirectoryForeign",
    "DataDirectoryGone",
    "DataDirectoryInUse",
    "DataDirectoryLocked",
    "DataDirectoryUnusable",
    "DiskFull",
    "EmbeddedNotInstalled",
    "EmbeddedPostgresError",
    "EmbeddedServer",
    "NoServerAccount",
    "ServerNotStarted",
    "ServerSilent",
    "SocketPathTooLong",
    "WrongServerVersion",
    "choose_home",
    "embedded_postgres",
    "holds_data",
    "is_installed",
    "os_errors_named",
]
