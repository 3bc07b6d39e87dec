"""The composition root: from settings to an open store. The only module of the runtime that names adapters.

Which database: the one that was named (argument, environment, pyproject.toml), else a private Postgres in the data
directory if its wheel is installed and this is not production, else none. Adapters are imported when they are chosen,
so that a process pays only for what it uses.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
from anyio import from_thread, to_thread

from kernel.errors import InvalidCommand, NoDatabase, Unavailable
from kernel.ports.blobs import BlobStore
from kernel.ports.clock import Clock
from kernel.ports.diagnosis import Check, Inspection
from kernel.ports.ids import Ids
from kernel.ports.jobs import JobTransport
from kernel.ports.persistence import Persistence
from kernel.ports.scheduler import CommandSchedule
from runtime.blob_urls import BlobBucket, BlobFolder, blob_place
from runtime.config import Settings
from runtime.database_urls import EMBEDDED, database_kind, masked_url
from telemetry.logs import EventLogger, get_logger
from telemetry.observing import BatchObserver

if TYPE_CHECKING:
    from adapters.blobs import FilesystemBlobStore
    from adapters.blobs.s3 import S3BlobStore
    from adapters.embedded_postgres import EmbeddedServer
    from adapters.postgres.bare_limit import BareResult
    from adapters.postgres.statement_costs import StatementCosts
    from adapters.postgres.workbench import Workbench

__all__ = [
    "BenchDatabase",
    "DiagnosedDatabase",
    "Migrated",
    "Storage",
    "choose_database",
    "database_name",
    "embedded_notice",
    "migrate_database",
    "open_bench_database",
    "open_blobs",
    "open_diagnosis",
    "open_statement_costs",
    "open_storage",
    "schema_sql",
    "write_bare_runs",
]

logger: EventLogger = get_logger("leasehold.runtime")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """An open store and what belongs to it.

    `database` names it for people, without password; `notice` is one line that they should know about it, if any.
    Without a `scheduler` no command can be scheduled. `blobs_in_database`: they are written by the same transactions;
    elsewhere, `check_blobs` finds out whether they can be kept there (Unavailable), for those who will store some.
    An embedded database has `find_server`: the process id of its server, or None while there is none; it raises an
    `Unavailable` that says so when its directory is gone, and with it everything that was stored. `unanswered` counts
    the appends of this process that are queued or on their way, where there is such a queue; `observe_batches` adds
    somebody who is told of every batch of them. `listening` tells for how many seconds the connection that hears hints
    has not proved to be alive (None: there is none), and how often it broke; any thread may ask. `inspection` tells
    what explains a run beside its history, where several processes may share the store.
    """

    persistence: Persistence
    jobs: JobTransport
    blobs: BlobStore
    clock: Clock
    ids: Ids
    database: str
    scheduler: CommandSchedule | None = None
    blobs_in_database: bool = False
    check_blobs: Callable[[], Awaitable[None]] | None = None
    notice: str | None = None
    find_server: Callable[[], int | None] | None = None
    unanswered: Callable[[], int] | None = None
    observe_batches: Callable[[BatchObserver], None] | None = None
    listening: Callable[[], tuple[float | None, int]] | None = None
    inspection: Inspection | None = None


def choose_database(settings: Settings) -> str:
    """The database URL that these settings lead to, or "embedded".

    Raises: NoDatabase, when none is named and none may or can be started here.
    """
    if settings.database_url is not None:
        return settings.database_url
    if settings.in_production:
        reason = "No database is configured, and LEASEHOLD_ENV=production forbids the embedded one."
        raise NoDatabase(reason, hint="Set LEASEHOLD_DATABASE_URL (or --database-url).")
    from adapters.embedded_postgres import is_installed

    if not is_installed():
        raise NoDatabase
    return EMBEDDED


def database_name(settings: Settings) -> str:
    """What `choose_database` chooses, for people and without password; of a process that opens none itself."""
    url = choose_database(settings)
    return f"embedded Postgres in {_near(settings.data_dir)}" if url == EMBEDDED else masked_url(url)


@asynccontextmanager
async def open_storage(
    settings: Settings, *, tell: Callable[[str], None] | None = None, schema: str | None = None
) -> AsyncGenerator[Storage]:
    """Open the store that the settings lead to, and close it at the end.

    An embedded database is started if nobody has, and migrates itself; any other must have a schema of this release.
    What people should know about it, at most one line, goes to `tell`; without one it is logged as a warning.
    `schema` is another one than the usual, which a benchmark has.
    Raises: NoDatabase, SchemaOutdated, Unavailable.
    """
    url = choose_database(settings)
    match database_kind(url):
        case "memory":
            yield _memory(settings)
        case "postgres":
            async with _postgres(settings, url, migrate=False, database=masked_url(url), schema=schema) as storage:
                yield storage
        case "embedded":
            async with _embedded(settings) as server:
                notice = _notice(settings, server.data_dir, server.notice)
                if notice is not None:
                    _tell(notice, server, tell)
                name = f"embedded Postgres in {_near(server.data_dir)}"
                log = _near(server.data_dir / "postgres.log")
                advice = f"It is started again by itself, within seconds if it crashed. Its log is {log}."
                async with _postgres(
                    settings, server.url, migrate=True, database=name, notice=notice, schema=schema, advice=advice
                ) as storage:
                    yield replace(storage, find_server=server.find_process)


def _memory(settings: Settings) -> Storage:
    from adapters.memory import MemoryBlobStore, MemoryPersistence
    from adapters.system import RandomIds, SystemClock

    clock = SystemClock()
    persistence = MemoryPersistence(clock, lease=settings.lease)
    elsewhere = _blobs(settings)
    return Storage(
        persistence=persistence,
        scheduler=persistence.scheduler,
        jobs=persistence.jobs,
        blobs=elsewhere or MemoryBlobStore(),
        check_blobs=None if elsewhere is None else elsewhere.check,
        clock=clock,
        ids=RandomIds(),
        database="memory of this process",
    )


@asynccontextmanager
async def _postgres(
    settings: Settings,
    url: str,
    *,
    migrate: bool,
    database: str,
    notice: str | None = None,
    schema: str | None = None,
    advice: str | None = None,
) -> AsyncGenerator[Storage]:
    from adapters.postgres import DEFAULT_SCHEMA, open_postgres
    from adapters.system import RandomIds

    # An embedded server has no pooler before it, whatever the environment says of another database.
    direct_url = None if migrate else settings.direct_url
    elsewhere = _blobs(settings)
    async with open_postgres(
        url,
        lease=settings.lease,
        schema=schema or DEFAULT_SCHEMA,
        direct_url=direct_url,
        migrate=migrate,
        advice=advice,
    ) as persistence:
        yield Storage(
            persistence=persistence,
            scheduler=persistence.scheduler,
            jobs=persistence.jobs,
            blobs=elsewhere or persistence.blobs,
            blobs_in_database=elsewhere is None,
            check_blobs=None if elsewhere is None else elsewhere.check,
            clock=persistence.clock,
            ids=RandomIds(),
            database=database,
            notice=notice,
            unanswered=lambda: persistence.unanswered,
            observe_batches=persistence.observe_batches,
            listening=lambda: persistence.listening,
            inspection=persistence.inspection,
        )


def _blobs(settings: Settings) -> FilesystemBlobStore | S3BlobStore | None:
    """The store that the settings name; None leaves blobs where the histories are."""
    if settings.blob_url is None:
        return None
    match blob_place(settings.blob_url):
        case BlobFolder(path):
            from adapters.blobs import FilesystemBlobStore

            return FilesystemBlobStore(path)
        case BlobBucket() as place:
            return _bucket(place)


def _bucket(place: BlobBucket) -> S3BlobStore:
    try:
        from adapters.blobs.s3 import S3BlobStore
    except ImportError as error:
        raise InvalidCommand(
            f"Blobs cannot go to s3://{place.bucket}: a library is not installed ({error.name}).",
            field="blob_url",
            hint='Install it: pip install "leasehold[s3]".',
        ) from error

    return S3BlobStore(place.bucket, prefix=place.prefix, endpoint=place.endpoint, region=place.region)


# -- the schema ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """A database and the names of the migrations that it was given; none when it was up to date."""

    database: str
    applied: Sequence[str]


async def migrate_database(settings: Settings) -> Migrated:
    """Bring the schema of the configured database up to date; safe to repeat, and while others work.

    Raises: NoDatabase, Unavailable, SchemaOutdated, InvalidCommand for a database that has no schema.
    """
    from adapters.postgres import migrate

    url = choose_database(settings)
    match database_kind(url):
        case "memory":
            raise InvalidCommand("A database in memory has no schema.", field="database_url", hint="Name another one.")
        case "postgres":
            return Migrated(database=masked_url(url), applied=await migrate(settings.direct_url or url))
        case "embedded":
            async with _embedded(settings) as server:
                name = f"the embedded Postgres in {_near(server.data_dir)}"
                return Migrated(database=name, applied=await migrate(server.url))


def schema_sql() -> str:
    """Everything that `migrate_database` would execute on an empty database, for whoever runs SQL by other means."""
    from adapters.postgres import schema_sql

    return schema_sql()


# -- the diagnosis ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosedDatabase:
    """A database as it is found, whatever state it is in: its name for people, without password, and its checks."""

    database: str
    checks: Sequence[Check]


@asynccontextmanager
async def open_diagnosis(
    settings: Settings, *, tell: Callable[[str], None] | None = None
) -> AsyncGenerator[DiagnosedDatabase]:
    """The checks of the configured database, which is neither migrated nor made; an embedded one is started meanwhile.

    Whether it can be reached is for the first of the checks to say.
    Raises: NoDatabase; Unavailable, when an embedded one does not exist or start; InvalidCommand for one in memory.
    """
    from adapters.postgres.diagnosis import open_diagnosis

    url = choose_database(settings)
    match database_kind(url):
        case "memory":
            raise InvalidCommand(
                "A database in memory has nothing to be examined.", field="database_url", hint="Name another one."
            )
        case "postgres":
            async with open_diagnosis(url, direct_url=settings.direct_url) as checks:
                yield DiagnosedDatabase(database=masked_url(url), checks=checks)
        case "embedded":
            from adapters.embedded_postgres import holds_data

            if not holds_data(settings.data_dir):
                raise Unavailable(
                    f"There is no embedded database in {_near(settings.data_dir.absolute())} yet.",
                    field="database",
                    hint="leasehold up, or any other command that needs it, makes it.",
                )
            async with _embedded(settings) as server:
                notice = _notice(settings, server.data_dir, server.notice)
                if notice is not None:
                    _tell(notice, server, tell)
                async with open_diagnosis(server.url, embedded=True) as checks:
                    name = f"embedded Postgres in {_near(server.data_dir)}"
                    yield DiagnosedDatabase(database=name, checks=checks)


def open_blobs(settings: Settings) -> BlobStore | None:
    """The store of large payloads that the settings name; None: they are kept in the database.

    Raises: InvalidCommand, when its library is not installed.
    """
    return _blobs(settings)


# -- the benchmark ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchDatabase:
    """A schema of a benchmark's own: how its processes reach it (`settings`), and the gauges."""

    settings: Settings
    schema: str
    gauges: Workbench
    database: str


