"""Journals of runs that nobody in this process drives."""

import hashlib
from collections.abc import Callable

import pytest

from kernel.errors import BlobNotFound, RunNotFound, StaleVersion
from kernel.journal import CONFLICTS_MAX, append_of, fetch_payloads, fold_stored, inline_bodies
from kernel.model.draft import Decision, Draft, Moment
from kernel.model.facts import FORMAT, AnnotationCreated, BlobRef, CorruptHistory, NewerHistory, RunOwnerChanged
from kernel.model.head import head_of
from kernel.model.run import RunState
from kernel.model.stage import Body
from kernel.ports.persistence import KeyRecord, NewRun
from tests.kernel.by_hand import HandBlobs, Hands, drive
from tests.kernel.stories import NOW, RUN_ID, a_creation, a_plan, a_run

NEW = NewRun(workflow_id="documents", workflow_version="1", fingerprint="f1")


def a_recorded_run(hands: Hands) -> str:
    def decide(moment: Moment) -> Decision[str]:
        return Draft.opening(RUN_ID, a_creation(a_plan("a", "b")), moment, b'{"path":"a.txt"}').decided(RUN_ID)

    return drive(hands.journals.create(RUN_ID, decide, new=NEW, key=None))


def noting(key: str, body: bytes | None = None) -> Callable[[RunState, Moment], Decision[int]]:
    def decide(state: RunState, moment: Moment) -> Decision[int]:
        draft = Draft(state, moment)
        draft.add(AnnotationCreated(key=key), body)
        return draft.decided(draft.state.seq)

    return decide


def looking(state: RunState, _moment: Moment) -> Decision[int]:
    return Decision(result=state.seq, state=state)


def test_what_was_decided_is_appended_and_its_result_returned() -> None:
    hands = Hands()
    run_id = a_recorded_run(hands)

    seq = drive(hands.journals.record(run_id, noting("seen", b'"yes"')))

    assert seq == 2
    assert hands.kinds(run_id) == [["run.created"], ["annotation.created"]]
    assert list(hands.payloads(run_id)) == [b'{"path":"a.txt"}', b'"yes"']


def test_a_decision_without_facts_appends_nothing() -> None:
    hands = Hands()
    run_id = a_recorded_run(hands)

    assert drive(hands.journals.record(run_id, looking)) == 1
    assert len(hands.store.sent) == 1


def test_after_a_conflict_it_is_decided_again_on_the_new_state() -> None:
    hands = Hands()
    run_id = a_recorded_run(hands)
    hands.store.meanwhile = [lambda: drive(hands.journals.record(run_id, noting("first")))]

    seq = drive(hands.journals.record(run_id, noting("second")))

    assert seq == 3
    assert [fact.key for fact in hands.facts(run_id) if isinstance(fact, AnnotationCreated)] == ["first", "second"]


def test_what_conflicts_leave_nothing_to_decide_is_not_appended() -> None:
    hands = Hands()
    run_id = a_recorded_run(hands)
    hands.store.meanwhile = [lambda: drive(hands.journals.record(run_id, noting("k")))]

    def once(state: RunState, moment: Moment) -> Decision[int]:
        return noting("k")(state, moment) if state.seq == 1 else looking(state, moment)

    assert drive(hands.journals.record(run_id, once)) == 2
    assert hands.store.runs[run_id].seq == 2


def test_a_command_gives_up_after_many_conflicts_and_the_end_of_an_attempt_does_not() -> None:
    hands = Hands()
    run_id = a_recorded_run(hands)
    busy: list[Callable[[], object]] = [lambda: drive(hands.journals.record(run_id, noting("busy"))), lambda: None]

    hands.store.meanwhile = busy * 25
    with pytest.raises(StaleVersion):
        drive(hands.journals.record(run_id, noting("mine")))
    assert hands.store.runs[run_id].seq == 1 + CONFLICTS_MAX
    hands.store.meanwhile = busy * 25
    drive(hands.journals.record(run_id, noting("mine"), ends_attempt=True))

    assert [f.key for f in hands.facts(run_id) if isinstance(f, AnnotationCreated)].count("mine") == 1


def test_what_the_decision_raises_comes_out_unchanged() -> None:
    hands = Hands()
    run_id = a_recorded_run(hands)
    error = ValueError("mine")

    def decide(_state: RunState, _moment: Moment) -> Decision[None]:
        raise error

    with pytest.raises(ValueError, match="mine") as raised:
        drive(hands.journals.record(run_id, decide))

    assert raised.value is error
    assert len(hands.store.sent) == 1


def test_every_append_has_an_id_of_its_own_and_the_present_moment() -> None:
    hands = Hands()
    run_id = a_recorded_run(hands)
    moments: list[Moment] = []

    def decide(state: RunState, moment: Moment) -> Decision[int]:
        moments.append(moment)
        return noting("k")(state, moment)

    hands.store.meanwhile = [lambda: drive(hands.journals.record(run_id, noting("first")))]
    drive(hands.journals.record(run_id, decide))

    assert len({moment.append_id for moment in moments}) == 2
    assert {(moment.now, moment.session, moment.starts) for moment in moments} == {(NOW, None, 0)}


