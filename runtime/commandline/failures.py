"""What went wrong, as a message and an exit code.

No traceback for anything that a user can cause. What is left is a bug of ours: it gets a traceback, exit code 70, and
the request to report it.
"""

from __future__ import annotations

import platform
import traceback
from typing import cast

from kernel.errors import (
    BlobNotFound,
    Conflict,
    EngineError,
    NoDatabase,
    RunCancelled,
    RunFailed,
    Unavailable,
)
from kernel.model.facts import CorruptHistory
from runtime.commandline.layout import Span, printable
from runtime.commandline.screen import Screen

__all__ = [
    "BUG",
    "DONE",
    "ELSEWHERE",
    "FAILED",
    "GONE",
    "INTERRUPTED",
    "TIMED_OUT",
    "UNAVAILABLE",
    "USAGE",
    "report",
    "report_bug",
    "single",
]

DONE = 0
FAILED = 1
USAGE = 2
UNAVAILABLE = 3
TIMED_OUT = 4
GONE = 5
"""Between a worker and its parent alone: what was stored is gone, so do not start it again."""
BUG = 70
INTERRUPTED = 130


def report(error: EngineError | RunFailed | RunCancelled, screen: Screen) -> int:
    """Tell what went wrong and return the exit code."""
    message = error.message if isinstance(error, EngineError) and hasattr(error, "message") else str(error)
    field = getattr(error, "field", None)
    hint: str | None = getattr(error, "hint", None)
    if isinstance(error, BlobNotFound):
        hint = ELSEWHERE
    tell(screen, type(error).__name__, message, field=field, hint=hint)
    return exit_code(error)


ELSEWHERE = (
    "Was LEASEHOLD_BLOB_URL another when it was stored? If the app has a blob_store of its own, name the app:\n"
    "  --app module:attribute"
)


def tell(screen: Screen, kind: str, message: str, *, field: str | None = None, hint: str | None = None) -> None:
    """One error on standard error: for machines an object, for people a line and the way out."""
    if screen.as_json:
        screen.error_json({"error": {"type": kind, "message": message, "field": field, "hint": hint}})
        return
    first, *more = message.splitlines() or [kind]
    screen.note(Span("error: ", "bold red"), printable(first))
    for each in more:
        screen.note("  ", printable(each))
    for each in (hint or "").splitlines():
        screen.note(Span(printable(each), "dim" if each.startswith(" ") else ""))


def exit_code(error: BaseException) -> int:
    """What a script learns of an error: who has to act."""
    match error:
        case RunFailed() | RunCancelled():
            return FAILED
        case NoDatabase():
            return USAGE
        case Unavailable() | Conflict() | BlobNotFound() | CorruptHistory():
            # Not there, busy, or damaged: in any case nothing that another command line would change.
            return UNAVAILABLE
        case _:
            return USAGE


def report_bug(error: BaseException, screen: Screen) -> int:
    """Tell of a defect of ours: everything that whoever mends it needs, and nothing of the user's data."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        release = version("leasehold")
    except PackageNotFoundError:
        release = "unreleased"
    if screen.as_json:
        told = f"{type(error).__name__}: {error}"
        screen.error_json({"error": {"type": "Bug", "message": told, "field": None, "hint": _PLEASE}})
    screen.note_raw("".join(traceback.format_exception(error)))
    screen.note(Span("error: ", "bold red"), f"this is a bug in Leasehold ({type(error).__name__}).")
    screen.note(_PLEASE)
    screen.note(f"  leasehold {release} · Python {platform.python_version()} · {platform.platform()}")
    return BUG


_PLEASE = "Please report it with the traceback above, the command that you ran, and the following line."


def single(error: BaseException) -> BaseException:
    """The error inside an exception group that has only one, however deep; any other as it is."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    inner = cast("BaseExceptionGroup[BaseException]", error).exceptions
    return single(inner[0]) if len(inner) == 1 else cast("BaseException", error)
