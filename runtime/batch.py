"""What an actor decides in one go: the requests of one round as one append, and what it asks of itself.

A batch is made, decided and thrown away within one step of the actor; the decisions below it are pure.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from kernel.errors import ErrorInfo
from kernel.model.attempts import Drained, end_attempt, holds, lose_attempt
from kernel.model.consequences import advance_run, ensure_started, fail_run, start_stage
from kernel.model.draft import Decision, Draft, Moment
from kernel.model.facts import (
    RunOwnerChanged,
    StageCompleted,
    StageFailed,
    StageRetrying,
    StageStarted,
    StageSuspended,
)
from kernel.model.machine import Status
from kernel.model.retry import RetryPolicy
from kernel.model.run import RunState
from kernel.ports.journals import Decide
from kernel.replace import replace
from runtime.mailbox import Ask

__all__ = ["Batch", "fail", "hand_back", "lose", "start", "transition"]


_ENDS = (StageCompleted, StageFailed, StageRetrying, StageSuspended)


class Batch:
    """Requests decided together, each on the state that the ones before it left; they become one append.

    `held` are the tokens of the attempts that execute here, `returned` those of them whose bodies have returned and
    whose ends are decided here, `started` those of the attempts that begin with the append.
    """

    def __init__(self, moment: Moment, state: RunState, held: Collection[str]) -> None:
        self.moment: Moment = moment
        self.decision: Decision[None]
        self.started: Sequence[str] = ()
        self.returned: list[str] = []
        self._held = held
        self._started: list[str] = []
        self._starts = moment.starts
        self._draft = Draft(state, moment)
        self._answers: list[tuple[Ask, Any, BaseException | None]] = []

    def add(self, fact: RunOwnerChanged) -> None:
        """A fact that nobody asked for."""
        self._draft.add(fact)

    def decide(self, ask: Ask) -> None:
        """Decide one request; what its decision raises is its own affair."""
        before = self._draft.state
        try:
            if self._starts != self.moment.starts:
                self.moment = replace(self.moment, starts=self._starts)
            decision = ask.decide(before, self.moment)
        except Exception as error:
            if ask.own:
                raise
            self._answers.append((ask, None, error))
            return
        self._draft.state = decision.state
        self._draft.facts.extend(decision.facts)
        self._draft.bodies.update(decision.bodies)
        if decision.looks:
            self._draft.looks.update(decision.looks)
        self._answers.append((ask, decision.result, None))
        # What is executed from a queue is started and held by whoever took the job.
        stages = decision.state.plan.stages
        started = [
            fact.token
            for fact in decision.facts
            if isinstance(fact, StageStarted) and stages[fact.stage_id].queue is None
        ]
        # A sibling that the end has cancelled is no part of this: its body still executes, and is to be interrupted.
        ended = [before.stages[fact.stage_id].token for fact in decision.facts if isinstance(fact, _ENDS)]
        returned = [token for token in ended if token is not None and token in self._held] if ask.ends_attempt else []
        self._started.extend(started)
        self.returned.extend(returned)
        self._starts = max(self._starts + len(returned) - len(started), 0)

    def close(self) -> None:
        """Everything has been decided: now there is a `decision`, and it is known which attempts begin with it."""
        self.decision = self._draft.decided(None)
        if self._started:
            # One that a later request has ended never begins.
            running = {stage.token for stage in self.decision.state.stages.values()}
            self.started = [token for token in self._started if token in running]

    def answer(self) -> None:
        """Resolve the requests."""
        for ask, result, error in self._answers:
            if error is None:
                ask.answer(result)
            else:
                ask.fail(error)


def transition(state: RunState, moment: Moment) -> Decision[None]:
    """Do what follows from the state."""
    draft = Draft(state, moment)
    advance_run(draft)
    return draft.decided(None)


def fail(error: ErrorInfo) -> Decide[None]:
    """End the run with this error."""

    def decide(state: RunState, moment: Moment) -> Decision[None]:
        draft = Draft(state, moment)
        if not state.ended:
            fail_run(draft, error)
        return draft.decided(None)

    return decide


def start(stage_ids: Collection[str]) -> Decide[None]:
    """Start the next attempts of these stages, as far as they still wait for one."""

    def decide(state: RunState, moment: Moment) -> Decision[None]:
        draft = Draft(state, moment)
        ensure_started(draft)
        for stage_id in stage_ids:
            stage = draft.state.stages[stage_id]
            if stage.status is Status.PENDING and not draft.state.ended:
                start_stage(draft, stage)
        return draft.decided(None)

    return decide


def hand_back(stage_id: str, token: str) -> Decide[None]:
    """End an attempt that a drain interrupted, without counting it."""

    def decide(state: RunState, moment: Moment) -> Decision[None]:
        draft = Draft(state, moment)
        if holds(state, stage_id, token):
            end_attempt(draft, stage_id, Drained(), RetryPolicy())
        return draft.decided(None)

    return decide


def lose(stage_id: str, token: str, policy: RetryPolicy, owner: str | None) -> Decide[None]:
    """Record the loss of an attempt that nobody holds; `owner` is the session in which it was lost."""

    def decide(state: RunState, moment: Moment) -> Decision[None]:
        draft = Draft(state, moment)
        if holds(state, stage_id, token):
            lose_attempt(draft, stage_id, policy, owner=owner)
        return draft.decided(None)

    return decide
