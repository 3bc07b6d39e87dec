"""What a check found about a suspended stage, and what follows: pure decisions, like those about attempts.

A check that is not ready and brings no new state moves the next poll and nothing else: it is a suspension repeated
with the same state, so histories grow with polls only as far as somebody waits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeAlias

from kernel.errors import ErrorInfo
from kernel.model.attempts import Note, Payload, fail_or_retry, split
from kernel.model.consequences import advance_run
from kernel.model.draft import Draft
from kernel.model.facts import AnnotationCreated, BlobRef, StageCompleted, StageSuspended
from kernel.model.machine import Status
from kernel.model.retry import RetryPolicy, delay_of, retry_delay
from kernel.model.run import RunState
from kernel.model.stage import StageState, Suspension

__all__ = ["CheckBroken", "Finding", "FoundFailed", "FoundNotReady", "FoundReady", "end_poll", "waits"]


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
    """Whether the stage still waits in the suspension that was checked."""
    stage = state.stages[stage_id]
    return not state.ended and stage.status is Status.SUSPENDED and stage.suspension == suspension


def end_poll(
    draft: Draft, stage_id: str, finding: Finding, policy: RetryPolicy, *, notes: Collection[Note] = ()
) -> None:
    """Record what a check found, and what follows. The caller has made sure that the stage still waits.

    Past the suspension's limit a check that is not ready fails the stage; one that is ready at the same moment wins.
    """
    stage = draft.state.stages[stage_id]
    suspension = stage.suspension
    assert suspension is not None
    now = draft.moment.now
    for note in notes:
        draft.add(AnnotationCreated(key=note.key, scope="stage", stage_id=stage_id, actor=note.actor), note.value)
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
            _wait_on(draft, stage, suspension, interval, state=finding.state)
        case CheckBroken():
            failures = suspension.check_failures + 1
            if not finding.error.retryable or failures >= policy.max_attempts:
                fail_or_retry(draft, stage, replace(finding.error, retryable=False), policy)
            else:
                seed = f"{draft.moment.append_id}/{stage.id}"
                delay = finding.retry_after
                if delay is None:
                    delay = retry_delay(policy, failures=failures, token=seed)
                _wait_on(draft, stage, suspension, delay, failures=failures)
    advance_run(draft)


def _wait_on(
    draft: Draft,
    stage: StageState,
    suspension: Suspension,
    interval: timedelta,
    *,
    state: Payload | None = None,
    failures: int | None = None,
) -> None:
    """Suspend again, until the next check; without a new state the old one stays where it is."""
    inline, blob = (None, suspension.state.blob) if state is None else split(state)
    next_poll_at = draft.moment.after(interval)
    draft.add(
        StageSuspended(
            stage_id=stage.id,
            execution=stage.execution,
            attempt=stage.attempt,
            next_poll_at=next_poll_at,
            # A stage that suspends again goes on waiting for the same thing: the first limit holds. But a check that
            # went wrong has told nothing, so what may be its last one is still made, after its backoff.
            max_wait_until=suspension.max_wait_until
            if failures is None
            else max(suspension.max_wait_until, next_poll_at),
            poll_interval_s=suspension.poll_interval_s,
            state_blob=blob,
            state_seq=suspension.state.seq if state is None else None,
            check_failures=failures,
        ),
        inline,
    )
