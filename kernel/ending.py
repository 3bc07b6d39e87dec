"""How a run ended, for whoever waited for it: read from its state, or from its stored history without folding it.

A result needs the head and the outputs of the last group. Folding everything else of a history costs a client as much
as everything it did to create the run, so what is not asked for is not decoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kernel.journal import inline_bodies
from kernel.model.execution_plan import PlannedGroup
from kernel.model.facts import CorruptHistory, Fact, RunCancelled, RunCreated, RunFailed, StageCompleted, decode_facts
from kernel.model.machine import Status
from kernel.model.run import RunError, RunState
from kernel.model.stage import Body
from kernel.ports.persistence import HistoryRow, StoredHistory

__all__ = ["Ending", "ending_of", "ending_of_state"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The end of a run: `error` when it failed, `outputs` of its last group by stage id when it completed.

    `parallel` says that the last group is one, and its outputs a mapping; `inline` are the payloads at hand. `seq` is
    that of the history as it was read: a run that is rerun goes beyond it.
    """

    run_id: str
    seq: int
    workflow_id: str
    workflow_version: str
    status: Status
    error: RunError | None
    cancel_reason: str | None
    parallel: bool
    outputs: Mapping[str, Body]
    inline: Mapping[int, bytes]


def ending_of_state(state: RunState, inline: Mapping[int, bytes]) -> Ending:
    """The ending that a state tells, which has ended."""
    stages = state.in_group(state.last_group.number) if state.status is Status.COMPLETED else []
    return Ending(
        run_id=state.run_id,
        seq=state.seq,
        workflow_id=state.workflow_id,
        workflow_version=state.workflow_version,
        status=state.status,
        error=state.error,
        cancel_reason=state.cancel_reason,
        parallel=state.last_group.parallel,
        outputs={stage.id: stage.output for stage in stages if stage.output is not None},
        inline=inline,
    )


def ending_of(stored: StoredHistory) -> Ending:
    """The ending that a whole stored history tells, of a run that has ended. Raises: CorruptHistory."""
    head = stored.head
    group = _last_group(stored)
    # The head has the error too, but without its traceback.
    end = _end(stored) if head.head.status is not Status.COMPLETED else None
    return Ending(
        run_id=head.run_id,
        seq=head.seq,
        workflow_id=head.workflow_id,
        workflow_version=head.workflow_version,
        status=head.head.status,
        error=RunError(error=end.error, stage_id=end.stage_id, attempt=end.attempt)
        if isinstance(end, RunFailed)
        else None,
        cancel_reason=end.reason if isinstance(end, RunCancelled) else None,
        parallel=group.parallel,
        outputs=_outputs(stored, group) if head.head.status is Status.COMPLETED else {},
        inline=inline_bodies(stored.rows),
    )


def _last_group(stored: StoredHistory) -> PlannedGroup:
    run_id = stored.head.run_id
    created = _facts(stored.rows[0], run_id)[0] if stored.rows else None
    if not isinstance(created, RunCreated):
        raise CorruptHistory(run_id, "it does not begin with its creation")
    return created.plan.groups[-1]


def _outputs(stored: StoredHistory, group: PlannedGroup) -> Mapping[str, Body]:
    """The latest output of every stage of the group: a rerun leaves those of earlier executions in the history."""
    wanted = {stage.id for stage in group.stages}
    found: dict[str, Body] = {}
    for row in reversed(stored.rows):
        facts = _facts(row, stored.head.run_id)
        for seq, fact in zip(range(row.seq, row.first_seq - 1, -1), reversed(facts), strict=True):
            if isinstance(fact, StageCompleted) and fact.stage_id in wanted:
                wanted.remove(fact.stage_id)
                found[fact.stage_id] = Body(seq, fact.output_blob)
        if not wanted:
            break
    return {stage.id: found[stage.id] for stage in group.stages if stage.id in found}


def _end(stored: StoredHistory) -> RunFailed | RunCancelled | None:
    for row in reversed(stored.rows):
        for fact in reversed(_facts(row, stored.head.run_id)):
            if isinstance(fact, RunFailed | RunCancelled):
                return fact
    return None


def _facts(row: HistoryRow, run_id: str) -> tuple[Fact, ...]:
    return decode_facts(row.events, run_id=run_id)
