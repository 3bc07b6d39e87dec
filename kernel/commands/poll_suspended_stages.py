"""Polling: ask the check of a suspended stage, and record what it found.

The check runs outside of any transaction, like a body. What it found is recorded only if the stage still waits in the
suspension that was checked; otherwise somebody was faster and nothing changes.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from kernel.commands.execute_job import ExecuteJobPorts, config_of, definition_of
from kernel.errors import BlobNotFound, EngineError, ErrorInfo, InvalidConfig, PayloadRefused, StageNotFound
from kernel.model.attempts import Note
from kernel.model.draft import Decision, Draft, Moment
from kernel.model.facts import BlobRef, CorruptHistory
from kernel.model.machine import Status
from kernel.model.polls import CheckBroken, Finding, FoundFailed, FoundNotReady, FoundReady, end_poll, waits
from kernel.model.retry import delay_of
from kernel.model.run import RunState
from kernel.payloads import blob_key, place_payload, put_blob
from kernel.ports.executor import CheckAttempt, CheckFailed, CheckNotReady, CheckOutcome, CheckRaised, CheckReady
from kernel.run_output import record_output

__all__ = ["poll_stage"]


async def poll_stage(run_id: str, stage_id: str, ports: ExecuteJobPorts) -> bool:
    """Check one suspended stage now; False when it does not wait (any more), and nothing was recorded.

    Interrupted, the stage waits as before. Raises: RunNotFound, StageNotFound, WorkflowNotFound, DefinitionChanged.
    """
    state = await ports.journals.record(run_id, lambda state, _moment: Decision(result=state, state=state))
    stage = state.stages.get(stage_id)
    if stage is None:
        raise StageNotFound(stage_id, workflow_id=state.workflow_id, known=state.stages)
    suspension = stage.suspension
    if stage.status is not Status.SUSPENDED or suspension is None:
        return False
    workflow = definition_of(state, ports.registry)
    policy = workflow.get_stage(stage_id).retry
    finding: Finding
    notes: tuple[Note, ...] = ()
    output: bytes | None = None
    try:
        check = CheckAttempt(
            workflow=workflow,
            stage=stage.plan,
            run_id=run_id,
            execution=stage.execution,
            number=stage.attempt,
            state=(await ports.journals.payloads(run_id, [suspension.state]))[suspension.state],
            config=config_of(state, workflow),
        )
        outcome = await ports.executor.check(check)
        output = outcome.output if isinstance(outcome, CheckReady) else None
        finding, notes = await _place(outcome, check, ports), outcome.notes
    except (BlobNotFound, CorruptHistory, InvalidConfig, PayloadRefused) as error:
        finding = _refused(error)

    def decide(state: RunState, moment: Moment, refusal: EngineError | None) -> Decision[bool]:
        draft = Draft(state, moment)
        if not waits(state, stage_id, suspension):
            return draft.decided(False)
        end_poll(draft, stage_id, finding if refusal is None else _refused(refusal), policy, notes=notes)
        return draft.decided(True)

    try:
        return await record_output(ports.journals, run_id, stage_id, workflow, output, decide)
    except (BlobNotFound, CorruptHistory, PayloadRefused) as error:
        finding, notes = _refused(error), ()
        return await record_output(ports.journals, run_id, stage_id, workflow, None, decide)


def _refused(error: EngineError) -> FoundFailed:
    """No later check is luckier: what this one needs is gone, or what it found cannot be kept."""
    return FoundFailed(error=ErrorInfo(type=type(error).__name__, message=str(error), retryable=False))


async def _place(outcome: CheckOutcome, check: CheckAttempt, ports: ExecuteJobPorts) -> Finding:
    """Put large results where they belong.

    Their keys contain their digest: a check has no token, and a process that was paused in the middle of one must not
    overwrite what the next owner's check has recorded.
    """

    def key(data: bytes, *names: str) -> str:
        digest = hashlib.sha256(data).hexdigest()[:24]
        return blob_key(check.workflow.id, check.run_id, check.stage.id, f"{check.execution}-{digest}", *names)

    what = f'of stage "{check.stage.id}"'
    match outcome:
        case CheckReady():
            output = await place_payload(
                ports, outcome.output, key=key(outcome.output, "output.json"), what=f"Output {what}", field="output"
            )
            artifacts: dict[str, BlobRef] = {
                artifact: await put_blob(
                    ports,
                    data,
                    key=key(data, "artifacts", artifact),
                    what=f'Artifact "{artifact}" {what}',
                    field="artifacts",
                )
                for artifact, data in outcome.artifacts.items()
            }
            return FoundReady(output=output, metrics=outcome.metrics, artifacts=artifacts)
        case CheckNotReady():
            seconds = outcome.next_check_in_s
            state = outcome.state
            return FoundNotReady(
                next_check_in=None if seconds is None else delay_of(seconds),
                state=None
                if state is None
                else await place_payload(
                    ports, state, key=key(state, "state.json"), what=f"State {what}", field="state"
                ),
            )
        case CheckFailed():
            return FoundFailed(error=replace(outcome.error, retryable=outcome.retry))
        case CheckRaised():
            return CheckBroken(error=outcome.error, retry_after=outcome.retry_after)
