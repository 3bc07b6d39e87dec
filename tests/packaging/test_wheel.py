"""What somebody gets who installs the wheel into an empty environment and types what the README says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]


class Person:
    """An empty folder, and the commands that somebody types in it."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.folder = folder
        self.binaries = binaries
        # Nothing of the checkout, and nothing of whoever runs the tests.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LEASEHOLD_", "PYTHON"))}
        self.environment = {**kept, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1"}

    def types(self, *words: str, expect: int = 0) -> str:
        done = subprocess.run(
            [str(self.binaries / words[0]), *words[1:]],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == expect, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def leaves_running(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.binaries / words[0]), *words[1:]],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
        timeout=100,
    )
    [built] = folder.glob("leasehold-*.whl")
    return built


@pytest.fixture(scope="module")
def binaries(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment of its own in which the wheel is installed.

    The dependencies are those that the tests run with, seen through a path file: a checkout that is installed there
    as editable is not seen, because path files of such a folder are not read.
    """
    folder = tmp_path_factory.mktemp("installed")
    folder.chmod(0o755)
    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)],
        check=True,
        capture_output=True,
        timeout=100,
    )
    return environment / "bin"


@pytest.fixture
def person(binaries: Path, tmp_path: Path) -> Person:
    """Somebody who has it, and nothing else."""
    tmp_path.chmod(0o755)
    folder = tmp_path / "empty"
    folder.mkdir(mode=0o755)
    return Person(folder, binaries)


def test_the_wheel_has_what_is_not_python_too_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    assert {f"{package}/py.typed" for package in ("kernel", "runtime", "adapters", "telemetry")} <= set(names)
    assert any(name.startswith("adapters/postgres/sql/") for name in names)
    assert any(name.startswith("adapters/postgres/migrations/") for name in names)
    suite = {path.relative_to(ROOT).as_posix() for path in (ROOT / "adapters" / "conformance").rglob("*.py")}
    assert "adapters/conformance/store/claims.py" in suite
    assert suite <= set(names)
    assert not any(name.startswith(("tests/", "examples/")) for name in names)


WORLD = """
import os
from dataclasses import replace

import pytest

from adapters.conformance.store import World
from adapters.memory import MemoryPersistence
from adapters.system import SystemClock


class Ledger(MemoryPersistence):
    async def append(self, append, /):
        return await super().append(replace(append, key=None) if "FORGETFUL" in os.environ else append)


@pytest.fixture
async def world():
    async with World(Ledger(SystemClock())) as world:
        yield world
"""


def test_a_store_of_somebody_s_own_is_held_to_the_suite_and_told_what_it_breaks(person: Person) -> None:
    (person.folder / "conftest.py").write_text(WORLD)
    for topic in ("keys", "workflows"):
        (person.folder / f"test_{topic}.py").write_text(f"from adapters.conformance.store.{topic} import *\n")
    command = ("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error")

    kept = person.types(*command)
    person.environment["FORGETFUL"] = "yes"
    broken = person.types(*command, expect=1)

    assert re.search(r"^\d\d passed in ", kept, re.MULTILINE), kept
    assert "FAILED test_keys.py::test_a_key_leads_to_its_run[asyncio]" in broken
    assert "FAILED test_keys.py::test_a_key_leads_to_its_run[trio]" in broken
    assert "FAILED test_workflows.py" not in broken
    assert re.search(r"^E +(AssertionError: )?assert None == '[0-9a-f-]{36}'$", broken, re.MULTILINE), broken
    assert re.search(r"world = <World of Ledger, seed=\d+>", broken)
    assert re.search(r"site-packages/adapters/conformance/store/keys\.py:\d+: AssertionError", broken)


def test_an_empty_folder_becomes_a_working_project(person: Person) -> None:
    assert str(ROOT) not in person.types("python", "-c", "import kernel; print(kernel.__file__)")

    demo = person.types("leasehold", "demo", "--limit", "20")
    assert "20 of 20 runs completed" in demo

    person.types("leasehold", "init")
    supervisor = person.leaves_running("leasehold", "up")
    try:
        started = person.types(
            "leasehold", "start", "hello", "--input", '{"name": "Ada"}', "--wait", "--timeout", "60", "--json"
        )
        run = json.loads(started)
        assert (run["status"], run["output"]) == ("COMPLETED", "Hello, Ada!")

        listed = json.loads(person.types("leasehold", "runs", "--workflow", "hello", "--json"))
        assert [each["id"] for each in listed["runs"]] == [run["id"]]
        shown = person.types("leasehold", "show", run["id"][-8:])
        assert "greet" in shown
        assert "COMPLETED" in shown
    finally:
        supervisor.send_signal(signal.SIGTERM)
        output, _ = supervisor.communicate(timeout=40)
    assert supervisor.returncode == 0, output

    tested = person.types("python", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "1 passed" in tested
    # The last user has left, so the server has gone.
    deadline = time.monotonic() + 20
    while (person.folder / ".leasehold" / "postgres" / "postmaster.pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not (person.folder / ".leasehold" / "postgres" / "postmaster.pid").exists()
