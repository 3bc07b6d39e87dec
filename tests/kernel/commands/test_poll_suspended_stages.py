"""Polling one suspended stage."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from kernel.commands.cancel_run import CancelRun
from kernel.commands.create_run import CreateRun
from kernel.commands.execute_job import ExecuteJob
from kernel.commands.poll_suspended_stages import poll_stage
from kernel.errors import PayloadRefused, RunNotFound, StageNotFound, WorkflowNotFound
from kernel.model.attempts import Note
from kernel.model.machine import Status
from kernel.payloads import Limits
from kernel.ports.executor import (
    BodySuspended,
    CheckAttempt,
    CheckFailed,
    CheckNotReady,
    CheckOutcome,
    CheckRaised,
    CheckReady,
)
from tests.kernel.by_hand import HandRegistry, Hands, drive
from tests.kernel.definitions import Doc, documents, waiting
from tests.kernel.stories import NOW, OUTPUT, SECOND, an_error

READY = CheckReady(output=OUTPUT, metrics={"total_tokens": 7}, artifacts={})


def a_suspended_run(hands: Hands) -> str:
    hands.executor.outcomes["embed"] = BodySuspended(
        state=b'{"batch":7}', poll_interval_s=30, max_wait_s=3600, metrics={}
    )
    run_id = hands.dispatch(CreateRun(workflow_id="waiting", input=Doc(path="a.txt"))).run_id
    hands.dispatch(ExecuteJob(run_id=run_id, stage_id="embed"))
    return run_id


def polled(
    outcome: CheckOutcome | Callable[[CheckAttempt], CheckOutcome], limits: Limits | None = None
) -> tuple[Hands, str, bool]:
    hands = Hands(waiting, limits=limits)
    run_id = a_suspended_run(hands)
    hands.executor.findings["embed"] = outcome
    return hands, run_id, drive(poll_stage(run_id, "embed", hands))


def test_the_check_is_given_the_state_of_the_suspension() -> None:
    hands, run_id, _ = polled(CheckNotReady())

    (check,) = hands.executor.checks
    assert (check.run_id, check.state, check.number, check.execution) == (run_id, b'{"batch":7}', 1, 1)


def test_ready_completes_the_stage_and_what_follows_is_in_the_same_append() -> None:
    hands, run_id, recorded = polled(READY)

    assert recorded
    assert hands.kinds(run_id)[-1] == ["stage.completed", "run.completed"]
    assert hands.state(run_id).total_tokens == 7


def test_not_ready_moves_the_next_look() -> None:
    hands, run_id, _ = polled(CheckNotReady(next_check_in_s=0.5))

    assert hands.store.runs[run_id].head.wake_at == NOW + timedelta(seconds=0.5)


def test_a_new_state_is_what_the_next_check_is_given() -> None:
    hands, run_id, _ = polled(CheckNotReady(state=b'{"batch":8}'))

    drive(poll_stage(run_id, "embed", hands))

    assert hands.executor.checks[-1].state == b'{"batch":8}'


@pytest.mark.parametrize("retry, status", [(True, Status.PENDING), (False, Status.FAILED)])
def test_a_check_says_whether_its_failure_is_worth_another_attempt(*, retry: bool, status: Status) -> None:
    hands, run_id, _ = polled(CheckFailed(error=an_error(), retry=retry))

    assert hands.state(run_id).stages["embed"].status is status


def test_a_check_that_raises_is_called_again() -> None:
    hands, run_id, _ = polled(CheckRaised(error=an_error("ConnectionError")))

    assert hands.state(run_id).stages["embed"].status is Status.SUSPENDED
    assert hands.store.runs[run_id].head.wake_at == NOW + SECOND


def test_what_a_check_noted_is_recorded() -> None:
    hands, run_id, _ = polled(CheckNotReady(notes=(Note(key="batch", value=b'"queued"'),)))

    assert hands.kinds(run_id)[-1] == ["annotation.created", "stage.suspended"]
    assert b'"queued"' in hands.payloads(run_id)


def test_a_stage_that_does_not_wait_is_not_checked() -> None:
    hands, run_id, _ = polled(READY)

    assert not drive(poll_stage(run_id, "embed", hands))
    assert len(hands.executor.checks) == 1


def test_a_run_that_is_cancelled_during_its_check_stays_cancelled() -> None:
    def check(asked: CheckAttempt) -> CheckOutcome:
        hands.dispatch(CancelRun(run_id=asked.run_id))
        return READY

    hands = Hands(waiting)
    run_id = a_suspended_run(hands)
    hands.executor.findings["embed"] = check

    assert not drive(poll_stage(run_id, "embed", hands))
    assert hands.state(run_id).status is Status.CANCELLED


@pytest.mark.parametrize("field", ["output", "state", "artifact"])
def test_large_results_are_stored_apart(field: str) -> None:
    large = b'{"words":"' + b"x" * 100 + b'"}'
    outcomes: dict[str, CheckOutcome] = {
        "output": CheckReady(output=large, metrics={}, artifacts={}),
        "artifact": CheckReady(output=b"1", metrics={}, artifacts={"chart": large}),
        "state": CheckNotReady(state=large),
    }

    hands, run_id, _ = polled(outcomes[field], Limits(payload_inline_bytes_max=64))

    assert list(hands.blobs.stored.values()) == [large]
    assert run_id in hands.blobs.puts[0]
    stage = hands.state(run_id).stages["embed"]
    if field == "artifact":
        assert [blob.key for blob in stage.artifacts.values()] == hands.blobs.puts


def test_a_check_that_was_overtaken_cannot_overwrite_what_the_other_one_recorded() -> None:
    def slow(asked: CheckAttempt) -> CheckOutcome:
        hands.executor.findings["embed"] = CheckReady(output=b'"' + b"b" * 100 + b'"', metrics={}, artifacts={})
        assert drive(poll_stage(asked.run_id, "embed", hands))
        return CheckReady(output=b'"' + b"a" * 100 + b'"', metrics={}, artifacts={})

    hands = Hands(waiting, limits=Limits(payload_inline_bytes_max=64))
    run_id = a_suspended_run(hands)
    hands.executor.findings["embed"] = slow

    assert not drive(poll_stage(run_id, "embed", hands))

    output = hands.state(run_id).stages["embed"].output
    assert output is not None
    assert drive(hands.journals.payloads(run_id, [output]))[output] == b'"' + b"b" * 100 + b'"'


def test_a_result_beyond_the_limit_fails_the_stage_for_good() -> None:
    hands, run_id, recorded = polled(
        CheckReady(output=b'"' + b"x" * 100 + b'"', metrics={}, artifacts={}), Limits(payload_bytes_max=64)
    )

    error = hands.state(run_id).stages["embed"].error
    assert recorded
    assert error is not None
    assert (error.type, error.retryable) == ("PayloadRefused", False)


def test_a_state_that_is_gone_fails_the_stage_instead_of_being_asked_for_forever() -> None:
    hands = Hands(waiting, limits=Limits(payload_inline_bytes_max=5))
    run_id = a_suspended_run(hands)
    hands.blobs.stored.clear()

    assert drive(poll_stage(run_id, "embed", hands))

    error = hands.state(run_id).stages["embed"].error
    assert error is not None
    assert error.type == "BlobNotFound"


def test_a_finding_that_the_store_refuses_fails_the_stage() -> None:
    def refuse() -> None:
        raise PayloadRefused("Bodies", "it contains a NUL character", field="bodies")

    hands = Hands(waiting)
    run_id = a_suspended_run(hands)
    hands.executor.findings["embed"] = READY
    hands.store.meanwhile = [refuse]

    assert drive(poll_stage(run_id, "embed", hands))
    assert hands.state(run_id).status is Status.FAILED


def test_what_is_unknown_is_refused() -> None:
    hands = Hands(waiting)
    run_id = a_suspended_run(hands)

    with pytest.raises(RunNotFound):
        drive(poll_stage("nobody", "embed", hands))
    with pytest.raises(StageNotFound):
        drive(poll_stage(run_id, "embd", hands))
    hands.registry = HandRegistry([documents])
    with pytest.raises(WorkflowNotFound):
        drive(poll_stage(run_id, "embed", hands))
