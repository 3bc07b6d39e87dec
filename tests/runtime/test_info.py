"""What is told of a run, and why it waits."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from kernel.errors import ErrorInfo
from kernel.model.execution_plan import ExecutionPlan, PlannedGroup, PlannedStage
from kernel.model.facts import (
    FORMAT,
    Fact,
    RunCancelled,
    RunCompleted,
    RunCreated,
    RunFailed,
    RunStarted,
    StageCompleted,
    StageFailed,
    StageRetrying,
    StageScheduled,
    StageStarted,
    StageSuspended,
)
from kernel.model.head import head_of
from kernel.model.run import RunState, fold
from kernel.model.stage import Body
from kernel.ports.jobs import JobInfo
from kernel.ports.persistence import HeadRow, LogLine
from runtime.info import run_info, run_json, waiting_for, wanted_bodies
from telemetry.run_trace import run_trace

NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)
AGO = NOW - timedelta(minutes=1)
RUN = "01a1fb81-0915-7f00-8a2b-22bf95bcc5b0"

STAGES = (
    PlannedStage(id="one", name="One", number=1, group=1),
    PlannedStage(id="two", name="Two", number=2, group=2),
    PlannedStage(id="three", name="Three", number=3, group=2, queue="slow"),
)
PLAN = ExecutionPlan(
    groups=(PlannedGroup(number=1, stages=STAGES[:1]), PlannedGroup(number=2, stages=STAGES[1:], parallel=True))
)
WORKFLOW = ("w", "1")
CREATED = RunCreated(workflow_id="w", workflow_version="1", fingerprint="f", plan=PLAN)
STARTED = RunStarted(owner="s")
ONE = {"stage_id": "one", "execution": 1, "attempt": 1}
ERROR = ErrorInfo(type="ValueError", message="no", traceback="Traceback ...", retryable=True)


def run(*facts: Fact) -> RunState:
    """The state after facts, each a second after the one before, the first a minute ago."""
    rows = [(seq, AGO + timedelta(seconds=seq - 1), (fact,)) for seq, fact in enumerate((CREATED, *facts), start=1)]
    return fold(RUN, rows)


def head(state: RunState, *, owner: str | None = None, live: bool = True, **changes) -> HeadRow:
    row = HeadRow(
        run_id=RUN,
        workflow_id="w",
        workflow_version="1",
        fingerprint="f",
        seq=state.seq,
        head=head_of(state),
        priority=5,
        owner=owner,
        claim=0,
        owner_live=owner is not None and live,
        attention=False,
        run_at=state.run_at,
        parked_reason=None,
        parked_at=None,
        format=FORMAT,
        idempotency_key=None,
        metadata=None,
        root_span_id=None,
        trace_context=None,
        created_at=state.created_at,
        updated_at=NOW,
    )
    return replace(row, **changes)


def why(state: RunState, *, known=(WORKFLOW,), jobs=None, **changes) -> str | None:
    return waiting_for(head(state, **changes), state, now=NOW, live_workflows=known, jobs=jobs)


RUNNING = run(STARTED, StageStarted(**ONE, token="t"))
RETRYING_LATER = run(
    STARTED,
    StageStarted(**ONE, token="t"),
    StageRetrying(**ONE, error=ERROR, due_at=NOW + timedelta(hours=1), cause="raised"),
)
SUSPENDED = run(
    STARTED,
    StageStarted(**ONE, token="t"),
    StageSuspended(
        **ONE, next_poll_at=NOW + timedelta(hours=1), max_wait_until=NOW + timedelta(days=1), poll_interval_s=3600.0
    ),
)


def test_a_run_that_executes_waits_for_nothing() -> None:
    assert why(RUNNING, owner="s") is None


def test_a_run_that_has_ended_waits_for_nothing() -> None:
    assert why(run(RunCancelled())) is None


def test_a_new_run_waits_to_be_claimed() -> None:
    assert why(run()) == "claim"


def test_a_run_whose_owner_is_gone_waits_to_be_claimed() -> None:
    assert why(RUNNING, owner="s", live=False) == "claim"


def test_a_run_that_no_live_process_knows_says_so() -> None:
    assert why(run(), known=[("w", "2")]) == "unknown_workflow"


def test_a_run_that_nobody_could_know_because_nobody_lives_waits_to_be_claimed() -> None:
    assert why(run(), known=[]) == "claim"


def test_a_run_that_only_its_jobs_move_executes_or_waits_in_its_queue_as_they_say() -> None:
    moved = replace(head_of(RUNNING), wake_at=None)
    waits, taken = a_job(), a_job(token="t")

    assert why(RUNNING, head=moved) is None
    assert why(RUNNING, head=moved, owner="s", live=False) == "claim"
    assert why(RUNNING, head=moved, owner="s", live=False, jobs=[replace(taken, held=True)]) is None
    assert why(RUNNING, head=moved, jobs=[waits, replace(taken, held=True)]) is None
    assert why(RUNNING, head=moved, jobs=[waits]) == "queue"
    assert why(RUNNING, head=moved, jobs=[waits, taken]) == "claim"


@pytest.mark.parametrize("owner", [None, "s"])
def test_a_retry_that_is_due_waits_in_its_queue(owner: str | None) -> None:
    later = replace(head_of(RETRYING_LATER), wake_at=None)

    assert why(RETRYING_LATER, head=later, owner=owner, jobs=[a_job()]) == "queue"
    assert why(RETRYING_LATER, head=later, owner=owner, jobs=[a_job(due_at=NOW + timedelta(hours=1))]) == "retry"


def a_job(**given) -> JobInfo:
    job = JobInfo(
        run_id=RUN,
        stage_id="a",
        queue="gpu",
        priority=5,
        due_at=AGO,
        token=None,
        session_id=None,
        lease_until=None,
    )
    return replace(job, **given)


def test_a_delayed_run_waits_for_its_time() -> None:
    later = fold(RUN, [(1, AGO, (replace(CREATED, run_at=NOW + timedelta(hours=1)),))])

    assert why(later, known=[("w", "2")]) == "delayed_until"


def test_a_delayed_run_whose_time_has_come_waits_to_be_claimed() -> None:
    due = fold(RUN, [(1, AGO, (replace(CREATED, run_at=NOW - timedelta(seconds=1)),))])

    assert why(due) == "claim"


@pytest.mark.parametrize("owner", [None, "s"])
def test_a_run_between_attempts_waits_for_the_next(owner: str | None) -> None:
    assert why(RETRYING_LATER, owner=owner) == "retry"


@pytest.mark.parametrize("owner", [None, "s"])
def test_a_suspended_run_waits_for_what_it_polls(owner: str | None) -> None:
    assert why(SUSPENDED, owner=owner) == "poll"
    assert run_info(head(SUSPENDED, owner=owner), now=NOW).status == "SUSPENDED"


def test_an_owned_run_without_room_for_its_bodies_says_so() -> None:
    scheduled = run(STARTED, StageScheduled(**ONE))

    assert why(scheduled, owner="s") == "capacity"


def test_an_owned_run_whose_retry_is_due_waits_for_room() -> None:
    overdue = run(
        STARTED,
        StageStarted(**ONE, token="t"),
        StageRetrying(**ONE, error=ERROR, due_at=NOW - timedelta(seconds=1), cause="raised"),
    )

    assert why(overdue, owner="s") == "capacity"


@pytest.mark.parametrize(
    "reason,word",
    [
        ("definition_changed: fingerprint a is now b", "definition_changed"),
        ("undecidable: it is empty", "undecidable"),
        ("The history cannot be read.", "parked"),
    ],
)
def test_a_parked_run_says_why(reason: str, word: str) -> None:
    assert why(RUNNING, parked_reason=reason) == word
    assert run_info(head(RUNNING, parked_reason=reason), now=NOW).waiting_detail == reason


def test_a_run_of_a_newer_release_says_so() -> None:
    assert why(run(), format=FORMAT + 1) == "newer_release"


# -- what is told ------------------------------------------------------------------------------------------------------

COMPLETED = run(
    STARTED,
    StageStarted(**ONE, token="t"),
    StageCompleted(**ONE, duration_s=1.0, metrics={"n": 2.0}),
    StageStarted(stage_id="two", execution=1, attempt=1, token="u"),
    StageStarted(stage_id="three", execution=1, attempt=1, token="v"),
    StageCompleted(
        stage_id="two", execution=1, attempt=1, duration_s=1.0, metrics={"total_cost": 0.012, "total_tokens": 34}
    ),
    StageCompleted(stage_id="three", execution=1, attempt=1, duration_s=1.0),
    RunCompleted(duration_s=7.0, total_cost="0.012", total_tokens=34),
)
PAYLOADS = {Body(1): {"x": 1}, Body(4): "first", Body(7): "second", Body(8): None}

# fmt: off
RUN_KEYS = [
    "id", "workflow_id", "workflow_version", "status", "waiting_for", "priority", "idempotency_key", "input", "output",
    "error", "metadata", "created_at", "run_at", "started_at", "completed_at", "updated_at", "duration_s", "total_cost",
    "total_tokens", "owner", "trace_id", "stages",
]
STAGE_KEYS = [
    "id", "name", "group", "number", "status", "execution", "attempt", "progress", "started_at", "completed_at",
    "duration_s", "next_poll_at", "retry_at", "max_wait_until", "queue", "error", "output", "metrics",
    "steps", "artifacts",
]
# fmt: on


def test_the_payloads_that_are_shown_are_the_input_and_every_output() -> None:
    assert set(wanted_bodies(COMPLETED)) == set(PAYLOADS)


def test_a_run_has_the_trace_that_its_creator_gave_it_or_one_that_follows_from_its_id() -> None:
    def told(**given: Any) -> str:
        return run_info(head(COMPLETED, **given), now=NOW).trace_id

    own = run_trace(RUN, "w", "1", began_at=NOW, carrier=None, sample=lambda *_: True).trace_id
    assert told() == told(trace_context={"traceparent": "damaged"}) == f"{own:032x}"
    assert told(trace_context={"traceparent": f"00-{7:032x}-{8:016x}-00"}) == f"{7:032x}"


def test_a_run_as_json_has_the_public_keys_in_order() -> None:
    shown = run_json(run_info(head(COMPLETED), COMPLETED, now=NOW, payloads=PAYLOADS))

    assert list(shown) == RUN_KEYS
    assert [list(stage) for stage in shown["stages"]] == [STAGE_KEYS] * 3
    assert json.loads(json.dumps(shown)) == shown


def test_a_completed_run_is_told_in_full() -> None:
    shown = run_json(run_info(head(COMPLETED), COMPLETED, now=NOW, payloads=PAYLOADS))

    assert (shown["status"], shown["input"], shown["output"]) == (
        "COMPLETED",
        {"x": 1},
        {"two": "second", "three": None},
    )
    assert (shown["duration_s"], shown["total_cost"], shown["total_tokens"]) == (7.0, "0.012", 34)
    assert (shown["created_at"], shown["completed_at"]) == ("2030-01-01T11:59:00Z", "2030-01-01T11:59:08Z")
    assert [(s["id"], s["group"], s["number"], s["progress"]) for s in shown["stages"]] == [
        ("one", 1, 1, 1.0),
        ("two", 2, 2, 1.0),
        ("three", 2, 3, 1.0),
    ]
    assert shown["stages"][0]["metrics"] == {"n": 2.0}


def test_a_run_listed_from_its_head_has_no_payloads_and_no_stages() -> None:
    shown = run_json(run_info(head(COMPLETED), now=NOW))

    assert list(shown) == [key for key in RUN_KEYS if key not in {"input", "output", "stages"}]


def test_the_reason_of_a_cancelled_run_is_told() -> None:
    cancelled = run(RunCancelled(reason="wrong file"))

    assert run_json(run_info(head(cancelled), cancelled, now=NOW))["cancel_reason"] == "wrong file"


def test_an_owner_that_is_dead_drives_nothing() -> None:
    assert run_info(head(RUNNING, owner="s"), RUNNING, now=NOW).owner == "s"
    assert run_info(head(RUNNING, owner="s", live=False), RUNNING, now=NOW).owner is None


def test_an_error_is_told_with_its_traceback_only_when_asked() -> None:
    failed = run(
        STARTED,
        StageStarted(**ONE, token="t"),
        StageFailed(**ONE, error=ERROR),
        RunFailed(error=ERROR, stage_id="one", attempt=1),
    )
    info = run_info(head(failed), failed, now=NOW)

    assert run_json(info)["error"] == {"type": "ValueError", "message": "no", "stage_id": "one", "retryable": True}
    assert run_json(info, full=True)["error"]["traceback"] == "Traceback ..."
    assert run_json(info)["stages"][0]["error"]["type"] == "ValueError"
    assert run_json(info)["output"] is None


def test_times_of_waiting_stages_are_told() -> None:
    [retrying, *_] = run_json(run_info(head(RETRYING_LATER), RETRYING_LATER, now=NOW))["stages"]
    [suspended, *_] = run_json(run_info(head(SUSPENDED), SUSPENDED, now=NOW))["stages"]

    assert (retrying["status"], retrying["retry_at"]) == ("PENDING", "2030-01-01T13:00:00Z")
    assert (suspended["next_poll_at"], suspended["max_wait_until"]) == ("2030-01-01T13:00:00Z", "2030-01-02T12:00:00Z")


def report(**changes) -> LogLine:
    line = LogLine(
        run_id=RUN,
        stage_id="one",
        execution=1,
        attempt=1,
        at=NOW,
        level="PROGRESS",
        message="",
        fields={"progress": 0.4},
    )
    return replace(line, **changes)


def progress_of(state: RunState, line: LogLine) -> float | None:
    info = run_info(head(state), state, now=NOW, progress={"one": line})
    assert info.stages is not None
    return info.stages[0].progress


def test_the_progress_of_the_running_attempt_is_told() -> None:
    assert progress_of(RUNNING, report()) == 0.4


def test_the_progress_of_an_earlier_attempt_is_not() -> None:
    assert progress_of(RUNNING, report(attempt=2)) is None
    assert progress_of(RETRYING_LATER, report()) is None


def test_a_cost_is_told_in_decimal_digits() -> None:
    costly = replace(head(COMPLETED), head=replace(head_of(COMPLETED), total_cost=Decimal("1E-7")))

    assert run_json(run_info(costly, now=NOW))["total_cost"] == "0.0000001"
