"""What follows from a change without anybody asking: the next group begins, or the run ends.

Called at the end of every decision that ended an attempt or a wait, so that a stage's completion and the run's advance
are one append and no crash can fall between them. `run.transition` calls the same function; on a healthy run it finds
nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from kernel.errors import ErrorInfo
from kernel.model.draft import Draft
from kernel.model.facts import (
    RunCompleted,
    RunFailed,
    RunStarted,
    StageCancelled,
    StageScheduled,
    StageSkipped,
    StageStarted,
)
from kernel.model.jobs import queue_of
from kernel.model.machine import Status
from kernel.model.stage import StageState, next_attempt

__all__ = ["Advanced", "advance_run", "begin_group", "close_stages", "ensure_started", "fail_run", "start_stage"]

Advanced = Literal["advanced", "completed", "failed", "noop"]


def advance_run(draft: Draft) -> Advanced:
    """Begin the next group, or end the run, when nothing of the current group is active any more.

    A failed stage of a group with `on_failure="cancel"` ends its active siblings first.
    """
    state = draft.state
    if state.ended:
        return "noop"
    ensure_started(draft)
    if draft.state.group == 0:
        begin_group(draft, 1)
        return "advanced"
    group = draft.state.in_group(draft.state.group)
    failed = _first_failed(group)
    if failed is not None and draft.state.plan.group(draft.state.group).on_failure == "cancel":
        _end_active(draft, group)
        group = draft.state.in_group(draft.state.group)
    if any(stage.active for stage in group):
        return "noop"
    if failed is not None:
        assert failed.error is not None
        fail_run(draft, failed.error, stage=failed)
        return "failed"
    if draft.state.group < len(draft.state.plan.groups):
        begin_group(draft, draft.state.group + 1)
        return "advanced"
    _complete_run(draft)
    return "completed"


def ensure_started(draft: Draft) -> None:
    """Record that somebody drives the run, if nobody has before."""
    if draft.state.status is Status.PENDING:
        draft.add(RunStarted(owner=draft.moment.session))


def start_stage(draft: Draft, stage: StageState, *, key: str | None = None, token: str | None = None) -> str:
    """Start the stage's next attempt, asked for under an idempotency key or not, and return its token.

    `token` is that of the job's lease when the attempt is executed from a queue.
    """
    token = token or draft.next_token()
    draft.add(
        StageStarted(
            stage_id=stage.id,
            execution=stage.execution,
            attempt=next_attempt(stage),
            token=token,
            resumed=True if stage.suspension is not None else None,
            key=key,
        )
    )
    return token


def fail_run(draft: Draft, error: ErrorInfo, *, stage: StageState | None = None) -> None:
    """End the run with this error and close whatever of it is open, in the same append."""
    close_stages(draft, reason="the run failed")
    draft.add(
        RunFailed(
            error=error,
            stage_id=None if stage is None else stage.id,
            attempt=None if stage is None else stage.attempt,
        )
    )


def close_stages(draft: Draft, *, reason: str) -> None:
    """End every stage that has not ended: cancelled if its turn had come, skipped otherwise."""
    _end_active(draft, draft.state.stages.values(), reason=reason)


def _end_active(draft: Draft, stages: Iterable[StageState], *, reason: str = "a sibling failed") -> None:
    for stage in tuple(stages):
        if not stage.active:
            continue
        attempt = max(stage.attempt, 1)
        if stage.scheduled:
            draft.add(StageCancelled(stage_id=stage.id, execution=stage.execution, attempt=attempt))
        else:
            draft.add(StageSkipped(stage_id=stage.id, execution=stage.execution, attempt=attempt, reason=reason))


def begin_group(draft: Draft, number: int) -> None:
    """Start or schedule what is active of this group; groups count from 1."""
    for stage in draft.state.in_group(number):
        if not stage.active:
            continue
        queue = queue_of(draft.state, stage)
        if draft.starts > 0 and queue is None:
            draft.starts -= 1
            start_stage(draft, stage)
        else:
            draft.add(
                StageScheduled(
                    stage_id=stage.id,
                    execution=stage.execution,
                    attempt=next_attempt(stage),
                    queue=queue,
                )
            )


def _first_failed(group: Sequence[StageState]) -> StageState | None:
    """The stage whose failure was recorded first; moments can be equal, and clocks of two processes can disagree."""
    failed = [stage for stage in group if stage.status is Status.FAILED]
    return min(failed, key=lambda stage: stage.ended_seq or 0, default=None)


def _complete_run(draft: Draft) -> None:
    state = draft.state
    assert state.started_at is not None
    draft.add(
        RunCompleted(
            duration_s=max((draft.moment.now - state.started_at).total_seconds(), 0.0),
            # Never with an exponent: people read it, and other programs parse it.
            total_cost=format(state.total_cost, "f"),
            total_tokens=state.total_tokens,
        )
    )
