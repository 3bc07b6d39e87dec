"""A run as its history says it is: `RunState`, and `evolve`, the one function that changes it.

`fold` of a history's facts gives the state; a live actor holds the same value and evolves it by the facts that it
appends. Nothing in here waits, reads a clock or knows a store. A fact that does not fit raises `IllegalTransition`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from kernel.errors import ErrorInfo
from kernel.model.execution_plan import ExecutionPlan, PlannedGroup
from kernel.model.facts import (
    AnnotationCreated,
    CorruptHistory,
    Fact,
    RunCancelled,
    RunCompleted,
    RunCreated,
    RunFailed,
    RunOwnerChanged,
    RunRerun,
    RunStarted,
    StageCancelled,
    StageCompleted,
    StageFailed,
    StageRetrying,
    StageScheduled,
    StageSkipped,
    StageStarted,
    StageSuspended,
    StepRecorded,
)
from kernel.model.machine import ENDED, RUN_TRANSITIONS, STAGE_TRANSITIONS, Status, advance
from kernel.model.stage import Body, StageFact, StageState, evolve_stage, fresh_stage
from kernel.replace import replace

COST_METRIC = "total_cost"
TOKENS_METRIC = "total_tokens"
_NOTHING = Decimal(0)

__all__ = ["RunError", "RunState", "Step", "evolve", "fold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunError:
    """Why a run failed, and at which stage and attempt when one is to blame."""

    error: ErrorInfo
    stage_id: str | None = None
    attempt: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A recorded step of a stage's current execution: its name and where its result is."""

    name: str
    result: Body


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Everything that deciding about a run needs; `seq` is the sequence number of the last fact folded in.

    `stages` has every stage of the plan, in definition order. `group` is the number of the group whose turn it is, 0
    before the first. `owner` is the session that last announced itself as the driver; whether it still is, only the
    run's head in the store can say. `drive` "jobs": nobody owns the run, and everything due in it is a job. `noted` has
    (key, idempotency key) of the annotations that are made once.
    """

    run_id: str
    workflow_id: str
    workflow_version: str
    fingerprint: str
    plan: ExecutionPlan
    input: Body
    config: Mapping[str, Any]
    seq: int
    status: Status
    priority: int
    checked: bool
    created_at: datetime
    run_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    group: int = 0
    stages: Mapping[str, StageState]
    steps: Mapping[str, tuple[Step, ...]] = field(default_factory=dict[str, tuple[Step, ...]])
    owner: str | None = None
    drive: Literal["actor", "jobs"] = "actor"
    error: RunError | None = None
    cancel_reason: str | None = None
    noted: frozenset[tuple[str, str]] = frozenset()

    @property
    def ended(self) -> bool:
        """Whether the run has completed, failed or been cancelled."""
        return self.status in ENDED

    @property
    def total_cost(self) -> Decimal:
        """What the stages' current executions have cost so far, in USD, by their metric of that name."""
        costs = [stage.metrics[COST_METRIC] for stage in self.stages.values() if COST_METRIC in stage.metrics]
        return sum((Decimal(str(cost)) for cost in costs), _NOTHING)

    @property
    def total_tokens(self) -> int:
        """How many tokens the stages' current executions have used so far, by their metric of that name."""
        return sum([int(stage.metrics.get(TOKENS_METRIC, 0)) for stage in self.stages.values() if stage.metrics])

    def in_group(self, number: int) -> list[StageState]:
        """The stages of one group, in definition order; groups count from 1."""
        return [self.stages[planned.id] for planned in self.plan.group(number).stages]

    @property
    def last_group(self) -> PlannedGroup:
        """The group whose outputs are the run's output."""
        return self.plan.groups[-1]


def fold(
    run_id: str, rows: Iterable[tuple[int, datetime, tuple[Fact, ...]]], state: RunState | None = None
) -> RunState:
    """The state that a history tells: rows of (sequence number of the first fact, moment, facts), in order.

    With `state`, continue from there; rows that it contains already are passed over.
    Raises: CorruptHistory, when the rows do not follow each other or are none; IllegalTransition, when a fact does
    not fit.
    """
    for first_seq, at, facts in rows:
        for seq, fact in enumerate(facts, start=first_seq):
            if state is not None and seq <= state.seq:
                continue
            if seq != (1 if state is None else state.seq + 1):
                raise CorruptHistory(run_id, f"sequence {seq} follows {0 if state is None else state.seq}")
            state = evolve(state, fact, run_id=run_id, at=at)
    if state is None:
        raise CorruptHistory(run_id, "it is empty")
    return state


def evolve(state: RunState | None, fact: Fact, *, run_id: str, at: datetime) -> RunState:
    """The state after one more fact, which gets the next sequence number; `at` is its append's moment.

    Raises: IllegalTransition, when the state does not admit the fact; CorruptHistory, when it names a stage that the
    plan does not have.
    """
    if state is None:
        advance(RUN_TRANSITIONS, None, fact.type, subject=f'Run "{run_id}"')
        assert isinstance(fact, RunCreated)
        return _created(fact, run_id, at)
    return _EVOLVE[type(fact)](state, fact, at)


