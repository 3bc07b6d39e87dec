"""`run.cancel`: end a run that has not ended, and whatever of it is active."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from kernel.command import Command
from kernel.model.consequences import close_stages
from kernel.model.draft import Decision, Draft, Moment
from kernel.model.facts import RunCancelled
from kernel.model.run import RunState
from kernel.ports.journals import Journals

__all__ = ["CancelRun", "CancelRunPorts", "CancelRunResult", "cancel_run", "decide_cancel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRunResult:
    """`cancelled` is False when the run had already ended; it is then left as it was."""

    cancelled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRun(Command[CancelRunResult]):
    """Cancel a run. Bodies that execute anywhere are interrupted and their results discarded."""

    type: ClassVar[str] = "run.cancel"

    run_id: str
    reason: str | None = None


class CancelRunPorts(Protocol):
    """What cancelling touches."""

    @property
    def journals(self) -> Journals:
        """Where the run's history is."""
        ...


def decide_cancel(state: RunState, moment: Moment, *, reason: str | None) -> Decision[CancelRunResult]:
    """End the run and its open stages, unless it has ended."""
    draft = Draft(state, moment)
    if state.ended:
        return draft.decided(CancelRunResult(cancelled=False))
    close_stages(draft, reason="the run was cancelled")
    draft.add(RunCancelled(reason=reason))
    return draft.decided(CancelRunResult(cancelled=True))


async def cancel_run(command: CancelRun, ports: CancelRunPorts) -> CancelRunResult:
    """Decide and append, all of it in one append; repeated, it answers `cancelled=False`.

    Conditional like every append: it never overwrites an end that came first.
    Raises: RunNotFound.
    """
    return await ports.journals.record(
        command.run_id, lambda state, moment: decide_cancel(state, moment, reason=command.reason)
    )
