"""What `leasehold runs` does, in the schema of a benchmark, which comes over standard input for want of an option."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Print the list of runs."""
    # Imported here as the command itself does, when it is known what was asked for.
    from runtime.bench.messages import decoded, settings_from
    from runtime.commandline.invocation import Runs
    from runtime.commandline.looking import list_runs
    from runtime.commandline.opening import Context, run_async
    from runtime.commandline.parser import parse
    from runtime.commandline.screen import Screen

    message = decoded(sys.stdin.buffer.readline())
    command = parse(["runs"]).command
    assert isinstance(command, Runs), "that is what it was asked for"
    settings = settings_from(message["settings"])
    context = Context(settings=settings, screen=Screen(), schema=message["schema"])
    sys.exit(run_async(lambda: list_runs(command, context), settings))
