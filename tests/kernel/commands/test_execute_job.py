"""`job.execute`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from kernel.commands.cancel_run import CancelRun
from kernel.commands.create_run import CreateRun
from kernel.commands.execute_job import ExecuteJob, ExecuteJobResult, decide_start
from kernel.errors import (
    DefinitionChanged,
    IdempotencyInProgress,
    InvalidCommand,
    PayloadRefused,
    RunNotFound,
    StageNotFound,
    StaleVersion,
    WorkflowNotFound,
)
from kernel.model.attempts import Completed, Raised, lose_attempt
from kernel.model.draft import Decision, Draft, Moment
from kernel.model.facts import AnnotationCreated, RunCreated, StageStarted, decode_facts, encode_facts
from kernel.model.machine import Status
from kernel.model.polls import FoundFailed
from kernel.model.run import RunState
from kernel.model.steps import decide_step
from kernel.payloads import Limits
from kernel.ports.executor import Attempt, BodyCompleted, BodyOutcome, BodySuspended
from tests.kernel.by_hand import HandRegistry, Hands, drive
from tests.kernel.definitions import STEADY, Doc, documents, single, waiting
from tests.kernel.stories import NOW, OUTPUT, SECOND, Story, a_plan, a_run, an_error

DOC = Doc(path="a.txt")


class Run:
    """A run in the hands of a test."""

    def __init__(self, hands: Hands, workflow_id: str = "single", **fields: Any) -> None:
        self.hands = hands
        self.id = hands.dispatch(CreateRun(workflow_id=workflow_id, input=DOC, **fields)).run_id

    def execute(self, stage_id: str = "extract", **fields: Any) -> ExecuteJobResult:
        return self.hands.dispatch(ExecuteJob(run_id=self.id, stage_id=stage_id, **fields))

    def gives(self, stage_id: str, outcome: BodyOutcome | Callable[[Attempt], BodyOutcome]) -> None:
        self.hands.executor.outcomes[stage_id] = outcome

    @property
    def state(self) -> RunState:
        return self.hands.state(self.id)

    @property
    def attempts(self) -> list[Attempt]:
        return self.hands.executor.attempts

    def tell(self, decide: Callable[[Draft], None]) -> None:
        """Something else happens to the run."""

        def decided(state: RunState, moment: Moment) -> Decision[None]:
            draft = Draft(state, moment)
            decide(draft)
            return draft.decided(None)

        drive(self.hands.journals.record(self.id, decided))

    def annotate(self) -> None:
        self.tell(lambda draft: draft.add(AnnotationCreated(key="note")))

    def lose(self, stage_id: str = "extract") -> None:
        self.tell(lambda draft: lose_attempt(draft, stage_id, STEADY, owner=None))


def a_single_run(limits: Limits | None = None, **fields: Any) -> Run:
    return Run(Hands(single, limits=limits), **fields)


def completed(output: bytes = OUTPUT, **fields: Any) -> BodyCompleted:
    return BodyCompleted(output=output, **{"metrics": {}, "artifacts": {}, **fields})


def raised(*, retryable: bool = True, **fields: Any) -> Raised:
    return Raised(error=an_error(retryable=retryable), **fields)


def suspended(*, every: float = 30, at_most: float = 3600) -> BodySuspended:
    return BodySuspended(state=b'{"batch":7}', poll_interval_s=every, max_wait_s=at_most, metrics={})


# -- three phases -----------------------------------------------------------------------------------------------------


def test_the_start_is_appended_before_the_body_runs_and_the_end_after_it() -> None:
    run = a_single_run()
    seen: list[list[list[str]]] = []

    def body(_: Attempt) -> BodyOutcome:
        seen.append(run.hands.kinds(run.id))
        return completed()

    run.gives("extract", body)
    result = run.execute()

    assert (result.outcome, result.output, result.ghost) == ("completed", {"words": 3}, False)
    assert seen == [[["run.created"], ["run.started", "stage.started"]]]
    assert run.hands.kinds(run.id)[2:] == [["stage.completed", "run.completed"]]


def test_a_body_is_given_everything_that_it_may_read() -> None:
    run = a_single_run(config={"extract": {"max_chars": 5}})

    run.execute()

    (attempt,) = run.attempts
    assert attempt.input == b'{"path":"a.txt","weight":1.0}'
    assert attempt.config["extract"]["max_chars"] == 5
    assert (attempt.stage.id, attempt.number, attempt.execution, attempt.started_at) == ("extract", 1, 1, NOW)
    assert (attempt.resume_state, attempt.steps, attempt.outputs) == (None, (), {})


def test_a_later_stage_is_given_the_outputs_of_earlier_groups() -> None:
    run = Run(Hands(documents), "documents")
    run.gives("extract", completed(b'{"words":1}'))
    run.gives("keywords", completed(b'{"words":2}'))
    for stage_id in ("extract", "keywords", "language", "report"):
        run.execute(stage_id)

    assert run.attempts[1].outputs == {"extract": b'{"words":1}'}
    # A sibling that completed first is not an earlier stage.
    assert run.attempts[2].outputs == {"extract": b'{"words":1}'}
    assert run.attempts[2].offloaded == frozenset()
    assert run.attempts[3].outputs == {"extract": b'{"words":1}', "keywords": b'{"words":2}', "language": OUTPUT}


def test_a_body_is_given_the_steps_that_earlier_attempts_recorded() -> None:
    run = a_single_run()

    def body(attempt: Attempt) -> BodyOutcome:
        def decide(state: RunState, moment: Moment) -> Decision[bool]:
            return decide_step(state, "extract", attempt.token, position=0, name="fetch", result=b'"p"', moment=moment)

        assert drive(run.hands.journals.record(run.id, decide))
        return raised(retry_after=timedelta(0))

    run.gives("extract", body)
    run.execute()
    run.gives("extract", completed())
    run.execute()

    assert [attempt.steps for attempt in run.attempts] == [(), (("fetch", b'"p"'),)]


def test_a_run_goes_from_its_first_stage_to_its_last_by_hand() -> None:
    run = Run(Hands(documents), "documents")

    results = [run.execute(stage_id) for stage_id in documents.stage_ids()]

    assert [result.outcome for result in results] == ["completed"] * 5
    assert run.state.status is Status.COMPLETED
    assert run.hands.store.runs[run.id].head.status is Status.COMPLETED


# -- what cannot be executed ------------------------------------------------------------------------------------------


def test_an_unknown_run_and_an_unknown_stage_are_refused() -> None:
    run = a_single_run()

    with pytest.raises(StageNotFound) as refused:
        run.execute("extrakt")
    with pytest.raises(RunNotFound):
        run.hands.dispatch(ExecuteJob(run_id="nobody", stage_id="extract"))

    assert refused.value.known == ("extract",)


@pytest.mark.parametrize("fields, named", [({"attempt": 0}, "attempt"), ({"idempotency_key": " "}, "idempotency_key")])
def test_a_command_that_no_attempt_could_answer_is_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidCommand) as refused:
        ExecuteJob(run_id="r", stage_id="extract", **fields)

    assert refused.value.field == named


def test_who_does_not_know_the_definition_starts_nothing() -> None:
    run = a_single_run()
    run.hands.registry = HandRegistry([documents])

    with pytest.raises(WorkflowNotFound):
        run.execute()

    assert run.hands.kinds(run.id) == [["run.created"]]


def with_creation(run: Run, **fields: Any) -> None:
    """Make the run's history begin as somebody else wrote it."""
    rows = run.hands.store.runs[run.id].rows
    (fact,) = decode_facts(rows[0].events, run_id=run.id)
    assert isinstance(fact, RunCreated)
    rows[0] = replace(rows[0], events=encode_facts((replace(fact, **fields),)))


