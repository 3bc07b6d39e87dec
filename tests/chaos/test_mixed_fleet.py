"""Two serverless hosts and a supervisor on one database at once: nothing is recorded twice, and no run is lost.

`LEASEHOLD_TEST_FLEET_KILL=1` also kills one host on the way, `LEASEHOLD_TEST_FLEET_RUNS` makes it more or fewer runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest

from runtime import Client, Settings
from tests.chaos.conftest import ROOT, until
from tests.chaos.mixed_fleet import app, fork

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

RUNS = int(os.environ.get("LEASEHOLD_TEST_FLEET_RUNS", "2000"))
KILL = bool(os.environ.get("LEASEHOLD_TEST_FLEET_KILL"))
HOST = [str(Path(__file__).with_name("serverless_host.py"))]
SUPERVISOR = ["-m", "tests.chaos.mixed_fleet"]

ENDED = "SELECT status, count(*) FROM leasehold.runs GROUP BY status"
RECORDED = """
SELECT run_id, stage_id, count(*) FROM leasehold.events WHERE type = 'stage.completed' GROUP BY run_id, stage_id
"""
DRIVEN = "SELECT drive, count(*) FROM leasehold.runs GROUP BY drive"


def start(arguments: list[str], url: str, folder: Path, number: int) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "EFFECTS_DIR": str(folder),
        "LEASEHOLD_QUEUES": "default,gpu",
        # A short lease, so that the killed one's are soon over; nobody else's is to end on a busy machine.
        **({"LEASEHOLD_LEASE_S": "2", "LEASEHOLD_RENEW_S": "0.5"} if KILL else {}),
    }
    with (folder / f"{number}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, *arguments, url], stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT
        )


async def test_nothing_is_recorded_twice_and_no_run_is_lost(migrated_database_url: str, tmp_path: Path) -> None:
    fleet = [start(what, migrated_database_url, tmp_path, n) for n, what in enumerate([HOST, HOST, SUPERVISOR])]
    try:
        await until(lambda: ready(fleet, tmp_path))
        async with Client(app(), settings=Settings(database_url=migrated_database_url)) as client:
            handles = await client.start_many(fork, range(RUNS))
            if KILL:
                fleet[0].kill()
            results = await results_of(handles)
        assert ready(fleet[KILL:], tmp_path)
    finally:
        for process in fleet:
            process.terminate()
        for process in fleet:
            process.wait(30)

    assert results == [{"left": (n + 1) * 2, "right": (n + 1) * 3} for n in range(RUNS)]
    connection = await asyncpg.connect(migrated_database_url)
    try:
        assert dict(await connection.fetch(ENDED)) == {"COMPLETED": RUNS}
        recorded = await connection.fetch(RECORDED)
        driven = dict(await connection.fetch(DRIVEN))
        left_over = await connection.fetchval("SELECT count(*) FROM leasehold.jobs")
    finally:
        await connection.close()
    assert len(recorded) == 3 * RUNS
    assert {row["count"] for row in recorded} == {1}
    assert left_over == 0
    # All of them had their part in it, or this has shown nothing.
    assert set(driven) == {"actor", "jobs"}
    effects = effects_of(tmp_path)
    assert len(effects) == 3 * RUNS
    assert KILL or set(effects.values()) == {1}


def ready(fleet: list[subprocess.Popen[bytes]], folder: Path) -> bool:
    """Whether all of them are there; none may have ended."""
    logs = [(folder / f"{n}.log").read_text() for n in range(3)]
    assert all(process.poll() is None for process in fleet), logs
    return all("ready" in log for log in logs)


async def results_of(handles: list[Any]) -> list[Any]:
    results: list[Any] = [None] * len(handles)

    async def wait(place: int) -> None:
        results[place] = await handles[place].result(timeout=150)

    async with anyio.create_task_group() as waiting:
        for place in range(len(handles)):
            waiting.start_soon(wait, place)
    return results


def effects_of(folder: Path) -> Counter[tuple[str, str]]:
    """How often the body of each stage of each run was begun."""
    lines = [line.split() for file in folder.glob("*.effects") for line in file.read_text().splitlines()]
    return Counter((run_id, stage_id) for run_id, stage_id, _ in lines)
