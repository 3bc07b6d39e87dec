"""The words of `doctor` and `explain`, and how one run is named by id or by key.

Beside the parser, which has the table that names them; argparse is known here, and nothing of the work.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from kernel.errors import InvalidCommand
from runtime.commandline.invocation import Doctor, Explain

__all__ = ["add_chosen_run", "chosen_run", "doctor", "explain"]


def doctor(_parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Doctor]:
    """Examine the database and what lies around it: what was found, and what to do about it. Changes nothing.

    Exits with 0 when there is no problem (warnings alone are none), 1 when there is one, 2 when no database is
    configured and 3 when it cannot be reached; what could be checked is told all the same.
    """
    return lambda _known: Doctor()


def explain(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Explain]:
    """Why a run does not progress: who holds it, what it waits for and until when, and what to do about it."""
    add_chosen_run(parser)

    def made(known: argparse.Namespace) -> Explain:
        run, key = chosen_run("explain", known)
        return Explain(run=run, key=key)

    return made


def add_chosen_run(parser: argparse.ArgumentParser) -> None:
    """Take a run by its id, or by its key."""
    parser.add_argument("run", metavar="RUN", nargs="?", help="its id, or the last 8 characters of it")
    parser.add_argument("--key", nargs=2, metavar=("WORKFLOW", "KEY"), help="by its idempotency key instead")


def chosen_run(command: str, known: argparse.Namespace) -> tuple[str | None, tuple[str, str] | None]:
    """The run as it was named. Raises: InvalidCommand, when it was named in neither way or in both."""
    if (known.run is None) == (known.key is None):
        raise InvalidCommand(
            f"leasehold {command} needs one run.", field="run", hint="Name it by id, or by --key WORKFLOW KEY."
        )
    return known.run, None if known.key is None else (known.key[0], known.key[1])