def test_a_definition_that_changed_under_its_version_starts_nothing() -> None:
    run = a_single_run()
    with_creation(run, fingerprint="old")

    with pytest.raises(DefinitionChanged, match="fingerprint old, now"):
        run.execute()

    assert len(run.hands.store.runs[run.id].rows) == 1


def test_a_definition_whose_stages_changed_is_refused_with_the_difference() -> None:
    run = a_single_run()
    with_creation(run, fingerprint="old", plan=a_plan("extract", "words language"))

    with pytest.raises(DefinitionChanged) as refused:
        run.execute()

    lost = 'stages "words", "language" are gone'
    assert refused.value.difference == f"{lost} (it was extract -> (words | language) and is extract)"


def test_a_change_that_somebody_accepted_is_executed() -> None:
    run = a_single_run()
    with_creation(run, fingerprint="old")
    run.hands.registry.accepted = {"old"}

    assert run.execute().outcome == "completed"


def test_a_stage_that_an_accepted_change_took_away_is_not_started() -> None:
    run = a_single_run()
    with_creation(run, fingerprint="old", plan=a_plan("fetch", "extract"))
    run.hands.registry.accepted = {"old"}

    with pytest.raises(DefinitionChanged, match='stage "fetch" is gone') as refused:
        run.execute("fetch")

    assert refused.value.hint == "Give the workflow a new version."
    assert len(run.hands.store.runs[run.id].rows) == 1


