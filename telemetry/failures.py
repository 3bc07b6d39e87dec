"""Errors as spans tell them: the class, the message, and a traceback that shows no variables."""

from __future__ import annotations

from kernel.errors import ErrorInfo
from telemetry.spans import Failure

__all__ = ["failure_of_error", "failure_of_info"]


def failure_of_info(error: ErrorInfo) -> Failure:
    """An error of the history."""
    return Failure(error.type, error.message, error.traceback)


def failure_of_error(error: BaseException) -> Failure:
    """An error of this process."""
    return Failure(type(error).__name__, str(error))
