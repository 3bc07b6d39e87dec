"""The first thing that `runtime` imports: are the packages beside it really ours?

`kernel`, `adapters` and `telemetry` are names that other people use as well. A folder of that name in the working
directory, or a distribution that installs one, would be imported instead of ours, and what fails then fails somewhere
deep inside with a message that helps nobody. Each of our packages carries a marker; this module looks for it and, when
it is missing, says which file was found, what to rename, and how to get round it.

It imports nothing of Leasehold itself, because at this moment nothing can be trusted to be Leasehold's.
`runtime/__init__.py` calls it before its other imports.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

__all__ = ["MARKER", "check_siblings"]

MARKER = "__distribution__"
"""Every package of ours has this attribute, with our distribution's name."""

_DISTRIBUTION = "leasehold"
# The cheap ones first: an import that will fail should fail at once.
_SIBLINGS = ("telemetry", "adapters", "kernel")
_HOME = Path(__file__).resolve().parent.parent


def check_siblings() -> None:
    """Import the packages that `runtime` stands on.

    Raises: ImportError, naming the file that was found in the place of one of them.
    """
    for name in _SIBLINGS:
        found = _location(name)
        try:
            package = importlib.import_module(name)
        except Exception as error:
            # Ours may fail too, say because a dependency is absent; then that is the news.
            if found is None or _HOME in found.parents:
                raise
            raise _foreign(name, found) from error
        if getattr(package, MARKER, None) != _DISTRIBUTION:
            raise _foreign(name, found)


def _location(name: str) -> Path | None:
    """Where Python finds a package, without importing it."""
    loaded = sys.modules.get(name)
    spec = importlib.util.find_spec(name) if loaded is None else loaded.__spec__
    if spec is None:
        return None
    where = (
        spec.origin if spec.has_location and spec.origin else next(iter(spec.submodule_search_locations or ()), None)
    )
    return None if where is None else Path(where).resolve()


def _foreign(name: str, found: Path | None) -> ImportError:
    what = found.parent if found is not None and found.name == "__init__.py" else found
    kind = "folder" if what is None or what.suffix != ".py" else "file"
    return ImportError(
        f'Leasehold needs its own package "{name}", but Python found another one: {found or "(no file)"}.\n'
        f"Rename that {kind} ({what or name}), or uninstall the distribution that it belongs to.\n"
        'If it is in your working directory, the command "leasehold" works all the same: unlike "python -m runtime", '
        "it does not look there first.",
        name=name,
        path=None if found is None else str(found),
    )