@asynccontextmanager
async def open_bench_database(
    settings: Settings, *, tell: Callable[[str], None] | None = None
) -> AsyncGenerator[BenchDatabase]:
    """Make an empty schema in the configured database, and remove it at the end; needs asyncio.

    Raises: NoDatabase, Unavailable, InvalidCommand for a database that has no schemas.
    """
    from adapters.postgres.workbench import open_workbench

    url = choose_database(settings)
    match database_kind(url):
        case "memory":
            raise InvalidCommand(
                "A database in memory is not measured.", field="database_url", hint="Name another one."
            )
        case "postgres":
            named = replace(settings, database_url=url)
            async with open_workbench(settings.direct_url or url) as gauges:
                yield BenchDatabase(settings=named, schema=gauges.schema, gauges=gauges, database=masked_url(url))
        case "embedded":
            async with _embedded(settings) as server:
                notice = _notice(settings, server.data_dir, server.notice)
                if notice is not None:
                    _tell(notice, server, tell)
                named = replace(settings, database_url=server.url, direct_url=None)
                name = f"embedded Postgres in {_near(server.data_dir)}"
                async with open_workbench(server.url) as gauges:
                    yield BenchDatabase(settings=named, schema=gauges.schema, gauges=gauges, database=name)


async def write_bare_runs(
    settings: Settings, schema: str, *, model_run_id: str, runs: int, warm_up: int = 0
) -> BareResult:
    """Write the rows of a run for so many others without an engine (`adapters.postgres.bare_limit`); needs asyncio."""
    from adapters.postgres.bare_limit import write_bare_runs

    url = choose_database(settings)
    return await write_bare_runs(url, schema=schema, model_run_id=model_run_id, runs=runs, warm_up=warm_up)


