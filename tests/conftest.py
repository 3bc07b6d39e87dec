"""What every test may rely on: both event loops, one seed, and a Postgres.

Fixtures of one subject live with its tests. Nothing here knows workflows or runs.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import anyio
import asyncpg
import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator

    from runtime.blob_urls import BlobBucket

# Asks a real Jaeger, which takes minutes to build: make test-jaeger.
collect_ignore = ["jaeger"]

# The receiver of traces has threads of gRPC's, which would meddle with every fork, and say so.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

# The suite starts hundreds of interpreters; where no bytecode may be kept, each would compile the whole engine again,
# which is a third of its start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Drawn once and inherited by the workers of a parallel run, which must all collect the same tests.
DRAWN = os.environ.setdefault("LEASEHOLD_TEST_SEED_DRAWN", str(secrets.randbelow(2**32)))
SEED = int(os.environ.get("LEASEHOLD_TEST_SEED") or DRAWN)

# No deadline per example: on a busy machine it measures the machine. The blob of a failure goes into a rerun as it is.
hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
# A failure found by CI must be the same failure for whoever repeats its seed, so no examples of earlier runs mix in.
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, database=None)


@pytest.hookimpl(tryfirst=True)  # before Hypothesis reads its option
def pytest_configure(config: pytest.Config) -> None:
    """Let Hypothesis draw from our seed, in CI or when a seed was asked for.

    Otherwise it keeps its own ways: a fixed seed makes it forget the failures that it remembers from earlier runs.
    """
    _heed_interrupts()
    in_ci = bool(os.environ.get("CI"))
    hypothesis.settings.load_profile("ci" if in_ci else "default")
    if (in_ci or "LEASEHOLD_TEST_SEED" in os.environ) and config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = SEED


# A server of ours has had half a gigabyte at most; there is one for each process of a parallel run, and other users.
MEMORY_BYTES_MIN = 3 * 1024**3

# Files in which one test waits for many processes, the longest first.
SLOW = (
    "runtime/commandline/test_end_to_end.py",
    "runtime/bench/test_end_to_end.py",
    "chaos/test_killed_and_paused.py",
    "chaos/test_mixed_fleet.py",
    "adapters/test_embedded_postgres.py",
    "packaging/test_wheel.py",
    "runtime/test_processes.py",
    "adapters/postgres/test_rows_touched.py",
    "runtime/test_outages.py",
    "typing/test_typing.py",
    "telemetry/test_export.py",
    "chaos/test_publishers_killed.py",
    "chaos/test_blocked_and_cancelled.py",
    "examples/test_testing_page.py",
    "runtime/commandline/test_screen.py",
    "telemetry/test_one_trace_over_processes.py",
    "runtime/bench/test_profile.py",
    "runtime/commandline/test_exporting.py",
)

# Behaviour above the adapters is held in memory on both loops and on Postgres under asyncio. What trio adds on Postgres
# is the bridge to the driver: the conformance suite holds it to every promise of a store, these files to the rest.
TRIO_ON_POSTGRES = {
    "test_supervisor.py",
    "test_outages.py",
    "test_embedding.py",
    "test_run_handle.py",
    "test_recorded_steps.py",
    "test_delayed_runs.py",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the combinations that would only repeat what another one has shown; begin with what takes long.

    A file that takes a minute and comes last has a whole process wait for it.
    """
    repeated = [item for item in items if _only_repeats(item)]
    if repeated:
        config.hook.pytest_deselected(items=repeated)
        gone = set(repeated)
        items[:] = [item for item in items if item not in gone]
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    path = item.path.as_posix()
    return next((turn for turn, name in enumerate(SLOW) if path.endswith(name)), len(SLOW))


def _only_repeats(item: pytest.Item) -> bool:
    chosen = getattr(getattr(item, "callspec", None), "params", {})
    above = "tests/runtime/" in item.path.as_posix() or "tests/telemetry/" in item.path.as_posix()
    return (
        above
        and chosen.get("store") == "postgres"
        and str(chosen.get("anyio_backend")) == "trio"
        and item.path.name not in TRIO_ON_POSTGRES
    )


def _heed_interrupts() -> None:
    """What is begun with nohup, or in the background of a script, ignores these signals, and so do its children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_report_header() -> str:
    """Say how to repeat what chance decided."""
    return f"seed: {SEED} (repeat with LEASEHOLD_TEST_SEED={SEED})"


@pytest.hookimpl(tryfirst=True)  # before anyio runs the test
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Cancel a test on both loops at four fifths of its time limit, so that its `finally` blocks run.

    pytest-timeout's alarm comes later, and is for tests that block the loop: anyio's runner for trio answers the alarm
    by waiting until the hung test ends by itself.
    """
    test = pyfuncitem.obj
    if "anyio_backend" not in pyfuncitem.funcargs or not inspect.iscoroutinefunction(test):
        return

    @functools.wraps(test)
    async def cancelled_when_hung(**fixtures: object) -> None:
        with anyio.fail_after(time_limit_s(pyfuncitem) * 0.8):
            await test(**fixtures)

    pyfuncitem.obj = cancelled_when_hung


