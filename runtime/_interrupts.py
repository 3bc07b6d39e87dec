"""Ctrl-C while the command is still being imported ends it as it does later: quietly, with exit code 130.

Importing takes some tenths of a second, and a traceback through somebody else's module is no answer. It concerns the
command alone: in a program that imports `runtime` Ctrl-C stays that program's. Separate because it comes before every
other import; so it imports nothing that takes time, and nothing of Leasehold.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

__all__ = ["end_quietly_when_interrupted", "import_began", "import_ended"]

_INTERRUPTED = 130


def import_began() -> None:
    """Called at the beginning of `runtime`."""
    if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        end_quietly_when_interrupted()


def import_ended() -> None:
    """Called at its end: what was done is undone."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def end_quietly_when_interrupted() -> None:
    """For when there is nothing to clean up: not yet, or not any more."""
    signal.signal(signal.SIGINT, _end)


def _is_command() -> bool:
    """Whether this is `leasehold` or `python -m runtime`, which Python says while it looks for that module."""
    if sys.argv[:1] == ["-m"]:
        after = sys.orig_argv[1:]
        return "-m" in after and after[after.index("-m") + 1 :][:1] == ["runtime"]
    return os.path.basename(sys.argv[0] if sys.argv else "") == "leasehold"  # noqa: PTH119 - pathlib takes its time


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(_INTERRUPTED)
