"""What holds for every workflow and every course of events.

Two ways to look for a counterexample: do anything at all to a run, in any order, sensible or not; and follow the plan
faithfully while bodies, checks and processes do their worst. A `Witness` stands by in both and checks, after every
append, what may never be different. More examples: LEASEHOLD_TEST_EXAMPLES=1000.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from itertools import cycle

from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.ending import ending_of, ending_of_state
from kernel.errors import IdempotencyInProgress
from kernel.model.attempts import Completed, Drained, Outcome, Raised, Suspended
from kernel.model.execution_plan import ExecutionPlan
from kernel.model.facts import AnnotationCreated, Fact, StageRetrying, StageStarted, decode_facts
from kernel.model.head import head_of
from kernel.model.looks import lay_over
from kernel.model.machine import Status
from kernel.model.plan import Done, Lost, Poll, Start, Transition, WaitForJob, WaitUntil, due, plan
from kernel.model.polls import CheckBroken, Finding, FoundFailed, FoundNotReady, FoundReady
from kernel.model.retry import RetryPolicy
from kernel.model.run import RunState, fold
from kernel.model.steps import decide_step
from kernel.ports.persistence import HeadRow, HistoryRow, StoredHistory
from kernel.replace import replace
from tests.kernel.stories import EXAMPLES, OUTPUT, RUN_ID, Story, a_plan, a_run_of, an_error

TURNS_MAX = 3000
"""Far above what the worst run of these sizes needs; a run that takes longer does not end."""


class Witness:
    """Folds what a story writes, as another process would, and compares."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.seen: list[RunState] = []
        self.facts: list[Fact] = []
        self.starts: Counter[tuple[str, int]] = Counter()
        self.uncounted: Counter[tuple[str, int]] = Counter()
        self.tokens: set[str] = set()

    def check(self) -> None:
        """Look at everything that has been written since the last time."""
        for first_seq, at, events in self.story.rows[len(self.seen) :]:
            facts = decode_facts(events, run_id=RUN_ID)
            assert first_seq == len(self.facts) + 1, "sequence numbers have no gaps"
            self.facts.extend(facts)
            self.seen.append(fold(RUN_ID, [(first_seq, at, facts)], self.seen[-1] if self.seen else None))
            self._count(facts)
        state = self.story.state
        assert lay_over(self.seen[-1], self.story.looks) == state
        assert state.seq == len(self.facts)
        self._check_order(state)
        self._check_end(state)
        self._check_what_comes_next(state)

    def check_prefix(self, rows: int) -> None:
        """Fold the first so many rows from the beginning."""
        assert self.story.folded(rows) == self.seen[rows - 1]

    def _count(self, facts: tuple[Fact, ...]) -> None:
        for fact in facts:
            if isinstance(fact, StageStarted):
                assert fact.token not in self.tokens, "every attempt has a token of its own"
                self.tokens.add(fact.token)
                self.starts[fact.stage_id, fact.execution] += 1
                self.uncounted[fact.stage_id, fact.execution] += bool(fact.resumed)
            elif isinstance(fact, StageRetrying):
                self.uncounted[fact.stage_id, fact.execution] += fact.cause == "drained"
        policy = self.story.policy
        for of_stage, count in self.starts.items():
            assert count <= policy.max_attempts + policy.max_lost + self.uncounted[of_stage]

    def _check_order(self, state: RunState) -> None:
        """Groups take their turns: what comes before is over, what comes after has not begun."""
        for stage in state.stages.values():
            if stage.plan.group > state.group:
                assert stage.attempt == 0
                assert stage.status in {Status.PENDING, Status.SKIPPED}
            elif stage.plan.group < state.group:
                assert stage.status is Status.COMPLETED

    def _check_end(self, state: RunState) -> None:
        if state.ended:
            assert not any(stage.active or stage.token or stage.suspension for stage in state.stages.values())
            assert state.ended_at is not None
            # Who waited for the end reads it without folding the history.
            assert ending_of(self._stored(state)) == ending_of_state(state, {})
        if state.status is Status.COMPLETED:
            assert all(stage.status is Status.COMPLETED for stage in state.stages.values())
            assert state.error is None
        assert (state.error is not None) == (state.status is Status.FAILED)

    def _stored(self, state: RunState) -> StoredHistory:
        head = HeadRow(
            **dict.fromkeys(HeadRow.__dataclass_fields__)
            | {"run_id": RUN_ID, "workflow_id": state.workflow_id, "workflow_version": state.workflow_version}
            | {"seq": state.seq, "head": replace(head_of(state), error=None)}
        )
        rows: list[HistoryRow] = []
        for first_seq, at, events in self.story.rows:
            seq = first_seq + len(decode_facts(events, run_id=RUN_ID)) - 1
            rows.append(
                HistoryRow(first_seq=first_seq, seq=seq, append_id="", session_id=None, at=at, events=events, bodies={})
            )
        return StoredHistory(head=head, rows=rows)

    def _check_what_comes_next(self, state: RunState) -> None:
        """`plan` always has an answer, and `due` is the moment at which the answer is to do something."""
        steps = plan(state, self.story.now, ())
        acts = [step for step in steps if not isinstance(step, WaitUntil | WaitForJob | Done)]
        waits = [step.at for step in steps if isinstance(step, WaitUntil)]
        wake_at = due(state)
        assert steps, "a run that nobody holds has a next step"
        assert len(waits) <= 1
        assert (steps == (Done(),)) == state.ended
        if acts:
            assert wake_at is not None
            assert wake_at <= self.story.now
        else:
            assert ([] if wake_at is None else [wake_at]) == waits
        head = head_of(state)
        assert (head.wake_at, head.phase == "ended") == (wake_at, state.ended)


