"""`run.reapStuck`."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from kernel.authoring import StageContext, WorkflowBuilder, stage
from kernel.commands.cancel_run import CancelRun
from kernel.commands.create_run import CreateRun
from kernel.commands.execute_job import ExecuteJob
from kernel.commands.reap_stuck_runs import LOOKED_AT, ReapStuckRuns, ReapStuckRunsResult, decide_queue_again
from kernel.commands.transition_run import TransitionRun
from kernel.errors import ErrorInfo, InvalidCommand
from kernel.journal import append_of
from kernel.model.attempts import Raised
from kernel.model.consequences import ensure_started
from kernel.model.draft import Draft, Moment
from kernel.model.facts import StageCompleted, StageScheduled, StageStarted
from kernel.model.jobs import QueuedJob, jobs_of
from kernel.model.machine import Status
from kernel.payloads import Limits
from kernel.ports.executor import BodySuspended
from tests.kernel.by_hand import HandRegistry, Hands, drive
from tests.kernel.definitions import Doc, documents, single, waiting
from tests.kernel.stories import NOW, Story, a_run, an_error

NOTHING = ReapStuckRunsResult(failed=0, healed=0)
HEALED = ReapStuckRunsResult(failed=0, healed=1)


@stage("render", queue="gpu")
def render(ctx: StageContext[Doc]) -> Doc:
    return ctx.input


queued = WorkflowBuilder("queued", input=Doc, output=Doc).pipe(render).build()


def a_created_run(hands: Hands, workflow_id: str = "documents") -> str:
    return hands.dispatch(CreateRun(workflow_id=workflow_id, input=Doc(path="a.txt"))).run_id


def strand(hands: Hands, run_id: str) -> str:
    """Damage the head: nobody owns the run and it is never due."""
    run = hands.store.runs[run_id]
    run.owner, run.head = None, replace(run.head, wake_at=None)
    return run_id


def pending(hands: Hands) -> str:
    return a_created_run(hands)


def in_a_group(hands: Hands) -> str:
    run_id = a_created_run(hands)
    hands.dispatch(ExecuteJob(run_id=run_id, stage_id="extract"))
    return run_id


def retrying(hands: Hands) -> str:
    hands.executor.outcomes["extract"] = Raised(error=ErrorInfo(type="ValueError", message="no", retryable=True))
    return in_a_group(hands)


def suspended(hands: Hands) -> str:
    state = BodySuspended(state=b'{"batch":7}', poll_interval_s=3600, max_wait_s=86_400, metrics={})
    hands.executor.outcomes["embed"] = state
    run_id = a_created_run(hands, "waiting")
    hands.dispatch(ExecuteJob(run_id=run_id, stage_id="embed"))
    return run_id


def delayed(hands: Hands) -> str:
    at = NOW + timedelta(days=3)
    return hands.dispatch(CreateRun(workflow_id="documents", input=Doc(path="a.txt"), run_at=at)).run_id


EVERY_WAIT = [pending, in_a_group, retrying, suspended, delayed]


# -- healthy, however long it takes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", EVERY_WAIT)
def test_a_run_that_waits_is_left_alone_however_long_it_does(waits: Callable[[Hands], str]) -> None:
    hands = Hands(documents, waiting)
    run_id = waits(hands)
    before = hands.state(run_id), hands.store.runs[run_id].head
    hands.clock.time += timedelta(days=400)

    assert hands.dispatch(ReapStuckRuns()) == NOTHING
    assert (hands.state(run_id), hands.store.runs[run_id].head) == before


def test_a_stage_that_runs_longer_than_any_threshold_under_a_live_owner_is_left_alone() -> None:
    hands = Hands(documents)
    run_id = in_a_group(hands)
    run = hands.store.runs[run_id]
    run.owner, run.head = "a-session", replace(run.head, wake_at=None)
    hands.clock.time += timedelta(days=400)

    assert hands.dispatch(ReapStuckRuns()) == NOTHING


@pytest.mark.parametrize("end", ["completed", "cancelled"])
def test_a_run_that_has_ended_is_left_alone(end: str) -> None:
    hands = Hands(single)
    run_id = a_created_run(hands, "single")
    hands.dispatch(ExecuteJob(run_id=run_id, stage_id="extract") if end == "completed" else CancelRun(run_id=run_id))

    assert hands.dispatch(ReapStuckRuns()) == NOTHING


def test_a_parked_run_waits_for_a_human_and_is_left_alone() -> None:
    hands = Hands(documents)
    run_id = strand(hands, pending(hands))
    hands.store.runs[run_id].parked_reason = "definition_changed"

    assert hands.dispatch(ReapStuckRuns()) == NOTHING


# -- healed ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", EVERY_WAIT)
def test_a_run_that_nobody_would_look_at_again_gets_its_due_date_back(waits: Callable[[Hands], str]) -> None:
    hands = Hands(documents, waiting)
    run_id = waits(hands)
    before, head = hands.state(run_id), hands.store.runs[run_id].head
    strand(hands, run_id)

    assert hands.dispatch(ReapStuckRuns()) == HEALED
    assert hands.state(run_id) == before
    assert hands.store.runs[run_id].head == head
    assert hands.dispatch(ReapStuckRuns()) == NOTHING


def test_a_run_whose_last_stage_ended_without_consequences_is_advanced() -> None:
    hands = Hands(documents)
    run_id = a_created_run(hands)
    end_without_consequences(hands, run_id)
    strand(hands, run_id)

    assert hands.dispatch(ReapStuckRuns()) == HEALED

    assert hands.kinds(run_id)[-1] == ["stage.scheduled", "stage.scheduled"]
    assert hands.store.runs[run_id].head.wake_at is not None


def end_without_consequences(hands: Hands, run_id: str) -> None:
    """What an engine would leave that records an end and its consequences in two steps, and died in between."""
    moment = Moment(now=NOW, append_id=hands.ids.append_id())
    draft = Draft(hands.state(run_id), moment)
    ensure_started(draft)
    draft.add(StageScheduled(stage_id="extract", execution=1, attempt=1))
    draft.add(StageStarted(stage_id="extract", execution=1, attempt=1, token="t"))
    draft.add(StageCompleted(stage_id="extract", execution=1, attempt=1, duration_s=0.0), b'{"words":3}')
    drive(hands.store.append(append_of(draft.decided(None), moment, mode="foreign", expected=1)))


def test_a_head_that_has_not_noticed_the_end_of_its_run_is_corrected() -> None:
    hands = Hands(single)
    run_id = a_created_run(hands, "single")
    active = hands.store.runs[run_id].head
    hands.dispatch(ExecuteJob(run_id=run_id, stage_id="extract"))
    ended, hands.store.runs[run_id].head = hands.store.runs[run_id].head, replace(active, wake_at=None)

    assert hands.dispatch(ReapStuckRuns()) == HEALED
    assert hands.store.runs[run_id].head == ended


def test_a_history_that_nobody_can_read_becomes_due_so_that_it_is_set_aside_and_harms_no_other() -> None:
    hands = Hands(documents)
    bad, good = (strand(hands, in_a_group(hands)) for _ in range(2))
    rows = hands.store.runs[bad].rows
    rows[-1:] = [replace(rows[-1], events=b'[{"type":"run.teleported"}]')]

    assert hands.dispatch(ReapStuckRuns()) == ReapStuckRunsResult(failed=0, healed=2)
    assert hands.store.runs[bad].head.wake_at == NOW
    assert hands.store.runs[good].head.wake_at == NOW


def test_a_run_that_somebody_takes_meanwhile_is_left_to_them() -> None:
    hands = Hands(documents)
    run_id = strand(hands, in_a_group(hands))
    hands.store.meanwhile = [lambda: setattr(hands.store.runs[run_id], "owner", "a-session")]

    assert hands.dispatch(ReapStuckRuns()) == NOTHING
    assert hands.store.runs[run_id].owner == "a-session"


def test_no_more_runs_are_repaired_than_asked_for_and_the_next_look_finds_the_rest() -> None:
    hands = Hands(documents)
    for _ in range(5):
        strand(hands, pending(hands))

    healed = [hands.dispatch(ReapStuckRuns(max_runs=2)).healed for _ in range(4)]

    assert healed == [2, 2, 1, 0]


def test_suspects_behind_many_that_wait_for_their_queue_are_found() -> None:
    hands = Hands(documents)
    for _ in range(LOOKED_AT + 1):
        run = hands.store.runs[strand(hands, pending(hands))]
        run.head = replace(run.head, phase="queued")
    last = strand(hands, pending(hands))

    assert hands.dispatch(ReapStuckRuns()) == HEALED
    assert hands.store.runs[last].head.wake_at == NOW


def queue_again(story: Story, *, seen: int | None = None) -> bool:
    registry = HandRegistry([documents])
    registry.accepted.add(story.state.fingerprint)
    wanted = story.state.seq if seen is None else seen
    return story.tell(lambda state, moment: decide_queue_again(state, moment, seen=wanted, registry=registry))


def a_story_with_a_queue() -> Story:
    story = a_run("extract", queues={"extract": "gpu"})
    story.transition()
    return story


def test_a_stage_whose_job_is_gone_is_queued_again_and_due() -> None:
    story = a_story_with_a_queue()
    story.wait(60)

    assert queue_again(story)

    assert story.last == ["stage.scheduled"]
    assert jobs_of(story.state) == {"extract": QueuedJob(stage_id="extract", queue="gpu", due_at=story.now)}


def test_an_attempt_whose_job_is_gone_is_lost_and_queued_again() -> None:
    story = a_story_with_a_queue()
    story.start("extract", token="job-1")

    assert queue_again(story)

    assert (story.last, story.stage("extract").lost) == (["stage.retrying"], 1)
    assert isinstance(jobs_of(story.state)["extract"], QueuedJob)


def test_a_retry_whose_job_is_gone_is_not_queued_before_its_time() -> None:
    story = a_story_with_a_queue()
    story.start("extract", token="job-1")
    story.end("extract", Raised(error=an_error()))

    assert not queue_again(story)
    story.wait(1.5)
    assert queue_again(story)


def test_what_has_changed_since_it_was_seen_is_not_queued_again() -> None:
    story = a_story_with_a_queue()

    assert not queue_again(story, seen=story.state.seq - 1)


def test_a_run_without_its_job_is_found_and_queued_again() -> None:
    hands = Hands(queued)
    run_id = a_created_run(hands, "queued")
    hands.dispatch(TransitionRun(run_id=run_id))
    assert hands.dispatch(ReapStuckRuns()) == NOTHING
    hands.store.jobless.add(run_id)
    hands.clock.time += timedelta(seconds=1)

    assert hands.dispatch(ReapStuckRuns()) == HEALED

    assert hands.kinds(run_id)[-1] == ["stage.scheduled"]
    jobs = hands.store.sent[-1].jobs
    assert jobs is not None
    assert [job.stage_id for job in jobs.put] == ["render"]


# -- ended -------------------------------------------------------------------------------------------------------------


def test_a_run_whose_history_is_too_long_is_failed_with_everything_that_is_open_of_it() -> None:
    hands = Hands(documents, limits=Limits(history_events_max=3))
    run_id = strand(hands, in_a_group(hands))

    assert hands.dispatch(ReapStuckRuns()) == ReapStuckRunsResult(failed=1, healed=0)

    state = hands.state(run_id)
    assert state.status is Status.FAILED
    assert state.error is not None
    assert state.error.error.type == "HistoryTooLong"
    assert "history_events_max" in state.error.error.message
    assert not any(stage.active for stage in state.stages.values())


def test_a_run_at_the_limit_goes_on() -> None:
    hands = Hands(documents)
    run_id = strand(hands, in_a_group(hands))
    hands.limits = Limits(history_events_max=hands.state(run_id).seq)

    assert hands.dispatch(ReapStuckRuns()) == HEALED


def test_a_run_of_a_workflow_that_nobody_knows_waits_for_ever_unless_there_is_a_grace() -> None:
    hands = Hands(documents)
    run_id = pending(hands)
    hands.clock.time += timedelta(days=2)
    assert hands.dispatch(ReapStuckRuns()) == NOTHING

    hands.limits = Limits(unknown_workflow_grace=timedelta(days=1))

    assert hands.dispatch(ReapStuckRuns()) == ReapStuckRunsResult(failed=1, healed=0)
    error = hands.state(run_id).error
    assert error is not None
    assert (error.error.type, "unknown_workflow_grace" in error.error.message) == ("WorkflowNotFound", True)


def test_a_run_that_a_process_which_knows_it_has_taken_meanwhile_is_not_given_up() -> None:
    hands = Hands(documents, limits=Limits(unknown_workflow_grace=timedelta(days=1)))
    run_id = pending(hands)
    hands.clock.time += timedelta(days=2)
    hands.store.runs[run_id].owner = "a-session"

    assert hands.dispatch(ReapStuckRuns()) == NOTHING


def test_a_bound_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(InvalidCommand, match="max_runs"):
        ReapStuckRuns(max_runs=0)
