"""What comes next, computed from the state alone: `plan` for who drives a run now, `due` for when somebody must.

Everything here is level-triggered. Ordinary progress, recovery after a crash and the repair of a lost wake-up ask the
same question and get the same answer; no driver remembers which step it was in.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from kernel.model.jobs import queue_of
from kernel.model.machine import Status
from kernel.model.run import RunState
from kernel.model.stage import StageState

__all__ = ["Done", "Lost", "NextStep", "Poll", "Start", "Transition", "WaitForJob", "WaitUntil", "due", "plan"]


@dataclass(frozen=True, slots=True)
class Start:
    """Start the next attempt of this stage: it is its turn and it is due."""

    stage_id: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The running attempt of this stage is held by nobody: record its loss."""

    stage_id: str
    token: str


@dataclass(frozen=True, slots=True)
class Poll:
    """Ask the check of this suspended stage."""

    stage_id: str


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Nothing to do before this moment."""

    at: datetime


@dataclass(frozen=True, slots=True)
class WaitForJob:
    """An attempt of this stage is (or will be) executed elsewhere, from a queue."""

    stage_id: str


@dataclass(frozen=True, slots=True)
class Transition:
    """No stage of the current group is active: advance, complete or fail the run."""


@dataclass(frozen=True, slots=True)
class Done:
    """The run has ended."""


NextStep: TypeAlias = Start | Lost | Poll | WaitUntil | WaitForJob | Transition | Done


def plan(state: RunState, now: datetime, held: Collection[str]) -> tuple[NextStep, ...]:
    """What the driver of this run should do now; `held` are the tokens of the attempts that it is executing.

    At most one `WaitUntil`, the earliest. While every active stage is held, the answer is empty: wait for them.
    """
    if state.ended:
        return (Done(),)
    if state.status is Status.PENDING and state.run_at is not None and now < state.run_at:
        return (WaitUntil(state.run_at),)
    active = [] if state.group == 0 else [stage for stage in state.in_group(state.group) if stage.active]
    if not active or state.status is Status.PENDING:
        return (Transition(),)
    steps: list[NextStep] = []
    waits: list[datetime] = []
    for stage in active:
        match _next_of(state, stage, now, held):
            case WaitUntil(at):
                waits.append(at)
            case None:
                pass
            case step:
                steps.append(step)
    if waits:
        steps.append(WaitUntil(min(waits)))
    return tuple(steps)


def _next_of(state: RunState, stage: StageState, now: datetime, held: Collection[str]) -> NextStep | None:
    if stage.status is Status.SUSPENDED and state.drive == "actor":
        return Poll(stage.id) if stage.poll_at <= now else WaitUntil(stage.poll_at)
    if queue_of(state, stage) is not None:
        return WaitForJob(stage.id)
    if stage.status is Status.RUNNING:
        assert stage.token is not None
        return None if stage.token in held else Lost(stage.id, stage.token)
    return Start(stage.id) if stage.due_at is None or stage.due_at <= now else WaitUntil(stage.due_at)


def due(state: RunState) -> datetime | None:
    """When a run without an owner must be claimed: its head's `wake_at`. None when it has ended or waits on jobs only.

    A moment in the past means now. It never depends on the clock, so that every process computes the same.
    """
    if state.ended or state.drive == "jobs":
        return None
    if state.status is Status.PENDING:
        return state.run_at or state.created_at
    active = [] if state.group == 0 else [stage for stage in state.in_group(state.group) if stage.active]
    if not active:
        return state.started_at or state.created_at
    moments = [at for stage in active if (at := _due_of(stage, state)) is not None]
    return min(moments, default=None)


def _due_of(stage: StageState, state: RunState) -> datetime | None:
    if stage.status is Status.SUSPENDED:
        return stage.poll_at
    if stage.plan.queue is not None:
        return None
    # A running attempt of a run without an owner is lost, so it is due at once.
    return stage.due_at or stage.attempt_started_at or state.started_at or state.created_at
