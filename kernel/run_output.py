"""The output of a run whose last group is parallel and whose workflow declares an output.

No single stage has validated it, so the append that completes the last stage of the group does: its result is recorded
only if the whole group's outputs satisfy the declared type. Which append that is turns out only when it is decided,
so the payloads of the siblings are loaded then, and the decision is asked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kernel.authoring.workflow import Workflow
from kernel.errors import EngineError, InvalidOutput, MissingOutput
from kernel.model.draft import Decision, Moment
from kernel.model.machine import Status
from kernel.model.run import RunState
from kernel.model.stage import Body
from kernel.ports.journals import Journals

__all__ = ["record_output"]

R = TypeVar("R")


class _SiblingsNeeded(Exception):
    """The decision needs payloads that are not loaded yet; never leaves this module."""

    def __init__(self, bodies: Mapping[str, Body]) -> None:
        self.bodies = bodies


async def record_output(
    journals: Journals,
    run_id: str,
    stage_id: str,
    workflow: Workflow[Any, Any],
    output: bytes | None,
    decide: Callable[[RunState, Moment, EngineError | None], Decision[R]],
) -> R:
    """Record the end of an attempt (or of a wait) that has this output, None when it has none.

    `decide` is told what is wrong with the run's output, if this end would complete a run whose output is refused.
    Raises: as `Journals.record`.
    """
    checked = output is not None and workflow.joins_outputs and workflow.group_of(stage_id) == len(workflow.groups)
    loaded: dict[str, bytes] = {} if output is None else {stage_id: output}

    def decide_checked(state: RunState, moment: Moment) -> Decision[R]:
        siblings = _siblings(state, stage_id) if checked else None
        if siblings is None:
            return decide(state, moment, None)
        if siblings.keys() - loaded.keys():
            raise _SiblingsNeeded(siblings)
        try:
            workflow.encode_output(loaded)
        except (InvalidOutput, MissingOutput) as error:
            return decide(state, moment, error)
        return decide(state, moment, None)

    while True:
        try:
            return await journals.record(run_id, decide_checked, ends_attempt=True)
        except _SiblingsNeeded as needed:
            payloads = await journals.payloads(run_id, needed.bodies.values())
            loaded.update({sibling: payloads[body] for sibling, body in needed.bodies.items()})


def _siblings(state: RunState, stage_id: str) -> Mapping[str, Body] | None:
    """The outputs of the other stages of the last group, when all of them have completed."""
    others = [stage for stage in state.in_group(state.last_group.number) if stage.id != stage_id]
    if any(stage.status is not Status.COMPLETED or stage.output is None for stage in others):
        return None
    return {stage.id: stage.output for stage in others if stage.output is not None}