@pytest.mark.parametrize(
    "stage_id, reason", [("report", "turn of group 1"), ("extract", "stage is RUNNING")], ids=["not its turn", "runs"]
)
def test_an_attempt_that_cannot_start_is_a_ghost_and_changes_nothing(stage_id: str, reason: str) -> None:
    run = Run(Hands(documents), "documents")
    run.tell(lambda draft: draft.add(StageStarted(stage_id="extract", execution=1, attempt=1, token="t")))
    before = run.state

    result = run.execute(stage_id)

    assert (result.outcome, result.ghost, result.retryable) == ("failed", True, False)
    assert result.error is not None
    assert reason in result.error.message
    assert (run.state, run.attempts) == (before, [])


def test_an_attempt_that_is_not_due_is_a_ghost() -> None:
    run = a_single_run()
    run.gives("extract", raised())
    run.execute()

    assert run.execute().ghost

    run.hands.clock.time += SECOND
    assert not run.execute().ghost


def test_a_delayed_run_is_not_executed_before_its_moment() -> None:
    run = a_single_run(run_at=NOW + SECOND)

    assert run.execute().ghost

    run.hands.clock.time += SECOND
    assert run.execute().outcome == "completed"


def test_nothing_of_an_ended_run_is_executed() -> None:
    run = a_single_run()
    run.hands.dispatch(CancelRun(run_id=run.id))

    assert run.execute().ghost
    assert run.attempts == []


@pytest.mark.parametrize("number, ghost", [(1, True), (2, False), (3, True)])
def test_an_attempt_is_executed_under_its_own_number_only(*, number: int, ghost: bool) -> None:
    run = a_single_run()
    run.gives("extract", raised(retry_after=timedelta(0)))
    run.execute(attempt=1)

    assert run.execute(attempt=number).ghost is ghost


def test_an_attempt_that_was_handed_back_is_asked_for_under_the_same_number() -> None:
    story = a_run("a")
    story.start("a")
    story.lose("a")
    story.wait(60)
    story.start("a")
    story.drain("a")

    over, again = story.asked("a", attempt=1), story.asked("a", attempt=2)

    assert isinstance(over, ExecuteJobResult)
    assert over.ghost
    assert not isinstance(again, ExecuteJobResult)


def test_a_completed_stage_is_never_executed_again_and_answers_with_its_output() -> None:
    run = a_single_run(Limits(payload_inline_bytes_max=16))
    run.gives("extract", completed(b'{"words":1234567890}'))
    run.execute()

    result = run.execute()

    assert (result.outcome, result.output) == ("completed", {"words": 1234567890})
    assert len(run.attempts) == 1


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_an_attempt_that_the_driver_has_started_is_adopted_by_its_token() -> None:
    run = a_single_run()
    run.tell(lambda draft: draft.add(StageStarted(stage_id="extract", execution=1, attempt=1, token="mine")))

    result = run.execute(token="mine")

    assert result.outcome == "completed"
    assert run.attempts[0].token == "mine"
    assert [fact.type for fact in run.hands.facts(run.id)].count("stage.started") == 1


def test_a_superseded_token_executes_nothing() -> None:
    run = a_single_run()
    run.tell(lambda draft: draft.add(StageStarted(stage_id="extract", execution=1, attempt=1, token="old")))
    run.lose()

    result = run.execute(token="old")

    assert (result.ghost, run.attempts) == (True, [])


def a_queued_story() -> Story:
    """A run whose only stage is executed from a queue, and has been attempted under the token "first"."""
    story = a_run("render", queues={"render": "gpu"})
    story.start("render", token="first")
    return story


