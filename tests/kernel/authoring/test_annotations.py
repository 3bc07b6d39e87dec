from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kernel import Actor, Approval, Decision, InvalidCommand, NewAnnotations, Revision, Trigger, TypedKey
from kernel.authoring.annotations import NOTE_BYTES_MAX, make_note, make_notes, notes_of, plain_annotations


def keys_of(namespace: type) -> list[TypedKey]:
    return [value for value in vars(namespace).values() if isinstance(value, TypedKey)]


def test_the_vocabulary_has_every_key_once_under_the_name_of_its_namespace() -> None:
    names = [key.name for namespace in (Trigger, Decision, Approval, Revision) for key in keys_of(namespace)]

    assert len(names) == len(set(names)) == 15
    assert {"trigger.actor.kind", "decision.used_fallback", "approval.policy.version"} < set(names)
    for namespace in (Trigger, Decision, Approval, Revision):
        assert all(key.name.startswith(f"{namespace.__name__.lower()}.") for key in keys_of(namespace))
        assert all(key.description for key in keys_of(namespace))


def test_a_typed_value_is_encoded_by_its_type() -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)

    assert make_note(Approval.timestamp, at, scope="run").value == b'"2026-01-02T00:00:00Z"'
    assert make_note(Approval.approvers, ["ada"], scope="run").value == b'["ada"]'


@pytest.mark.parametrize("name", ["", "Decision", "a b", "a..b", ".a", "a.", "legacy.metadata.x", "x" * 201, 3])
def test_a_key_must_be_lower_case_words_joined_by_dots(name) -> None:
    with pytest.raises(InvalidCommand, match="Annotation key"):
        TypedKey(name, str)


def test_a_key_of_a_type_without_a_json_form_is_refused() -> None:
    with pytest.raises(InvalidCommand, match=r'Annotation key "photo.camera": .*no schema'):
        TypedKey("photo.camera", type("Camera", (), {}))


def test_a_key_is_experimental_until_it_says_otherwise() -> None:
    assert TypedKey("photo.camera", str).stability == "experimental"
    assert Decision.confidence.stability == "stable"


@pytest.mark.parametrize(
    "actor, text",
    [
        (Actor(kind="user"), "user"),
        (Actor(kind="user", id="ada@example.org"), "user:ada@example.org"),
        (Actor(kind="agent", id="urn:a:7", version="2"), "agent:urn%3Aa%3A7:2"),
        (Actor(kind="agent", version="50%3A"), "agent::50%253A"),
    ],
)
def test_the_text_of_an_actor_can_be_read_again(actor: Actor, text: str) -> None:
    assert str(actor) == text
    assert Actor.parse(text) == actor


@pytest.mark.parametrize("parts", [{"kind": ""}, {"kind": "user", "id": " "}, {"kind": "user", "version": "\0"}])
def test_an_actor_that_could_not_be_told_is_refused(parts: dict[str, str]) -> None:
    with pytest.raises(InvalidCommand, match=r"actor\.(kind|id|version) must be a text"):
        Actor(**parts)


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"scope": "Page 7"}, "scope"),
        ({"scope": "run", "scope_id": "7"}, "scope_id"),
        ({"scope": "page", "scope_id": "\ud800"}, "scope_id"),
        ({"scope": "run", "idempotency_key": " "}, "idempotency_key"),
        ({"scope": "run", "value": "x" * NOTE_BYTES_MAX}, "value"),
        ({"scope": "run", "payload": ["x" * NOTE_BYTES_MAX]}, "payload"),
    ],
)
def test_what_an_annotation_cannot_be_is_refused_by_its_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidCommand) as refused:
        make_note("photo.owner", fields.pop("value", 1), **fields)

    assert refused.value.field == field


def test_several_are_made_of_a_mapping_and_none_of_a_value_that_is_none() -> None:
    notes = make_notes({Decision.outcome: "go", "photo.owner": None, "photo.size": 3}, scope="run", emit_event=True)

    assert [(note.key, note.value, note.emit) for note in notes] == [
        ("decision.outcome", b'"go"', True),
        ("photo.size", b"3", True),
    ]


def test_annotations_of_a_new_run_are_the_same_as_plain_json() -> None:
    given = [
        NewAnnotations(attributes={Approval.timestamp: datetime(2026, 1, 2, tzinfo=UTC)}, payload=(1, 2)),
        NewAnnotations(attributes={"photo.owner": "ada"}, actor=Actor(kind="user"), idempotency_key="k"),
    ]

    plain = plain_annotations(given)

    assert plain is not None
    assert [dict(each.attributes) for each in plain] == [
        {"approval.timestamp": "2026-01-02T00:00:00Z"},
        {"photo.owner": "ada"},
    ]
    assert notes_of(plain) == notes_of(given)
    assert plain_annotations(None) is None
