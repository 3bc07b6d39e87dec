"""What operators read of runs and of outages: past-tense facts with ids in the log, never a payload.

Not even an error's message, which may quote one: the log names its class, and the run by which to look it up.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from kernel.model.facts import Fact, RunCancelled, RunCompleted, RunFailed, StageRetrying
from kernel.model.run import RunState
from telemetry.logs import EventLogger, get_logger, log_fields
from telemetry.scope import trace_ids

__all__ = ["OutageLog", "narrate", "narrate_from_outside"]

logger: EventLogger = get_logger("leasehold.runtime")

REPEAT_S = 10.0


def narrate(state: RunState, facts: Iterable[Fact]) -> None:
    """Say what became of a run, after it is durable; most facts are not worth a line."""
    run_id, workflow_id = state.run_id, state.workflow_id
    for fact in facts:
        match fact:
            case RunCompleted():
                logger.info("run.completed", run_id=run_id, workflow_id=workflow_id, duration_s=fact.duration_s)
            case RunFailed():
                logger.warning(
                    "run.failed",
                    run_id=run_id,
                    workflow_id=workflow_id,
                    stage_id=fact.stage_id,
                    attempt=fact.attempt,
                    error=fact.error.type,
                )
            case RunCancelled():
                logger.info("run.cancelled", run_id=run_id, workflow_id=workflow_id)
            case StageRetrying():
                say = logger.info if fact.cause == "drained" else logger.warning
                say(
                    "stage.retrying",
                    run_id=run_id,
                    workflow_id=workflow_id,
                    stage_id=fact.stage_id,
                    attempt=fact.attempt,
                    cause=fact.cause,
                    error=fact.error.type,
                    due_at=fact.due_at.isoformat(),
                )
            case _:
                pass


def narrate_from_outside(state: RunState, facts: Iterable[Fact], *, session_id: str | None = None) -> None:
    """The same for a run that has no actor here, whose ids therefore nothing around this call knows."""
    ids = trace_ids(state.run_id)
    with log_fields(run_id=state.run_id, workflow_id=state.workflow_id, session_id=session_id, **ids):
        narrate(state, facts)


class OutageLog:
    """Says the first failure of a row, then one every ten seconds, and when it is over how long it took."""

    def __init__(self, failed: str, recovered: str) -> None:
        self._failed = failed
        self._recovered = recovered
        self._since: float | None = None
        self._said_at = 0.0

    def failed(self, error: Exception, **fields: object) -> None:
        """It failed (again)."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        elif now < self._said_at + REPEAT_S:
            return
        self._said_at = now
        logger.warning(self._failed, error=str(error), for_s=round(now - self._since, 1), **fields)

    def worked(self, **fields: object) -> None:
        """It worked (again)."""
        if self._since is not None:
            logger.info(self._recovered, after_s=round(time.monotonic() - self._since, 1), **fields)
            self._since = None
