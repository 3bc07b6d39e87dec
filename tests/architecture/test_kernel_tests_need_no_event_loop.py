"""The kernel is proven without an event loop: its tests neither import one nor ask pytest for one."""

import ast
from pathlib import Path

import pytest

from tests.syntax_trees import parsed

ROOT = Path(__file__).parents[2]
TESTS = sorted((ROOT / "tests" / "kernel").rglob("*.py"))
EVENT_LOOPS = {"anyio", "asyncio", "pytest_trio", "sniffio", "trio", "uvloop"}


def needs_an_event_loop(source: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(parsed(source)):
        match node:
            case ast.Import(names=names):
                found |= {alias.name.partition(".")[0] for alias in names} & EVENT_LOOPS
            case ast.ImportFrom(module=str(module)):
                found |= {module.partition(".")[0]} & EVENT_LOOPS
            case ast.Attribute(attr="anyio" | "trio" | "asyncio"):
                found.add(f"mark.{node.attr}")
            case ast.AsyncFunctionDef(name=name) if name.startswith("test_"):
                found.add(name)
            case _:
                pass
    return found


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_test_of_the_kernel_runs_without_an_event_loop(path: Path) -> None:
    assert needs_an_event_loop(path.read_text(encoding="utf-8")) == set()


def test_the_detector_finds_what_it_looks_for() -> None:
    source = "import trio.abc\nfrom anyio import sleep\npytestmark = pytest.mark.asyncio\nasync def test_it(): ...\n"

    assert needs_an_event_loop(source) == {"trio", "anyio", "mark.asyncio", "test_it"}
