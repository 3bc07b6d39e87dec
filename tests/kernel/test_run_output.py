"""The output of a run that ends in a parallel group is checked by the append that completes the group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import pytest
from pydantic import BaseModel, model_validator

from kernel import StageContext, WorkflowBuilder, stage
from kernel.commands.create_run import CreateRun
from kernel.commands.execute_job import ExecuteJob, ExecuteJobResult
from kernel.model.machine import Status
from kernel.payloads import Limits
from kernel.ports.executor import Attempt, BodyCompleted, BodyOutcome
from tests.kernel.by_hand import Hands
from tests.kernel.definitions import Doc, Words


class Both(BaseModel):
    left: Words
    right: Words

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.left != self.right:
            raise ValueError("they must agree")
        return self


@stage("left")
async def left(ctx: StageContext[Doc]) -> Words:
    raise AssertionError


@stage("right")
async def right(ctx: StageContext[Doc]) -> Words:
    raise AssertionError


joined = WorkflowBuilder("joined", input=Doc, output=Both).parallel([left, right]).build()


def words(count: int, size: int = 0) -> BodyCompleted:
    return BodyCompleted(output=b'{"words":%d,"x":"%b"}' % (count, b"x" * size), metrics={}, artifacts={})


class Pair:
    """A run of two stages whose outputs have to agree."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.hands = Hands(joined, limits=limits)
        self.id = self.hands.dispatch(CreateRun(workflow_id="joined", input=Doc(path="a.txt"))).run_id

    def execute(self, stage_id: str, outcome: BodyOutcome | Callable[[Attempt], BodyOutcome]) -> ExecuteJobResult:
        self.hands.executor.outcomes[stage_id] = outcome
        return self.hands.dispatch(ExecuteJob(run_id=self.id, stage_id=stage_id))

    @property
    def status(self) -> Status:
        return self.hands.state(self.id).status


def test_a_run_whose_output_is_what_it_declares_completes() -> None:
    pair = Pair()

    pair.execute("left", words(3))
    pair.execute("right", words(3))

    assert pair.status is Status.COMPLETED


def test_the_stage_that_would_complete_a_run_with_a_wrong_output_fails_it() -> None:
    pair = Pair()
    pair.execute("left", words(3))

    result = pair.execute("right", words(4))

    assert result.error is not None
    assert (result.outcome, result.error.type, result.retryable) == ("failed", "InvalidOutput", False)
    assert "they must agree" in result.error.message
    assert pair.status is Status.FAILED


def test_it_is_checked_whichever_stage_turns_out_to_be_the_last() -> None:
    pair = Pair()

    def body(_: Attempt) -> BodyOutcome:
        # Left is alone when its end is first decided, and the last one when it is decided again.
        pair.hands.store.meanwhile = [lambda: pair.execute("right", words(4))]
        return words(3)

    result = pair.execute("left", body)

    assert result.error is not None
    assert result.error.type == "InvalidOutput"
    assert pair.status is Status.FAILED


def test_large_outputs_of_siblings_are_loaded_for_the_check() -> None:
    pair = Pair(Limits(payload_inline_bytes_max=64))
    pair.execute("left", words(3, size=100))

    assert pair.execute("right", words(3, size=100)).outcome == "completed"
    assert pair.status is Status.COMPLETED


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_siblings_output_that_cannot_be_loaded_fails_the_run_instead_of_losing_attempts(damage: str) -> None:
    pair = Pair(Limits(payload_inline_bytes_max=64))
    pair.execute("left", words(3, size=100))
    (key,) = pair.hands.blobs.stored

    if damage == "gone":
        del pair.hands.blobs.stored[key]
    else:
        pair.hands.blobs.stored[key] = b"{}"
    result = pair.execute("right", words(3))

    assert (result.outcome, result.retryable) == ("failed", False)
    assert pair.status is Status.FAILED
