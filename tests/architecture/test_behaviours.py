"""The page of behaviours is whole: every number once, no row empty, every test that it names exists where it says."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.syntax_trees import parsed

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "BEHAVIOURS.md"
BEHAVIOURS, DEFECTS = 123, 40

NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
NOT_BUILT = re.compile(r"not built: (AI|SQLite|remote)")
BOTH = "memory, Postgres"
ON_BOTH = {"store", "world", "blobs", "supervisor"}
"""Fixtures that stand for the store in memory and for Postgres, in the conformance suite or in tests/runtime."""

Row = Sequence[str]


def rows(section: str) -> list[Row]:
    """The cells of every row of the tables in a section of the page."""
    text = PAGE.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if re.match(r"\| \d", line)]
    return [[cell.strip() for cell in line] for line in lines]


BEHAVIOUR_ROWS = rows("What users of such engines rely on")
DEFECT_ROWS = rows("Defects that do not come back")


@cache
def arguments_of_tests(path: str) -> dict[str, set[str]]:
    """The names of the arguments of every test in a file, also of those that it has from the suite for all stores."""
    tree = parsed((ROOT / path).read_text(encoding="utf-8")) if (ROOT / path).is_file() else ast.Module([], [])
    found: dict[str, set[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.names[0].name == "*":
            found |= arguments_of_tests(node.module.replace(".", "/") + ".py")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = {arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)}
    return found


def missing(text: str) -> list[str]:
    """The tests that are named and do not exist, and those that are named in another form."""
    named = NAMED.findall(text)
    gone = [f"{path}::{name}" for path, name in named if name not in arguments_of_tests(path)]
    return [*gone, *re.findall(r"tests/\S+", NAMED.sub("", text))]


def is_kept(how: str) -> bool:
    """Whether a cell names a test, or says what is not built."""
    return bool(NAMED.search(how)) or NOT_BUILT.fullmatch(how) is not None


@pytest.mark.parametrize("table,count", [(BEHAVIOUR_ROWS, BEHAVIOURS), (DEFECT_ROWS, DEFECTS)])
def test_every_number_is_there_once_and_in_order(table: list[Row], count: int) -> None:
    assert [row[0] for row in table] == [str(number) for number in range(1, count + 1)]


@pytest.mark.parametrize("row", BEHAVIOUR_ROWS + DEFECT_ROWS, ids=lambda row: f"{row[0]} {row[1][:30]}")
def test_a_row_says_what_is_kept_and_by_which_test(row: Row) -> None:
    assert len(row) == (3 if row in BEHAVIOUR_ROWS else 4)
    assert len(row[1].split()) >= 3
    assert is_kept(row[-1]), row
    assert missing(row[-1]) == []


@pytest.mark.parametrize("row", DEFECT_ROWS, ids=lambda row: f"{row[0]} {row[1][:30]}")
def test_a_defect_is_kept_away_on_both_stores_or_the_reason_is_given(row: Row) -> None:
    number, _, stores, how = row
    if stores == BOTH:
        for path, name in NAMED.findall(how):
            assert arguments_of_tests(path)[name] & ON_BOTH, f"{number}: {name} runs on one store"
    else:
        assert stores.startswith("pure: ") or (stores == "–" and NOT_BUILT.fullmatch(how)), row


def test_what_is_wrong_with_a_row_is_found() -> None:
    assert missing("`tests/kernel/test_replace.py::test_none_is_a_value_like_any_other`") == []
    assert missing("`tests/kernel/test_replace.py::test_gone`") == ["tests/kernel/test_replace.py::test_gone"]
    assert missing("`tests/gone.py::test_gone` tests/other.py") == ["tests/gone.py::test_gone", "tests/other.py"]
    assert not is_kept("")
    assert not is_kept("not built: yet")