@asynccontextmanager
async def open_statement_costs(settings: Settings, schema: str) -> AsyncGenerator[StatementCosts]:
    """What statements cost the server in this schema of a benchmark (`adapters.postgres.statement_costs`); asyncio."""
    from adapters.postgres.statement_costs import open_statement_costs

    async with open_statement_costs(settings.direct_url or choose_database(settings), schema) as costs:
        yield costs


# -- the embedded database ------------------------------------------------------------------------------------------


@asynccontextmanager
async def _embedded(settings: Settings) -> AsyncGenerator[EmbeddedServer]:
    from adapters.embedded_postgres import embedded_postgres

    async with _in_thread(lambda heed: embedded_postgres(settings.data_dir, heed=heed)) as server:
        yield server


@asynccontextmanager
async def _in_thread(make: Callable[[Callable[[], None]], AbstractContextManager[T]]) -> AsyncGenerator[T]:
    """Enter and leave a blocking context manager without blocking the loop.

    It is made with a function that it calls often while entering waits, and that raises when nobody wants it any more.
    Entering is waited for even when cancelled, so that what was entered is also left.
    """
    unwanted, entering = threading.Event(), threading.Lock()
    entered: list[T] = []

    def heed() -> None:
        from_thread.check_cancelled()
        if unwanted.is_set():
            raise _Unwanted

    def enter() -> None:
        with entering:
            if not unwanted.is_set():
                entered.append(manager.__enter__())

    def leave() -> None:
        with entering:
            if entered:
                manager.__exit__(None, None, None)

    manager = make(heed)
    try:
        await to_thread.run_sync(enter)
        yield entered[0]
    finally:
        # asyncio's own cancellation, say that of asyncio.timeout, leaves the thread alone and a shield behind.
        unwanted.set()
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(leave)


