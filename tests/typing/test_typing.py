"""What type checkers say about workflows, with mypy and pyright as strict as they can be.

`usage_*.py` must be without errors; in `must_fail_*.py` exactly the lines that end in "# E" must have one. Both
checkers read the project's own configuration, and each runs once over all files.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
USAGE = sorted(HERE.glob("usage_*.py"))
MUST_FAIL = sorted(HERE.glob("must_fail_*.py"))

# A checker without a cache reads pydantic and the standard library first.
pytestmark = pytest.mark.timeout(300)

Findings = Mapping[Path, Mapping[int, list[str]]]


@pytest.fixture(scope="module")
def mypy_findings() -> Findings:
    files = [str(path.relative_to(ROOT)) for path in (*USAGE, *MUST_FAIL)]
    lines = run_checker("mypy", "--output=json", "--config-file", str(ROOT / "pyproject.toml"), *files).splitlines()
    findings: dict[Path, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for found in map(json.loads, lines):
        if found["severity"] == "error":
            findings[ROOT / found["file"]][found["line"]].append(found["message"])
    return findings


@pytest.fixture(scope="module")
def pyright_findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    # Unlike mypy, pyright applies the project's exclusions also to files that are named, so it gets its own list.
    settings = tmp_path_factory.mktemp("pyright") / "pyrightconfig.json"
    files = [os.path.relpath(path, settings.parent) for path in (*USAGE, *MUST_FAIL)]
    extends = str(ROOT / "pyproject.toml")
    settings.write_text(json.dumps({"extends": extends, "include": files, "exclude": [], "extraPaths": [str(ROOT)]}))
    report = json.loads(
        run_checker("pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(settings))
    )
    assert report["summary"]["filesAnalyzed"] == len(USAGE) + len(MUST_FAIL)
    findings: dict[Path, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for found in report["generalDiagnostics"]:
        if found["severity"] == "error":
            findings[Path(found["file"])][found["range"]["start"]["line"] + 1].append(found["message"])
    return findings


def run_checker(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    # 1 is "found errors", and the must_fail files have some; anything else is a checker that did not do its work.
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def marked_lines(path: Path) -> set[int]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, start=1) if "  # E" in line}


@pytest.mark.parametrize("path", USAGE, ids=lambda path: path.stem)
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_correct_usage_has_no_type_errors(checker: str, path: Path, request: pytest.FixtureRequest) -> None:
    findings: Findings = request.getfixturevalue(f"{checker}_findings")

    assert findings.get(path, {}) == {}


@pytest.mark.parametrize("path", MUST_FAIL, ids=lambda path: path.stem)
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_exactly_the_marked_lines_are_type_errors(checker: str, path: Path, request: pytest.FixtureRequest) -> None:
    findings: Findings = request.getfixturevalue(f"{checker}_findings")

    expected, found = marked_lines(path), findings.get(path, {})
    assert expected
    assert set(found) == expected, {line: found.get(line, "no error") for line in set(found) ^ expected}


@pytest.mark.parametrize("path", USAGE, ids=lambda path: path.stem)
def test_correct_usage_also_runs(path: Path) -> None:
    spec = importlib.util.spec_from_file_location(f"tests.typing.{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None

    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    assert [name for name in vars(module) if not name.startswith("_")]