@pytest.mark.parametrize("ended", ["lost", "drained", "raised", "suspended", "rerun"])
def test_a_job_never_starts_an_attempt_under_a_token_that_an_earlier_one_has_had(ended: str) -> None:
    story = a_queued_story()
    match ended:
        case "lost":
            story.lose("render")
        case "drained":
            story.drain("render")
        case "raised":
            story.fail("render", an_error())
        case "suspended":
            story.suspend("render")
            story.poll("render", FoundFailed(error=an_error()))
        case _:
            story.complete("render")
            story.rerun("render")

    again = story.asked("render", token="first")
    story.start("render", token="second")
    later = story.end("render", Completed(output=b'"of the first"'), token="first")

    assert isinstance(again, ExecuteJobResult)
    assert (again.ghost, later.ghost, story.token("render")) == (True, True, "second")


def test_every_token_that_a_stage_has_had_is_known_and_not_only_the_last() -> None:
    story = a_queued_story()
    story.lose("render")
    story.start("render", token="second")
    story.lose("render")

    again = story.asked("render", token="first")

    assert isinstance(again, ExecuteJobResult)
    assert again.ghost
    assert again.error is not None
    assert "an attempt was started under this token before" in again.error.message


@pytest.mark.parametrize("outcome", [completed(), suspended(), raised(), raised(retryable=False)])
def test_an_attempt_that_is_superseded_while_it_runs_records_nothing(outcome: BodyOutcome) -> None:
    run = a_single_run()

    def body(_: Attempt) -> BodyOutcome:
        run.lose()
        return outcome

    run.gives("extract", body)
    result = run.execute()

    assert result.ghost
    assert run.hands.kinds(run.id)[-1] == ["stage.retrying"]
    assert (run.state.stages["extract"].status, run.state.stages["extract"].output) == (Status.PENDING, None)


def test_a_completion_cannot_overwrite_a_cancelled_run() -> None:
    run = a_single_run()

    def body(_: Attempt) -> BodyOutcome:
        run.hands.dispatch(CancelRun(run_id=run.id))
        return completed()

    run.gives("extract", body)

    assert run.execute().ghost
    assert run.state.status is Status.CANCELLED


def test_a_cancellation_that_comes_between_the_decision_and_the_append_wins() -> None:
    run = a_single_run()

    def body(_: Attempt) -> BodyOutcome:
        run.hands.store.meanwhile = [lambda: run.hands.dispatch(CancelRun(run_id=run.id))]
        return completed()

    run.gives("extract", body)

    assert run.execute().ghost
    assert run.state.status is Status.CANCELLED


# -- idempotency keys -------------------------------------------------------------------------------------------------


def test_a_key_asks_for_one_attempt_however_often_it_is_sent() -> None:
    run = a_single_run()

    first = run.execute(idempotency_key="k")
    again = run.execute(idempotency_key="k")

    assert (again.outcome, again.output) == (first.outcome, first.output) == ("completed", {"words": 3})
    assert len(run.attempts) == 1


def test_a_key_whose_attempt_is_running_is_in_progress() -> None:
    run = a_single_run()

    def body(_: Attempt) -> BodyOutcome:
        with pytest.raises(IdempotencyInProgress) as refused:
            run.execute(idempotency_key="k")
        assert (refused.value.key, refused.value.command_type) == ("k", "job.execute")
        return completed()

    run.gives("extract", body)

    assert run.execute(idempotency_key="k").outcome == "completed"


@pytest.mark.parametrize("retryable, run_status", [(True, Status.RUNNING), (False, Status.FAILED)])
def test_a_key_whose_attempt_failed_answers_with_the_failure(*, retryable: bool, run_status: Status) -> None:
    run = a_single_run()
    run.gives("extract", raised(retryable=retryable, retry_after=timedelta(0)))
    run.execute(idempotency_key="k")

    again = run.execute(idempotency_key="k")

    assert (again.outcome, again.retryable, again.ghost) == ("failed", retryable, False)
    assert again.error == an_error(retryable=retryable)
    assert (len(run.attempts), run.state.status) == (1, run_status)


def test_a_key_whose_attempt_suspended_answers_with_the_next_look() -> None:
    run = Run(Hands(waiting), "waiting")
    run.gives("embed", suspended(every=30))
    run.execute("embed", idempotency_key="k")

    again = run.execute("embed", idempotency_key="k")

    assert (again.outcome, again.next_poll_at) == ("suspended", NOW + 30 * SECOND)


