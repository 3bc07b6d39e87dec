"""`job.execute`: one attempt of one stage, from its start to its end.

Three phases. Append the start, or adopt a start that the driver has already appended; run the body, outside of any
transaction; append the end together with everything that follows from it. The end names the attempt's token: when
another attempt has begun meanwhile, or the run has ended, it changes nothing and the outcome is a *ghost*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, Protocol

from pydantic_core import from_json

from kernel.authoring.workflow import Workflow
from kernel.command import Command
from kernel.errors import (
    BlobNotFound,
    DefinitionChanged,
    EngineError,
    ErrorInfo,
    IdempotencyInProgress,
    InvalidCommand,
    InvalidConfig,
    JobLost,
    PayloadRefused,
    StageNotFound,
    WorkflowNotFound,
)
from kernel.idempotency_keys import check_idempotency_key
from kernel.model.attempts import Completed, Outcome, Raised, Suspended, end_attempt, holds
from kernel.model.consequences import ensure_started, start_stage
from kernel.model.draft import Decision, Draft, Moment
from kernel.model.execution_plan import ExecutionPlan
from kernel.model.facts import CorruptHistory
from kernel.model.jobs import JobLease, job_changes, queue_of
from kernel.model.machine import Status
from kernel.model.retry import RetryPolicy, delay_of
from kernel.model.run import RunState
from kernel.model.stage import Body, StageState, next_attempt
from kernel.payloads import Limits, blob_key, place_payload, put_blob
from kernel.ports.blobs import BlobStore
from kernel.ports.executor import Attempt, BodyCompleted, BodyOutcome, BodySuspended, Executor
from kernel.ports.journals import Journals
from kernel.ports.registry import WorkflowRegistry
from kernel.replace import replace
from kernel.run_output import record_output

__all__ = [
    "ExecuteJob",
    "ExecuteJobPorts",
    "ExecuteJobResult",
    "Started",
    "config_of",
    "decide_end",
    "decide_start",
    "definition_of",
    "execute_job",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecuteJobResult:
    """How the attempt ended.

    `ghost`: nothing was recorded, because the attempt was superseded or there was nothing to execute; `error` says
    why. `retryable`: another attempt is due later. `output` is plain JSON; `next_poll_at` is set when suspended.
    `job_ids` are the jobs that the end of a job has queued (run id/stage id), some of them due later.
    """

    outcome: Literal["completed", "suspended", "failed"]
    output: Any = None
    error: ErrorInfo | None = None
    next_poll_at: datetime | None = None
    ghost: bool = False
    retryable: bool = False
    job_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecuteJob(Command[ExecuteJobResult]):
    """Execute an attempt of a stage.

    With `token`, the attempt that has been started under it, or, of a stage that is executed from a queue, a new one
    under the job that is leased by it; with `attempt`, the one with this number, if it is due; with neither, the one
    that is due. An `idempotency_key` asks for one attempt however often it is sent.
    """

    type: ClassVar[str] = "job.execute"

    run_id: str
    stage_id: str
    attempt: int | None = None
    token: str | None = None
    idempotency_key: str | None = None

    def __post_init__(self) -> None:
        """Refuse what no attempt could answer to, naming the field."""
        attempt: object = self.attempt
        if attempt is not None and (not isinstance(attempt, int) or isinstance(attempt, bool) or attempt < 1):
            hint = "Leave it out to execute the attempt that is due."
            reason = f"attempt must be a whole number, at least 1, got {attempt!r}."
            raise InvalidCommand(reason, field="attempt", hint=hint)
        check_idempotency_key(self.idempotency_key)


class ExecuteJobPorts(Protocol):
    """What executing touches."""

    @property
    def registry(self) -> WorkflowRegistry:
        """Where the definition is."""
        ...

    @property
    def journals(self) -> Journals:
        """Where the run's history is."""
        ...

    @property
    def executor(self) -> Executor:
        """Who runs the body."""
        ...

    @property
    def blobs(self) -> BlobStore:
        """Where large outputs go."""
        ...

    @property
    def limits(self) -> Limits:
        """What is a large output."""
        ...


@dataclass(frozen=True, slots=True)
class Started:
    """The attempt runs: the state that has it RUNNING under this token."""

    state: RunState
    token: str


