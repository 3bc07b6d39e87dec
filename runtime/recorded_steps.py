"""Recording a step of a running body: its result goes where payloads go, its fact into the history of its run.

Separate because whoever lends a kernel an executor needs it: the supervisor, and `runtime.testing`. Nothing here
knows how the body runs.
"""

from __future__ import annotations

from kernel.dispatch import Ports
from kernel.model.draft import Decision, Moment
from kernel.model.run import RunState
from kernel.model.steps import decide_step
from kernel.payloads import blob_key, place_payload
from kernel.ports.executor import Attempt

__all__ = ["record_step"]


async def record_step(ports: Ports, attempt: Attempt, *, position: int, name: str, result: bytes) -> bool:
    """Append the step at this position (from 0), after its result is stored; False when the attempt is superseded.

    Raises: PayloadRefused, Unavailable.
    """
    key = blob_key(attempt.workflow.id, attempt.run_id, attempt.stage.id, attempt.token, f"step-{position}.json")
    what = f'Result of step "{name}" of stage "{attempt.stage.id}"'
    payload = await place_payload(ports, result, key=key, what=what, field="step")

    def decide(state: RunState, moment: Moment) -> Decision[bool]:
        return decide_step(
            state, attempt.stage.id, attempt.token, position=position, name=name, result=payload, moment=moment
        )

    return await ports.journals.record(attempt.run_id, decide)
