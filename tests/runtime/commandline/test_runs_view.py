"""Runs as people read them: what is said of those that nobody executes, and what there is no room for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from runtime.commandline.layout import table, text_of, width_of
from runtime.commandline.runs_view import RUN_COLUMNS, run_lines, run_row
from runtime.info import RunInfo, StageInfo

NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)
AGO = NOW - timedelta(minutes=5)

STAGE = StageInfo(
    id="greet",
    name="Greet",
    group=1,
    number=1,
    status="RUNNING",
    execution=1,
    attempt=1,
    progress=0.25,
    started_at=AGO,
)
RUN = RunInfo(
    trace_id=f"{7:032x}",
    id="01a1fb81-0915-7f00-8a2b-22bf95bcc5b0",
    workflow_id="hello",
    workflow_version="1",
    status="RUNNING",
    waiting_for=None,
    priority=5,
    idempotency_key=None,
    metadata=None,
    created_at=AGO,
    run_at=None,
    started_at=AGO,
    completed_at=None,
    updated_at=AGO,
    duration_s=None,
    total_cost=Decimal(0),
    total_tokens=0,
    owner="s",
    error=None,
    stages=(STAGE,),
)
PARKED: dict[str, Any] = {
    "owner": None,
    "waiting_for": "definition_changed",
    "waiting_detail": 'definition_changed: stage "greet" is gone',
}


def shown(*, full: bool = False, **changes: Any) -> str:
    return "\n".join(text_of(each) for each in run_lines(replace(RUN, **changes), NOW, full=full))


def row(**changes: Any) -> str:
    return text_of(table(RUN_COLUMNS, [run_row(replace(RUN, **changes), NOW)])[1])


def test_a_run_that_executes_shows_how_long_and_how_far() -> None:
    text = shown()

    assert "▸ greet  RUNNING        1  5 min 00 s  ━━━━━··············· 25%" in text
    assert "duration  5 min 00 s" in text


def test_a_run_that_waited_before_it_began_says_for_how_long_and_a_rerun_does_not() -> None:
    created_at = AGO - timedelta(minutes=40)

    assert "(after 40 min 00 s)" in shown(created_at=created_at)
    assert "(after" not in shown(created_at=created_at, stages=(replace(STAGE, execution=2),))


def test_a_parked_run_shows_why_and_nothing_that_goes_on() -> None:
    text = shown(**PARKED)

    assert "RUNNING  (parked)" in text
    assert 'stage "greet" is gone' in text
    assert "· greet  interrupted  " in text
    assert "5 min 00 s" not in text
    assert "5 min 00 s" not in row(**PARKED)


def test_a_stage_whose_process_died_is_not_shown_as_running() -> None:
    text = shown(owner=None, waiting_for="claim")

    assert "interrupted" in text
    assert "session" not in text


def test_a_cancelled_run_shows_the_reason() -> None:
    assert "reason   wrong file" in shown(status="CANCELLED", completed_at=NOW, cancel_reason="wrong\nfile")


@pytest.mark.parametrize(
    "reason,words",
    [
        ("claim", "a process"),
        ("unknown_workflow", "a process that knows it"),
        ("retry", "retry"),
        ("poll", "poll"),
        ("capacity", "room"),
    ],
)
def test_a_row_says_in_words_what_a_run_waits_for(reason: str, words: str) -> None:
    assert f"RUNNING  {words}  " in row(waiting_for=reason)


def test_a_row_says_when_a_delayed_run_is_due_and_that_a_parked_one_needs_somebody() -> None:
    assert "its time, in 2 h" in row(waiting_for="delayed_until", run_at=NOW + timedelta(hours=2))
    assert "you: definition changed" in row(**PARKED)


def test_a_run_in_queues_names_them_and_those_that_nobody_serves() -> None:
    queued: dict[str, Any] = {"waiting_for": "queue", "waiting_queues": ("cpu", "gpu")}

    assert "RUNNING  queue cpu, gpu  " in row(**queued)
    assert 'somebody who serves queue "cpu", "gpu"\n' in shown(**queued)
    assert "no process that lives does (leasehold up --queues gpu)" in shown(**queued, unserved_queues=("gpu",))


def test_a_long_key_is_cut_except_in_full() -> None:
    key = "k" * 1000

    assert width_of(row(idempotency_key=key)) < 100
    assert key not in shown(idempotency_key=key)
    assert key in shown(idempotency_key=key, full=True)


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_rows_fit_the_terminal_and_keep_the_id_and_the_status(width: int) -> None:
    info = replace(RUN, waiting_for="unknown_workflow", idempotency_key="k" * 50)

    lines = [text_of(each) for each in table(RUN_COLUMNS, [run_row(info, NOW)], width=width)]

    assert all(width_of(each) <= width for each in lines)
    assert lines[1].startswith("95bcc5b0" if width > 40 else "95bcc5")
    assert "RUNNING" in lines[1]


def test_recorded_steps_are_shown_below_the_stages_and_of_many_the_last_ones() -> None:
    steps = tuple(f"page {n}" for n in range(12))

    cut = shown(stages=(replace(STAGE, steps=steps),))
    whole = shown(stages=(replace(STAGE, steps=steps),), full=True)

    assert "steps  greet: 2 before, page 2, page 3" in cut
    assert "steps  greet: page 0, page 1" in whole
    assert "steps" not in shown()