def decide_start(state: RunState, command: ExecuteJob, moment: Moment) -> Decision[Started | ExecuteJobResult]:
    """Start the attempt that is asked for, adopt it if it runs under the given token, or say why there is none.

    Raises: StageNotFound; IdempotencyInProgress, when the key's attempt is running.
    """
    draft = Draft(state, moment)
    stage = state.stages.get(command.stage_id)
    if stage is None:
        raise StageNotFound(command.stage_id, workflow_id=state.workflow_id, known=state.stages)
    queue = queue_of(state, stage)
    if command.token is not None:
        running = holds(state, stage.id, command.token)
        if queue is None and running:
            return draft.decided(Started(state, command.token))
        if queue is not None and stage.status is Status.PENDING:
            return _start_job(draft, stage, command, command.token)
        why = "it is being executed under this token" if running else "its attempt has been superseded"
        return draft.decided(_ghost(state, stage, why))
    if command.idempotency_key is not None and command.idempotency_key in stage.keys:
        return draft.decided(_replayed(stage, command.idempotency_key))
    if stage.status is Status.COMPLETED:
        return draft.decided(ExecuteJobResult(outcome="completed"))
    reason = _not_startable(state, stage, command, moment.now)
    if queue is not None:
        reason = reason or f'it is executed from queue "{queue}", under the token of its job'
    elif moment.session is not None:
        # Decided by the run's actor, which starts the attempts of its run by itself, and holds them.
        reason = reason or "the run's owner executes it"
    if reason is not None:
        return draft.decided(_ghost(state, stage, reason))
    ensure_started(draft)
    token = start_stage(draft, draft.state.stages[stage.id], key=command.idempotency_key)
    return draft.decided(Started(draft.state, token))


def _start_job(
    draft: Draft, stage: StageState, command: ExecuteJob, token: str
) -> Decision[Started | ExecuteJobResult]:
    """Start the attempt whose job is leased under this token. The store has found it due, by its own clock.

    A token that an attempt has had starts no other: whoever executed the first under it may be frozen, and would end
    the second by it.
    """
    reason = "an attempt was started under this token before" if token in stage.tokens else None
    reason = reason or _not_startable(draft.state, stage, command, datetime.max.replace(tzinfo=UTC))
    if reason is not None:
        return draft.decided(_ghost(draft.state, stage, reason))
    draft.lease = JobLease(draft.state.run_id, stage.id, token)
    ensure_started(draft)
    start_stage(draft, stage, key=command.idempotency_key, token=token)
    return draft.decided(Started(draft.state, token))


def _not_startable(state: RunState, stage: StageState, command: ExecuteJob, now: datetime) -> str | None:
    """Why no attempt can start now, or None."""
    if state.ended:
        return f"the run is {state.status}"
    if stage.status is not Status.PENDING:
        return f"the stage is {stage.status}"
    if max(state.group, 1) != stage.plan.group:
        return f"it is the turn of group {max(state.group, 1)}, not of group {stage.plan.group}"
    due = stage.due_at if state.status is Status.RUNNING else state.run_at
    if due is not None and due > now:
        return f"it is not due before {due.isoformat()}"
    number = next_attempt(stage)
    if command.attempt is not None and command.attempt != number:
        return f"attempt {command.attempt} is over" if command.attempt < number else f"the next attempt is {number}"
    return None


def _ghost(state: RunState, stage: StageState, reason: str) -> ExecuteJobResult:
    message = f'Nothing was recorded for stage "{stage.id}" of run "{state.run_id}": {reason}'
    return ExecuteJobResult(
        outcome="failed", ghost=True, error=ErrorInfo(type="Ghost", message=message, retryable=False)
    )


def _replayed(stage: StageState, key: str) -> ExecuteJobResult:
    """The answer that the key's attempt got, read back from the state that it left."""
    if key != stage.key:
        message = f'A later attempt of stage "{stage.id}" has begun'
        return ExecuteJobResult(outcome="failed", error=ErrorInfo(type="AttemptOver", message=message), retryable=True)
    match stage.status:
        case Status.RUNNING:
            raise IdempotencyInProgress(key, command_type=ExecuteJob.type)
        case Status.COMPLETED:
            return ExecuteJobResult(outcome="completed")
        case Status.SUSPENDED if stage.suspension is not None:
            return ExecuteJobResult(outcome="suspended", next_poll_at=stage.suspension.next_poll_at)
        case _:
            return ExecuteJobResult(outcome="failed", error=stage.error, retryable=stage.status is Status.PENDING)


def decide_end(
    state: RunState, stage_id: str, token: str, outcome: Outcome, policy: RetryPolicy, moment: Moment
) -> Decision[ExecuteJobResult]:
    """End the attempt and do what follows, or record nothing when its token no longer holds."""
    draft = Draft(state, moment)
    if not holds(state, stage_id, token):
        return draft.decided(_ghost(state, state.stages[stage_id], "its attempt has been superseded"))
    if queue_of(state, state.stages[stage_id]) is not None:
        draft.lease = JobLease(state.run_id, stage_id, token)
    end_attempt(draft, stage_id, outcome, policy)
    result = _result(draft.state.stages[stage_id], outcome)
    if draft.lease is not None:
        changes = job_changes(state, draft.state, None)
        queued = () if changes is None else changes.put
        result = replace(result, job_ids=tuple(f"{state.run_id}/{job.stage_id}" for job in queued))
    return draft.decided(result)


