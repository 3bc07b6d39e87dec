"""Runs told by the real decide functions, one append after the other, without a store and without waiting.

A `Story` is what a store and a driver would hold between them: the stored rows, the live state, the time. Everything
that happens to it is a decision of the kernel; every decision is taken twice, because the same append decided again
has to be the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from kernel.commands.cancel_run import CancelRunResult, decide_cancel
from kernel.commands.create_run import decide_create
from kernel.commands.execute_job import ExecuteJob, ExecuteJobResult, Started, decide_end, decide_start
from kernel.commands.rerun_from import RerunFrom, RerunFromResult, decide_rerun
from kernel.commands.transition_run import TransitionRunResult, decide_transition
from kernel.errors import ErrorInfo
from kernel.model.attempts import Completed, Drained, Outcome, Raised, Suspended, lose_attempt
from kernel.model.draft import Decision, Draft, Moment
from kernel.model.execution_plan import ExecutionPlan, OnFailure, PlannedGroup, PlannedStage
from kernel.model.facts import Fact, RunCreated, RunOwnerChanged, RunRerun, decode_facts, encode_facts
from kernel.model.ids import run_id_from
from kernel.model.looks import Look, decode_looks, encode_looks, lay_over
from kernel.model.machine import RUN_TRANSITIONS
from kernel.model.polls import Finding, FoundReady, ask_to_look, end_poll, waits
from kernel.model.retry import RetryPolicy
from kernel.model.run import RunState, evolve, fold
from kernel.model.stage import StageFact, StageState, Suspension

R = TypeVar("R")

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
RUN_ID = run_id_from(NOW, bytes(range(10)))
SECOND = timedelta(seconds=1)
OUTPUT = b'{"words":3}'
STEADY = RetryPolicy(jitter=False)
"""Three attempts, waiting one second and then two."""

EXAMPLES = int(os.environ.get("LEASEHOLD_TEST_EXAMPLES", "25"))
"""How many examples a property is tried with; the kernel's tests stay below two seconds with the default."""


def a_plan(*groups: str, on_failure: OnFailure = "finish", queues: Mapping[str, str] | None = None) -> ExecutionPlan:
    """A plan of groups, each the ids of its stages with spaces between: `a_plan("extract", "words language")`."""
    planned: list[PlannedGroup] = []
    count = 0
    for number, ids in enumerate(groups, start=1):
        stages: list[PlannedStage] = []
        for name in ids.split():
            count += 1
            queue = (queues or {}).get(name)
            stages.append(PlannedStage(id=name, name=name.title(), number=count, group=number, queue=queue))
        planned.append(
            PlannedGroup(number=number, stages=tuple(stages), parallel=len(stages) > 1, on_failure=on_failure)
        )
    return ExecutionPlan(groups=tuple(planned))


def a_creation(plan: ExecutionPlan, **fields: Any) -> RunCreated:
    return RunCreated(workflow_id="documents", workflow_version="1", fingerprint="f1", plan=plan, **fields)


def an_error(type: str = "ValueError", message: str = "no such file", *, retryable: bool = True) -> ErrorInfo:
    return ErrorInfo(type=type, message=message, retryable=retryable)


