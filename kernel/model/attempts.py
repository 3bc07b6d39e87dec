"""How attempts begin and end: pure decisions over one stage, closed under their consequences.

Whoever drives an attempt (the run's actor, a queue, a caller by hand) takes the same three decisions. An ending names
the token of its attempt; once another attempt has begun, or the stage or run has ended otherwise, the token is
superseded and the ending changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, TypeAlias

from kernel.errors import ErrorInfo
from kernel.model.consequences import advance_run
from kernel.model.draft import Draft
from kernel.model.facts import (
    BlobRef,
    RetryCause,
    StageCompleted,
    StageFailed,
    StageRetrying,
    StageSuspended,
)
from kernel.model.machine import Status
from kernel.model.notes import Note, add_notes
from kernel.model.retry import RetryPolicy, retry_delay
from kernel.model.run import RunState
from kernel.model.stage import StageState

__all__ = [
    "Completed",
    "Drained",
    "Note",
    "Outcome",
    "Payload",
    "Raised",
    "Suspended",
    "end_attempt",
    "fail_or_retry",
    "holds",
    "lose_attempt",
    "split",
]

Payload: TypeAlias = bytes | BlobRef
"""A payload ready to be recorded: raw JSON to be kept beside its fact, or the place where it was put."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """The body returned; its output has been validated."""

    output: Payload
    notes: tuple[Note, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    artifacts: Mapping[str, BlobRef] = field(default_factory=dict[str, BlobRef])


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspended:
    """The body asked to wait for something outside, and to have its check called meanwhile."""

    state: Payload
    poll_interval: timedelta
    max_wait: timedelta
    notes: tuple[Note, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """The body raised, ran out of time, or its child process died; `error.retryable` False ends the stage.

    `retry_after` is the delay that the body asked for instead of the policy's.
    """

    error: ErrorInfo
    cause: Literal["raised", "timeout"] = "raised"
    retry_after: timedelta | None = None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """The body was interrupted because its process is leaving; the attempt is handed back and counts nowhere."""

    notes: tuple[Note, ...] = ()


Outcome: TypeAlias = Completed | Suspended | Raised | Drained


def holds(state: RunState, stage_id: str, token: str) -> bool:
    """Whether this token's attempt is still the one that runs."""
    stage = state.stages[stage_id]
    return not state.ended and stage.status is Status.RUNNING and stage.token == token


def end_attempt(draft: Draft, stage_id: str, outcome: Outcome, policy: RetryPolicy) -> None:
    """Record how the running attempt of a stage ended, and what follows. The caller has checked its token."""
    stage = draft.state.stages[stage_id]
    assert stage.status is Status.RUNNING
    draft.starts += draft.moment.passes_on
    now = draft.moment.now
    add_notes(draft, outcome.notes, stage=stage)
    match outcome:
        case Completed():
            assert stage.attempt_started_at is not None
            inline, blob = split(outcome.output)
            draft.add(
                StageCompleted(
                    stage_id=stage_id,
                    execution=stage.execution,
                    attempt=stage.attempt,
                    duration_s=max((now - stage.attempt_started_at).total_seconds(), 0.0),
                    metrics=outcome.metrics or None,
                    artifacts=outcome.artifacts or None,
                    output_blob=blob,
                ),
                inline,
            )
        case Suspended():
            inline, blob = split(outcome.state)
            draft.add(
                StageSuspended(
                    stage_id=stage_id,
                    execution=stage.execution,
                    attempt=stage.attempt,
                    next_poll_at=draft.moment.after(outcome.poll_interval),
                    max_wait_until=draft.moment.after(outcome.max_wait),
                    poll_interval_s=outcome.poll_interval.total_seconds(),
                    metrics=outcome.metrics or None,
                    state_blob=blob,
                ),
                inline,
            )
        case Raised():
            fail_or_retry(draft, stage, outcome.error, policy, cause=outcome.cause, retry_after=outcome.retry_after)
        case Drained():
            drained = ErrorInfo(type="Drained", message="the process that ran it was shut down")
            _retry(draft, stage, drained, "drained", timedelta(0))
    advance_run(draft)


def lose_attempt(draft: Draft, stage_id: str, policy: RetryPolicy, *, owner: str | None) -> None:
    """Record that the running attempt of a stage went down with its process, and what follows.

    Lost attempts have a budget of their own, so that a body which kills its process ends with a clear error while
    the innocent attempts that died beside it are repeated.
    """
    stage = draft.state.stages[stage_id]
    assert stage.status is Status.RUNNING
    times = stage.lost + 1
    lost_in: list[str] = [*stage.lost_in, *([owner] if owner is not None else [])]
    sessions = list(dict.fromkeys(lost_in))
    error = ErrorInfo(
        type="AttemptLost",
        message=f"the process that ran it ended without a result, {times} time(s)"
        + (f" (sessions {', '.join(sessions)})" if sessions else ""),
        retryable=times <= policy.max_lost,
    )
    if times > policy.max_lost:
        _fail(draft, stage, error)
    else:
        # The first loss is most likely the process's own end: begin again at once. A repeated one backs off.
        delay = timedelta(0) if times == 1 else retry_delay(policy, failures=times - 1, token=stage.token or "")
        _retry(draft, stage, error, "lost", delay, owner=owner)
    advance_run(draft)


def fail_or_retry(
    draft: Draft,
    stage: StageState,
    error: ErrorInfo,
    policy: RetryPolicy,
    *,
    cause: Literal["raised", "timeout"] = "raised",
    retry_after: timedelta | None = None,
) -> None:
    """Plan the next attempt if the error and the policy allow one, else fail the stage."""
    failures = stage.failures + 1
    if not error.retryable or failures >= policy.max_attempts:
        _fail(draft, stage, error)
        return
    delay = retry_after
    if delay is None:
        seed = stage.token or f"{draft.state.run_id}/{stage.id}/{failures}"
        delay = retry_delay(policy, failures=failures, token=seed)
    _retry(draft, stage, error, cause, delay)


def _fail(draft: Draft, stage: StageState, error: ErrorInfo) -> None:
    draft.add(StageFailed(stage_id=stage.id, execution=stage.execution, attempt=stage.attempt, error=error))


def _retry(
    draft: Draft, stage: StageState, error: ErrorInfo, cause: RetryCause, delay: timedelta, *, owner: str | None = None
) -> None:
    draft.add(
        StageRetrying(
            stage_id=stage.id,
            execution=stage.execution,
            attempt=stage.attempt,
            error=error,
            due_at=draft.moment.after(delay),
            cause=cause,
            token=stage.token,
            owner=owner,
        )
    )


def split(payload: Payload) -> tuple[bytes | None, BlobRef | None]:
    """The payload as (body of the fact, reference in the fact): one of them is None."""
    return (payload, None) if isinstance(payload, bytes) else (None, payload)
