"""What a check found about a suspended stage, and what follows: pure decisions, like those about attempts.

A check that is not ready and brings nothing new, or that went wrong, moves the next look and nothing else, and that is
no fact (`kernel.model.looks`): a history does not grow because somebody waits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeAlias

from kernel.errors import ErrorInfo
from kernel.model.attempts import Note, Payload, fail_or_retry, split
from kernel.model.consequences import advance_run
from kernel.model.draft import Draft
from kernel.model.facts import BlobRef, StageCompleted, StageSuspended
from kernel.model.looks import Look
from kernel.model.machine import Status
from kernel.model.notes import add_notes
from kernel.model.retry import RetryPolicy, delay_of, retry_delay
from kernel.model.run import RunState
from kernel.model.stage import Body, StageState, Suspension

__all__ = ["CheckBroken", "Finding", "FoundFailed", "FoundNotReady", "FoundReady", "ask_to_look", "end_poll", "waits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundReady:
    """The wait is over; the output has been validated."""

    output: Payload
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    artifacts: Mapping[str, BlobRef] = field(default_factory=dict[str, BlobRef])


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundNotReady:
    """Look again after `next_check_in` (None: the interval of the suspension), with a new state if there is one."""

    next_check_in: timedelta | None = None
    state: Payload | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFailed:
    """What is waited for has failed; `error.retryable` says whether the retry policy applies."""

    error: ErrorInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckBroken:
    """The check itself went wrong: it is called again, as often as the retry policy allows attempts."""

    error: ErrorInfo
    retry_after: timedelta | None = None


Finding: TypeAlias = FoundReady | FoundNotReady | FoundFailed | CheckBroken


def waits(state: RunState, stage_id: str, suspension: Suspension) -> bool:
    """Whether the stage still waits for what was checked: in the same state, however often it was looked at since."""
    stage = state.stages[stage_id]
    now = stage.suspension
    return not state.ended and stage.status is Status.SUSPENDED and now is not None and now.state == suspension.state


def ask_to_look(draft: Draft, stage_id: str) -> None:
    """Make the stage, which is suspended, due now.

    It is a fact, because whoever drives the run must not overlook it: an append of the driver's that was decided before
    is refused.
    """
    stage = draft.state.stages[stage_id]
    suspension = stage.suspension
    assert suspension is not None
    draft.add(_again(stage, suspension, draft.moment.now))


def end_poll(
    draft: Draft,
    stage_id: str,
    finding: Finding,
    policy: RetryPolicy,
    *,
    checked: Suspension | None = None,
    notes: Collection[Note] = (),
) -> None:
    """Record what a check found, and what follows. The caller has made sure that the stage still waits.

    `checked` is the suspension as the check found it when it began: when somebody has asked for a look since, one that
    found nothing leaves the stage due. Past the suspension's limit a check that is not ready fails the stage; one that
    is ready at the same moment wins.
    """
    stage = draft.state.stages[stage_id]
    suspension = stage.suspension
    assert suspension is not None
    now = draft.moment.now
    add_notes(draft, notes, stage=stage)
    asked = checked is not None and checked.seq != suspension.seq
    match finding:
        case FoundReady():
            inline, blob = split(finding.output)
            started = stage.attempt_started_at or now
            draft.add(
                StageCompleted(
                    stage_id=stage_id,
                    execution=stage.execution,
                    attempt=stage.attempt,
                    duration_s=max((now - started).total_seconds(), 0.0),
                    metrics=finding.metrics or None,
                    artifacts=finding.artifacts or None,
                    output_blob=blob,
                ),
                inline,
            )
        case FoundFailed():
            fail_or_retry(draft, stage, finding.error, policy)
        case FoundNotReady() if suspension.max_wait_until <= now:
            message = f"nothing was ready by {suspension.max_wait_until.isoformat()} (max_wait)"
            fail_or_retry(draft, stage, ErrorInfo(type="MaxWaitExceeded", message=message, retryable=False), policy)
        case FoundNotReady():
            interval = finding.next_check_in
            if interval is None:
                interval = delay_of(suspension.poll_interval_s)
            next_poll_at = suspension.next_poll_at if asked else draft.moment.after(interval)
            if finding.state is not None:
                inline, blob = split(finding.state)
                draft.add(_again(stage, suspension, next_poll_at, state=Body(draft.state.seq + 1, blob)), inline)
            elif not asked or suspension.check_failures:
                _keep_waiting(draft, stage, suspension, next_poll_at)
        case CheckBroken():
            _count_failure(draft, stage, suspension, finding, policy, asked=asked)
    advance_run(draft)


def _count_failure(
    draft: Draft, stage: StageState, suspension: Suspension, finding: CheckBroken, policy: RetryPolicy, *, asked: bool
) -> None:
    failures = suspension.check_failures + 1
    if not finding.error.retryable or failures >= policy.max_attempts:
        fail_or_retry(draft, stage, replace(finding.error, retryable=False), policy)
        return
    delay = finding.retry_after
    if delay is None:
        delay = retry_delay(policy, failures=failures, token=f"{draft.moment.append_id}/{stage.id}")
    next_poll_at = suspension.next_poll_at if asked else draft.moment.after(delay)
    _keep_waiting(draft, stage, suspension, next_poll_at, failures=failures)


def _keep_waiting(
    draft: Draft, stage: StageState, suspension: Suspension, next_poll_at: datetime, *, failures: int | None = None
) -> None:
    """Go on waiting for the same thing until the next look: no fact.

    The limit holds. But a check that went wrong has told nothing, so what may be its last one is still made, after its
    backoff.
    """
    limit = suspension.max_wait_until
    draft.look(
        stage.id,
        Look(
            seq=suspension.seq,
            next_poll_at=next_poll_at,
            max_wait_until=limit if failures is None else max(limit, next_poll_at),
            check_failures=failures or 0,
        ),
    )


def _again(
    stage: StageState, suspension: Suspension, next_poll_at: datetime, *, state: Body | None = None
) -> StageSuspended:
    """The same suspension once more; without a new state the old one stays where it is.

    A check that brings a new state has answered, and is forgiven its failures; somebody who asks for a look has not.
    """
    return StageSuspended(
        stage_id=stage.id,
        execution=stage.execution,
        attempt=stage.attempt,
        next_poll_at=next_poll_at,
        max_wait_until=suspension.max_wait_until,
        poll_interval_s=suspension.poll_interval_s,
        state_blob=suspension.state.blob if state is None else state.blob,
        state_seq=suspension.state.seq if state is None else None,
        check_failures=(suspension.check_failures or None) if state is None else None,
    )