@dataclass
class Story:
    """A run and everything that was recorded of it.

    `rows` are (first sequence number, moment, encoded facts); `looks` is what its head alone has.
    """

    state: RunState
    now: datetime
    policy: RetryPolicy
    rows: list[tuple[int, datetime, bytes]]
    bodies: dict[int, bytes] = field(default_factory=dict[int, bytes])
    looks: dict[str, Look] = field(default_factory=dict[str, Look])
    appends: int = 1

    # -- telling ------------------------------------------------------------------------------------------------------

    def tell(
        self,
        decide: Callable[[RunState, Moment], Decision[R]],
        *,
        starts: int = 0,
        session: str | None = None,
        passes_on: bool = False,
    ) -> R:
        """Have something decided and, if there is anything to it, recorded."""
        moment = Moment(
            now=self.now,
            append_id=f"append-{self.appends + 1}",
            session=session,
            starts=starts,
            passes_on=passes_on,
        )
        decision = decide(self.state, moment)
        assert decision == decide(self.state, moment), "the same append, decided again, is the same"
        if decision.facts:
            self.rows.append((self.state.seq + 1, self.now, encode_facts(decision.facts)))
            self.bodies.update(decision.bodies)
        self.looks.update(decode_looks(encode_looks(decision.looks), run_id=self.state.run_id))
        self.appends += decision.changes
        self.state = decision.state
        return decision.result

    def add(self, *facts: Fact) -> None:
        """Record facts that no decision of the kernel makes by itself."""

        def decide(state: RunState, moment: Moment) -> Decision[None]:
            draft = Draft(state, moment)
            for fact in facts:
                draft.add(fact)
            return draft.decided(None)

        self.tell(decide)

    def wait(self, delay: timedelta | float) -> None:
        self.now += delay if isinstance(delay, timedelta) else timedelta(seconds=delay)

    # -- attempts -----------------------------------------------------------------------------------------------------

    def asked(self, stage_id: str, **fields: Any) -> Started | ExecuteJobResult:
        """The answer to `job.execute` for a stage."""
        command = ExecuteJob(run_id=self.state.run_id, stage_id=stage_id, **fields)
        return self.tell(lambda state, moment: decide_start(state, command, moment))

    def start(self, stage_id: str, **fields: Any) -> str:
        """Start the stage's next attempt, which must be possible, and return its token."""
        started = self.asked(stage_id, **fields)
        assert isinstance(started, Started), started
        return started.token

    def end(self, stage_id: str, outcome: Outcome, *, token: str | None = None, **moment: Any) -> ExecuteJobResult:
        """End the attempt of this token, by default the one that runs."""
        named = token or self.token(stage_id)
        return self.tell(lambda s, m: decide_end(s, stage_id, named, outcome, self.policy, m), **moment)

    def complete(self, stage_id: str, output: bytes = OUTPUT, **metrics: float) -> ExecuteJobResult:
        return self.end(stage_id, Completed(output=output, metrics=metrics))

    def complete_as_driver(self, stage_id: str, **moment: Any) -> None:
        """Complete the stage as a driver does that has room for what follows."""
        self.end(stage_id, Completed(output=OUTPUT), **moment)

    def fail(self, stage_id: str, error: ErrorInfo | None = None, **fields: Any) -> ExecuteJobResult:
        """Have the body raise, for good unless an error says otherwise."""
        return self.end(stage_id, Raised(error=error or an_error(retryable=False), **fields))

    def suspend(self, stage_id: str, *, every: float = 30, at_most: float = 3600, **fields: Any) -> ExecuteJobResult:
        waiting = Suspended(
            state=b'{"batch":7}', poll_interval=timedelta(seconds=every), max_wait=timedelta(seconds=at_most), **fields
        )
        return self.end(stage_id, waiting)

    def drain(self, stage_id: str) -> ExecuteJobResult:
        return self.end(stage_id, Drained())

    def lose(self, stage_id: str, *, owner: str | None = None) -> None:
        def decide(state: RunState, moment: Moment) -> Decision[None]:
            draft = Draft(state, moment)
            lose_attempt(draft, stage_id, self.policy, owner=owner)
            return draft.decided(None)

        self.tell(decide)

    def run_stage(self, stage_id: str, output: bytes = OUTPUT, **metrics: float) -> None:
        """Start the stage and complete it."""
        self.start(stage_id)
        self.complete(stage_id, output, **metrics)

    # -- everything else ----------------------------------------------------------------------------------------------

    def poll(self, stage_id: str, finding: Finding, *, checked: Suspension | None = None) -> bool:
        """Record what a check found about the suspension, by default the present one; False when it is not that."""
        suspension = checked or self.suspension(stage_id)

        def decide(state: RunState, moment: Moment) -> Decision[bool]:
            draft = Draft(state, moment)
            if not waits(state, stage_id, suspension):
                return draft.decided(False)
            end_poll(draft, stage_id, finding, self.policy, checked=suspension)
            return draft.decided(True)

        return self.tell(decide)

    def ask(self, stage_id: str) -> None:
        """Somebody wants the suspended stage to be looked at now."""

        def decide(state: RunState, moment: Moment) -> Decision[None]:
            draft = Draft(state, moment)
            ask_to_look(draft, stage_id)
            return draft.decided(None)

        self.tell(decide)

    def poll_ready(self, stage_id: str, **metrics: float) -> None:
        self.poll(stage_id, FoundReady(output=OUTPUT, metrics=metrics))

    def cancel(self, reason: str | None = None) -> CancelRunResult:
        return self.tell(lambda state, moment: decide_cancel(state, moment, reason=reason))

    def transition(self, **moment: Any) -> TransitionRunResult:
        return self.tell(decide_transition, **moment)

    def take_over(self, owner: str) -> None:
        self.add(RunOwnerChanged(owner=owner, previous=self.state.owner))

    def rerun(self, stage_id: str, *, keep_completed: bool = False) -> RerunFromResult:
        """Begin again at a stage's group, as a rerun does."""
        command = RerunFrom(run_id=self.state.run_id, from_stage_id=stage_id, keep_completed=keep_completed)
        return self.tell(lambda state, moment: decide_rerun(state, moment, command, events_max=10_000))

    # -- looking ------------------------------------------------------------------------------------------------------

    def stage(self, stage_id: str) -> StageState:
        return self.state.stages[stage_id]

    def token(self, stage_id: str) -> str:
        token = self.stage(stage_id).token
        assert token is not None, "no attempt runs"
        return token

    def suspension(self, stage_id: str) -> Suspension:
        suspension = self.stage(stage_id).suspension
        assert suspension is not None, "nothing is waited for"
        return suspension

    @property
    def facts(self) -> list[Fact]:
        """Everything recorded, read back from its stored form."""
        return [fact for _, _, events in self.rows for fact in decode_facts(events, run_id=self.state.run_id)]

    @property
    def last(self) -> list[str]:
        """The kinds of the facts of the last append."""
        return [fact.type for fact in decode_facts(self.rows[-1][2], run_id=self.state.run_id)]

    def folded(self, rows: int | None = None) -> RunState:
        """The state that the first so many rows tell (all of them by default, with what the head adds to them)."""
        run_id = self.state.run_id
        told = self.rows[:rows]
        state = fold(run_id, ((seq, at, decode_facts(events, run_id=run_id)) for seq, at, events in told))
        return state if rows is not None else lay_over(state, self.looks)


