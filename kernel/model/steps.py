"""Recording a step of a body: a pure decision over the stage whose attempt runs."""

from __future__ import annotations

from kernel.errors import DefinitionChanged
from kernel.model.attempts import Payload, holds, split
from kernel.model.draft import Decision, Draft, Moment
from kernel.model.facts import StepRecorded
from kernel.model.run import RunState

__all__ = ["decide_step"]

_WAY_OUT = "Record steps in the order and under the names that they had, or give the workflow a new version."


def decide_step(
    state: RunState, stage_id: str, token: str, *, position: int, name: str, result: Payload, moment: Moment
) -> Decision[bool]:
    """Record the result of the step at this position; False when the attempt has been superseded.

    Idempotent: a step that is recorded already under this name stays as it is.
    Raises: DefinitionChanged, when another name is recorded at the position, or a position before it is not.
    """
    draft = Draft(state, moment)
    if not holds(state, stage_id, token):
        return draft.decided(False)
    recorded = state.steps.get(stage_id, ())
    if position < len(recorded):
        if recorded[position].name != name:
            difference = f'step {position} was "{recorded[position].name}" and is now "{name}"'
            raise DefinitionChanged(f'Stage "{stage_id}"', difference, hint=_WAY_OUT)
        return draft.decided(True)
    if position > len(recorded):
        difference = f"step {len(recorded)} is missing before step {position}"
        raise DefinitionChanged(f'Stage "{stage_id}"', difference, hint=_WAY_OUT)
    stage = state.stages[stage_id]
    inline, blob = split(result)
    draft.add(
        StepRecorded(
            stage_id=stage_id,
            execution=stage.execution,
            attempt=stage.attempt,
            position=position,
            name=name,
            result_blob=blob,
        ),
        inline,
    )
    return draft.decided(True)