class _Unwanted(BaseException):
    """Nobody waits for what this thread does."""


def _tell(notice: str, server: EmbeddedServer, tell: Callable[[str], None] | None) -> None:
    if tell is None:
        logger.warning("database.embedded", directory=str(server.data_dir), notice=notice)
    else:
        tell(notice)


async def embedded_notice(settings: Settings) -> str | None:
    """What `open_storage` would tell, for a process that opens none itself; makes the directory of an embedded one.

    Raises: NoDatabase, Unavailable.
    """
    if database_kind(choose_database(settings)) != "embedded":
        return None
    from adapters.embedded_postgres import choose_home, os_errors_named

    def choose() -> str | None:
        with os_errors_named(settings.data_dir):
            home = choose_home(settings.data_dir)
        return _notice(settings, home.path, home.notice)

    return await to_thread.run_sync(choose)


def _notice(settings: Settings, data_dir: Path, moved: str | None) -> str | None:
    if settings.database_url is not None:
        return moved
    chosen = f"No database is configured, so this uses an embedded Postgres in {_near(data_dir)}."
    return chosen if moved is None else f"{chosen} {moved}"


def _near(path: Path) -> str:
    """The path as seen from the working directory, when it lies below."""
    working = Path.cwd()
    return str(path.relative_to(working)) if path.is_relative_to(working) else str(path)
