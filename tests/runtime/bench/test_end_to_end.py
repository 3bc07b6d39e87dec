"""The benchmark with real processes and a real server, in sizes that say nothing about speed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import anyio
import asyncpg
import psutil
import pytest

from runtime.bench.laboratory import Laboratory, Sizes
from runtime.bench.measures import GROUPS, take_all
from runtime.bench.milestones import ROWS, find
from runtime.bootstrap import open_bench_database
from runtime.config import Settings

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[3]

TINY = Sizes(
    runs=40,
    bare_runs=40,
    warm_up=10,
    latency_runs=5,
    fan_outs=1,
    sleepers=20,
    sleep_s=1.0,
    polls=20,
    poll_s=4.0,
    takeover_runs=20,
    idle_settle_s=0.1,
    idle_window_s=0.5,
    residents=20,
    flood_runs=50,
    starts=1,
)


# Names of the pipeline's figures that other people's programs read.
PUBLISHED = {
    "runs_per_s",
    "limit_runs_per_s",
    "ratio_to_limit",
    "min",
    "max",
    "appends_per_run",
    "rows_per_run",
    "wal_bytes_per_run",
}


@pytest.fixture
def anyio_backend() -> str:
    """The gauges speak asyncio; what is measured chooses its own loop."""
    return "asyncio"


def schemas(url: str) -> list[str]:
    async def read() -> list[str]:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            rows = await connection.fetch("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'leasehold%'")
        finally:
            await connection.close(timeout=10)
        return [row["nspname"] for row in rows]

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, read()).result()


@pytest.mark.anyio
async def test_every_measure_is_taken_and_nothing_is_left_behind(database_url: str) -> None:
    settings = Settings(database_url=database_url)

    async with open_bench_database(settings) as database:
        assert schemas(database_url) == [database.schema]
        measures = await take_all(Laboratory(database, TINY, lambda _: None), GROUPS, 1)

    assert {name: found["error"] for name, found in measures.items() if "error" in found} == {}
    if sys.platform.startswith("linux"):
        assert [row.label for row in ROWS if find(row, measures) is None] == []
    assert set(measures["pipeline"]) >= PUBLISHED
    assert {"client", "worker", "postgres"} <= set(measures["pipeline"]["cpu_ms_per_run"])
    assert {"p50", "p99"} <= set(measures["latency_ms"])
    # The rod writes what an engine with nothing to spare would: four appends.
    assert measures["bare_limit"]["appends_per_run"] == 4
    assert measures["takeover"]["ran_again_needlessly"] == 0
    assert schemas(database_url) == []


@pytest.fixture
def benches(database_url: str) -> Iterator[list[psutil.Popen]]:
    started: list[psutil.Popen] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)


def start(database_url: str, benches: list[psutil.Popen], *words: str) -> psutil.Popen:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LEASEHOLD_")},
        "PYTHONPATH": str(ROOT),
        "LEASEHOLD_DATABASE_URL": database_url,
    }
    command = [sys.executable, "-m", "runtime", "bench", *words]
    process = psutil.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    benches.append(process)
    return process


def find_child(process: psutil.Process) -> psutil.Process | None:
    """A process that the benchmark has started, if there is one by now."""
    for child in process.children():
        with suppress(psutil.NoSuchProcess):
            if "runtime.bench.child" in " ".join(child.cmdline()):
                return child
    return None


def wait_for_child(bench: psutil.Popen) -> psutil.Process:
    while bench.poll() is None:
        if (child := find_child(bench)) is not None:
            return child
    raise AssertionError(bench.communicate()[1])


def test_the_command_prints_its_result_as_json_and_progress_beside_it(
    database_url: str, benches: list[psutil.Popen]
) -> None:
    bench = start(database_url, benches, "--json", "--only", "fan-out", "--quick", "--repeat", "1")

    out, err = bench.communicate(timeout=200)

    assert bench.returncode == 0, err
    result = json.loads(out)
    assert set(result) == {"machine", "settings", "measures"}
    assert result["settings"]["engine"]["lease_s"] == 10
    assert result["machine"]["server"]["fsync"] in {"on", "off"}
    assert set(result["measures"]["fan_out_s"]) == {"median", "range", "repetitions"}
    assert "fan_out_s 1 of 1: " in err
    assert schemas(database_url) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_benchmark_ends_its_processes_and_removes_its_schema(
    database_url: str, benches: list[psutil.Popen], number: signal.Signals
) -> None:
    bench = start(database_url, benches, "--only", "latency", "--quick")
    child = wait_for_child(bench)

    bench.send_signal(number)
    bench.communicate(timeout=60)

    assert bench.returncode == 130
    assert not child.is_running()
    assert schemas(database_url) == []


@pytest.mark.anyio
async def test_a_measure_whose_process_dies_is_reported_and_the_others_go_on(database_url: str) -> None:
    told: list[str] = []

    async with open_bench_database(Settings(database_url=database_url)) as database, anyio.create_task_group() as tasks:
        tasks.start_soon(kill_a_worker)
        measures = await take_all(Laboratory(database, TINY, told.append), ["fan-out", "start-up"], 1)

    assert "The benchmark's worker has ended" in measures["fan_out_s"]["error"]
    assert measures["start_up_s"]["import"] > 0
    assert [line.split(":")[0] for line in told] == ["fan_out_s", "start_up_s 1 of 1"]
    assert schemas(database_url) == []


async def kill_a_worker() -> None:
    while (worker := find_child(psutil.Process())) is None:  # noqa: ASYNC110 - it does not tell
        await anyio.sleep(0.01)
    worker.kill()


@pytest.mark.anyio
async def test_the_next_benchmark_removes_what_a_killed_one_left(
    database_url: str, benches: list[psutil.Popen]
) -> None:
    killed = start(database_url, benches, "--only", "latency", "--quick")
    wait_for_child(killed)
    (left,) = schemas(database_url)
    killed.kill()
    killed.communicate(timeout=30)

    removed: list[str] = []
    while left not in removed:
        # The server takes a moment to see that a connection is gone.
        async with open_bench_database(Settings(database_url=database_url)) as database:
            removed += database.gauges.removed

    assert schemas(database_url) == []


@pytest.mark.anyio
async def test_a_benchmark_leaves_another_one_alone(database_url: str) -> None:
    settings = Settings(database_url=database_url)

    async with open_bench_database(settings) as first, open_bench_database(settings) as second:
        assert second.gauges.removed == []
        assert sorted(schemas(database_url)) == sorted([first.schema, second.schema])

    assert schemas(database_url) == []