def _result(after: StageState, outcome: Outcome) -> ExecuteJobResult:
    match outcome:
        case Completed():
            output = from_json(outcome.output) if isinstance(outcome.output, bytes) else None
            return ExecuteJobResult(outcome="completed", output=output)
        case Suspended():
            assert after.suspension is not None
            return ExecuteJobResult(outcome="suspended", next_poll_at=after.suspension.next_poll_at)
        case Raised():
            return ExecuteJobResult(outcome="failed", error=outcome.error, retryable=after.status is Status.PENDING)
        case _:
            return ExecuteJobResult(outcome="failed", error=after.error, retryable=True)


async def execute_job(command: ExecuteJob, ports: ExecuteJobPorts) -> ExecuteJobResult:
    """Start (or adopt), run, end.

    Atomic are the start, and the end with its consequences. Interrupted in between, the attempt stays RUNNING until
    the run's driver finds that nobody holds it and records its loss. A completed stage is never executed again.
    Raises: RunNotFound, StageNotFound, WorkflowNotFound, DefinitionChanged, IdempotencyInProgress.
    """
    try:
        return await _execute(command, ports)
    except JobLost as error:
        # Somebody has found the lease ended. What was to be recorded under it is recorded by nobody.
        return ExecuteJobResult(
            outcome="failed", ghost=True, error=ErrorInfo(type="Ghost", message=str(error), retryable=False)
        )


async def _execute(command: ExecuteJob, ports: ExecuteJobPorts) -> ExecuteJobResult:
    def start(state: RunState, moment: Moment) -> Decision[Started | ExecuteJobResult]:
        decision = decide_start(state, command, moment)
        if isinstance(decision.result, Started):
            # Who does not know the definition must not start what it cannot run: the attempt would count as lost.
            definition_of(state, ports.registry).get_stage(command.stage_id)
        return decision

    started = await ports.journals.record(command.run_id, start)
    if isinstance(started, ExecuteJobResult):
        return await _with_output(command, started, ports) if started.outcome == "completed" else started
    state = started.state
    workflow = definition_of(state, ports.registry)
    policy = workflow.get_stage(command.stage_id).retry
    output: bytes | None = None
    try:
        attempt = await _prepare(state, workflow, command.stage_id, started.token, ports)
        returned = await ports.executor.run(attempt)
        output = returned.output if isinstance(returned, BodyCompleted) else None
        outcome = await _place(returned, attempt, ports)
    except (BlobNotFound, CorruptHistory, InvalidConfig, PayloadRefused) as error:
        outcome = _refused(error)

    def decide(state: RunState, moment: Moment, refusal: EngineError | None) -> Decision[ExecuteJobResult]:
        ending = outcome if refusal is None else _refused(refusal)
        return decide_end(state, command.stage_id, started.token, ending, policy, moment)

    try:
        return await record_output(ports.journals, command.run_id, command.stage_id, workflow, output, decide)
    except (BlobNotFound, CorruptHistory, PayloadRefused) as error:
        outcome = _refused(error)
        return await record_output(ports.journals, command.run_id, command.stage_id, workflow, None, decide)


def _refused(error: EngineError) -> Raised:
    """No later attempt is luckier: what this one needs is gone, or its result cannot be kept."""
    return Raised(error=ErrorInfo(type=type(error).__name__, message=str(error), retryable=False))


def definition_of(state: RunState, registry: WorkflowRegistry) -> Workflow[Any, Any]:
    """The definition that the run was created from.

    Raises: WorkflowNotFound; DefinitionChanged, when it has another fingerprint under the same version that nobody has
    accepted, or no longer has a stage that the run still needs: that nobody can accept.
    """
    workflow = registry.find_workflow(state.workflow_id, state.workflow_version)
    if workflow is None:
        known = (workflow_id for workflow_id, _ in registry.known())
        raise WorkflowNotFound(state.workflow_id, version=state.workflow_version, known=known)
    if workflow.fingerprint == state.fingerprint:
        return workflow
    subject = f'Workflow "{workflow.id}" version "{workflow.version}"'
    gone = [f'"{stage.id}"' for stage in state.stages.values() if stage.active and stage.id not in workflow]
    if gone:
        what = f"stage {gone[0]} is" if len(gone) == 1 else f"stages {', '.join(gone)} are"
        difference = f"{what} gone ({_difference(state, workflow)})"
        raise DefinitionChanged(subject, difference, hint="Give the workflow a new version.")
    if not registry.accepts(workflow, state.fingerprint):
        raise DefinitionChanged(subject, _difference(state, workflow))
    return workflow


