"""The one conversation with the server: is it answering, and does it have our database?

asyncpg speaks asyncio only, and whoever enters may be on trio or have a loop running in this very thread, so the
conversation has a thread and a loop of its own for the milliseconds that it takes.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import asyncpg

from adapters.embedded_postgres.cluster import url_of

DATABASE = "leasehold"

_TIMEOUT_S = 10.0


def prepare_database(socket_dir: Path, *, with_statistics: bool) -> str | None:
    """Create what is missing in an answering server and return the DSN; None while it is not answering. Idempotent.

    Raises:
        asyncpg.PostgresError: the server answered and refused.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedded-postgres") as thread:
        return thread.submit(asyncio.run, _prepare(socket_dir, with_statistics=with_statistics)).result()


async def _prepare(socket_dir: Path, *, with_statistics: bool) -> str | None:
    url = url_of(socket_dir, DATABASE)
    statistics = "CREATE EXTENSION IF NOT EXISTS pg_stat_statements" if with_statistics else None
    try:
        try:
            await _execute(url, statistics)
        except asyncpg.InvalidCatalogNameError:
            with suppress(asyncpg.DuplicateDatabaseError):
                await _execute(url_of(socket_dir, "postgres"), f"CREATE DATABASE {DATABASE}")
            await _execute(url, statistics)
    except (OSError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError, asyncpg.InterfaceError):
        # Nobody listens, or it is starting, stopping, or recovering. (A timeout is an OSError.)
        return None
    return url


async def _execute(url: str, statement: str | None) -> None:
    connection = await asyncpg.connect(url, timeout=_TIMEOUT_S)
    try:
        if statement is not None:
            await connection.execute(statement, timeout=_TIMEOUT_S)
    finally:
        await connection.close(timeout=_TIMEOUT_S)
