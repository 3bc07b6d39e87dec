"""Errors say who must act, what is wrong, and what to do."""

from datetime import timedelta

import pytest

import kernel
from kernel import errors
from kernel.errors import (
    Conflict,
    EngineError,
    ErrorInfo,
    IdempotencyKeyReused,
    InvalidCommand,
    InvalidInput,
    LeaseLost,
    MissingOutput,
    OutputNotLoaded,
    RetryAfter,
    RunCancelled,
    RunFailed,
    SchemaOutdated,
    StageNotFound,
    StaleVersion,
    Unavailable,
)

CALLER = (
    "WorkflowNotFound RunNotFound StageNotFound InvalidInput InvalidConfig InvalidOutput InvalidStage InvalidWorkflow "
    "MissingOutput ArtifactNotFound OutputNotLoaded RunNotRerunnable IdempotencyKeyReused PayloadRefused"
)


@pytest.mark.parametrize(
    "family, names",
    [
        (InvalidCommand, CALLER),
        (Conflict, "StaleVersion LeaseLost JobLost IdempotencyInProgress"),
        (Unavailable, "NoDatabase SchemaOutdated"),
        (EngineError, "InvalidCommand Conflict Unavailable DefinitionChanged BlobNotFound IllegalTransition"),
    ],
)
def test_every_error_belongs_to_who_must_act(family: type[EngineError], names: str) -> None:
    assert all(issubclass(getattr(errors, name), family) for name in names.split())


def test_what_user_code_raises_and_how_runs_end_are_no_errors_of_the_engine() -> None:
    assert not any(issubclass(kind, EngineError) for kind in (RunFailed, RunCancelled, RetryAfter, errors.NonRetryable))


def test_every_error_that_users_meet_can_be_imported_from_the_kernel() -> None:
    # A history that does not fit its table is found, and parked, by the engine itself.
    assert set(errors.__all__) - {"IllegalTransition"} <= set(kernel.__all__)


def test_an_error_is_its_message_and_the_way_out() -> None:
    error = StageNotFound("extrakt", workflow_id="documents", known=["extract", "report"])

    assert str(error) == 'Workflow "documents" has no stage "extrakt". Its stages: extract, report.'
    assert (error.field, error.stage_id, error.known) == ("stage_id", "extrakt", ("extract", "report"))


def test_an_invalid_payload_is_explained_without_being_shown() -> None:
    finding = {"loc": ("pages", 3), "msg": "Field required", "type": "missing", "input": "a-secret", "url": "u"}

    error = InvalidInput('workflow "documents"', [finding])

    assert error.errors == ({"loc": ("pages", 3), "msg": "Field required", "type": "missing"},)
    assert "pages.3: Field required" in str(error)
    assert "a-secret" not in str(error)


def test_a_conflict_says_what_was_expected_and_what_was_found() -> None:
    assert str(StaleVersion("r", expected=4, actual=6)) == 'Run "r" was decided on sequence 4 but is at 6.'
    assert "does not exist" in str(StaleVersion("r", expected=4, actual=None))
    assert str(LeaseLost(None, session_id="s1")) == 'Session "s1" has lost its lease.'


@pytest.mark.parametrize("found, way_out", [(None, "migrate"), (1, "migrate"), (9, "newer leasehold")])
def test_a_schema_that_does_not_fit_says_what_to_do(found: int | None, way_out: str) -> None:
    assert way_out in str(SchemaOutdated(found=found, oldest=2, newest=3))


def test_a_reused_key_names_the_places_that_differ() -> None:
    assert "(differing: input.path)" in str(IdempotencyKeyReused("k", run_id="r", paths=["input.path"]))
    assert "differing" not in str(IdempotencyKeyReused("k", run_id="r"))


def test_an_output_that_is_not_there_and_one_that_was_not_loaded_have_different_ways_out() -> None:
    assert "Outputs at hand: (none)" in str(MissingOutput("a", available=[]))
    assert '@stage("b", dependencies=["a"])' in str(OutputNotLoaded("a", asked_by="b"))


def test_a_failed_run_says_where_and_why() -> None:
    error = RunFailed(
        "r",
        workflow_id="documents",
        stage_id="a",
        attempt=3,
        error=ErrorInfo(type="ValueError", message="no such file"),
    )

    assert str(error) == 'Run "r" of "documents" failed at stage "a" (attempt 3): ValueError: no such file'
    assert str(RunCancelled("r")) == 'Run "r" was cancelled.'
    assert str(RunCancelled("r", reason="wrong file")) == 'Run "r" was cancelled: wrong file.'


def test_a_delay_is_given_in_seconds_or_as_a_duration_and_is_never_negative() -> None:
    assert RetryAfter(90).delay == RetryAfter(timedelta(seconds=90)).delay == timedelta(seconds=90)
    with pytest.raises(ValueError, match="must not be negative"):
        RetryAfter(-1)