def _difference(state: RunState, workflow: Workflow[Any, Any]) -> str:
    """What a person can see of a changed fingerprint: the order of stages, else that something of them changed."""

    def order(plan: ExecutionPlan) -> str:
        return " -> ".join(
            "(" * g.parallel + " | ".join(s.id for s in g.stages) + ")" * g.parallel for g in plan.groups
        )

    old, new = order(state.plan), order(workflow.execution_plan())
    if old == new:
        return (
            f"a schema, a queue or on_failure is another (fingerprint {state.fingerprint}, now {workflow.fingerprint})"
        )
    return f"it was {old} and is {new}"


def config_of(state: RunState, workflow: Workflow[Any, Any]) -> Mapping[str, Any]:
    """The run's complete configuration; a run that SQL created has only what its caller gave. Raises: InvalidConfig."""
    return state.config if state.checked else workflow.merge_config(dict(state.config.items()))


async def _with_output(command: ExecuteJob, result: ExecuteJobResult, ports: ExecuteJobPorts) -> ExecuteJobResult:
    """The recorded output of a stage that had completed before."""
    state = await ports.journals.record(command.run_id, lambda state, _moment: Decision(result=state, state=state))
    body = state.stages[command.stage_id].output
    if body is None:
        return result
    data = (await ports.journals.payloads(command.run_id, [body]))[body]
    return ExecuteJobResult(outcome="completed", output=from_json(data))


async def _prepare(
    state: RunState, workflow: Workflow[Any, Any], stage_id: str, token: str, ports: ExecuteJobPorts
) -> Attempt:
    """Bring together what the body may read."""
    stage = state.stages[stage_id]
    wanted = _outputs_for(state, workflow, stage)
    resume = stage.suspension.state if stage.suspension is not None else None
    steps = state.steps.get(stage_id, ())
    bodies = [state.input, *wanted.values(), *(step.result for step in steps), *([] if resume is None else [resume])]
    payloads = await ports.journals.payloads(state.run_id, bodies)
    earlier = {s.id for s in state.stages.values() if s.output is not None and s.plan.group < stage.plan.group}
    assert stage.attempt_started_at is not None
    return Attempt(
        workflow=workflow,
        stage=stage.plan,
        run_id=state.run_id,
        execution=stage.execution,
        number=stage.attempt,
        token=token,
        started_at=stage.attempt_started_at,
        input=payloads[state.input],
        config=config_of(state, workflow),
        outputs={name: payloads[body] for name, body in wanted.items()},
        offloaded=frozenset(earlier - set(wanted)),
        resume_state=None if resume is None else payloads[resume],
        steps=tuple((step.name, payloads[step.result]) for step in steps),
    )


def _outputs_for(state: RunState, workflow: Workflow[Any, Any], stage: StageState) -> dict[str, Body]:
    """The outputs that this stage is given: all inline ones, and the large ones that its definition asks for."""
    needed = workflow.outputs_to_load(stage.id)
    return {
        other.id: other.output
        for other in state.stages.values()
        if other.output is not None
        and other.plan.group < stage.plan.group
        and (other.output.blob is None or other.id in needed)
    }


async def _place(outcome: BodyOutcome, attempt: Attempt, ports: ExecuteJobPorts) -> Outcome:
    """Put large results where they belong, under keys that contain the token and are thus written once."""

    def key(*names: str) -> str:
        return blob_key(attempt.workflow.id, attempt.run_id, attempt.stage.id, attempt.token, *names)

    what = f'of stage "{attempt.stage.id}"'
    match outcome:
        case BodyCompleted():
            output = await place_payload(
                ports, outcome.output, key=key("output.json"), what=f"Output {what}", field="output"
            )
            artifacts = {
                name: await put_blob(
                    ports, data, key=key("artifacts", name), what=f'Artifact "{name}" {what}', field="artifacts"
                )
                for name, data in outcome.artifacts.items()
            }
            return Completed(output=output, metrics=outcome.metrics, artifacts=artifacts, notes=outcome.notes)
        case BodySuspended():
            state = await place_payload(
                ports, outcome.state, key=key("state.json"), what=f"State {what}", field="state"
            )
            return Suspended(
                state=state,
                poll_interval=delay_of(outcome.poll_interval_s),
                max_wait=delay_of(outcome.max_wait_s),
                metrics=outcome.metrics,
                notes=outcome.notes,
            )
        case Raised():
            return outcome
