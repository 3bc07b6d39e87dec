"""examples/batch_job.py: real processes, a real API between them, and a kill while the batch is under way."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from examples import batch_job
from runtime import App, Client
from runtime.bootstrap import migrate_database
from runtime.config import Settings
from tests.runtime.shared_store import until

pytestmark = pytest.mark.processes

EXAMPLE = Path(__file__).parents[2] / "examples" / "batch_job.py"
ROOT = EXAMPLE.parents[1]

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def anyio_backend() -> str:
    """The processes choose their own loop; the test only watches."""
    return "asyncio"


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number


@pytest.fixture
def start(database_url: str, port: int, tmp_path: Path) -> Iterator[Start]:
    """Starts the example; its lines go to a file that bears the name of what was started."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "LEASEHOLD_DATABASE_URL": database_url,
        "LEASEHOLD_LEASE_S": "2",
        "LEASEHOLD_RENEW_S": "0.5",
        "BATCH_API_PORT": str(port),
        "BATCH_API_NEEDS_S": "3",
    }
    started: list[subprocess.Popen[str]] = []

    def one(name: str, *arguments: str) -> subprocess.Popen[str]:
        with (tmp_path / name).open("w") as lines:
            command = [sys.executable, str(EXAMPLE), *arguments]
            process = subprocess.Popen(command, stdout=lines, stderr=subprocess.STDOUT, env=environment, text=True)
        started.append(process)
        return process

    yield one
    for process in started:
        process.kill()
        process.wait(10)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.anyio
async def test_a_process_that_is_killed_while_it_waits_is_continued_with_one_submission(
    start: Start, database_url: str, port: int, tmp_path: Path
) -> None:
    settings = Settings(database_url=database_url)
    await migrate_database(settings)
    start("api", "api")
    await until(lambda: is_listening(port))
    async with Client(App(workflows=[batch_job.translations]), settings=settings) as client:

        async def suspended() -> bool:
            page = await client.list_runs(status="SUSPENDED")
            return bool(page.items)

        killed = start("killed")
        await until(suspended)
        killed.kill()
        killed.wait(10)

        again = start("again")
        await anyio.to_thread.run_sync(lambda: again.wait(40), abandon_on_cancel=True)

    assert (tmp_path / "again").read_text().splitlines()[-1] == "['GOOD MORNING', 'GOOD NIGHT']"
    assert "GOOD" not in (tmp_path / "killed").read_text()
    assert (tmp_path / "api").read_text().count("submitted: ") == 1
