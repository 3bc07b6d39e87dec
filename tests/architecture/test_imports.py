"""What import-linter cannot say: the kernel imports nothing but a short list, and asks nobody for time or ids."""

import ast
import sys
from pathlib import Path

import pytest

from tests.syntax_trees import parsed

ROOT = Path(__file__).parents[2]
KERNEL = sorted((ROOT / "kernel").rglob("*.py"))

ALLOWED_DISTRIBUTIONS = {"kernel", "pydantic", "pydantic_core", "typing_extensions"}
FORBIDDEN_STANDARD_LIBRARY = {
    "asyncio",
    "concurrent",
    "logging",
    "multiprocessing",
    "random",
    "sched",
    "secrets",
    "select",
    "selectors",
    "signal",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "threading",
    "time",
}
ASKING_THE_WORLD = {
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
    "uuid": {"getnode", "uuid1", "uuid4", "uuid6", "uuid7"},
    "os": {"environ", "getenv", "getpid", "urandom"},
}


def imported_modules(tree: ast.AST) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules.add(node.module or "")
    return {module.partition(".")[0] for module in modules}


def questions_to_the_world(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            asked = ASKING_THE_WORLD.get(node.module or "", set())
            found |= {f"{node.module}.{alias.name}" for alias in node.names if alias.name in asked}
        elif isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            if node.attr in ASKING_THE_WORLD.get(name, set()):
                found.add(f"{name}.{node.attr}")
    return found


@pytest.mark.parametrize("path", KERNEL, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_kernel_module_imports_only_what_a_pure_machine_needs(path: Path) -> None:
    tree = parsed(path.read_text(encoding="utf-8"))

    allowed = (set(sys.stdlib_module_names) - FORBIDDEN_STANDARD_LIBRARY) | ALLOWED_DISTRIBUTIONS

    assert imported_modules(tree) <= allowed
    assert not questions_to_the_world(tree)


def test_the_detector_finds_what_it_looks_for() -> None:
    tree = parsed(
        "import trio.abc\nfrom time import monotonic\nfrom uuid import UUID, uuid4\n"
        "import datetime, uuid\nuuid.uuid1()\ndatetime.datetime.now()\nuuid.UUID(int=1)\n"
    )

    assert imported_modules(tree) == {"trio", "time", "uuid", "datetime"}
    assert questions_to_the_world(tree) == {"uuid.uuid4", "uuid.uuid1", "datetime.now"}
