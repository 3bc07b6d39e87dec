"""What people and programs are told about a run: `RunInfo`, made from its head and, when asked for, its state.

Pure functions over what a store returned, so that the client, the supervisor and the command line all say the same.
The keys of `run_json` are public and stable. Nothing here reads a store or a clock; `now` is the database's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from kernel.errors import ErrorInfo
from kernel.model.facts import FORMAT
from kernel.model.head import Phase, shown_status
from kernel.model.machine import ENDED, Status
from kernel.model.run import RunError, RunState, Step
from kernel.model.stage import Body, StageState
from kernel.ports.jobs import JobInfo
from kernel.ports.persistence import HeadRow, LogLine
from runtime.job_waiting import jobs_wait, waiting_queues
from telemetry.run_trace import run_trace

__all__ = [
    "ArtifactInfo",
    "FailureInfo",
    "RunInfo",
    "StageInfo",
    "parked_code",
    "run_info",
    "run_json",
    "time_json",
    "waiting_for",
    "wanted_bodies",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureInfo:
    """Why a run or a stage failed: the class and message of what was raised, and at which stage."""

    type: str
    message: str
    stage_id: str | None
    retryable: bool
    traceback: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactInfo:
    """Something that a stage kept beside its result: how many bytes, and their SHA-256 in hexadecimal digits."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageInfo:
    """One stage of a run, in its current execution; numbers count from 1, `progress` is a share from 0 to 1.

    `attempt` is 0 before the first start. `duration_s` is from the first start to the end, waiting included. `steps`
    are the names of its recorded steps, in order.
    """

    id: str
    name: str
    group: int
    number: int
    status: str
    execution: int
    attempt: int
    progress: float | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    duration_s: float | None = None
    next_poll_at: datetime | None = None
    retry_at: datetime | None = None
    max_wait_until: datetime | None = None
    queue: str | None = None
    error: FailureInfo | None = None
    output: Any = None
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    steps: tuple[str, ...] = ()
    artifacts: Mapping[str, ArtifactInfo] = field(default_factory=dict[str, ArtifactInfo])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """A run as it is now.

    `input`, `output`, `stages` and `cancel_reason` are there only if its history was read (`stages` not None). `status`
    may be the derived SUSPENDED. `waiting_for` says why nothing of it executes now, None when something does or the run
    has ended; `waiting_queues` are those in which its jobs wait, `unserved_queues` those of them that no live session
    serves. `owner` is the live session that drives it. `trace_id` is the trace in which its spans are, if anybody
    records any, in hexadecimal digits: the one that its creator has had it continue, or its own. `duration_s` counts
    from the start, not from creation; costs are USD; times are aware UTC.
    """

    id: str
    workflow_id: str
    workflow_version: str
    status: str
    waiting_for: str | None
    priority: int
    idempotency_key: str | None
    metadata: Mapping[str, Any] | None
    created_at: datetime
    run_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime
    duration_s: float | None
    total_cost: Decimal
    total_tokens: int
    owner: str | None
    error: FailureInfo | None
    trace_id: str
    waiting_detail: str | None = None
    waiting_queues: tuple[str, ...] = ()
    unserved_queues: tuple[str, ...] = ()
    cancel_reason: str | None = None
    input: Any = None
    output: Any = None
    stages: tuple[StageInfo, ...] | None = None

    @property
    def ended(self) -> bool:
        """Whether the run has completed, failed or been cancelled."""
        return Status(self.status) in ENDED


def run_info(
    head: HeadRow,
    state: RunState | None = None,
    *,
    now: datetime,
    live_workflows: Collection[tuple[str, str]] | None = None,
    payloads: Mapping[Body, Any] | None = None,
    progress: Mapping[str, LogLine] | None = None,
    jobs: Sequence[JobInfo] | None = None,
) -> RunInfo:
    """What is known of a run: from the head alone, or also from its state.

    `payloads` are the bodies that `wanted_bodies` names, as plain JSON values; `progress` is the last report of each
    stage that has one, by stage id; `live_workflows` the definitions that live processes know, `jobs` those of the run
    (None: not asked).
    """
    given = head.head
    found = payloads or {}
    return RunInfo(
        id=head.run_id,
        workflow_id=head.workflow_id,
        workflow_version=head.workflow_version,
        status=shown_status(given).value,
        waiting_for=waiting_for(head, state, now=now, live_workflows=live_workflows, jobs=jobs),
        waiting_detail=head.parked_reason,
        waiting_queues=waiting_queues(jobs),
        unserved_queues=waiting_queues(jobs, unserved=True),
        priority=head.priority,
        idempotency_key=head.idempotency_key,
        metadata=head.metadata,
        created_at=head.created_at,
        run_at=head.run_at,
        started_at=given.started_at,
        completed_at=given.completed_at,
        updated_at=head.updated_at,
        duration_s=_span_s(given.started_at, given.completed_at),
        total_cost=given.total_cost,
        total_tokens=given.total_tokens,
        owner=head.owner if head.owner_live else None,
        error=_run_error(given.error, state),
        trace_id=_trace_id(head),
        input=None if state is None else found.get(state.input),
        output=None if state is None else _output(state, found),
        cancel_reason=None if state is None else state.cancel_reason,
        stages=None
        if state is None
        else tuple(
            _stage(s, found, (progress or {}).get(s.id), state.steps.get(s.id, ())) for s in state.stages.values()
        ),
    )