# -- any workflow -----------------------------------------------------------------------------------------------------


@st.composite
def stories(draw: st.DrawFn) -> Story:
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    queued = draw(st.sampled_from([0, 0, 0, 2, 3]))
    names = [[f"s{group}{letter}" for letter in "abc"[:size]] for group, size in enumerate(sizes, start=1)]
    flat = [name for group in names for name in group]
    the_plan: ExecutionPlan = a_plan(
        *(" ".join(group) for group in names),
        on_failure=draw(st.sampled_from(["finish", "cancel"])),
        queues={name: "gpu" for index, name in enumerate(flat, start=1) if queued and index % queued == 0},
    )
    policy = RetryPolicy(
        max_attempts=draw(st.integers(1, 3)), max_lost=draw(st.integers(0, 2)), jitter=draw(st.booleans())
    )
    return a_run_of(the_plan, policy=policy, starts=draw(st.integers(0, 2)))


def an_outcome(name: str) -> Outcome:
    match name:
        case "raises":
            return Raised(error=an_error())
        case "gives up":
            return Raised(error=an_error(retryable=False))
        case "takes too long":
            return Raised(error=an_error("StageTimeout"), cause="timeout")
        case "names a delay":
            return Raised(error=an_error("RetryAfter"), retry_after=timedelta(minutes=3))
        case "suspends":
            return Suspended(
                state=b'{"batch":7}',
                poll_interval=timedelta(seconds=900),
                max_wait=timedelta(hours=1),
                metrics={"n": 1},
            )
        case "is drained":
            return Drained()
        case _:
            return Completed(output=OUTPUT, metrics={"total_cost": 0.1, "total_tokens": 2})


def a_finding(name: str) -> Finding:
    match name:
        case "not ready":
            return FoundNotReady()
        case "not ready, with news":
            return FoundNotReady(next_check_in=timedelta(minutes=20), state=b'{"batch":8}')
        case "broken":
            return CheckBroken(error=an_error("ConnectionError"))
        case "failed":
            return FoundFailed(error=an_error())
        case "failed for good":
            return FoundFailed(error=an_error(retryable=False))
        case _:
            return FoundReady(output=OUTPUT, metrics={"total_tokens": 3})


# "completes" and "ready" are there more than once, or hardly any run would get far.
OUTCOMES = ["completes", "completes", "raises", "gives up", "takes too long", "names a delay", "suspends", "is drained"]
FINDINGS = ["ready", "ready", "not ready", "not ready, with news", "broken", "failed", "failed for good"]


# -- anything at all --------------------------------------------------------------------------------------------------


def unchanged(story: Story, again: Callable[[], object]) -> None:
    """Do it again, and expect that nothing happens."""
    before = story.state
    again()
    assert story.state == before


def start(story: Story, stage_id: str, number: int) -> None:
    fields = {"idempotency_key": f"key-{number}"} if number % 3 == 0 else {}

    def ask() -> None:
        with suppress(IdempotencyInProgress):
            story.asked(stage_id, **fields)

    ask()
    if fields or story.stage(stage_id).status is Status.RUNNING:
        unchanged(story, ask)


def end(story: Story, stage_id: str, number: int, *, tokens: dict[str, str]) -> None:
    token = story.stage(stage_id).token or tokens.get(stage_id)
    if token is None:
        return
    held = story.stage(stage_id).status is Status.RUNNING
    tokens[stage_id] = token
    outcome = an_outcome(OUTCOMES[number % len(OUTCOMES)])
    before = story.state
    result = story.end(stage_id, outcome, token=token, passes_on=number % 2 == 0, starts=number % 3)
    assert result.ghost is not held
    assert (story.state == before) is not held
    unchanged(story, lambda: story.end(stage_id, outcome, token=token))


def poll(story: Story, stage_id: str, number: int) -> None:
    if story.stage(stage_id).status is not Status.SUSPENDED:
        return
    finding = a_finding(FINDINGS[number % len(FINDINGS)])
    checked = story.suspension(stage_id)
    assert story.poll(stage_id, finding)
    if story.stage(stage_id).suspension != checked:
        unchanged(story, lambda: story.poll(stage_id, finding, checked=checked))


def lose(story: Story, stage_id: str, number: int) -> None:
    if story.stage(stage_id).status is Status.RUNNING:
        story.lose(stage_id, owner=f"session-{number}")


