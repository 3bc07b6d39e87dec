"""Traces and metrics of a command that executes or creates runs, as the OTEL_* variables ask for.

Only here OpenTelemetry is set up: a program that embeds the engine does that itself. Commands that only look export
nothing, and a process that nobody has asked imports nothing for it.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

from runtime.commandline.invocation import Cancel, Demo, Dlq, Poll, Rerun, Start, Unpark, Up

__all__ = ["exporting"]

_ACTING = (Up, Demo, Start, Cancel, Rerun, Poll, Unpark, Dlq)
PREFIX = "OTEL_"


@contextmanager
def exporting(command: object) -> Generator[None]:
    """Export what happens in the block; leaving it sends what is left, for a few seconds at most.

    Raises: InvalidCommand, naming the variable or the option that cannot be used.
    """
    served = _metrics_address(command)
    if not isinstance(command, _ACTING) or (served is None and not any(name.startswith(PREFIX) for name in os.environ)):
        yield
        return
    if isinstance(command, Up) and command.workers is not None:
        from telemetry.otel_environment import read_environment

        # Each worker exports for itself. What is wrong shall be said once, though, and before any of them starts.
        read_environment(os.environ, serves_metrics=served is not None)
        yield
        return
    from telemetry.export import configure_export, shutdown

    worker = command.supervised if isinstance(command, Up) else None
    if not configure_export(prometheus=served, worker=worker):
        yield
        return
    try:
        yield
    finally:
        shutdown()


def _metrics_address(command: object) -> tuple[str, int] | None:
    if not isinstance(command, Up) or command.metrics_port is None:
        return None
    return command.metrics_host, command.metrics_port