def a_run(
    *groups: str,
    policy: RetryPolicy = STEADY,
    on_failure: OnFailure = "finish",
    queues: Mapping[str, str] | None = None,
    starts: int = 0,
    session: str | None = None,
    **fields: Any,
) -> Story:
    """A new run of these groups; `starts` and `session` are those of the one who creates it, `fields` of its fact."""
    return a_run_of(
        a_plan(*groups, on_failure=on_failure, queues=queues), policy=policy, starts=starts, session=session, **fields
    )


def a_run_of(
    plan: ExecutionPlan,
    *,
    policy: RetryPolicy = STEADY,
    starts: int = 0,
    session: str | None = None,
    **fields: Any,
) -> Story:
    """A new run of this plan."""
    moment = Moment(now=NOW, append_id="append-1", session=session, starts=starts, passes_on=starts > 0)
    decision = decide_create(RUN_ID, a_creation(plan, **fields), b'{"path":"a.txt"}', moment)
    rows = [(1, NOW, encode_facts(decision.facts))]
    return Story(state=decision.state, now=NOW, policy=policy, rows=rows, bodies=dict(decision.bodies))


def transitions_of(story: Story) -> tuple[dict[tuple[Any, str], Any], dict[tuple[Any, str], Any]]:
    """The rows of the run's table and of the stages' table that a history takes: (before, event) to after."""
    of_run: dict[tuple[Any, str], Any] = {}
    of_stages: dict[tuple[Any, str], Any] = {}
    before: RunState | None = None
    for (_, at, _), facts in zip(story.rows, map(_decoded, story.rows), strict=True):
        for fact in facts:
            after = evolve(before, fact, run_id=story.state.run_id, at=at)
            if (before and before.status, fact.type) in RUN_TRANSITIONS:
                of_run[None if before is None else before.status, fact.type] = after.status
            for stage_id in _stages_touched(fact):
                old = None if before is None else before.stages[stage_id].status
                of_stages[old, fact.type] = after.stages[stage_id].status
            before = after
    return of_run, of_stages


def _decoded(row: tuple[int, datetime, bytes]) -> tuple[Fact, ...]:
    return decode_facts(row[2], run_id=RUN_ID)


def _stages_touched(fact: Fact) -> tuple[str, ...]:
    if isinstance(fact, RunCreated):
        return tuple(fact.plan.stages)
    if isinstance(fact, RunRerun):
        return fact.discarded
    return (fact.stage_id,) if isinstance(fact, StageFact) else ()
