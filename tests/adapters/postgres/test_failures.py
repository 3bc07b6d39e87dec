"""What the driver raises, and what is made of it."""

from __future__ import annotations

import asyncpg
import pytest

from adapters.postgres.connections import place_of
from adapters.postgres.failures import Failure, describe, failure_of, mapped
from kernel.errors import InvalidCommand, PayloadRefused, RunNotFound, SchemaOutdated, Unavailable


def answered(state: str, message: str = "no") -> asyncpg.PostgresError:
    """What the driver raises when the server answers with this SQLSTATE."""
    return asyncpg.PostgresError.new({"S": "ERROR", "V": "ERROR", "C": state, "M": message})


@pytest.mark.parametrize(
    "state, failure",
    [
        ("22P02", Failure.DATA),
        ("22021", Failure.DATA),
        ("23505", Failure.DATA),
        ("54001", Failure.DATA),
        ("P0001", Failure.DATA),
        ("40001", Failure.RETRY),
        ("40P01", Failure.RETRY),
        ("55P03", Failure.RETRY),
        ("23514", Failure.RETRY),
        ("53100", Failure.UNAVAILABLE),
        ("53300", Failure.UNAVAILABLE),
        ("57014", Failure.UNAVAILABLE),
        ("58030", Failure.UNAVAILABLE),
        ("25006", Failure.UNAVAILABLE),
        ("08006", Failure.LOST),
        ("57P01", Failure.LOST),
        ("57P02", Failure.LOST),
        ("57P03", Failure.LOST),
        ("42P01", Failure.BUG),
    ],
)
def test_each_sqlstate_says_what_to_do(state: str, failure: Failure) -> None:
    assert failure_of(answered(state)) is failure


def test_a_constraint_of_ours_that_is_broken_is_the_row_s_fault() -> None:
    broken = asyncpg.PostgresError.new({"C": "23514", "M": "no", "n": "runs_priority"})

    assert failure_of(broken) is Failure.DATA


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.ConnectionDoesNotExistError("gone"),
        ConnectionResetError("reset"),
        TimeoutError(),
    ],
)
def test_a_broken_connection_leaves_the_outcome_open(error: Exception) -> None:
    assert failure_of(error) is Failure.LOST


def test_what_the_driver_cannot_encode_is_the_row_s_fault() -> None:
    assert failure_of(asyncpg.DataError("invalid input for query argument $1")) is Failure.DATA


@pytest.mark.parametrize(
    "state, error",
    [
        ("08006", Unavailable),
        ("57014", Unavailable),
        ("40001", Unavailable),
        ("22P02", PayloadRefused),
        ("42P01", SchemaOutdated),
        ("42501", InvalidCommand),
    ],
)
def test_nothing_above_sees_an_error_of_the_driver(state: str, error: type[Exception]) -> None:
    with pytest.raises(error), mapped("do it"):
        raise answered(state)


def test_a_full_disk_is_called_a_full_disk() -> None:
    with pytest.raises(Unavailable, match="The disk of the database is full") as refused, mapped("do it"):
        raise answered("53100")

    assert "Free some space" in str(refused.value.hint)


def test_errors_of_the_engine_pass_as_they_are() -> None:
    with pytest.raises(RunNotFound), mapped("do it"):
        raise RunNotFound("a")


def test_a_description_quotes_no_payload() -> None:
    error = asyncpg.PostgresError.new(
        {"C": "22P02", "M": "invalid input syntax for type json", "D": 'Token "secret" is invalid.', "W": "secret"}
    )

    assert describe(error) == "invalid input syntax for type json (SQLSTATE 22P02)"


@pytest.mark.parametrize(
    "url, place",
    [
        ("postgresql://ada:lovelace@db.example:5433/engine", 'database "engine" at db.example:5433'),
        ("postgresql:///engine?host=/run/postgresql", 'database "engine" at /run/postgresql'),
        ("postgresql://ada:love@lace@db.example/engine", 'database "engine" at db.example'),
        ("postgresql://", 'database "(default database)" at (default host)'),
        ("postgresql://ada:lovelace@host:port/engine", "the database URL"),
    ],
)
def test_a_place_is_named_without_its_password(url: str, place: str) -> None:
    assert place_of(url) == place
