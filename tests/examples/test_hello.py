"""examples/hello.py: small enough to be read at a glance, and it greets."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime import run_and_wait
from runtime.bootstrap import migrate_database
from runtime.config import Settings
from runtime.testing import run_workflow

HELLO = Path(__file__).parents[2] / "examples" / "hello.py"


@pytest.fixture(scope="module")
def example() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(HELLO)))


@pytest.mark.anyio
async def test_the_workflow_greets_by_name(example: SimpleNamespace) -> None:
    finished = await run_workflow(example.hello, example.Person(name="Ada"))

    assert (finished.status, finished.output) == ("COMPLETED", "Hello, Ada!")


@pytest.mark.anyio
async def test_it_runs_on_a_real_database_too(example: SimpleNamespace, database_url: str) -> None:
    await migrate_database(Settings(database_url=database_url))

    greeting = await run_and_wait(example.app, example.hello, example.Person(name="Ada"), database=database_url)

    assert greeting == "Hello, Ada!"


def test_it_has_about_twenty_lines() -> None:
    assert len(HELLO.read_text(encoding="utf-8").splitlines()) <= 24
