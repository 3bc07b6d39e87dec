"""TESTING.md and the README's section of that name: what stands there is what pytest runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.conformance import BLOB_STORE_CHECKS, EVENT_SINK_CHECKS

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.py)\n")


def blocks(page: str) -> list[str]:
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


def passed(folder: Path, text: str, *options: str) -> int:
    """How many tests of this text pass in a folder of somebody's own; all of them do."""
    (folder / "test_page.py").write_text(text, encoding="utf-8")
    summary, report = said(folder, *options)
    found = re.fullmatch(r"(\d+) passed in .*", summary)
    assert found is not None, report
    return int(found[1])


def said(folder: Path, *options: str) -> tuple[str, str]:
    """The last line and the whole of what pytest says of the tests in the folder; none fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.splitlines()[-1], ran.stdout


@pytest.mark.processes
def test_every_line_of_the_page_runs_on_both_loops(tmp_path: Path) -> None:
    text = "\n\n".join(block for block in blocks("TESTING.md") if not FILE.match(block))

    single = len(re.findall(r"^async def test_", text, re.MULTILINE)) - 2
    assert passed(tmp_path, text) == 2 * (single + len(BLOB_STORE_CHECKS) + len(EVENT_SINK_CHECKS))


@pytest.mark.processes
def test_the_store_of_the_page_is_held_to_the_promises_that_its_backdoor_lets_be_checked(tmp_path: Path) -> None:
    for block in blocks("TESTING.md"):
        if name := FILE.match(block):
            (tmp_path / name[1]).write_text(block, encoding="utf-8")

    # A tenth of it: in memory too, the whole takes as long as a small suite.
    summary, report = said(tmp_path, "-rs", "-k", "key or annotation or claimed or expired or forgotten")

    found = re.fullmatch(r"(\d+) passed, (\d+) skipped, \d+ deselected in .*", summary)
    assert found is not None, report
    assert int(found[1]) > 50
    assert "not checked: the Backdoor of this store has no age_command" in report
    assert "has no expire" not in report


@pytest.mark.processes
def test_the_first_workflow_of_the_readme_passes_its_test(tmp_path: Path) -> None:
    first, *others = blocks("README.md")
    [test] = [block for block in others if "runtime.testing" in block]

    assert passed(tmp_path, f"{first}\n\n{test}") == 2
