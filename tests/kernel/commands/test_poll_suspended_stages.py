"""Polling suspended stages, one by one and many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from kernel.commands.cancel_run import CancelRun
from kernel.commands.create_run import CreateRun
from kernel.commands.execute_job import ExecuteJob
from kernel.commands.poll_suspended_stages import (
    Polled,
    PollSuspendedStages,
    PollSuspendedStagesResult,
    ask_for_looks,
    poll_stage,
)
from kernel.dispatch import parse_command
from kernel.errors import InvalidCommand, PayloadRefused, RunNotFound, StageNotFound, Unavailable, WorkflowNotFound
from kernel.model.attempts import Note
from kernel.model.facts import CorruptHistory
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
from tests.kernel.definitions import Doc, documents, waiting, waiting_twice
from tests.kernel.stories import NOW, OUTPUT, SECOND, an_error

WAITING = BodySuspended(state=b'{"batch":7}', poll_interval_s=30, max_wait_s=3600, metrics={})
READY = CheckReady(output=OUTPUT, metrics={"total_tokens": 7}, artifacts={})


def a_suspended_run(hands: Hands) -> str:
    hands.executor.outcomes["embed"] = WAITING
    run_id = hands.dispatch(CreateRun(workflow_id="waiting", input=Doc(path="a.txt"))).run_id
    hands.dispatch(ExecuteJob(run_id=run_id, stage_id="embed"))
    return run_id


def a_run_that_waits_twice(hands: Hands) -> str:
    hands.executor.outcomes |= {"embed": WAITING, "embed-too": WAITING}
    run_id = hands.dispatch(CreateRun(workflow_id="waiting-twice", input=Doc(path="a.txt"))).run_id
    for stage_id in ("embed", "embed-too"):
        hands.dispatch(ExecuteJob(run_id=run_id, stage_id=stage_id))
    return run_id


def polled(
    outcome: CheckOutcome | Callable[[CheckAttempt], CheckOutcome], limits: Limits | None = None
) -> tuple[Hands, str, Polled | None]:
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

    assert hands.kinds(run_id)[-1] == ["annotation.created"]
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


def test_a_check_that_is_not_ready_adds_nothing_to_the_history() -> None:
    hands, run_id, recorded = polled(CheckNotReady())
    before = hands.kinds(run_id)

    drive(poll_stage(run_id, "embed", hands))

    assert recorded == "waiting"
    assert hands.kinds(run_id) == before
    assert [append.mode for append in hands.store.sent[-2:]] == ["poll", "poll"]


def test_looks_that_cannot_be_read_are_a_damaged_history() -> None:
    hands, run_id, _ = polled(CheckNotReady())
    hands.store.runs[run_id].looks["embed"] = {"seq": "?"}

    with pytest.raises(CorruptHistory):
        hands.state(run_id)


# -- the command ------------------------------------------------------------------------------------------------------


def several_suspended(count: int) -> tuple[Hands, list[str]]:
    """Runs that have suspended one second after the other, every one of them ready."""
    hands = Hands(waiting)
    runs: list[str] = []
    for _ in range(count):
        runs.append(a_suspended_run(hands))
        hands.clock.time += SECOND
    hands.executor.findings["embed"] = READY
    return hands, runs


def all_due(hands: Hands) -> None:
    hands.clock.time += 30 * SECOND


def test_what_is_due_is_checked_and_what_is_ready_goes_on() -> None:
    hands, runs = several_suspended(2)
    all_due(hands)

    result = hands.dispatch(PollSuspendedStages())

    assert result == PollSuspendedStagesResult(checked=2, resumed=2, failed=0, resumed_run_ids=tuple(runs))
    assert {hands.state(run_id).status for run_id in runs} == {Status.COMPLETED}


def test_what_is_not_due_is_left_alone() -> None:
    hands, (early, late) = several_suspended(2)
    hands.clock.time = NOW + 30 * SECOND

    assert hands.dispatch(PollSuspendedStages()).resumed_run_ids == (early,)
    assert hands.store.runs[late].head.wake_at == NOW + 31 * SECOND


def test_the_longest_due_come_first_when_there_are_more_than_are_to_be_checked() -> None:
    hands, runs = several_suspended(3)
    all_due(hands)

    assert hands.dispatch(PollSuspendedStages(max_checks=2)).resumed_run_ids == tuple(runs[:2])
    assert hands.dispatch(PollSuspendedStages(max_checks=2)).resumed_run_ids == (runs[2],)


def test_a_run_of_which_more_is_due_than_may_be_checked_stays_due() -> None:
    hands = Hands(waiting_twice)
    run_id = a_run_that_waits_twice(hands)
    all_due(hands)

    assert hands.dispatch(PollSuspendedStages(max_checks=1)).checked == 1
    assert hands.store.runs[run_id].head.wake_at == NOW + 30 * SECOND
    assert hands.dispatch(PollSuspendedStages()).checked == 1


def test_two_hosts_do_not_check_the_same_stage() -> None:
    def check(_asked: CheckAttempt) -> CheckOutcome:
        others.append(hands.dispatch(PollSuspendedStages()).checked)
        return CheckNotReady()

    others: list[int] = []
    hands, _ = several_suspended(1)
    hands.executor.findings["embed"] = check
    all_due(hands)

    assert hands.dispatch(PollSuspendedStages()).checked == 1
    assert others == [0]


def test_a_run_that_cannot_be_checked_harms_no_other_and_is_not_looked_at_again_at_once() -> None:
    hands, (bad, good) = several_suspended(2)
    hands.store.runs[bad].rows[0] = replace(hands.store.runs[bad].rows[0], events=b"[]")
    all_due(hands)

    assert hands.dispatch(PollSuspendedStages()).resumed_run_ids == (good,)
    wake_at = hands.store.runs[bad].head.wake_at
    assert wake_at is not None
    assert wake_at > hands.clock.time


def test_a_run_whose_workflow_is_unknown_here_stays_due_for_those_who_know_it() -> None:
    hands, (run_id,) = several_suspended(1)
    hands.registry = HandRegistry([documents])
    all_due(hands)

    assert hands.dispatch(PollSuspendedStages()).checked == 0
    assert hands.store.runs[run_id].head.wake_at == NOW + 30 * SECOND


def test_a_run_of_a_session_that_is_driven_by_hand_is_checked_when_it_is_due() -> None:
    hands, (run_id,) = several_suspended(1)
    hands.store.runs[run_id].owner, hands.store.runs[run_id].attention = "session", True

    assert hands.dispatch(PollSuspendedStages()).checked == 0
    all_due(hands)
    assert hands.dispatch(PollSuspendedStages()).resumed_run_ids == (run_id,)


def test_with_a_run_id_its_stages_are_checked_although_they_are_not_due() -> None:
    hands = Hands(waiting_twice)
    run_id = a_run_that_waits_twice(hands)
    a_run_that_waits_twice(hands)
    hands.executor.findings["embed"] = CheckFailed(error=an_error(), retry=False)

    result = hands.dispatch(PollSuspendedStages(run_id=run_id))

    assert [check.run_id for check in hands.executor.checks] == [run_id, run_id]
    assert (result.checked, result.resumed, result.failed) == (2, 0, 1)


def test_with_a_run_id_what_is_wrong_with_it_is_told() -> None:
    hands, (run_id,) = several_suspended(1)
    hands.registry = HandRegistry([documents])

    with pytest.raises(WorkflowNotFound):
        hands.dispatch(PollSuspendedStages(run_id=run_id))
    with pytest.raises(RunNotFound):
        hands.dispatch(PollSuspendedStages(run_id="nobody"))


def test_a_run_that_has_ended_has_nothing_to_be_checked() -> None:
    hands, (run_id,) = several_suspended(1)
    hands.dispatch(CancelRun(run_id=run_id))

    assert hands.dispatch(PollSuspendedStages(run_id=run_id)).checked == 0


def test_who_executes_nothing_is_told_so_and_the_runs_stay_due() -> None:
    def nobody(_asked: CheckAttempt) -> CheckOutcome:
        raise InvalidCommand("A Client executes nothing.", field="executor")

    hands, (run_id,) = several_suspended(1)
    hands.executor.findings["embed"] = nobody
    all_due(hands)

    with pytest.raises(InvalidCommand, match="executes nothing"):
        hands.dispatch(PollSuspendedStages())
    assert hands.store.runs[run_id].head.wake_at == NOW + 30 * SECOND


def test_a_store_that_is_away_is_no_empty_queue() -> None:
    def away() -> None:
        raise Unavailable("The store is out of order.")

    hands, _ = several_suspended(1)
    all_due(hands)
    hands.store.meanwhile = [away]

    with pytest.raises(Unavailable):
        hands.dispatch(PollSuspendedStages())


@pytest.mark.parametrize("field, value", [("max_checks", 0), ("run_id", "")])
def test_a_command_that_makes_no_sense_is_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidCommand) as refused:
        parse_command({"type": "stage.pollSuspended", field: value})

    assert refused.value.field == field


# -- asking for looks -------------------------------------------------------------------------------------------------


def test_asking_makes_every_suspended_stage_due_now() -> None:
    hands = Hands(waiting_twice)
    run_id = a_run_that_waits_twice(hands)
    hands.clock.time += SECOND

    assert drive(ask_for_looks(run_id, hands.kernel().ports)) == ("embed", "embed-too")

    assert hands.store.runs[run_id].head.wake_at == NOW + SECOND
    assert hands.dispatch(PollSuspendedStages()).checked == 2


def test_asking_again_before_anybody_has_come_leaves_the_history_as_it_is() -> None:
    hands = Hands(waiting_twice)
    run_id = a_run_that_waits_twice(hands)
    drive(ask_for_looks(run_id, hands.kernel().ports))
    before = hands.kinds(run_id)

    assert drive(ask_for_looks(run_id, hands.kernel().ports)) == ("embed", "embed-too")

    assert hands.kinds(run_id) == before


def test_asking_while_somebody_looks_without_a_session_is_recorded() -> None:
    hands = Hands(waiting_twice)
    run_id = a_run_that_waits_twice(hands)
    drive(ask_for_looks(run_id, hands.kernel().ports))
    before = hands.kinds(run_id)
    drive(hands.store.hold_suspended([(waiting_twice.id, waiting_twice.version)], 10, hold=timedelta(minutes=6)))

    drive(ask_for_looks(run_id, hands.kernel().ports))

    assert hands.kinds(run_id) == [*before, ["stage.suspended", "stage.suspended"]]


def test_asking_where_nothing_waits_changes_nothing() -> None:
    hands, run_id, _ = polled(READY)
    before = hands.kinds(run_id)

    assert drive(ask_for_looks(run_id, hands.kernel().ports)) == ()
    assert hands.kinds(run_id) == before
