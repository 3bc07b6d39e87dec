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


def blocks(page: str) -> list[str]:
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


def passed(folder: Path, text: str) -> int:
    """How many tests of this text pass in a folder of somebody's own; all of them do."""
    (folder / "test_page.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "test_page.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = re.fullmatch(r"(\d+) passed in .*", ran.stdout.splitlines()[-1])
    assert found is not None, ran.stdout
    return int(found[1])


@pytest.mark.processes
def test_every_line_of_the_page_runs_on_both_loops(tmp_path: Path) -> None:
    text = "\n\n".join(blocks("TESTING.md"))

    single = len(re.findall(r"^async def test_", text, re.MULTILINE)) - 2
    assert passed(tmp_path, text) == 2 * (single + len(BLOB_STORE_CHECKS) + len(EVENT_SINK_CHECKS))


@pytest.mark.processes
def test_the_first_workflow_of_the_readme_passes_its_test(tmp_path: Path) -> None:
    first, *others = blocks("README.md")
    [test] = [block for block in others if "runtime.testing" in block]

    assert passed(tmp_path, f"{first}\n\n{test}") == 2
