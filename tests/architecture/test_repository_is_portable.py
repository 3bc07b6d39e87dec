"""No file may depend on the machine or the package mirror of whoever wrote it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (".ci", "adapters", "examples", "kernel", "runtime", "telemetry", "tests")
BINARY = {".pyc", ".so", ".png", ".gz", ".zip", ".whl"}

# Written so that the patterns do not match themselves.
HOST = re.compile(r"https?://[^\s\"'<>)]*(?:pypi|pythonhosted|registry|artifactory|nexus|mirror|npmjs)", re.IGNORECASE)
INDEX_OPTION = re.compile(r"--(?:extra-)?(?:index-url|trusted-host|find-links)|PIP_(?:EXTRA_)?(?:INDEX_URL|FIND_LINKS)")
MACHINE_PATH = re.compile(r"(?<![\w.$}~-])/(?:(?:home|Users)/\w|(?:root|work|mnt)/)|\b[A-Z]:\\Users\\")


def text_files() -> Iterator[Path]:
    yield from (path for path in sorted(ROOT.iterdir()) if path.is_file() and path.name != ".git")
    for folder in FOLDERS:
        files = sorted(path for path in (ROOT / folder).rglob("*") if path.is_file())
        yield from (path for path in files if path.suffix not in BINARY)


def offences(text: str) -> list[str]:
    return [
        f"line {number}: {found.group()}"
        for number, line in enumerate(text.splitlines(), start=1)
        for pattern in (HOST, INDEX_OPTION, MACHINE_PATH)
        if (found := pattern.search(line))
    ]


def test_no_file_names_a_package_host_or_a_path_of_one_machine() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): wrong
        for path in text_files()
        if (wrong := offences(path.read_text(encoding="utf-8", errors="replace")))
    }

    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "see https" + "://pypi.example/simple",
        "pip install -" + "-index-url there",
        "open('/" + "home/ada/leasehold')",
        "cd /" + "root/leasehold",
    ],
)
def test_an_offending_line_is_found(line: str) -> None:
    assert len(offences(line)) == 1


@pytest.mark.parametrize(
    "line", ["https://www.postgresql.org/docs", "~/leasehold", "kernel/home/page", "/var/lib/leasehold"]
)
def test_an_innocent_line_is_left_alone(line: str) -> None:
    assert offences(line) == []
