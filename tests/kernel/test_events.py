"""What the outside sees of a history."""

import json
from dataclasses import fields
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter

import kernel.events as events_module
from kernel.errors import ErrorInfo
from kernel.events import Event, EventType, Log, RunCompleted, StageCompleted, StageProgress, event_json, public_event
from kernel.model import facts as facts_module
from kernel.model.facts import (
    AnnotationCreated,
    BlobRef,
    Fact,
    RunCancelled,
    RunFailed,
    RunOwnerChanged,
    RunRerun,
    RunStarted,
    StageCancelled,
    StageFailed,
    StageRetrying,
    StageScheduled,
    StageSkipped,
    StageStarted,
    StageSuspended,
    StepRecorded,
)
from tests.kernel.stories import NOW, RUN_ID, a_creation, a_plan, an_error

EVENT: TypeAdapter[Event] = TypeAdapter(Event)
SECRET = "a-token-or-digest"
BLOB = BlobRef(key=SECRET, digest=SECRET, size_bytes=1)
OF_STAGE: dict[str, Any] = {"stage_id": "a", "execution": 1, "attempt": 2}

FACTS: list[Fact] = [
    a_creation(a_plan("a"), input_blob=BLOB, config={"a": {"x": SECRET}}),
    RunStarted(owner="s1"),
    RunOwnerChanged(owner="s2", previous=SECRET),
    facts_module.RunCompleted(duration_s=1.5, total_cost="0.3", total_tokens=7),
    RunFailed(error=an_error(), stage_id="a", attempt=2),
    RunCancelled(reason="not needed"),
    RunRerun(from_stage_id="a", discarded=("a", "b")),
    StageScheduled(**OF_STAGE, queue="gpu"),
    StageStarted(**OF_STAGE, token=SECRET, key=SECRET, resumed=True),
    facts_module.StageCompleted(**OF_STAGE, duration_s=1.5, output_blob=BLOB, artifacts={"chart": BLOB}),
    StageFailed(**OF_STAGE, error=an_error()),
    StageRetrying(**OF_STAGE, error=an_error(), due_at=NOW, cause="lost", token=SECRET, owner=SECRET),
    StageSuspended(**OF_STAGE, next_poll_at=NOW, max_wait_until=NOW, poll_interval_s=30.0, state_blob=BLOB),
    StageCancelled(**OF_STAGE),
    StageSkipped(**OF_STAGE, reason="the run failed"),
    StepRecorded(**OF_STAGE, position=0, name="fetch", result_blob=BLOB),
    AnnotationCreated(key="note", scope="stage", stage_id="a", actor="Ada"),
]

# What is promised to everybody who reads events: the fields of each beside run_id, seq and at.
PUBLIC: dict[str, set[str]] = {
    "run.created": {"workflow_id", "workflow_version"},
    "run.started": {"owner"},
    "run.completed": {"output", "duration_s", "total_cost", "total_tokens"},
    "run.failed": {"error", "stage_id"},
    "run.cancelled": {"reason"},
    "run.rerun": {"from_stage_id", "discarded"},
    "run.owner_changed": {"owner", "cause"},
    "stage.scheduled": {"stage_id", "execution", "attempt", "queue", "due_at"},
    "stage.started": {"stage_id", "execution", "attempt"},
    "stage.completed": {"stage_id", "execution", "attempt", "output", "metrics", "duration_s"},
    "stage.failed": {"stage_id", "execution", "attempt", "error"},
    "stage.retrying": {"stage_id", "execution", "attempt", "error", "due_at", "cause"},
    "stage.suspended": {"stage_id", "execution", "attempt", "next_poll_at", "max_wait_until"},
    "stage.cancelled": {"stage_id", "execution", "attempt"},
    "stage.skipped": {"stage_id", "execution", "attempt", "reason"},
    "step.recorded": {"stage_id", "execution", "position", "name"},
    "annotation.created": {"key", "value", "scope", "actor"},
}


def event_of(fact: Fact, body: Any = None) -> Event:
    return public_event(fact, run_id=RUN_ID, seq=5, at=NOW, body=body)


def kinds_in(union: Any) -> set[str]:
    return {str(field.default) for cls in get_args(get_args(union)[0]) for field in fields(cls) if field.name == "type"}


def test_every_kind_of_fact_is_tried_here_and_has_its_event() -> None:
    assert {fact.type for fact in FACTS} == kinds_in(Fact) == set(PUBLIC)
    assert kinds_in(Event) == set(PUBLIC) | {"stage.progress", "log"} == set(get_args(EventType))


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.type)
def test_an_event_shows_what_is_promised_and_hides_the_engines_own_business(fact: Fact) -> None:
    event = event_of(fact, body={"words": 3})

    shown = json.loads(event_json(event))

    assert set(shown) - {"run_id", "seq", "at", "type"} == PUBLIC[fact.type]
    assert (shown["run_id"], shown["seq"], shown["type"]) == (RUN_ID, 5, fact.type)
    assert SECRET not in event_json(event).decode()


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.type)
def test_an_event_that_was_sent_as_json_can_be_read_again(fact: Fact) -> None:
    event = event_of(fact, body=[1, "two", None])

    assert EVENT.validate_json(event_json(event)) == event


def test_a_completion_shows_its_payload_and_an_annotation_its_value() -> None:
    stage = event_of(facts_module.StageCompleted(**OF_STAGE, duration_s=1.5, metrics={"pages": 2}), body={"words": 3})
    run = event_of(facts_module.RunCompleted(duration_s=1.5), body={"words": 3})
    note = event_of(AnnotationCreated(key="note"), body=["seen"])

    assert isinstance(stage, StageCompleted)
    assert (stage.output, stage.metrics) == ({"words": 3}, {"pages": 2})
    assert isinstance(run, RunCompleted)
    assert run.output == {"words": 3}
    assert isinstance(note, events_module.AnnotationCreated)
    assert note.value == ["seen"]


def test_an_error_is_shown_without_its_traceback() -> None:
    error = ErrorInfo(type="ValueError", message="no such file", traceback=SECRET)

    shown = json.loads(event_json(event_of(StageFailed(**OF_STAGE, error=error))))

    assert shown["error"] == {"type": "ValueError", "message": "no such file", "retryable": True}


def test_live_events_have_the_same_form() -> None:
    progress = StageProgress(run_id=RUN_ID, seq=5, at=NOW, **OF_STAGE, progress=0.5, message="half")
    log = Log(run_id=RUN_ID, seq=5, at=NOW, level="INFO", message="seen", fields={"page": 2})

    for event in (progress, log):
        assert EVENT.validate_json(event_json(event)) == event


def test_every_event_class_is_exported_by_its_module() -> None:
    assert {cls.__name__ for cls in get_args(get_args(Event)[0])} <= set(events_module.__all__)