def step(story: Story, stage_id: str, _number: int) -> None:
    token = story.stage(stage_id).token
    if token is not None:
        position = len(story.state.steps.get(stage_id, ()))
        for _ in range(2):
            assert story.tell(
                lambda s, m: decide_step(s, stage_id, token, position=position, name="f", result=b"1", moment=m)
            )
        assert len(story.state.steps[stage_id]) == position + 1


def transition(story: Story, _stage_id: str, number: int) -> None:
    story.transition(starts=number % 3)
    unchanged(story, story.transition)


def cancel(story: Story, _stage_id: str, number: int) -> None:
    if number == 0:
        ended = story.state.ended
        assert story.cancel().cancelled is not ended
        unchanged(story, story.cancel)


def rerun(story: Story, stage_id: str, _number: int) -> None:
    group = story.stage(stage_id).plan.group
    before = (stage for stage in story.state.stages.values() if stage.plan.group < group)
    if story.state.ended and all(stage.status is Status.COMPLETED for stage in before):
        story.rerun(stage_id)


def everything_else(story: Story, _stage_id: str, number: int) -> None:
    if number % 4 == 0 and story.state.status is Status.RUNNING:
        story.take_over(f"session-{number}")
    elif number % 4 == 1:
        story.add(AnnotationCreated(key="note"))
    else:
        story.wait(60 * number)


DEEDS: list[Callable[..., None]] = [
    start,
    start,
    end,
    end,
    end,
    poll,
    poll,
    lose,
    step,
    transition,
    cancel,
    rerun,
    everything_else,
]


@settings(max_examples=EXAMPLES)
@given(
    story=stories(),
    deeds=st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 11), st.integers(0, 23)), max_size=40),
    prefix=st.integers(0, 1000),
)
def test_whatever_is_done_to_a_run_its_history_tells_it_and_its_promises_hold(
    story: Story, deeds: list[tuple[Callable[..., None], int, int]], prefix: int
) -> None:
    witness = Witness(story)
    witness.check()
    ids = list(story.state.stages)
    tokens: dict[str, str] = {}

    for deed, which, number in deeds:
        stage_id = ids[which % len(ids)]
        if deed is end:
            end(story, stage_id, number, tokens=tokens)
        else:
            deed(story, stage_id, number)
        witness.check()

    witness.check_prefix(prefix % len(story.rows) + 1)


# -- following the plan -----------------------------------------------------------------------------------------------


def follow(story: Story, answers: Iterator[tuple[str, str, bool]], witness: Witness) -> int:
    """Do what the plan says until the run has ended; what user code does comes from `answers`. Returns the turns."""
    held: set[str] = set()
    for turn in range(TURNS_MAX):
        witness.check()
        steps = plan(story.state, story.now, held)
        if steps == (Done(),):
            return turn
        # One step, and then look again: what it led to may have ended the run, or cancelled the stage of the next.
        if any(take(story, each, held, answers) for each in steps):
            continue
        outcome, _, crashes = next(answers)
        if held and crashes:
            held.clear()
        elif held:
            stage = next(stage for stage in story.state.stages.values() if stage.token in held)
            held.discard(story.token(stage.id))
            story.end(stage.id, an_outcome(outcome))
        else:
            (wait,) = (each for each in steps if isinstance(each, WaitUntil))
            assert wait.at > story.now
            story.now = wait.at
    raise AssertionError(f"it has not ended after {TURNS_MAX} turns: {story.state}")


def take(story: Story, step: object, held: set[str], answers: Iterator[tuple[str, str, bool]]) -> bool:
    """Do one step of a plan; False when it only says to wait."""
    match step:
        case Transition():
            assert story.transition().action != "noop", "a transition that the plan asks for changes something"
        case Start(stage_id):
            held.add(story.start(stage_id))
        case Lost(stage_id, token):
            assert story.token(stage_id) == token
            story.lose(stage_id)
        case Poll(stage_id):
            assert story.poll(stage_id, a_finding(next(answers)[1]))
        case WaitForJob(stage_id) if story.stage(stage_id).status is Status.RUNNING:
            story.end(stage_id, an_outcome(next(answers)[0]))
        case WaitForJob(stage_id):
            due_at = story.stage(stage_id).due_at
            story.now = max(story.now, due_at or story.now)
            story.start(stage_id, token=f"job-{story.appends}")
        case _:
            return False
    held.intersection_update({stage.token for stage in story.state.stages.values() if stage.token is not None})
    return True


WORST = st.tuples(st.sampled_from(OUTCOMES[:-1]), st.sampled_from(FINDINGS), st.sampled_from([False, False, True]))


@settings(max_examples=EXAMPLES)
@given(story=stories(), answers=st.lists(WORST, min_size=1, max_size=12))
def test_whoever_follows_the_plan_brings_every_run_to_its_end(
    story: Story, answers: list[tuple[str, str, bool]]
) -> None:
    witness = Witness(story)

    follow(story, cycle(answers), witness)

    assert story.state.ended
    assert story.folded() == story.state
