"""Errors as spans tell them: the class, the message, and a traceback that shows no variables.

A message is whatever the program has put into it; only the values that pydantic quotes are taken out.
"""

from __future__ import annotations

import re

from kernel.errors import ErrorInfo
from telemetry.spans import Failure

__all__ = ["failure_of_error", "failure_of_info"]


_QUOTED = re.compile(r"input_value=.*?, input_type=", re.DOTALL)
"""How pydantic's errors quote the value that they are about, which is somebody's payload."""


def failure_of_info(error: ErrorInfo) -> Failure:
    """An error of the history."""
    traceback = None if error.traceback is None else _without_values(error.traceback)
    return Failure(error.type, _without_values(error.message), traceback)


def failure_of_error(error: BaseException) -> Failure:
    """An error of this process."""
    return Failure(type(error).__name__, _without_values(str(error)))


def _without_values(text: str) -> str:
    return _QUOTED.sub("input_type=", text) if "input_value=" in text else text
