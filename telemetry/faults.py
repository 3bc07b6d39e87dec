"""What goes wrong while somebody watches, said now and then, and never passed on: no run is harmed by being watched.

Samplers, span processors and views of metrics are the program's, and may raise whatever they like.
"""

from __future__ import annotations

from time import monotonic

from telemetry.logs import EventLogger, get_logger

__all__ = ["passed_over"]

logger: EventLogger = get_logger("leasehold.telemetry")

EVERY_S = 10.0
_said_at = -EVERY_S
_unsaid = 0


def passed_over(error: Exception) -> None:
    """Say that something could not be traced or measured, unless that was said just now."""
    global _said_at, _unsaid  # noqa: PLW0603 - a storm is one of the process, whatever number of supervisors it has
    now = monotonic()
    if now < _said_at + EVERY_S:
        _unsaid += 1
        return
    _said_at, unsaid, _unsaid = now, _unsaid, 0
    logger.warning("telemetry.failed", error=f"{type(error).__name__}: {error}", unsaid=unsaid)
