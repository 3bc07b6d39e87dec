"""The one conversation with the server: is it answering, and does it have our database?

asyncpg speaks asyncio only, and whoever enters may be on trio or have a loop running in this very thread, so the
conversation has a thread and a loop of its own for the milliseconds that it takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import asyncpg

from adapters.embedded_postgres.cluster import url_of

DATABASE = "leasehold"

SILENCE_S = 7.0
"""A server that lives answers within milliseconds, if only that it is not ready yet."""
_TIMEOUT_S = 10.0
_HEED_S = 0.05


class NoAnswer(Exception):
    """Somebody holds the socket open and says nothing on it."""


def prepare_database(socket_dir: Path, *, with_statistics: bool, heed: Callable[[], None]) -> str | None:
    """Create what is missing in a server and return the DSN; None while it cannot be talked to. Idempotent.

    Raises:
        asyncpg.PostgresError: the server answered and refused.
        NoAnswer: it is there, and has not answered for `SILENCE_S`.
        What `heed` raises, which is called while the server is waited for.
    """
    unwanted = Event()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedded-postgres") as thread:
        conversation = thread.submit(
            lambda: asyncio.run(_unless(unwanted, _prepare(socket_dir, with_statistics=with_statistics)))
        )
        try:
            while not wait([conversation], timeout=_HEED_S).done:
                heed()
        except BaseException:
            unwanted.set()
            raise
        return conversation.result()


async def _unless(unwanted: Event, work: Coroutine[Any, Any, str | None]) -> str | None:
    """Do the work, but give it up soon after it is no longer wanted."""
    task = asyncio.ensure_future(work)
    while not (await asyncio.wait([task], timeout=_HEED_S))[0]:
        if unwanted.is_set():
            task.cancel()
    return task.result()


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
    try:
        connection = await asyncpg.connect(url, timeout=SILENCE_S)
    except TimeoutError as error:
        raise NoAnswer from error
    try:
        if statement is not None:
            await connection.execute(statement, timeout=_TIMEOUT_S)
        await connection.close(timeout=_TIMEOUT_S)
    except BaseException:
        # Taking leave takes two, and the other one may be what went wrong.
        connection.terminate()
        raise