def test_a_store_that_lost_what_it_had_acknowledged_is_read_anew() -> None:
    hands = Hands()
    run_id = a_recorded_run(hands)
    drive(hands.journals.record(run_id, noting("tail")))

    def fail_over() -> None:
        drive(hands.journals.record(run_id, noting("lost")))

    def restore() -> None:
        run = hands.store.runs[run_id]
        run.rows, run.seq = run.rows[:1], 1

    # The first conflict makes the journal hold sequence 3; then the store is at 1 again.
    hands.store.meanwhile = [fail_over, lambda: None, restore]

    assert drive(hands.journals.record(run_id, noting("mine"), ends_attempt=True)) == 2
    assert [f.key for f in hands.facts(run_id) if isinstance(f, AnnotationCreated)] == ["mine"]


def test_a_run_that_does_not_exist_is_not_found() -> None:
    hands = Hands()

    with pytest.raises(RunNotFound):
        drive(hands.journals.record("nobody", looking))
    with pytest.raises(RunNotFound):
        drive(hands.journals.payloads("nobody", [Body(1)]))


def test_a_history_that_ends_before_its_head_is_corrupt() -> None:
    hands = Hands()
    run_id = a_recorded_run(hands)
    hands.store.runs[run_id].seq = 5

    with pytest.raises(CorruptHistory, match="ends at sequence 1, and its head is at 5"):
        drive(hands.journals.record(run_id, looking))


def test_a_history_of_a_newer_format_is_not_read_at_all() -> None:
    hands = Hands()
    run_id = a_recorded_run(hands)
    hands.store.runs[run_id].format = FORMAT + 1

    with pytest.raises(NewerHistory, match=f"format {FORMAT + 1}, and this release reads up to {FORMAT}"):
        drive(hands.journals.record(run_id, noting("seen")))
    assert len(hands.store.sent) == 1


def test_a_stored_history_can_be_folded_in_two_parts() -> None:
    hands = Hands()
    run_id = a_recorded_run(hands)
    first = drive(hands.store.load(run_id))
    drive(hands.journals.record(run_id, noting("later")))
    rest = drive(hands.store.load(run_id, after=1))

    assert fold_stored(rest, fold_stored(first)) == hands.state(run_id)


# -- payloads ---------------------------------------------------------------------------------------------------------


def test_payloads_are_read_from_the_history_and_from_the_blob_store() -> None:
    hands = Hands()
    run_id = a_recorded_run(hands)
    data = b'{"large":true}'
    hands.blobs.stored["k"] = data
    offloaded = Body(9, BlobRef(key="k", digest=hashlib.sha256(data).hexdigest(), size_bytes=len(data)))

    found = drive(hands.journals.payloads(run_id, [Body(1), offloaded]))

    assert found == {Body(1): b'{"path":"a.txt"}', offloaded: data}


def test_bytes_that_are_not_those_that_were_recorded_are_corrupt() -> None:
    blobs = HandBlobs({"k": b"{}"})
    body = Body(9, BlobRef(key="k", digest=hashlib.sha256(b"[]").hexdigest(), size_bytes=2))

    with pytest.raises(CorruptHistory, match='blob "k" is not what was recorded'):
        drive(fetch_payloads(RUN_ID, [body], {}, blobs))


def test_an_absent_payload_is_a_typed_error_wherever_it_was() -> None:
    with pytest.raises(CorruptHistory, match="payload of event 4 is absent"):
        drive(fetch_payloads(RUN_ID, [Body(4)], {}, HandBlobs()))
    with pytest.raises(BlobNotFound):
        drive(fetch_payloads(RUN_ID, [Body(4, BlobRef(key="k", digest="d", size_bytes=1))], {}, HandBlobs()))


def test_inline_payloads_are_found_by_the_number_of_their_fact() -> None:
    hands = Hands()
    run_id = a_recorded_run(hands)
    drive(hands.journals.record(run_id, noting("seen", b"[1, 2]")))

    assert inline_bodies(hands.store.runs[run_id].rows) == {1: b'{"path":"a.txt"}', 2: b"[1,2]"}


# -- the append -------------------------------------------------------------------------------------------------------


def test_an_append_says_everything_that_appears_together() -> None:
    moment = Moment(now=NOW, append_id="append-1")
    opening = Draft.opening(RUN_ID, a_creation(a_plan("a")), moment, b'{"path": "a.txt"}')
    opening.add(AnnotationCreated(key="note"), b"[1]")
    key = KeyRecord(command_type="run.create", scope="documents", key="k", digest="d")

    append = append_of(opening.decided(None), moment, mode="create", expected=0, new=NEW, key=key)

    assert (append.run_id, append.append_id, append.expected, append.seq, append.at) == (RUN_ID, "append-1", 0, 2, NOW)
    assert append.bodies == b'{"1":{"path": "a.txt"},"2":[1]}'
    assert append.head == head_of(opening.state)
    assert (append.new, append.key, append.lease) == (NEW, key, None)


def test_an_append_without_payloads_has_no_bodies() -> None:
    story = a_run("a")
    story.start("a")
    moment = Moment(now=NOW, append_id="append-2", session="s2")
    draft = Draft(story.state, moment)
    draft.add(RunOwnerChanged(owner="s2"))

    append = append_of(draft.decided(None), moment, mode="foreign", expected=story.state.seq)

    assert append.bodies is None
    assert append.seq == append.expected + 1


def test_the_same_decision_makes_the_same_append() -> None:
    moment = Moment(now=NOW, append_id="append-1", starts=1)
    story = a_run("a")
    decisions = [noting("k", b"1")(story.state, moment) for _ in range(2)]

    once, again = (append_of(d, moment, mode="foreign", expected=1) for d in decisions)

    assert once == again
