"""The stored form of facts: what is written can be read, by this release and by its neighbours."""

from datetime import timedelta

import pytest

from kernel.errors import PayloadRefused
from kernel.model.execution_plan import ExecutionPlan
from kernel.model.facts import (
    AnnotationCreated,
    BlobRef,
    CorruptHistory,
    RunCancelled,
    RunCreated,
    RunStarted,
    StageCompleted,
    StageRetrying,
    decode_facts,
    encode_facts,
    encode_plan,
    format_of,
)
from tests.kernel.stories import NOW, a_creation, a_plan, an_error


def test_what_is_encoded_is_decoded_as_it_was() -> None:
    blob = BlobRef(key="runs/documents/r/a/t/output.json", digest="d" * 64, size_bytes=20_000)
    facts = (
        a_creation(a_plan("a", "b c", queues={"b": "gpu"}), run_at=NOW + timedelta(hours=1), input_blob=blob),
        RunStarted(owner="a-session"),
        StageCompleted(stage_id="a", execution=1, attempt=2, duration_s=0.1, artifacts={"chart": blob}),
        StageRetrying(stage_id="b", execution=2, attempt=1, error=an_error(), due_at=NOW, cause="timeout", token="t"),
        AnnotationCreated(key="note", scope="stage", stage_id="a"),
    )

    assert decode_facts(encode_facts(facts), run_id="r") == facts


def test_a_null_that_the_caller_gave_stays_a_null() -> None:
    config = {"a": {"limit": None, "nested": [None, {"deep": None}]}}

    (fact,) = decode_facts(encode_facts((a_creation(a_plan("a"), config=config),)), run_id="r")

    assert isinstance(fact, RunCreated)
    assert fact.config == config


def test_the_plan_of_a_definition_is_the_plan_of_its_runs() -> None:
    plan = a_plan("a", "b c", on_failure="cancel", queues={"c": "gpu"})

    assert b'"plan":' + encode_plan(plan) in encode_facts((a_creation(plan),))


def test_a_field_of_a_newer_release_is_passed_over() -> None:
    assert decode_facts(b'[{"type":"run.cancelled","reason":"no","colour":"blue"}]', run_id="r") == (
        RunCancelled(reason="no"),
    )


@pytest.mark.parametrize(
    "stored",
    [
        b'[{"type":"run.teleported"}]',
        b'[{"type":"stage.started","stage_id":"a"}]',
        b'{"type":"run.started"}',
        b'[{"type":"run.started"',
        b"",
    ],
    ids=["unknown kind", "field absent", "no array", "torn", "empty"],
)
def test_what_cannot_be_read_is_a_corrupt_history_of_a_named_run(stored: bytes) -> None:
    with pytest.raises(CorruptHistory) as refused:
        decode_facts(stored, run_id="the-run")

    assert refused.value.run_id == "the-run"
    assert refused.value.reason


def test_an_append_needs_the_newest_format_among_its_facts() -> None:
    newer = {"run.cancelled": 2, "annotation.created": 3}
    started, cancelled, noted = RunStarted(), RunCancelled(), AnnotationCreated(key="note")

    assert format_of([started, cancelled, noted], newer=newer) == 3
    assert format_of([cancelled, started], newer=newer) == 2
    assert (format_of([started], newer=newer), format_of([], newer=newer), format_of([cancelled])) == (1, 1, 1)


def test_a_text_that_has_no_encoding_is_refused_instead_of_ending_the_decision_with_a_crash() -> None:
    with pytest.raises(PayloadRefused, match="An event cannot be stored: reason contains a lone surrogate"):
        encode_facts((RunCancelled(reason="\ud800"),))


def test_a_plan_finds_its_stages_and_groups() -> None:
    plan: ExecutionPlan = a_plan("a", "b c")

    assert list(plan.stages) == ["a", "b", "c"]
    assert [stage.number for stage in plan.stages.values()] == [1, 2, 3]
    assert [group.number for group in (plan.group(1), plan.group(2))] == [1, 2]