def _trace_id(head: HeadRow) -> str:
    trace = run_trace(
        head.run_id,
        head.workflow_id,
        head.workflow_version,
        began_at=head.created_at,
        carrier=head.trace_context,
        sample=_not_asked,
    )
    return f"{trace.trace_id:032x}"


def _not_asked(_trace_id: int, _workflow_id: str) -> bool:
    """Whether it is sampled makes no difference to its id."""
    return False


def wanted_bodies(state: RunState) -> list[Body]:
    """The payloads that a full `RunInfo` shows: the input and every stage's output."""
    return [state.input, *(stage.output for stage in state.stages.values() if stage.output is not None)]


def waiting_for(
    head: HeadRow,
    state: RunState | None = None,
    *,
    now: datetime,
    live_workflows: Collection[tuple[str, str]] | None = None,
    jobs: Sequence[JobInfo] | None = None,
) -> str | None:
    """Why nothing of the run executes now, in one word; None when something does, or when it has ended.

    `delayed_until` (its `run_at`), `retry`, `poll` and `queue` are what the run itself waits for. `capacity`: a
    live session has it and has begun nothing: no room for another body, or it was claimed just now, or that process has
    died and its lease lasts on. `claim`: it could go on, and waits for a process with room;
    `unknown_workflow`: the processes that live do not know its workflow and version; `newer_release`: they are too
    old to read it. A parked run waits for a human: the word is the reason's (such as `definition_changed`).
    """
    given = head.head
    if given.status in ENDED:
        return None
    if head.parked_reason is not None:
        return parked_code(head.parked_reason)
    if head.format > FORMAT:
        return "newer_release"
    own, by_jobs = _OWN_WAIT.get(given.phase), jobs_wait(head, jobs, now=now)
    if given.phase == "delayed" and head.run_at is not None and head.run_at <= now:
        own = None
    if head.owner is not None and head.owner_live:
        if given.status is Status.PENDING:
            return own or ("queue" if state is not None and _begins_in_queues(state) else "capacity")
        if by_jobs == "queue":
            return "queue"
        # A retry that is due has nothing to wait for but room.
        is_short = own in (None, "retry") and state is not None and _is_short_of_room(state, now)
        return "capacity" if is_short else own
    if own is not None and (given.wake_at is None or given.wake_at > now):
        return by_jobs or own
    if by_jobs is not None:
        return "queue" if by_jobs == "queue" else None
    if live_workflows and (head.workflow_id, head.workflow_version) not in live_workflows:
        return "unknown_workflow"
    return "claim"


_OWN_WAIT: Mapping[Phase, str] = {
    "delayed": "delayed_until",
    "retrying": "retry",
    "suspended": "poll",
    "queued": "queue",
}


def parked_code(reason: str) -> str:
    """The word before the colon of a parked run's reason; "parked" when it does not begin with one."""
    word = reason.partition(":")[0].strip()
    return word if word.isidentifier() else "parked"


def _is_short_of_room(state: RunState, now: datetime) -> bool:
    active = [] if state.group == 0 else [stage for stage in state.in_group(state.group) if stage.active]
    return bool(active) and all(
        s.status is Status.PENDING and s.scheduled and (s.due_at is None or s.due_at <= now) for s in active
    )


def _begins_in_queues(state: RunState) -> bool:
    return all(stage.queue is not None for stage in state.plan.groups[0].stages)


def _span_s(start: datetime | None, end: datetime | None) -> float | None:
    return None if start is None or end is None else max((end - start).total_seconds(), 0.0)


def _error(error: ErrorInfo, stage_id: str | None) -> FailureInfo:
    return FailureInfo(
        type=error.type,
        message=error.message,
        stage_id=stage_id,
        retryable=error.retryable,
        traceback=error.traceback,
    )


def _run_error(error: RunError | None, state: RunState | None) -> FailureInfo | None:
    # The head may keep less of the error than the history does.
    if state is not None and state.error is not None:
        error = state.error
    return None if error is None else _error(error.error, error.stage_id)


def _output(state: RunState, payloads: Mapping[Body, Any]) -> Any:
    """The run's output: that of its last stage, or of every stage of its last group by id."""
    if state.status is not Status.COMPLETED:
        return None
    group = state.last_group
    outputs = {
        stage.id: payloads.get(stage.output) if stage.output is not None else None
        for stage in state.in_group(group.number)
    }
    return outputs if group.parallel else next(iter(outputs.values()))


