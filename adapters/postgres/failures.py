"""What the driver raises, sorted by what has to be done about it; the driver's exceptions stop here.

The table goes by SQLSTATE class. Whether a statement took effect is another question: a server that answers with an
error has not done it, except when it ends the connection (57P..), and a connection that breaks leaves it open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from enum import Enum

import asyncpg

from kernel.errors import EngineError, InvalidCommand, PayloadRefused, SchemaOutdated, Unavailable

__all__ = ["DRIVER_ERRORS", "Failure", "describe", "failure_of", "mapped", "unavailable"]


class Failure(Enum):
    """What to do about an error of the driver."""

    DATA = "data"
    """One of the rows is at fault, and would be again."""
    RETRY = "retry"
    """Two were in each other's way; the same statement may succeed now."""
    UNAVAILABLE = "unavailable"
    """The server answered that it cannot do it now; nothing was done."""
    LOST = "lost"
    """The connection is gone and with it the answer; what was sent may have been done."""
    BUG = "bug"
    """Our own mistake, or a schema that is not ours."""


DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # What the driver says of a connection that broke between two statements: its own state is in disorder.
    asyncpg.InternalClientError,
    OSError,
    asyncio.TimeoutError,
)

_CLASSES = {
    "08": Failure.LOST,
    "22": Failure.DATA,
    "23": Failure.DATA,
    "54": Failure.DATA,
    "P0": Failure.DATA,
    "53": Failure.UNAVAILABLE,
    "57": Failure.UNAVAILABLE,
    "58": Failure.UNAVAILABLE,
}
_STATES = {
    "40001": Failure.RETRY,
    "40P01": Failure.RETRY,
    "55P03": Failure.RETRY,
    "25006": Failure.UNAVAILABLE,
    # The server ends the connection; it may do so just after the commit.
    "57P01": Failure.LOST,
    "57P02": Failure.LOST,
    "57P03": Failure.LOST,
    "57P05": Failure.LOST,
    "25P03": Failure.LOST,
    # A plan that another session's migration has made invalid; the driver forgets it and the next try is fresh.
    "0A000": Failure.RETRY,
}


def failure_of(error: BaseException) -> Failure:
    """What to do about this error."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        if state == "23514" and error.constraint_name is None:
            # No partition takes the row: the catch-all is away for a moment (see partitions).
            return Failure.RETRY
        return _STATES.get(state) or _CLASSES.get(state[:2], Failure.BUG)
    broken = asyncpg.InterfaceError | asyncpg.InternalClientError | OSError | asyncio.TimeoutError
    return Failure.LOST if isinstance(error, broken) else Failure.BUG


def describe(error: BaseException) -> str:
    """One line for people, without any payload: the driver's details and contexts may quote one."""
    if isinstance(error, asyncpg.PostgresError):
        message = str(error.args[0]) if error.args else type(error).__name__
        return f"{message.splitlines()[0]} (SQLSTATE {error.sqlstate})"
    if isinstance(error, asyncio.TimeoutError):
        return "no answer within the deadline"
    text = str(error).splitlines()
    return text[0] if text else type(error).__name__


def unavailable(error: BaseException, doing: str) -> Unavailable:
    """The error to raise for a database that cannot be used now."""
    if isinstance(error, asyncpg.DiskFullError):
        return Unavailable(
            f"The disk of the database is full: it could not {doing} ({describe(error)}).",
            hint="Free some space; whatever waits goes on by itself then.",
        )
    return Unavailable(f"The database could not {doing}: {describe(error)}.", hint="It is safe to try again.")


@contextmanager
def mapped(doing: str) -> Generator[None]:
    """Turn whatever the driver raises inside into an error of the engine."""
    try:
        yield
    except EngineError:
        raise
    except DRIVER_ERRORS as error:
        match failure_of(error):
            case Failure.DATA:
                raise PayloadRefused("A value", describe(error), field="payload") from error
            case Failure.BUG if isinstance(error, asyncpg.UndefinedTableError | asyncpg.InvalidSchemaNameError):
                raise SchemaOutdated(found=None, oldest=1, newest=1) from error
            case Failure.BUG if isinstance(error, asyncpg.InsufficientPrivilegeError):
                raise InvalidCommand(
                    f"The database refused to {doing}: {describe(error)}.",
                    field="database",
                    hint="Grant the role what the documentation lists.",
                ) from error
            case Failure.BUG:
                raise
            case _:
                raise unavailable(error, doing) from error
