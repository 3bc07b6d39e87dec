"""`run.transition`: advance, complete or fail a run from what its state says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from kernel.command import Command
from kernel.model.consequences import Advanced, advance_run
from kernel.model.draft import Decision, Draft, Moment
from kernel.model.run import RunState
from kernel.ports.journals import Journals

__all__ = ["TransitionRun", "TransitionRunPorts", "TransitionRunResult", "decide_transition", "transition_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionRunResult:
    """What happened; `next_group` is the number of the group that began, counted from 1."""

    action: Advanced
    next_group: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionRun(Command[TransitionRunResult]):
    """Do what follows from the run's state, if anything does.

    A healthy run never needs it, because the append that ends a stage holds its consequences; a damaged one heals.
    """

    type: ClassVar[str] = "run.transition"

    run_id: str


class TransitionRunPorts(Protocol):
    """What a transition touches."""

    @property
    def journals(self) -> Journals:
        """Where the run's history is."""
        ...


def decide_transition(state: RunState, moment: Moment) -> Decision[TransitionRunResult]:
    """Begin the next group or end the run, when nothing of the current group is active."""
    draft = Draft(state, moment)
    if state.run_at is not None and state.started_at is None and state.run_at > moment.now:
        return draft.decided(TransitionRunResult(action="noop"))
    action = advance_run(draft)
    group = draft.state.group if action == "advanced" else None
    return draft.decided(TransitionRunResult(action=action, next_group=group))


async def transition_run(command: TransitionRun, ports: TransitionRunPorts) -> TransitionRunResult:
    """Decide and append; idempotent, because it is computed from the state.

    Raises: RunNotFound.
    """
    return await ports.journals.record(command.run_id, decide_transition)