def time_limit_s(item: pytest.Function) -> float:
    """The limit that pytest-timeout applies: the marker's, the command line's, or the configured one; 0 means none."""
    marker = item.get_closest_marker("timeout")
    if marker is not None:
        limit = marker.args[0] if marker.args else marker.kwargs["timeout"]
    else:
        limit = item.config.getoption("timeout")
        limit = item.config.getini("timeout") if limit is None else limit
    return float(limit) or float("inf")


@pytest.fixture
def rng() -> random.Random:
    """Chance that can be repeated: the same for every test of one seed, whatever the order."""
    return random.Random(SEED)


@pytest.fixture(params=["asyncio", "trio"], scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Both event loops, for every test marked `anyio`."""
    return str(request.param)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A running server: the one that LEASEHOLD_TEST_DATABASE_URL names, else a private one for this session.

    Its own database is nobody's to write to; see `database_url`.
    """
    if configured := os.environ.get("LEASEHOLD_TEST_DATABASE_URL"):
        yield configured
        return
    from adapters.embedded_postgres import embedded_postgres

    with tempfile.TemporaryDirectory(prefix="leasehold-", dir=_memory()) as directory:
        # As root the server runs as another user, who has to reach its data through this folder.
        Path(directory).chmod(0o755)
        with embedded_postgres(Path(directory)) as server:
            yield server.url


def _memory() -> str | None:
    """A file system in memory with room for a server's data, or None.

    Nothing of them is to outlive the tests, and making a database, its schema and its end again takes ten times as long
    on a disk.
    """
    memory = "/dev/shm"
    if os.path.ismount(memory) and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > MEMORY_BYTES_MIN:
        return memory
    return None


@contextmanager
def new_database(postgres_url: str, template: str = "template1") -> Generator[str]:
    """A copy of a database to which nobody is connected, gone afterwards with whoever is still connected to it."""
    name = f"leasehold_test_{secrets.token_hex(6)}"
    execute(postgres_url, f"CREATE DATABASE {name} TEMPLATE {template} {_strategy(postgres_url)}")
    try:
        yield with_database(postgres_url, name)
    finally:
        execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@functools.cache
def _strategy(postgres_url: str) -> str:
    # To copy files is quicker than to log their pages, which Postgres does since version 15 unless it is told not to.
    version = int(str(fetch_value(postgres_url, "SHOW server_version_num")))
    return "STRATEGY file_copy" if version >= 150_000 else ""


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """An empty database of the test's own."""
    with new_database(postgres_url) as url:
        yield url


@pytest.fixture(scope="session")
def migrated_template(postgres_url: str) -> Iterator[str]:
    """The name of a database with the engine's tables: to copy it takes a fifth of what it takes to migrate another."""
    from adapters.postgres import migrate

    with new_database(postgres_url) as url:
        with ThreadPoolExecutor(max_workers=1) as thread:
            thread.submit(asyncio.run, migrate(url)).result()
        yield urlsplit(url).path.removeprefix("/")


@pytest.fixture
def migrated_database_url(postgres_url: str, migrated_template: str) -> Iterator[str]:
    """A migrated database of the test's own."""
    with new_database(postgres_url, migrated_template) as url:
        yield url


@pytest.fixture(scope="session")
def s3_place() -> Iterator[BlobBucket]:
    """A bucket: that of LEASEHOLD_TEST_S3_URL, else one of a server that is started here.

    Its keys begin with a prefix of this session's own, or with the URL's.
    """
    from runtime.blob_urls import BlobBucket, blob_place
    from tests.s3_server import running_s3

    if configured := os.environ.get("LEASEHOLD_TEST_S3_URL"):
        place = blob_place(configured)
        assert isinstance(place, BlobBucket)
        yield replace(place, prefix=place.prefix or secrets.token_hex(6))
        return
    with running_s3("blobs") as endpoint, pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "somebody")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "anything")
        yield BlobBucket(bucket="blobs", prefix=secrets.token_hex(6), endpoint=endpoint)


@pytest.fixture(scope="session")
def s3_url(s3_place: BlobBucket) -> str:
    """The same as a setting."""
    options = {"endpoint": s3_place.endpoint, "region": s3_place.region}
    query = urlencode({name: value for name, value in options.items() if value is not None})
    return f"s3://{s3_place.bucket}/{s3_place.prefix}?{query}"


def execute(url: str, statement: str) -> None:
    """Run one statement on a connection of its own, also while the test's event loop runs in this thread."""
    _on_a_connection(url, lambda connection: connection.execute(statement, timeout=30))


def fetch_value(url: str, query: str) -> object:
    """The same, for the first column of the first row of a query."""
    return _on_a_connection(url, lambda connection: connection.fetchval(query, timeout=30))


def _on_a_connection(url: str, work: Callable[[asyncpg.Connection], Awaitable[object]]) -> object:
    async def connect_and_work() -> object:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            return await work(connection)
        finally:
            await connection.close(timeout=10)

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, connect_and_work()).result()


def with_database(url: str, name: str) -> str:
    """Name another database of the same server; the host may stand in the query, as for a socket."""
    parts = urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}/{name}{query}"
