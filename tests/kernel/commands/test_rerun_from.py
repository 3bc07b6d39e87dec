"""`run.rerunFrom`."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest

from kernel.commands.cancel_run import CancelRun
from kernel.commands.create_run import CreateRun
from kernel.commands.execute_job import ExecuteJob
from kernel.commands.poll_suspended_stages import poll_stage
from kernel.commands.rerun_from import RerunFrom, RerunFromResult
from kernel.errors import ErrorInfo, IdempotencyKeyReused, InvalidCommand, RunNotFound, RunNotRerunnable, StageNotFound
from kernel.errors import Unavailable as StoreAway
from kernel.model.attempts import Raised
from kernel.model.machine import Status
from kernel.payloads import Limits
from kernel.ports.executor import BodyCompleted, BodySuspended, CheckReady
from tests.kernel.by_hand import Hands, drive
from tests.kernel.definitions import Doc, documents, single, waiting
from tests.kernel.stories import NOW, OUTPUT, SECOND, a_run, an_error

STAGES = ["extract", "keywords", "language", "report", "archive"]
LARGE = b'{"words":1234567890}'


def a_completed_run(hands: Hands, workflow_id: str = "documents", stages: list[str] = STAGES) -> str:
    run_id = hands.dispatch(CreateRun(workflow_id=workflow_id, input=Doc(path="a.txt"))).run_id
    execute(hands, run_id, stages)
    return run_id


def execute(hands: Hands, run_id: str, stages: list[str]) -> None:
    for stage_id in stages:
        hands.dispatch(ExecuteJob(run_id=run_id, stage_id=stage_id))


def with_blobs() -> Hands:
    return Hands(documents, single, waiting, limits=Limits(payload_inline_bytes_max=12))


def statuses(hands: Hands, run_id: str) -> dict[str, tuple[str, int]]:
    return {stage.id: (stage.status.value, stage.execution) for stage in hands.state(run_id).stages.values()}


# -- what is done again ------------------------------------------------------------------------------------------------


def test_the_stages_group_and_the_later_ones_begin_a_new_execution_and_earlier_ones_stay() -> None:
    hands = Hands(documents)
    run_id = a_completed_run(hands)

    result = hands.dispatch(RerunFrom(run_id=run_id, from_stage_id="keywords"))

    assert result == RerunFromResult(from_stage_id="keywords", discarded=("keywords", "language", "report", "archive"))
    assert statuses(hands, run_id) == {
        "extract": ("COMPLETED", 1),
        "keywords": ("PENDING", 2),
        "language": ("PENDING", 2),
        "report": ("PENDING", 2),
        "archive": ("PENDING", 2),
    }
    assert hands.kinds(run_id)[-1] == ["run.rerun", "stage.scheduled", "stage.scheduled"]


def test_completed_siblings_can_be_kept() -> None:
    story = a_run("a", "b c d", "e")
    story.start("a")
    story.complete("a")
    for stage_id in ("b", "c", "d"):
        story.start(stage_id)
    story.complete("b")
    story.end("c", Raised(error=an_error(retryable=False)))
    story.end("d", Raised(error=an_error(retryable=False)))

    result = story.rerun("c", keep_completed=True)

    assert result.discarded == ("c", "d", "e")
    assert (story.stage("b").status, story.stage("b").execution) == (Status.COMPLETED, 1)
    assert story.last == ["run.rerun", "stage.scheduled", "stage.scheduled"]


def test_the_stage_itself_is_never_kept() -> None:
    hands = Hands(documents)
    run_id = a_completed_run(hands)

    result = hands.dispatch(RerunFrom(run_id=run_id, from_stage_id="keywords", keep_completed=True))

    assert result.discarded == ("keywords", "report", "archive")
    execute(hands, run_id, ["keywords", "report", "archive"])
    assert hands.state(run_id).status is Status.COMPLETED


def test_a_run_that_is_rerun_comes_to_its_end_again_and_earlier_stages_are_not_executed_again() -> None:
    hands = Hands(documents)
    run_id = a_completed_run(hands)
    hands.executor.attempts.clear()

    hands.dispatch(RerunFrom(run_id=run_id, from_stage_id="report"))
    execute(hands, run_id, STAGES)

    assert [(a.stage.id, a.execution, a.number) for a in hands.executor.attempts] == [
        ("report", 2, 1),
        ("archive", 2, 1),
    ]
    assert hands.executor.attempts[0].outputs["extract"] == OUTPUT
    assert hands.state(run_id).status is Status.COMPLETED


def test_a_rerun_from_the_first_stage_begins_with_the_input_of_the_run() -> None:
    hands = Hands(single)
    run_id = a_completed_run(hands, "single", ["extract"])

    hands.dispatch(RerunFrom(run_id=run_id, from_stage_id="extract"))
    execute(hands, run_id, ["extract"])

    assert [attempt.input for attempt in hands.executor.attempts] == [b'{"path":"a.txt","weight":1.0}'] * 2


def test_attempts_count_from_one_and_the_retry_budget_is_whole_again() -> None:
    hands = Hands(single)
    hands.executor.outcomes["extract"] = Raised(error=ErrorInfo(type="ValueError", message="no", retryable=True))
    run_id = a_completed_run(hands, "single", ["extract"])
    hands.clock.time += 5 * SECOND
    execute(hands, run_id, ["extract"])
    assert hands.state(run_id).status is Status.FAILED

    hands.dispatch(RerunFrom(run_id=run_id, from_stage_id="extract"))

    stage = hands.state(run_id).stages["extract"]
    assert (stage.execution, stage.attempt, stage.failures, stage.error) == (2, 0, 0, None)
    execute(hands, run_id, ["extract"])
    assert (hands.executor.attempts[-1].execution, hands.executor.attempts[-1].number) == (2, 1)
    assert hands.state(run_id).status is Status.RUNNING


def test_output_error_and_totals_of_what_is_redone_are_cleared() -> None:
    hands = Hands(documents)
    body = BodyCompleted(output=OUTPUT, metrics={"total_cost": 0.25, "total_tokens": 7}, artifacts={})
    hands.executor.outcomes = dict.fromkeys(STAGES, body)
    run_id = a_completed_run(hands)
    assert (hands.state(run_id).total_cost, hands.state(run_id).total_tokens) == (Decimal("1.25"), 35)

    hands.dispatch(RerunFrom(run_id=run_id, from_stage_id="report"))

    head = hands.store.runs[run_id].head
    assert (head.total_cost, head.total_tokens) == (Decimal("0.75"), 21)
    assert (head.status, head.error, head.completed_at) == (Status.RUNNING, None, None)
    assert hands.state(run_id).stages["report"].output is None


def test_the_duration_of_a_rerun_counts_from_the_rerun() -> None:
    hands = Hands(single)
    run_id = a_completed_run(hands, "single", ["extract"])
    hands.clock.time += timedelta(hours=1)

    hands.dispatch(RerunFrom(run_id=run_id, from_stage_id="extract"))
    hands.clock.time += 2 * SECOND
    execute(hands, run_id, ["extract"])

    state = hands.state(run_id)
    assert state.started_at is not None
    assert state.ended_at is not None
    assert state.ended_at - state.started_at == 2 * SECOND


def test_it_can_be_claimed_at_once() -> None:
    hands = Hands(documents)
    run_id = a_completed_run(hands)
    hands.clock.time += timedelta(hours=1)

    hands.dispatch(RerunFrom(run_id=run_id, from_stage_id="report"))

    assert hands.store.runs[run_id].head.wake_at == hands.clock.time


def test_a_stage_of_a_queue_is_scheduled_in_its_queue_again() -> None:
    story = a_run("a", queues={"a": "gpu"})
    story.cancel()

    story.rerun("a")

    fact = story.facts[-1]
    assert (fact.type, getattr(fact, "queue", None), getattr(fact, "execution", None)) == ("stage.scheduled", "gpu", 2)


def test_a_rerun_that_is_cancelled_leaves_nothing_active() -> None:
    hands = Hands(documents)
    run_id = a_completed_run(hands)
    hands.dispatch(RerunFrom(run_id=run_id, from_stage_id="keywords"))

    hands.dispatch(CancelRun(run_id=run_id))

    assert hands.kinds(run_id)[-1] == ["stage.cancelled"] * 2 + ["stage.skipped"] * 2 + ["run.cancelled"]


# -- when it is refused ------------------------------------------------------------------------------------------------


def fail_extract(hands: Hands) -> str:
    hands.executor.outcomes["extract"] = Raised(error=ErrorInfo(type="ValueError", message="no", retryable=False))
    run_id = a_completed_run(hands, stages=["extract"])
    hands.executor.outcomes.clear()
    return run_id


def cancel_at_once(hands: Hands) -> str:
    run_id = a_completed_run(hands, stages=[])
    hands.dispatch(CancelRun(run_id=run_id))
    return run_id


@pytest.mark.parametrize("end", [a_completed_run, fail_extract, cancel_at_once])
def test_whatever_has_ended_can_be_rerun(end: Callable[[Hands], str]) -> None:
    hands = Hands(documents)
    run_id = end(hands)

    hands.dispatch(RerunFrom(run_id=run_id, from_stage_id="extract"))
    execute(hands, run_id, STAGES)

    assert hands.state(run_id).status is Status.COMPLETED


@pytest.mark.parametrize("stages", [[], ["extract"]], ids=["pending", "running"])
def test_an_active_run_is_not_rerun(stages: list[str]) -> None:
    hands = Hands(documents)
    run_id = a_completed_run(hands, stages=stages)
    before = hands.state(run_id)

    with pytest.raises(RunNotRerunnable, match="wait for its end, or cancel it") as refused:
        hands.dispatch(RerunFrom(run_id=run_id, from_stage_id="extract"))

    assert refused.value.run_id == run_id
    assert hands.state(run_id) == before


def test_a_run_that_waits_is_refused_in_the_word_that_listings_have_for_it() -> None:
    hands = Hands(waiting)
    run_id = hands.dispatch(CreateRun(workflow_id=waiting.id, input=Doc(path="a"))).run_id
    hands.executor.outcomes["embed"] = BodySuspended(state=b"{}", poll_interval_s=30, max_wait_s=3600, metrics={})
    hands.dispatch(ExecuteJob(run_id=run_id, stage_id="embed"))

    with pytest.raises(RunNotRerunnable, match="it is SUSPENDED"):
        hands.dispatch(RerunFrom(run_id=run_id, from_stage_id="embed"))


@pytest.mark.parametrize("end", [fail_extract, cancel_at_once])
def test_a_stage_whose_predecessor_has_not_completed_is_refused_with_the_one_to_begin_with(
    end: Callable[[Hands], str],
) -> None:
    hands = Hands(documents)
    run_id = end(hands)

    with pytest.raises(RunNotRerunnable, match=r'stage "extract", before "report", is .*; rerun from "extract"'):
        hands.dispatch(RerunFrom(run_id=run_id, from_stage_id="report"))


def test_an_unknown_stage_is_refused_with_those_there_are() -> None:
    hands = Hands(single)
    run_id = a_completed_run(hands, "single", ["extract"])

    with pytest.raises(StageNotFound) as refused:
        hands.dispatch(RerunFrom(run_id=run_id, from_stage_id="extrakt"))

    assert refused.value.known == ("extract",)


def test_an_unknown_run_is_refused() -> None:
    with pytest.raises(RunNotFound):
        Hands(single).dispatch(RerunFrom(run_id="nobody", from_stage_id="extract", idempotency_key="k"))


def test_a_history_that_is_too_long_already_is_not_made_longer() -> None:
    hands = Hands(single, limits=Limits(history_events_max=5))
    run_id = a_completed_run(hands, "single", ["extract"])
    hands.limits = Limits(history_events_max=hands.state(run_id).seq)

    with pytest.raises(RunNotRerunnable, match=r"history_events_max.*start a new run"):
        hands.dispatch(RerunFrom(run_id=run_id, from_stage_id="extract"))


def test_a_run_that_somebody_reruns_at_the_same_time_is_rerun_once() -> None:
    hands = Hands(single)
    run_id = a_completed_run(hands, "single", ["extract"])
    again = RerunFrom(run_id=run_id, from_stage_id="extract")
    hands.store.meanwhile = [lambda: hands.dispatch(again)]

    with pytest.raises(RunNotRerunnable):
        hands.dispatch(again)

    assert hands.state(run_id).stages["extract"].execution == 2


# -- keys --------------------------------------------------------------------------------------------------------------


def keyed(run_id: str, stage_id: str = "report", *, keep_completed: bool = False) -> RerunFrom:
    return RerunFrom(run_id=run_id, from_stage_id=stage_id, keep_completed=keep_completed, idempotency_key="k")


def test_the_same_key_is_one_rerun_whether_the_run_is_active_again_or_has_ended_again() -> None:
    hands = Hands(documents)
    run_id = a_completed_run(hands)
    first = hands.dispatch(keyed(run_id))

    assert hands.dispatch(keyed(run_id)) == first
    execute(hands, run_id, ["report", "archive"])
    assert hands.dispatch(keyed(run_id)) == first

    assert hands.state(run_id).stages["report"].execution == 2


def test_the_key_stands_in_the_append_of_the_rerun() -> None:
    hands = Hands(documents)
    run_id = a_completed_run(hands)

    hands.dispatch(keyed(run_id))

    key = hands.store.sent[-1].key
    assert key is not None
    assert (key.command_type, key.scope, key.key) == ("run.rerunFrom", run_id, "k")
    assert key.expires_at == NOW + timedelta(days=30)


@pytest.mark.parametrize(
    "stage_id, keep, path", [("extract", False, "from_stage_id"), ("report", True, "keep_completed")]
)
def test_a_key_with_other_arguments_is_refused_with_the_difference(stage_id: str, path: str, *, keep: bool) -> None:
    hands = Hands(documents)
    run_id = a_completed_run(hands)
    hands.dispatch(keyed(run_id))

    with pytest.raises(IdempotencyKeyReused) as refused:
        hands.dispatch(keyed(run_id, stage_id, keep_completed=keep))

    assert (refused.value.run_id, refused.value.paths) == (run_id, (path,))


def test_of_two_at_once_with_one_key_both_get_the_same_answer() -> None:
    hands = Hands(documents)
    run_id = a_completed_run(hands)
    others: list[RerunFromResult] = []
    hands.store.meanwhile = [lambda: others.append(hands.dispatch(keyed(run_id)))]

    assert [hands.dispatch(keyed(run_id))] == others
    assert hands.state(run_id).stages["report"].execution == 2


def test_a_key_that_has_expired_is_a_new_rerun() -> None:
    hands = Hands(documents)
    run_id = a_completed_run(hands)
    hands.dispatch(keyed(run_id))
    execute(hands, run_id, ["report", "archive"])
    hands.store.keys.clear()

    assert hands.dispatch(keyed(run_id, "archive")).discarded == ("archive",)
    assert hands.dispatch(keyed(run_id, "archive")).discarded == ("archive",)
    assert hands.state(run_id).stages["archive"].execution == 3


def test_an_empty_key_is_refused() -> None:
    with pytest.raises(InvalidCommand, match="idempotency_key"):
        RerunFrom(run_id="r", from_stage_id="s", idempotency_key=" ")


# -- blobs -------------------------------------------------------------------------------------------------------------


def test_the_blobs_of_what_is_discarded_are_deleted_and_the_others_are_not() -> None:
    hands = with_blobs()
    body = BodyCompleted(output=LARGE, metrics={}, artifacts={"chart": b"chart"})
    hands.executor.outcomes = dict.fromkeys(STAGES, body)
    run_id = a_completed_run(hands)
    assert len(hands.blobs.stored) == 11

    hands.dispatch(RerunFrom(run_id=run_id, from_stage_id="report"))

    left = [key.removeprefix(f"runs/documents/{run_id}/").split("/")[0] for key in hands.blobs.stored]
    assert sorted(left) == sorted(["extract", "keywords", "language"] * 2 + [left[0]])
    assert left[0].startswith("input-")


def test_what_a_suspended_stage_kept_is_deleted_too() -> None:
    hands = with_blobs()
    hands.executor.outcomes["embed"] = BodySuspended(state=LARGE, poll_interval_s=1, max_wait_s=60, metrics={})
    hands.executor.findings["embed"] = CheckReady(output=LARGE, metrics={}, artifacts={})
    run_id = a_completed_run(hands, "waiting", ["embed"])
    assert drive(poll_stage(run_id, "embed", hands.kernel().ports))
    assert len(hands.blobs.stored) == 3

    hands.dispatch(RerunFrom(run_id=run_id, from_stage_id="embed"))

    assert len(hands.blobs.stored) == 1


def test_blobs_are_deleted_after_the_append_and_their_failure_is_not_that_of_the_rerun() -> None:
    hands = with_blobs()
    hands.executor.outcomes["extract"] = BodyCompleted(output=LARGE, metrics={}, artifacts={})
    run_id = a_completed_run(hands, "single", ["extract"])
    seen: list[Status] = []

    async def away(_key: str, /) -> None:
        seen.append(hands.state(run_id).status)
        raise StoreAway("the blob store is away")

    delete, hands.blobs.delete = hands.blobs.delete, away  # type: ignore[method-assign]
    hands.dispatch(RerunFrom(run_id=run_id, from_stage_id="extract", idempotency_key="k"))
    assert seen == [Status.RUNNING]
    assert len(hands.blobs.stored) == 2

    hands.blobs.delete = delete  # type: ignore[method-assign]
    hands.dispatch(RerunFrom(run_id=run_id, from_stage_id="extract", idempotency_key="k"))
    assert len(hands.blobs.stored) == 1


def test_a_refused_rerun_deletes_nothing() -> None:
    hands = with_blobs()
    hands.executor.outcomes["extract"] = BodyCompleted(output=LARGE, metrics={}, artifacts={})
    run_id = a_completed_run(hands, stages=["extract"])

    with pytest.raises(RunNotRerunnable):
        hands.dispatch(RerunFrom(run_id=run_id, from_stage_id="extract"))

    assert len(hands.blobs.stored) == 2
