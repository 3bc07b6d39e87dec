"""What the outside sees of a history."""

import json
from dataclasses import dataclass
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter

import kernel.events as events_module
from kernel.errors import ErrorInfo
from kernel.events import Event, EventType, Log, RunCompleted, StageCompleted, StageProgress, event_json, public_event
from kernel.model import facts as facts_module
from kernel.model.facts import AnnotationCreated, Fact, StageFailed
from tests.kernel.one_of_each import KINDS, OF_STAGE, ONE_OF_EACH, SECRET, kinds_in
from tests.kernel.stories import NOW, RUN_ID

EVENT: TypeAdapter[Event] = TypeAdapter(Event)

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
    "annotation.created": {"key", "value", "scope", "scope_id", "stage_id", "actor"},
}


def event_of(fact: Fact, body: Any = None) -> Event:
    return public_event(fact, run_id=RUN_ID, seq=5, at=NOW, body=body)


def test_every_kind_of_fact_has_its_event() -> None:
    lacking = KINDS - kinds_in(Event)
    assert not lacking, f"kernel/events.py: give {sorted(lacking)} a class, and that a place in Event and EventType"
    assert kinds_in(Event) == set(get_args(EventType)), "kernel/events.py: Event and EventType name the same kinds"
    assert kinds_in(Event) - KINDS == {"stage.progress", "log"}, "the others are live only: say so here"


def test_what_every_event_shows_is_promised() -> None:
    unsaid = KINDS ^ set(PUBLIC)
    assert not unsaid, f"say in PUBLIC, above, which fields the events {sorted(unsaid)} have"


@pytest.mark.parametrize("fact", ONE_OF_EACH, ids=lambda fact: fact.type)
def test_an_event_shows_what_is_promised_and_hides_the_engines_own_business(fact: Fact) -> None:
    event = event_of(fact, body={"words": 3})

    shown = json.loads(event_json(event))

    assert set(shown) - {"run_id", "seq", "at", "type"} == PUBLIC.get(fact.type)
    assert (shown["run_id"], shown["seq"], shown["type"]) == (RUN_ID, 5, fact.type)
    assert SECRET not in event_json(event).decode()


@pytest.mark.parametrize("fact", ONE_OF_EACH, ids=lambda fact: fact.type)
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


def test_a_fact_that_has_a_value_itself_shows_that_and_not_its_payload() -> None:
    @dataclass(frozen=True)
    class Labelled:
        """A fact of a kind that is to come; its event is that of an annotation."""

        key: str
        value: str
        scope: str = "run"
        scope_id: str | None = None
        stage_id: str | None = None
        actor: str | None = None
        type: str = "annotation.created"

    fact: Any = Labelled(key="tenant", value="7")

    assert json.loads(event_json(event_of(fact)))["value"] == "7"


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
    absent = {cls.__name__ for cls in get_args(get_args(Event)[0])} - set(events_module.__all__)

    assert not absent, f"kernel/events.py: give {sorted(absent)} a place in __all__"
