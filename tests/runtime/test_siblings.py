"""The guard against other people's packages with our names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIBLINGS = ["kernel", "adapters", "telemetry"]


def python(*arguments: str, working: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    """Another Python, in a directory of its own, that finds our packages as an installed one would: after its own."""
    code = f"import sys; sys.path.append({str(ROOT)!r}); " + arguments[0]
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments[1:]],
        cwd=working,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", SIBLINGS)
@pytest.mark.parametrize("form", ["module", "package", "broken"])
def test_a_foreign_package_is_named_with_the_way_round(tmp_path: Path, name: str, form: str) -> None:
    file = tmp_path / f"{name}.py" if form == "module" else tmp_path / name / "__init__.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text("raise RuntimeError('mine')\n" if form == "broken" else "x = 1\n", encoding="utf-8")

    answer = python("import runtime", working=tmp_path)

    assert answer.returncode == 1
    last = answer.stderr[answer.stderr.rindex("ImportError") :]
    assert f'its own package "{name}"' in last
    assert str(file.resolve()) in last
    assert str(file if form == "module" else file.parent) in last
    assert 'the command "leasehold" works' in last


@pytest.mark.parametrize("name", SIBLINGS)
def test_a_folder_without_a_module_in_it_is_no_package(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()

    assert python("import runtime; print('ours')", working=tmp_path).stdout == "ours\n"


def test_the_console_script_does_not_look_into_the_working_directory(tmp_path: Path) -> None:
    for name in (*SIBLINGS, "runtime"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('mine')\n", encoding="utf-8")

    # What an installed script does: its own folder comes first, not the working directory.
    script = tmp_path / "bin" / "leasehold"
    script.parent.mkdir()
    script.write_text(
        f"import sys\nsys.path.append({str(ROOT)!r})\nfrom runtime.__main__ import main\nsys.exit(main())\n",
        encoding="utf-8",
    )
    answer = subprocess.run(
        [sys.executable, str(script), "config", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert answer.returncode == 0, answer.stderr


def test_an_error_of_our_own_package_stays_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "pydantic.py").write_text("raise RuntimeError('no pydantic here')\n", encoding="utf-8")

    answer = python("import runtime", working=tmp_path)

    assert answer.returncode == 1
    assert "no pydantic here" in answer.stderr.splitlines()[-1]
