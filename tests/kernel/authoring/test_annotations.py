from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kernel import Approval, Decision, InvalidCommand, Revision, Trigger, TypedKey
from kernel.authoring.annotations import make_annotation


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

    assert make_annotation(Approval.timestamp, at, scope="run").value == b'"2026-01-02T00:00:00Z"'
    assert make_annotation(Approval.approvers, ["ada"], scope="run").value == b'["ada"]'


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