@pytest.mark.parametrize("later", [{}, {"idempotency_key": "k2"}], ids=["without a key", "with another key"])
def test_a_key_answers_for_its_own_attempt_and_not_for_a_later_one(later: dict[str, Any]) -> None:
    run = a_single_run()
    run.gives("extract", raised(retry_after=timedelta(0)))
    run.execute(idempotency_key="k")

    def body(_: Attempt) -> BodyOutcome:
        during = run.execute(idempotency_key="k")
        assert (during.outcome, during.retryable) == ("failed", True)
        return completed()

    run.gives("extract", body)
    run.execute(**later)
    after = run.execute(idempotency_key="k")

    assert (after.outcome, after.retryable, after.ghost) == ("failed", True, False)
    assert after.error is not None
    assert after.error.type == "AttemptOver"


# -- outcomes ---------------------------------------------------------------------------------------------------------


def test_what_a_body_raises_is_an_outcome_and_not_an_exception() -> None:
    run = a_single_run()
    run.gives("extract", raised(retryable=False))

    result = run.execute()

    assert (result.outcome, result.error, result.retryable) == ("failed", an_error(retryable=False), False)


def test_the_policy_of_the_definition_decides_about_retries() -> None:
    run = a_single_run()
    run.gives("extract", raised())

    first = run.execute()
    run.hands.clock.time += SECOND
    second = run.execute()

    assert (first.retryable, second.retryable) == (True, False)
    assert run.state.status is Status.FAILED


def test_a_suspension_may_ask_to_wait_for_ever() -> None:
    run = Run(Hands(waiting), "waiting")
    run.gives("embed", suspended(every=timedelta.max.total_seconds(), at_most=timedelta.max.total_seconds()))

    result = run.execute("embed")

    assert result.next_poll_at is not None
    assert result.next_poll_at.year == 9999


# -- payloads ---------------------------------------------------------------------------------------------------------


def test_a_large_output_is_put_under_a_key_that_contains_the_attempts_token() -> None:
    run = a_single_run(Limits(payload_inline_bytes_max=31))
    output = b'{"words":1234567890,"more":"x"}'
    run.gives("extract", completed(output + b" "))

    result = run.execute()

    stored = run.state.stages["extract"].output
    assert stored is not None
    assert stored.blob is not None
    assert run.attempts[0].token in stored.blob.key.split("/")
    assert run.id in stored.blob.key.split("/")
    assert stored.blob.digest == hashlib.sha256(output + b" ").hexdigest()
    assert run.hands.blobs.stored == {stored.blob.key: output + b" "}
    assert result.outcome == "completed"


def test_an_output_of_exactly_the_bound_stays_in_the_history() -> None:
    run = a_single_run(Limits(payload_inline_bytes_max=31))
    run.gives("extract", completed(b'{"words":1234567890,"more":"x"}'))

    run.execute()

    assert run.hands.blobs.stored == {}


def test_two_attempts_never_write_the_same_key() -> None:
    run = a_single_run(Limits(payload_inline_bytes_max=1))

    def body(_: Attempt) -> BodyOutcome:
        run.lose()
        return completed()

    run.gives("extract", body)
    run.execute()
    run.gives("extract", completed())
    run.execute()

    outputs = [key for key in run.hands.blobs.puts if key.endswith("output.json")]
    assert len(set(outputs)) == len(outputs) == 2


@pytest.mark.parametrize(
    "outcome, field",
    [(completed(b'"' + b"x" * 100 + b'"'), "Output"), (completed(artifacts={"chart": b"x" * 100}), 'Artifact "chart"')],
    ids=["output", "artifact"],
)
def test_a_result_beyond_the_limit_fails_the_stage_for_good(outcome: BodyOutcome, field: str) -> None:
    run = a_single_run(Limits(payload_bytes_max=64))
    run.gives("extract", outcome)

    result = run.execute()

    assert (result.outcome, result.retryable) == ("failed", False)
    assert result.error is not None
    assert result.error.type == "PayloadRefused"
    assert result.error.message.startswith(f'{field} of stage "extract"')
    assert run.state.status is Status.FAILED


def test_artifacts_are_always_stored_apart() -> None:
    run = a_single_run()
    run.gives("extract", completed(artifacts={"chart.svg": b"<svg/>"}))

    run.execute()

    (blob,) = run.state.stages["extract"].artifacts.values()
    assert run.hands.blobs.stored == {blob.key: b"<svg/>"}
    assert run.attempts[0].token in blob.key