def _created(fact: RunCreated, run_id: str, at: datetime) -> RunState:
    return RunState(
        run_id=run_id,
        workflow_id=fact.workflow_id,
        workflow_version=fact.workflow_version,
        fingerprint=fact.fingerprint,
        plan=fact.plan,
        input=Body(1, fact.input_blob),
        config=fact.config,
        seq=1,
        status=Status.PENDING,
        priority=fact.priority,
        checked=fact.checked,
        created_at=at,
        run_at=fact.run_at,
        stages={stage_id: fresh_stage(planned) for stage_id, planned in fact.plan.stages.items()},
    )


def _next(state: RunState, fact: Fact) -> Status:
    return advance(RUN_TRANSITIONS, state.status, fact.type, subject=f'Run "{state.run_id}"')


def _recreated(state: RunState, fact: RunCreated, at: datetime) -> RunState:
    _next(state, fact)  # always illegal: a run is created once
    raise AssertionError(at)


def _started(state: RunState, fact: RunStarted, at: datetime) -> RunState:
    return replace(
        state,
        seq=state.seq + 1,
        status=_next(state, fact),
        started_at=at,
        owner=fact.owner,
        drive=fact.drive or state.drive,
    )


def _owner_changed(state: RunState, fact: RunOwnerChanged, _at: datetime) -> RunState:
    return replace(
        state, seq=state.seq + 1, status=_next(state, fact), owner=fact.owner, drive=fact.drive or state.drive
    )


def _completed(state: RunState, fact: RunCompleted, at: datetime) -> RunState:
    return replace(
        state,
        seq=state.seq + 1,
        status=_next(state, fact),
        ended_at=at,
        error=None,
    )


def _failed(state: RunState, fact: RunFailed, at: datetime) -> RunState:
    return replace(
        state,
        seq=state.seq + 1,
        status=_next(state, fact),
        ended_at=at,
        error=RunError(error=fact.error, stage_id=fact.stage_id, attempt=fact.attempt),
    )


def _cancelled(state: RunState, fact: RunCancelled, at: datetime) -> RunState:
    return replace(state, seq=state.seq + 1, status=_next(state, fact), ended_at=at, cancel_reason=fact.reason)


def _rerun(state: RunState, fact: RunRerun, at: datetime) -> RunState:
    status = _next(state, fact)
    stages = dict(state.stages)
    for stage_id in fact.discarded:
        stage = _stage(state, stage_id)
        advance(STAGE_TRANSITIONS, stage.status, fact.type, subject=f'Stage "{stage_id}" of run "{state.run_id}"')
        stages[stage_id] = fresh_stage(stage.plan, execution=stage.execution + 1, tokens=stage.tokens)
    return replace(
        state,
        seq=state.seq + 1,
        status=status,
        started_at=at,
        ended_at=None,
        error=None,
        cancel_reason=None,
        group=_stage(state, fact.from_stage_id).plan.group,
        stages=stages,
        steps={stage_id: steps for stage_id, steps in state.steps.items() if stage_id not in fact.discarded},
    )


def _on_stage(state: RunState, fact: StageFact, at: datetime) -> RunState:
    old = _stage(state, fact.stage_id)
    new = evolve_stage(old, fact, seq=state.seq + 1, at=at, run_id=state.run_id)
    stages = {**state.stages, fact.stage_id: new}
    group = max(state.group, old.plan.group) if isinstance(fact, StageScheduled | StageStarted) else state.group
    return replace(state, seq=state.seq + 1, stages=stages, group=group)


def _step_recorded(state: RunState, fact: StepRecorded, _at: datetime) -> RunState:
    _stage(state, fact.stage_id)
    seq = state.seq + 1
    step = Step(name=fact.name, result=Body(seq, fact.result_blob))
    steps = {**state.steps, fact.stage_id: (*state.steps.get(fact.stage_id, ()), step)}
    return replace(state, seq=seq, steps=steps)


def _annotated(state: RunState, fact: AnnotationCreated, _at: datetime) -> RunState:
    if fact.once is None:
        return replace(state, seq=state.seq + 1)
    return replace(state, seq=state.seq + 1, noted=state.noted | {(fact.key, fact.once)})


def _stage(state: RunState, stage_id: str) -> StageState:
    try:
        return state.stages[stage_id]
    except KeyError:
        raise CorruptHistory(state.run_id, f'its plan has no stage "{stage_id}"') from None


_EVOLVE: Mapping[type, Callable[[RunState, Any, datetime], RunState]] = {
    RunCreated: _recreated,
    RunStarted: _started,
    RunOwnerChanged: _owner_changed,
    RunCompleted: _completed,
    RunFailed: _failed,
    RunCancelled: _cancelled,
    RunRerun: _rerun,
    StageScheduled: _on_stage,
    StageStarted: _on_stage,
    StageCompleted: _on_stage,
    StageFailed: _on_stage,
    StageRetrying: _on_stage,
    StageSuspended: _on_stage,
    StageCancelled: _on_stage,
    StageSkipped: _on_stage,
    StepRecorded: _step_recorded,
    AnnotationCreated: _annotated,
}
