"""Attaching annotations from outside: what is decided, whatever the run is doing."""

from __future__ import annotations

from typing import Any

import pytest

from kernel import Actor, CancelRun, CreateRun, Decision, InvalidCommand, NewAnnotations, StageNotFound, Trigger
from kernel.dispatch import parse_command
from kernel.events import is_emitted
from kernel.model.facts import AnnotationCreated
from kernel.payloads import Limits
from tests.kernel.by_hand import Hands, drive
from tests.kernel.definitions import Doc, single
from tests.kernel.one_of_each import ONE_OF_EACH

DOC = Doc(path="a.txt")


def a_run(hands: Hands, **fields: Any) -> str:
    return hands.dispatch(CreateRun(workflow_id="single", input=DOC, **fields)).run_id


def attach(hands: Hands, run_id: str, attributes: Any, **common: Any) -> int:
    return drive(hands.kernel().annotations.attach(run_id, attributes, **common))


def notes(hands: Hands, run_id: str) -> list[AnnotationCreated]:
    return [fact for fact in hands.facts(run_id) if isinstance(fact, AnnotationCreated)]


def test_all_attributes_are_attached_in_one_append_and_move_nothing() -> None:
    hands = Hands(single)
    run_id = a_run(hands)
    before = hands.store.runs[run_id].head

    added = attach(hands, run_id, {Decision.outcome: "go", Decision.confidence: 0.5, "photo.owner": None})

    assert added == 2
    assert hands.kinds(run_id) == [["run.created"], ["annotation.created"] * 2]
    assert list(hands.payloads(run_id))[1:] == [b'"go"', b"0.5"]
    assert hands.store.runs[run_id].head == before


def test_nothing_is_appended_when_every_value_is_none() -> None:
    hands = Hands(single)
    run_id = a_run(hands)

    assert attach(hands, run_id, {"photo.owner": None}) == 0
    assert hands.kinds(run_id) == [["run.created"]]


def test_a_run_that_has_ended_stays_as_it_ended() -> None:
    hands = Hands(single)
    run_id = a_run(hands)
    hands.dispatch(CancelRun(run_id=run_id))
    before = hands.store.runs[run_id].head

    assert attach(hands, run_id, {"photo.owner": "ada"}) == 1
    assert hands.store.runs[run_id].head == before


def test_the_same_key_with_the_same_idempotency_key_is_attached_once() -> None:
    hands = Hands(single)
    run_id = a_run(hands, annotations=[NewAnnotations(attributes={"photo.owner": "ada"}, idempotency_key="k")])

    assert attach(hands, run_id, {"photo.owner": "eve", "photo.size": 3}, idempotency_key="k") == 1
    assert attach(hands, run_id, {"photo.owner": "eve"}, idempotency_key="other") == 1
    assert [attach(hands, run_id, {"photo.owner": "eve"}) for _ in range(2)] == [1, 1]
    assert [note.once for note in notes(hands, run_id)] == ["k", "k", "other", None, None]


def test_who_loses_a_race_with_the_same_idempotency_key_adds_nothing() -> None:
    hands = Hands(single)
    run_id = a_run(hands)
    hands.store.meanwhile = [lambda: attach(hands, run_id, {"photo.owner": "ada"}, idempotency_key="k")]

    assert attach(hands, run_id, {"photo.owner": "ada"}, idempotency_key="k") == 0
    assert len(notes(hands, run_id)) == 1


def test_an_annotation_may_be_about_a_stage_or_about_what_the_caller_names() -> None:
    hands = Hands(single)
    run_id = a_run(hands)

    attach(hands, run_id, {"photo.owner": 1}, stage="extract", actor=Actor(kind="user", id="ada"))
    attach(hands, run_id, {"photo.owner": 2}, scope="page", scope_id="7", payload={"seen": [None]}, emit_event=True)

    first, second = notes(hands, run_id)
    assert (first.scope, first.stage_id, first.attempt, first.actor) == ("stage", "extract", None, "user:ada")
    assert (second.scope, second.scope_id, second.stage_id, second.payload) == ("page", "7", None, '{"seen":[null]}')
    assert [is_emitted(note) for note in (first, second)] == [False, True]


def test_every_other_kind_of_fact_is_given_to_sinks() -> None:
    assert all(is_emitted(fact) for fact in ONE_OF_EACH)
    assert not is_emitted(AnnotationCreated(key="note"))


def test_a_stage_that_the_run_does_not_have_is_refused() -> None:
    hands = Hands(single)
    run_id = a_run(hands)

    with pytest.raises(StageNotFound, match="nobody"):
        attach(hands, run_id, {"photo.owner": 1}, stage="nobody")


def test_nobody_fills_a_history_from_outside() -> None:
    hands = Hands(single, limits=Limits(history_events_max=100))
    run_id = a_run(hands)
    attach(hands, run_id, {f"key.k{n}": n for n in range(49)})

    with pytest.raises(InvalidCommand, match="history_events_max"):
        attach(hands, run_id, {"one.more": 1})

    assert len(notes(hands, run_id)) == 49


def test_a_new_run_has_its_annotations_from_its_first_append() -> None:
    hands = Hands(single)

    run_id = a_run(hands, annotations={Trigger.source: "api", Trigger.reason: None})

    assert hands.kinds(run_id) == [["run.created", "annotation.created"]]
    (note,) = notes(hands, run_id)
    assert (note.key, note.scope, note.stage_id, note.once) == ("trigger.source", "run", None, None)
    assert hands.kinds(a_run(hands, annotations=[])) == [["run.created"]]


def test_a_run_with_an_annotation_that_cannot_be_kept_is_not_created() -> None:
    hands = Hands(single)

    with pytest.raises(InvalidCommand, match="Annotation key"):
        a_run(hands, annotations={"Not A Key": 1})

    assert hands.store.runs == {}


def test_annotations_of_a_new_run_are_read_from_json() -> None:
    hands = Hands(single)
    given = [{"attributes": {"photo.owner": "ada"}, "actor": {"kind": "user"}, "emit_event": True}]

    command = parse_command(
        {"type": "run.create", "workflow_id": "single", "input": {"path": "a"}, "annotations": given}
    )

    (note,) = notes(hands, hands.dispatch(command).run_id)
    assert (note.key, note.actor, note.emit) == ("photo.owner", "user", True)
    with pytest.raises(InvalidCommand, match="annotations"):
        parse_command({"type": "run.create", "workflow_id": "single", "input": {}, "annotations": [{"actr": 1}]})