def damaged(hands: Hands) -> None:
    (key,) = hands.blobs.stored
    hands.blobs.stored[key] = b'{"words":9}'


@pytest.mark.parametrize(
    "damage, error",
    [(damaged, "CorruptHistory"), (lambda hands: hands.blobs.stored.clear(), "BlobNotFound")],
    ids=["changed", "gone"],
)
def test_a_payload_that_is_not_what_was_recorded_fails_the_stage_that_needs_it(
    damage: Callable[[Hands], None], error: str
) -> None:
    run = Run(Hands(documents, limits=Limits(payload_inline_bytes_max=40)), "documents")
    run.gives("extract", completed(b'{"words":3,"more":"' + b"x" * 40 + b'"}'))
    run.execute("extract")

    damage(run.hands)
    result = run.execute("keywords")

    assert result.error is not None
    assert (result.outcome, result.retryable, result.error.type) == ("failed", False, error)


def test_large_outputs_are_loaded_for_the_next_group_and_for_declared_dependencies_only() -> None:
    run = Run(Hands(documents, limits=Limits(payload_inline_bytes_max=30)), "documents")
    for stage_id in ("extract", "keywords", "language", "report"):
        run.gives(stage_id, completed(b'{"words":3,"of":"' + stage_id.encode() * 5 + b'"}'))
        run.execute(stage_id)
    run.execute("archive")

    by_stage = {attempt.stage.id: attempt for attempt in run.attempts}
    assert set(by_stage["keywords"].outputs) == {"extract"}
    assert set(by_stage["report"].outputs) == {"extract", "keywords", "language"}
    assert set(by_stage["archive"].outputs) == {"report"}
    assert by_stage["archive"].offloaded == {"extract", "keywords", "language"}


def test_an_end_that_the_store_refuses_is_recorded_as_a_failure_instead() -> None:
    run = a_single_run()

    def refuse() -> None:
        raise PayloadRefused("Bodies", "it contains a NUL character", field="bodies")

    def body(_: Attempt) -> BodyOutcome:
        run.hands.store.meanwhile = [refuse]
        return completed()

    run.gives("extract", body)
    result = run.execute()

    assert result.error is not None
    assert (result.outcome, result.error.type, result.retryable) == ("failed", "PayloadRefused", False)
    assert run.state.status is Status.FAILED


def test_an_error_that_has_no_encoding_is_recorded_as_a_refusal() -> None:
    run = a_single_run()
    run.gives("extract", Raised(error=an_error(message="\ud800")))

    result = run.execute()

    assert result.error is not None
    assert (result.error.type, run.state.status) == ("PayloadRefused", Status.FAILED)


# -- conflicts --------------------------------------------------------------------------------------------------------


def test_the_end_of_an_attempt_never_gives_up_because_of_conflicts() -> None:
    run = a_single_run()

    def body(_: Attempt) -> BodyOutcome:
        run.hands.store.meanwhile = [run.annotate, lambda: None] * 25
        return completed()

    run.gives("extract", body)

    assert run.execute().outcome == "completed"
    assert [fact.type for fact in run.hands.facts(run.id)].count("annotation.created") == 25


def test_a_start_gives_up_after_many_conflicts_and_executes_nothing() -> None:
    run = a_single_run()
    run.hands.store.meanwhile = [run.annotate, lambda: None] * 25

    with pytest.raises(StaleVersion):
        run.execute()

    assert run.attempts == []
    assert run.state.stages["extract"].status is Status.PENDING


# -- runs that SQL created --------------------------------------------------------------------------------------------


def test_a_run_that_was_created_unchecked_is_executed_with_its_complete_configuration() -> None:
    run = a_single_run()
    with_creation(run, checked=False, config={"extract": {"depth": {"chapters": 7}}})

    run.execute()

    assert run.attempts[0].config == {"extract": {"max_chars": 100, "depth": {"chapters": 7, "pages": 2}}}


def test_who_asks_the_owner_without_a_token_is_told_that_it_executes_its_own_stages() -> None:
    state = a_run("extract").state
    moment = Moment(now=NOW, append_id="a", session="s", starts=5)

    decision = decide_start(state, ExecuteJob(run_id=state.run_id, stage_id="extract"), moment)

    assert not decision.facts
    assert isinstance(decision.result, ExecuteJobResult)
    assert decision.result.ghost
