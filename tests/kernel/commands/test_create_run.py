"""`run.create`."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kernel.commands.create_run import CreateRun, decide_create, find_fault
from kernel.errors import (
    IdempotencyKeyReused,
    InvalidCommand,
    InvalidConfig,
    InvalidInput,
    PayloadRefused,
    Unavailable,
    WorkflowNotFound,
)
from kernel.model.draft import Moment
from kernel.model.facts import RunCreated
from kernel.model.ids import run_id_from
from kernel.model.machine import Status
from kernel.payloads import Limits
from tests.kernel.by_hand import Hands
from tests.kernel.definitions import Depth, Doc, ExtractConfig, anything, documents, extract, single
from tests.kernel.stories import NOW, RUN_ID, a_creation, a_plan

DOC = Doc(path="a.txt")


def create(hands: Hands, input: Any = DOC, *, workflow_id: str = "single", **fields: Any) -> str:
    return hands.dispatch(CreateRun(workflow_id=workflow_id, input=input, **fields)).run_id


def creation_of(hands: Hands, run_id: str) -> RunCreated:
    fact = hands.facts(run_id)[0]
    assert isinstance(fact, RunCreated)
    return fact


# -- a new run --------------------------------------------------------------------------------------------------------


def test_a_run_begins_as_one_fact_with_its_validated_input() -> None:
    hands = Hands(documents)

    run_id = create(hands, {"path": "a.txt"}, workflow_id="documents")

    assert hands.kinds(run_id) == [["run.created"]]
    assert list(hands.payloads(run_id)) == [b'{"path":"a.txt","weight":1.0}']
    state = hands.state(run_id)
    assert (state.status, state.workflow_id, state.workflow_version) == (Status.PENDING, "documents", "1")
    assert (state.plan, state.fingerprint) == (documents.execution_plan(), documents.fingerprint)
    assert hands.store.runs[run_id].head.wake_at == NOW


def test_what_a_listing_needs_is_stored_with_the_head() -> None:
    hands = Hands(single)
    at = NOW + timedelta(hours=1)

    run_id = create(
        hands,
        priority=9,
        run_at=at,
        metadata={"seen": NOW},
        idempotency_key="k",
        root_span_id="00f067aa0ba902b7",
        trace_context={"traceparent": "00-4bf9-00f0-01"},
    )

    run = hands.store.runs[run_id]
    new = run.new
    assert (new.priority, new.run_at, new.idempotency_key) == (9, at, "k")
    assert new.metadata == {"seen": "2026-01-01T12:00:00Z"}
    assert (new.root_span_id, new.trace_context) == ("00f067aa0ba902b7", {"traceparent": "00-4bf9-00f0-01"})
    assert run.head.wake_at == at


def test_a_run_has_the_middle_priority_unless_told_otherwise() -> None:
    hands = Hands(single)

    priorities = [hands.store.runs[create(hands, **given)].new.priority for given in ({}, {"priority": 0})]

    assert priorities == [5, 0]


def test_the_configuration_is_stored_complete() -> None:
    hands = Hands(single)

    run_id = create(hands, config={"extract": {"depth": {"chapters": 7}}})

    assert creation_of(hands, run_id).config == {"extract": {"max_chars": 100, "depth": {"chapters": 7, "pages": 2}}}


def test_the_configuration_is_given_by_stage_or_id_and_as_model_or_mapping() -> None:
    hands = Hands(single)
    model = ExtractConfig(max_chars=5)

    stored = [
        creation_of(hands, create(hands, config=config)).config
        for config in ({extract: model}, {"extract": model}, {extract: {"max_chars": 5}}, {"extract": {"max_chars": 5}})
    ]

    assert stored == [stored[0]] * 4


def test_who_creates_a_run_with_room_begins_it_in_the_same_append() -> None:
    moment = Moment(now=NOW, append_id="a", session="s1", starts=1)

    decision = decide_create(RUN_ID, a_creation(a_plan("a")), b"{}", moment)

    assert [fact.type for fact in decision.facts] == ["run.created", "run.started", "stage.started"]
    assert decision.state.owner == "s1"
    assert decision.bodies == {1: b"{}"}


@pytest.mark.parametrize("delay, kinds", [(-1, 3), (0, 3), (1, 1)])
def test_a_delayed_run_is_not_begun_before_its_moment_even_with_room(delay: int, kinds: int) -> None:
    moment = Moment(now=NOW, append_id="a", session="s1", starts=1)
    fact = a_creation(a_plan("a"), run_at=NOW + timedelta(seconds=delay))

    decision = decide_create(RUN_ID, fact, b"{}", moment)

    assert len(decision.facts) == kinds


def test_a_run_without_room_is_left_to_whoever_claims_it() -> None:
    decision = decide_create(RUN_ID, a_creation(a_plan("a")), None, Moment(now=NOW, append_id="a", session="s1"))

    assert [fact.type for fact in decision.facts] == ["run.created"]
    assert decision.bodies == {}


# -- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"workflow_id": ""}, "workflow_id"),
        ({"idempotency_key": ""}, "idempotency_key"),
        ({"idempotency_key": " "}, "idempotency_key"),
        ({"priority": -1}, "priority"),
        ({"priority": 10}, "priority"),
        ({"priority": True}, "priority"),
        ({"priority": 5.0}, "priority"),
        ({"run_at": datetime(2026, 1, 1)}, "run_at"),  # noqa: DTZ001 - naive on purpose
        ({"run_id": "no-uuid"}, "run_id"),
        ({"run_id": RUN_ID.upper()}, "run_id"),
    ],
)
def test_what_could_never_be_created_is_refused_by_the_name_of_its_field(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidCommand) as refused:
        CreateRun(**{"workflow_id": "single", "input": DOC, **fields})

    assert refused.value.field == named
    assert named in str(refused.value)


def test_an_unknown_workflow_is_refused_with_the_known_ones() -> None:
    hands = Hands(documents, single)

    with pytest.raises(WorkflowNotFound) as refused:
        create(hands, workflow_id="docs", idempotency_key="k")

    assert refused.value.known == ("documents", "single")
    assert "documents" in str(refused.value)
    assert (hands.store.runs, hands.store.keys) == ({}, {})


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(WorkflowNotFound, match='"single" version "2"'):
        create(Hands(single), workflow_version="2")


def test_an_invalid_input_is_refused_with_all_its_mistakes_and_leaves_no_trace() -> None:
    hands = Hands(single)

    with pytest.raises(InvalidInput) as refused:
        create(hands, {"weight": "heavy"})

    assert {(e["loc"], e["type"]) for e in refused.value.errors} == {
        (("path",), "missing"),
        (("weight",), "float_parsing"),
    }
    assert (hands.store.runs, hands.store.keys, hands.blobs.stored) == ({}, {}, {})


def test_an_invalid_configuration_is_refused_with_the_mistakes_of_all_stages() -> None:
    hands = Hands(documents)

    with pytest.raises(InvalidConfig) as refused:
        create(hands, workflow_id="documents", config={"extract": {"max_chars": "many"}, "sumary": {"x": 1}})

    assert {e["loc"] for e in refused.value.errors} == {("extract", "max_chars"), ("sumary",)}
    assert hands.store.runs == {}


@pytest.mark.parametrize("metadata", [{"note": "\0"}, {"note": float("nan")}, {"note": object()}])
def test_metadata_that_no_store_can_keep_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(PayloadRefused) as refused:
        create(Hands(single), metadata=metadata)

    assert refused.value.field == "metadata"


# -- large inputs -----------------------------------------------------------------------------------------------------


def test_a_large_input_is_put_into_the_blob_store_and_named_by_the_history() -> None:
    hands = Hands(single, limits=Limits(payload_inline_bytes_max=64))

    run_id = create(hands, Doc(path="a" * 100))

    blob = creation_of(hands, run_id).input_blob
    assert blob is not None
    assert run_id in blob.key
    assert hands.blobs.stored == {blob.key: b'{"path":"' + b"a" * 100 + b'","weight":1.0}'}
    assert list(hands.payloads(run_id)) == []


def test_an_input_beyond_the_limit_is_refused_before_anything_is_stored() -> None:
    hands = Hands(single, limits=Limits(payload_inline_bytes_max=64, payload_bytes_max=100))

    with pytest.raises(PayloadRefused) as refused:
        create(hands, Doc(path="a" * 100))

    assert refused.value.field == "input"
    assert "payload_bytes_max" in str(refused.value)
    assert (hands.store.runs, hands.blobs.stored) == ({}, {})


# -- idempotency keys -------------------------------------------------------------------------------------------------


def test_the_same_key_answers_with_the_same_run() -> None:
    hands = Hands(single)

    first = create(hands, idempotency_key="k")
    again = create(hands, idempotency_key="k")

    assert first == again
    assert list(hands.store.runs) == [first]
    assert hands.kinds(first) == [["run.created"]]


def test_without_a_key_the_same_command_is_another_run() -> None:
    hands = Hands(single)

    assert create(hands) != create(hands)
    assert hands.store.keys == {}


def test_the_same_key_with_another_payload_is_refused_with_the_places_that_differ() -> None:
    hands = Hands(single)
    first = create(hands, idempotency_key="k")

    with pytest.raises(IdempotencyKeyReused) as refused:
        create(
            hands, Doc(path="b.txt"), idempotency_key="k", config={"extract": {"max_chars": 5, "depth": {"pages": 9}}}
        )

    error = refused.value
    assert (error.key, error.run_id) == ("k", first)
    assert set(error.paths) == {"input.path", "config.extract.max_chars", "config.extract.depth.pages"}
    assert list(hands.store.runs) == [first]


def test_the_places_that_differ_are_found_at_any_depth_and_are_not_too_many() -> None:
    hands = Hands(anything)
    create(hands, {"a": {"b": 1, "c": [1]}, "d": {"e": 1}, "f": 1}, workflow_id="anything", idempotency_key="k")

    with pytest.raises(IdempotencyKeyReused) as some:
        create(hands, {"a": {"b": 2, "c": [1]}, "d": 1}, workflow_id="anything", idempotency_key="k")
    with pytest.raises(IdempotencyKeyReused) as many:
        create(hands, {str(n): n for n in range(50)}, workflow_id="anything", idempotency_key="k")

    assert some.value.paths == ("input.a.b", "input.d", "input.f")
    assert len(many.value.paths) == 10


def test_the_other_fields_take_no_part_in_the_comparison() -> None:
    hands = Hands(single)

    first = create(hands, idempotency_key="k")
    again = create(
        hands, idempotency_key="k", priority=0, metadata={"try": 2}, run_at=NOW, root_span_id="1", trace_context={}
    )

    assert first == again
    assert hands.store.runs[first].new.priority == 5


@pytest.mark.parametrize(
    "one, other",
    [
        (Doc(path="a.txt"), {"path": "a.txt"}),
        (Doc(path="a.txt", weight=2), {"weight": 2, "path": "a.txt"}),
    ],
    ids=["model and mapping", "whole numbers, in any order"],
)
def test_the_same_payload_in_another_form_is_the_same_payload(one: Any, other: Any) -> None:
    hands = Hands(single)

    assert create(hands, one, idempotency_key="k") == create(hands, other, idempotency_key="k")


def test_the_same_configuration_in_another_form_is_the_same_configuration() -> None:
    hands = Hands(single)
    model = ExtractConfig(depth=Depth(pages=9))

    first = create(hands, idempotency_key="k", config={extract: model})
    again = create(hands, idempotency_key="k", config={"extract": {"depth": {"pages": 9}}})

    assert first == again


def test_payloads_are_compared_as_sent_and_before_any_default() -> None:
    hands = Hands(single)
    create(hands, {"path": "a.txt"}, idempotency_key="k")

    with pytest.raises(IdempotencyKeyReused) as refused:
        create(hands, {"path": "a.txt", "weight": 1.0}, idempotency_key="k")

    assert refused.value.paths == ()


def test_a_key_expires_when_the_limits_say_so() -> None:
    hands = Hands(single, limits=Limits(idempotency_expiry=timedelta(days=2)))

    create(hands, idempotency_key="k")

    key = hands.store.sent[0].key
    assert key is not None
    assert key.expires_at == NOW + timedelta(days=2)


def test_a_key_belongs_to_its_workflow() -> None:
    hands = Hands(single, documents)

    assert create(hands, idempotency_key="k") != create(hands, idempotency_key="k", workflow_id="documents")


def test_no_crash_leaves_a_key_without_its_run() -> None:
    hands = Hands(single)

    def crash() -> None:
        raise Unavailable("the connection is gone")

    hands.store.meanwhile = [crash]
    with pytest.raises(Unavailable):
        create(hands, idempotency_key="k")
    assert (hands.store.runs, hands.store.keys) == ({}, {})

    run_id = create(hands, idempotency_key="k")
    assert hands.store.keys[("run.create", "single", "k")][0] == run_id


def test_of_two_creations_with_one_key_the_second_answers_with_the_run_of_the_first() -> None:
    hands = Hands(single)
    won: list[str] = []
    hands.store.meanwhile = [lambda: won.append(create(hands, idempotency_key="k"))]

    answered = create(hands, idempotency_key="k")

    assert [answered] == won == list(hands.store.runs)


def test_a_key_whose_digest_is_of_another_form_answers_with_its_run() -> None:
    hands = Hands(single)
    first = create(hands, idempotency_key="k")
    hands.store.keys["run.create", "single", "k"] = (first, "sql:0123")

    assert create(hands, Doc(path="b.txt"), idempotency_key="k") == first


def test_the_differing_places_of_large_inputs_are_found_too() -> None:
    hands = Hands(single, limits=Limits(payload_inline_bytes_max=64))
    create(hands, Doc(path="a" * 100), idempotency_key="k")

    with pytest.raises(IdempotencyKeyReused) as refused:
        create(hands, Doc(path="b" * 100), idempotency_key="k")

    assert refused.value.paths == ("input.path",)


# -- ids that the caller minted ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "k"])
def test_a_creation_that_is_sent_again_under_its_own_id_creates_nothing_twice(key: str | None) -> None:
    hands = Hands(single)

    first = create(hands, run_id=RUN_ID, idempotency_key=key)
    again = create(hands, run_id=RUN_ID, idempotency_key=key)

    assert first == again == RUN_ID
    assert hands.kinds(RUN_ID) == [["run.created"]]


@pytest.mark.parametrize("size", [10, 100], ids=["inline", "offloaded"])
def test_an_id_that_belongs_to_another_run_is_refused_and_that_run_is_left_whole(size: int) -> None:
    hands = Hands(single, limits=Limits(payload_inline_bytes_max=64))
    create(hands, Doc(path="a" * size), run_id=RUN_ID)

    with pytest.raises(InvalidCommand, match=r"differing: input\.path") as refused:
        create(hands, Doc(path="b" * size), run_id=RUN_ID)

    assert refused.value.field == "run_id"
    assert b"a" * size in (b"".join(hands.payloads(RUN_ID)) or hands.blobs.stored[hands.blobs.puts[0]])


def test_an_id_that_belongs_to_a_run_of_another_workflow_is_refused() -> None:
    hands = Hands(single, documents)
    create(hands, run_id=RUN_ID)

    with pytest.raises(InvalidCommand, match="differing: workflow_id"):
        create(hands, run_id=RUN_ID, workflow_id="documents")


def test_an_id_tells_when_it_was_minted() -> None:
    hands = Hands(single)
    hands.clock.time = datetime(2027, 5, 5, tzinfo=UTC)

    assert create(hands)[:13] == run_id_from(hands.clock.time, bytes(10))[:13]


# -- runs that nobody has checked -------------------------------------------------------------------------------------


def test_a_run_that_was_created_unchecked_is_found_faultless_or_has_its_error() -> None:
    bad_input = find_fault(single, b'{"weight":1}', {})
    bad_config = find_fault(single, b'{"path":"a.txt"}', {"extract": {"max_chars": "many"}})

    assert find_fault(single, b'{"path":"a.txt"}', {"extract": {"max_chars": 5}}) is None
    assert bad_input is not None
    assert (bad_input.type, bad_input.retryable) == ("InvalidInput", False)
    assert bad_config is not None
    assert (bad_config.type, "max_chars" in bad_config.message) == ("InvalidConfig", True)


@pytest.mark.parametrize(
    "text", [b"[" * 300 + b"]" * 300, b'{"path":"a\\u0000"}', b'{"path":' + b"[" * 150 + b"]" * 150 + b"}"]
)
def test_an_unchecked_input_that_could_not_even_be_read_is_a_fault_like_any_other(text: bytes) -> None:
    fault = find_fault(single, text, {})

    assert fault is not None
    assert (fault.type, fault.retryable) == ("PayloadRefused", False)
