from __future__ import annotations

import math
from datetime import timedelta

import pytest
from pydantic import BaseModel

from kernel import Failed, NotReady, Ready, StageResult, Suspend


class Ticket(BaseModel):
    number: str = "7"


def test_a_result_without_metrics_and_artifacts_has_empty_ones() -> None:
    result = StageResult("out")

    assert (result.output, result.metrics, result.artifacts) == ("out", {}, {})


def test_integer_metrics_become_floats() -> None:
    metrics = StageResult(None, metrics={"total_tokens": 3}).metrics

    assert metrics == {"total_tokens": 3.0}
    assert isinstance(metrics["total_tokens"], float)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
@pytest.mark.parametrize("build", [lambda m: StageResult(1, metrics=m), lambda m: Ready(1, metrics=m)])
def test_a_metric_that_is_not_finite_is_refused_by_name(build, value) -> None:
    with pytest.raises(ValueError, match=r"metrics\['cost'\] must be a finite number"):
        build({"cost": value})


@pytest.mark.parametrize("value", ["3", True, None])
def test_a_metric_that_is_no_number_is_refused(value) -> None:
    with pytest.raises(TypeError, match=r"StageResult.metrics\['cost'\] must be a number"):
        StageResult(1, metrics={"cost": value})


def test_a_metric_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="non-empty strings"):
        StageResult(1, metrics={"": 1.0})


@pytest.mark.parametrize("name", ["a\0", "a\nb", "\ud800", "x" * 201])
def test_a_name_that_no_history_can_keep_is_refused_where_it_is_given(name) -> None:
    with pytest.raises(ValueError, match=r"StageResult.artifacts must have names of at most 200 characters"):
        StageResult(1, artifacts={name: b""})
    with pytest.raises(ValueError, match=r"Ready.metrics must have names of at most 200 characters"):
        Ready(1, metrics={name: 1})


def test_more_artifacts_than_a_history_should_name_are_refused() -> None:
    assert len(StageResult(1, artifacts={str(n): b"" for n in range(1000)}).artifacts) == 1000

    with pytest.raises(ValueError, match=r"1001 entries.*ctx\.storage"):
        StageResult(1, artifacts={str(n): b"" for n in range(1001)})


def test_an_artifact_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"StageResult.artifacts must have names"):
        StageResult(1, artifacts={"": b"x"})


def test_a_suspension_polls_every_half_minute_for_a_day_unless_told_otherwise() -> None:
    suspend = Suspend(state=Ticket())

    assert (suspend.poll_interval, suspend.max_wait) == (timedelta(seconds=30), timedelta(hours=24))


@pytest.mark.parametrize("field", ["poll_interval", "max_wait"])
def test_a_suspension_refuses_a_negative_interval(field) -> None:
    with pytest.raises(ValueError, match=f"Suspend.{field} must not be negative"):
        Suspend(state=Ticket(), **{field: timedelta(seconds=-1)})


def test_a_suspension_refuses_an_interval_that_is_a_number() -> None:
    with pytest.raises(TypeError, match=r"Suspend.poll_interval must be a timedelta.*timedelta\(seconds=...\)"):
        Suspend(state=Ticket(), poll_interval=30)


@pytest.mark.parametrize("build", [lambda: Suspend(state={"number": "7"}), lambda: NotReady(state="7")])
def test_a_suspended_state_must_be_a_model(build) -> None:
    with pytest.raises(TypeError, match="state must be an instance of a pydantic model"):
        build()


def test_not_ready_refuses_a_negative_interval() -> None:
    with pytest.raises(ValueError, match=r"NotReady.next_check_in must not be negative"):
        NotReady(next_check_in=timedelta(seconds=-1))


def test_ready_without_an_output_means_none() -> None:
    assert Ready().output is None


@pytest.mark.parametrize("error", ["", "  ", None])
def test_a_failure_has_to_say_something(error) -> None:
    with pytest.raises(ValueError, match=r"Failed.error must be a text"):
        Failed(error)


@pytest.mark.parametrize(
    "result, field",
    [
        (StageResult(1), "output"),
        (Suspend(state=Ticket()), "state"),
        (Ready(1), "output"),
        (NotReady(), "state"),
        (Failed("x"), "error"),
    ],
)
def test_results_cannot_be_changed(result, field) -> None:
    with pytest.raises(AttributeError):
        setattr(result, field, None)