def _stage(stage: StageState, payloads: Mapping[Body, Any], report: LogLine | None, steps: Sequence[Step]) -> StageInfo:
    suspended = stage.suspension if stage.status is Status.SUSPENDED else None
    return StageInfo(
        id=stage.id,
        name=stage.plan.name,
        group=stage.plan.group,
        number=stage.plan.number,
        status=stage.status.value,
        execution=stage.execution,
        attempt=stage.attempt,
        progress=_progress(stage, report),
        started_at=stage.started_at,
        completed_at=stage.ended_at,
        duration_s=_span_s(stage.started_at, stage.ended_at),
        next_poll_at=None if suspended is None else suspended.next_poll_at,
        retry_at=stage.due_at if stage.status is Status.PENDING else None,
        max_wait_until=None if suspended is None else suspended.max_wait_until,
        queue=stage.plan.queue,
        error=None if stage.error is None else _error(stage.error, stage.id),
        output=None if stage.output is None else payloads.get(stage.output),
        metrics=stage.metrics,
        steps=tuple(step.name for step in steps),
        artifacts={
            name: ArtifactInfo(size_bytes=blob.size_bytes, sha256=blob.digest) for name, blob in stage.artifacts.items()
        },
    )


def _progress(stage: StageState, report: LogLine | None) -> float | None:
    """How far the stage is: what the attempt that runs has reported, or all of it."""
    if stage.status is Status.COMPLETED:
        return 1.0
    if stage.status is not Status.RUNNING or report is None:
        return None
    if (report.execution, report.attempt) != (stage.execution, stage.attempt):
        return None
    share = report.fields.get("progress")
    return float(share) if isinstance(share, int | float) else None


# -- as JSON ---------------------------------------------------------------------------------------------------------


def run_json(info: RunInfo, *, full: bool = False) -> dict[str, Any]:
    """The run as plain JSON: times in ISO 8601 UTC, durations in seconds, costs as decimal text.

    Without its history read, the keys `input output stages` are absent. A run that was cancelled for a reason has one
    key more, `cancel_reason`; one whose jobs wait has `waiting_queues`, and `unserved_queues` if nobody serves them.
    `full` adds the tracebacks of errors.
    """
    shown: dict[str, Any] = {
        "id": info.id,
        "workflow_id": info.workflow_id,
        "workflow_version": info.workflow_version,
        "status": info.status,
        "waiting_for": info.waiting_for,
        "priority": info.priority,
        "idempotency_key": info.idempotency_key,
        "input": info.input,
        "output": info.output,
        "error": _error_json(info.error, full=full),
        "metadata": None if info.metadata is None else dict(info.metadata),
        "created_at": time_json(info.created_at),
        "run_at": time_json(info.run_at),
        "started_at": time_json(info.started_at),
        "completed_at": time_json(info.completed_at),
        "updated_at": time_json(info.updated_at),
        "duration_s": info.duration_s,
        "total_cost": format(info.total_cost, "f"),
        "total_tokens": info.total_tokens,
        "owner": info.owner,
        "trace_id": info.trace_id,
        "stages": None if info.stages is None else [_stage_json(stage, full=full) for stage in info.stages],
    }
    if info.stages is None:
        for absent in ("input", "output", "stages"):
            del shown[absent]
    if info.cancel_reason is not None:
        shown["cancel_reason"] = info.cancel_reason
    for name, queues in (("waiting_queues", info.waiting_queues), ("unserved_queues", info.unserved_queues)):
        if queues:
            shown[name] = list(queues)
    return shown


def _stage_json(stage: StageInfo, *, full: bool) -> dict[str, Any]:
    return {
        "id": stage.id,
        "name": stage.name,
        "group": stage.group,
        "number": stage.number,
        "status": stage.status,
        "execution": stage.execution,
        "attempt": stage.attempt,
        "progress": stage.progress,
        "started_at": time_json(stage.started_at),
        "completed_at": time_json(stage.completed_at),
        "duration_s": stage.duration_s,
        "next_poll_at": time_json(stage.next_poll_at),
        "retry_at": time_json(stage.retry_at),
        "max_wait_until": time_json(stage.max_wait_until),
        "queue": stage.queue,
        "error": _error_json(stage.error, full=full),
        "output": stage.output,
        "metrics": dict(stage.metrics),
        "steps": list(stage.steps),
        "artifacts": {
            name: {"size_bytes": each.size_bytes, "sha256": each.sha256} for name, each in stage.artifacts.items()
        },
    }


def _error_json(error: FailureInfo | None, *, full: bool) -> dict[str, Any] | None:
    if error is None:
        return None
    shown: dict[str, Any] = {
        "type": error.type,
        "message": error.message,
        "stage_id": error.stage_id,
        "retryable": error.retryable,
    }
    return shown | {"traceback": error.traceback} if full else shown


def time_json(at: datetime | None) -> str | None:
    """A moment in ISO 8601, UTC, ending in Z."""
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")
