from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from kernel import (
    CheckContext,
    Failed,
    InvalidOutput,
    InvalidStage,
    NotReady,
    PayloadRefused,
    Ready,
    StageContext,
    StageResult,
    Suspend,
    batch_stage,
    stage,
)
from kernel.authoring.outcomes import CheckAgain, encode_check_result, encode_result
from kernel.ports.executor import BodyCompleted, BodySuspended


class Label(BaseModel):
    text: str


class Ticket(BaseModel):
    number: str


@stage("label")
async def label(ctx: StageContext) -> Label: ...


@stage("anything")
async def anything(ctx: StageContext) -> Any: ...


@batch_stage("review")
async def review(ctx: StageContext) -> Suspend[Ticket] | Label: ...


@review.check
def review_done(state: Ticket, ctx: CheckContext) -> Ready[Label] | NotReady | Failed: ...


@batch_stage("approve")
async def approve(ctx: StageContext) -> Suspend[Ticket] | None: ...


def test_a_bare_output_is_encoded() -> None:
    assert encode_result(label, Label(text="cat")) == BodyCompleted(output=b'{"text":"cat"}', metrics={}, artifacts={})


def test_a_result_brings_metrics_and_artifacts() -> None:
    result = StageResult({"text": "cat"}, metrics={"total_tokens": 3}, artifacts={"raw": b"\x00", "json": [1]})

    outcome = encode_result(label, result)

    assert outcome == BodyCompleted(
        output=b'{"text":"cat"}', metrics={"total_tokens": 3.0}, artifacts={"raw": b"\x00", "json": b"[1]"}
    )


def test_a_suspension_is_encoded_with_its_intervals_in_seconds() -> None:
    suspend = Suspend(state=Ticket(number="7"), poll_interval=timedelta(minutes=1), max_wait=timedelta(hours=1))

    assert encode_result(review, suspend) == BodySuspended(
        state=b'{"number":"7"}', poll_interval_s=60.0, max_wait_s=3600.0, metrics={}
    )


@pytest.mark.parametrize("returned", [None, {"text": 3}, [], StageResult(None), Ticket(number="7")])
def test_an_output_that_does_not_fit_is_refused_naming_the_stage(returned) -> None:
    with pytest.raises(InvalidOutput, match='Output of stage "label" is not valid'):
        encode_result(label, returned)


def test_a_state_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidOutput, match=r"suspended state"):
        encode_result(review, Suspend(state=Label(text="cat")))


def test_a_plain_stage_that_suspends_is_refused() -> None:
    with pytest.raises(InvalidStage, match=r"returned Suspend.*@batch_stage"):
        encode_result(label, Suspend(state=Ticket(number="7")))


@pytest.mark.parametrize("returned", [Ready(Label(text="cat")), NotReady(), Failed("x")])
@pytest.mark.parametrize("which", [label, anything, review])
def test_a_body_cannot_answer_like_a_check(which, returned) -> None:
    with pytest.raises(InvalidStage, match="Only a check returns that"):
        encode_result(which, returned)


@pytest.mark.parametrize("which", [label, anything])
def test_a_coroutine_that_nobody_awaited_is_explained(which) -> None:
    async def forgotten() -> Label: ...

    with pytest.raises(InvalidStage, match=r'its body returned a coroutine instead of a value.*"async def"'):
        # A coroutine that is never closed warns, and a warning is an error.
        encode_result(which, forgotten())


@pytest.mark.parametrize("returned", [Label(text="a\0"), StageResult(Label(text="a"), artifacts={"a": "\0"})])
def test_what_cannot_be_stored_is_refused(returned) -> None:
    with pytest.raises(PayloadRefused):
        encode_result(label, returned)


def test_sizes_are_bounded() -> None:
    with pytest.raises(PayloadRefused, match="payload_bytes_max"):
        encode_result(label, Label(text="x" * 100), bytes_max=50)


# -- checks -----------------------------------------------------------------------------------------------------------


def test_ready_completes_the_stage_with_its_output() -> None:
    assert encode_check_result(review, Ready(Label(text="cat"), metrics={"a": 1})) == BodyCompleted(
        output=b'{"text":"cat"}', metrics={"a": 1.0}, artifacts={}
    )


def test_ready_without_an_output_completes_a_stage_that_returns_nothing() -> None:
    assert encode_check_result(approve, Ready()) == BodyCompleted(output=b"null", metrics={}, artifacts={})


def test_ready_without_an_output_is_refused_by_a_stage_that_returns_something() -> None:
    with pytest.raises(InvalidOutput, match='Output of stage "review"'):
        encode_check_result(review, Ready())


def test_not_ready_says_when_to_look_again_and_with_which_state() -> None:
    assert encode_check_result(review, NotReady()) == CheckAgain(next_check_in=None, state=None)
    again = NotReady(next_check_in=timedelta(minutes=1), state=Ticket(number="8"))
    assert encode_check_result(review, again) == CheckAgain(next_check_in=timedelta(minutes=1), state=b'{"number":"8"}')


def test_a_failure_is_passed_on() -> None:
    assert encode_check_result(review, Failed("lost", retry=True)) == Failed("lost", retry=True)


@pytest.mark.parametrize("returned", [None, True, Label(text="cat"), Suspend(state=Ticket(number="7"))])
def test_a_check_that_answers_something_else_is_refused(returned) -> None:
    with pytest.raises(InvalidStage, match=r"its check returned .*Return Ready\(output\), NotReady\(\) or Failed"):
        encode_check_result(review, returned)


def test_a_check_whose_coroutine_nobody_awaited_is_explained() -> None:
    async def forgotten() -> NotReady: ...

    with pytest.raises(InvalidStage, match="its check returned a coroutine"):
        encode_check_result(review, forgotten())
