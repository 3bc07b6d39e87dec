"""`stage.pollSuspended`: ask the checks of suspended stages, and record what they found.

A check runs outside of any transaction, like a body. What it found is recorded only if the stage still waits for what
was checked; otherwise somebody was faster and nothing changes.

Ordinarily the actor of a run does this by itself, stage by stage (`poll_stage`), whenever one is due. The command is
for hosts without actors, and for whoever wants the checks of one run made at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import ClassVar, Literal, Protocol, TypeAlias

from kernel.command import Command
from kernel.commands.execute_job import ExecuteJobPorts, config_of, definition_of
from kernel.errors import (
    BlobNotFound,
    EngineError,
    ErrorInfo,
    InvalidCommand,
    InvalidConfig,
    JobLost,
    PayloadRefused,
    StageNotFound,
    Unavailable,
)
from kernel.journal import append_of
from kernel.model.attempts import Note
from kernel.model.draft import Decision, Draft, Moment
from kernel.model.facts import BlobRef, CorruptHistory
from kernel.model.jobs import JobLease
from kernel.model.machine import Status
from kernel.model.polls import (
    CheckBroken,
    Finding,
    FoundFailed,
    FoundNotReady,
    FoundReady,
    ask_to_look,
    end_poll,
    waits,
)
from kernel.model.retry import delay_of
from kernel.model.run import RunState
from kernel.payloads import blob_key, place_payload, put_blob
from kernel.ports.clock import Clock
from kernel.ports.concurrency import Concurrency
from kernel.ports.executor import CheckAttempt, CheckFailed, CheckNotReady, CheckOutcome, CheckRaised, CheckReady
from kernel.ports.ids import Ids
from kernel.ports.journals import Journals
from kernel.ports.persistence import Appends, HeadRow, Histories, Polls
from kernel.run_output import record_output

__all__ = [
    "PollSuspendedStages",
    "PollSuspendedStagesPorts",
    "PollSuspendedStagesResult",
    "Polled",
    "ask_for_looks",
    "poll_stage",
    "poll_suspended_stages",
]

Polled: TypeAlias = Literal["completed", "failed", "retrying", "waiting"]
"""What became of a stage that was checked."""

HOLD = timedelta(minutes=6)
"""For so long nobody else looks at a run whose checks are being made: as long as a check may take unless its stage says
more, and one minute. If we die meanwhile, they are made after it; one that takes longer may be made twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollSuspendedStagesResult:
    """How many checks were made, and of how many stages they ended the wait: with an output, or with a failure.

    `resumed_run_ids` are the runs in which a stage has completed, each once.
    """

    checked: int
    resumed: int
    failed: int
    resumed_run_ids: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PollSuspendedStages(Command[PollSuspendedStagesResult]):
    """Make up to `max_checks` checks of suspended stages that are due, the longest due first.

    With a `run_id`, those of all suspended stages of that run, whether they are due or not.
    """

    type: ClassVar[str] = "stage.pollSuspended"

    max_checks: int = 50
    run_id: str | None = None

    def __post_init__(self) -> None:
        """Refuse bounds and ids that make no sense."""
        if self.max_checks < 1:
            raise InvalidCommand(f"max_checks must be at least 1, got {self.max_checks}.", field="max_checks")
        if self.run_id == "":
            raise InvalidCommand("run_id must not be empty; leave it out for all runs.", field="run_id")


class PollSuspendedStagesStore(Appends, Polls, Protocol):
    """The store, to find runs and to give them back."""


class PollSuspendedStagesPorts(ExecuteJobPorts, Protocol):
    """What polling touches: everything that executing does, and the store in which runs are found."""

    @property
    def store(self) -> PollSuspendedStagesStore:
        """Where runs are that nobody drives."""
        ...

    @property
    def clock(self) -> Clock:
        """What is due."""
        ...

    @property
    def ids(self) -> Ids:
        """Where the ids of appends come from."""
        ...

    @property
    def concurrency(self) -> Concurrency:
        """How several checks are made at once."""
        ...


async def poll_suspended_stages(
    command: PollSuspendedStages, ports: PollSuspendedStagesPorts
) -> PollSuspendedStagesResult:
    """Make the checks beside each other, and record each in an append of its own, with what follows from it.

    Without a run id, runs are taken out of everybody's sight for `HOLD` before they are looked at, so two that do this
    at the same time never check the same stage; what is left over of `max_checks` is given back. A run whose check
    cannot be made (a changed definition, a damaged history) is passed over and looked at again after `HOLD`.
    Repeated, it checks what is due then. Interrupted, stages wait as before.
    Raises: with a run id what is wrong with it (RunNotFound, WorkflowNotFound, DefinitionChanged, CorruptHistory) and
    what the executor refuses; Unavailable.
    """
    if command.run_id is not None:
        state = await _look_at(command.run_id, ports.journals)
        chosen = [(state.run_id, stage_id) for stage_id in _suspended(state)][: command.max_checks]
        return _result(chosen, await _check_all(chosen, ports), strict=True)
    runs = await ports.store.hold_suspended(ports.registry.known(), command.max_checks, hold=HOLD)
    states = await _look_at_all([*runs.held, *runs.attended], ports.journals)
    chosen = _due(states.values(), ports.clock.now())[: command.max_checks]
    found = await _check_all(chosen, ports)
    refused = next((outcome for outcome in found if type(outcome) is InvalidCommand), None)
    checked = {run_id for run_id, _ in chosen if refused is None}
    for run_id in runs.held:
        if run_id in states and run_id not in checked:
            await _give_back(states[run_id], ports)
    if refused is not None:
        # Nobody executes here.
        raise refused
    return _result(chosen, found, strict=False)


async def _look_at_all(run_ids: Sequence[str], journals: Journals) -> Mapping[str, RunState]:
    """The states of those runs that can be read; whoever claims one that cannot be parks it, and says why."""
    states: dict[str, RunState] = {}
    for run_id in run_ids:
        try:
            states[run_id] = await _look_at(run_id, journals)
        except Unavailable:
            raise
        except EngineError:
            continue
    return states


def _due(states: Iterable[RunState], now: datetime) -> list[tuple[str, str]]:
    """Run and stage of every check that is due, the longest due first."""
    waiting = [(state.stages[stage_id], state.run_id) for state in states for stage_id in _suspended(state)]
    due = [(stage.poll_at, run_id, stage.id) for stage, run_id in waiting if stage.poll_at <= now]
    return [(run_id, stage_id) for _, run_id, stage_id in sorted(due)]


async def _check_all(
    chosen: Sequence[tuple[str, str]], ports: PollSuspendedStagesPorts
) -> Sequence[Polled | EngineError | None]:
    async def one(run_id: str, stage_id: str) -> Polled | EngineError | None:
        try:
            return await poll_stage(run_id, stage_id, ports)
        except EngineError as error:
            # The others have nothing to do with it.
            return error

    return await ports.concurrency.gather([partial(one, *names) for names in chosen])


def _result(
    chosen: Sequence[tuple[str, str]], found: Sequence[Polled | EngineError | None], *, strict: bool
) -> PollSuspendedStagesResult:
    errors = [outcome for outcome in found if isinstance(outcome, EngineError)]
    # A store that is away is no empty queue; anything else is the affair of one run.
    raised = [error for error in errors if strict or isinstance(error, Unavailable)]
    if raised and len(errors) == len(found):
        raise raised[0]
    resumed = [run_id for (run_id, _), outcome in zip(chosen, found, strict=True) if outcome == "completed"]
    return PollSuspendedStagesResult(
        checked=len(found) - len(errors),
        resumed=len(resumed),
        failed=sum(outcome == "failed" for outcome in found),
        resumed_run_ids=tuple(dict.fromkeys(resumed)),
    )


async def _give_back(state: RunState, ports: PollSuspendedStagesPorts) -> None:
    """Let the run be due again when it is; if that fails, it is after `HOLD`."""
    moment = Moment(now=ports.clock.now(), append_id=ports.ids.append_id())
    try:
        await ports.store.append(append_of(Draft(state, moment).decided(None), moment, expected=state.seq))
    except EngineError:
        return


async def _look_at(run_id: str, journals: Journals) -> RunState:
    return await journals.record(run_id, lambda state, _moment: Decision(result=state, state=state))


def _suspended(state: RunState) -> Sequence[str]:
    return () if state.ended else [s.id for s in state.stages.values() if s.status is Status.SUSPENDED]


class AskForLooksPorts(Protocol):
    """What asking touches: the run's journal, and its head to learn whether anybody drives it."""

    @property
    def journals(self) -> Journals:
        """Where it is decided."""
        ...

    @property
    def store(self) -> Histories:
        """The head."""
        ...

    @property
    def clock(self) -> Clock:
        """What is due."""
        ...


async def ask_for_looks(run_id: str, ports: AskForLooksPorts) -> Sequence[str]:
    """Make all suspended stages of a run due now, for whoever drives it, and return their ids.

    An append with one fact per stage, so a driver that is about to look away is refused and looks again. Repeated, they
    are looked at once more; where nobody drives the run, what is due already stays so until somebody does, and nothing
    is appended for it. Raises: RunNotFound, CorruptHistory, Unavailable.
    """
    # Before the state is read: who takes the run from now on looks after we have asked.
    head = (await ports.store.heads([run_id])).get(run_id)
    now = ports.clock.now()
    unattended = head is not None and _is_unattended(head, now)

    def decide(state: RunState, moment: Moment) -> Decision[Sequence[str]]:
        draft, stage_ids = Draft(state, moment), _suspended(state)
        for stage_id in stage_ids:
            if not (unattended and state.stages[stage_id].poll_at <= now):
                ask_to_look(draft, stage_id)
        return draft.decided(tuple(stage_ids))

    return await ports.journals.record(run_id, decide)


def _is_unattended(head: HeadRow, now: datetime) -> bool:
    """Whether nobody can be looking at the run, who would not see that it is due.

    It waits for an owner: due or parked, or its last one has died. (One that is due later may be held by somebody who
    polls without a session; one without a date is driven by jobs.)
    """
    if head.owner is not None:
        return not head.owner_live
    return head.parked_reason is not None or (head.head.wake_at is not None and head.head.wake_at <= now)


async def poll_stage(
    run_id: str, stage_id: str, ports: ExecuteJobPorts, *, lease: JobLease | None = None
) -> Polled | None:
    """Check one suspended stage now; None when it does not wait (any more), and nothing was recorded.

    `lease` is that of the job under which it is checked, if it is one.

    Interrupted, the stage waits as before. Raises: RunNotFound, StageNotFound, WorkflowNotFound, DefinitionChanged.
    """
    state = await _look_at(run_id, ports.journals)
    stage = state.stages.get(stage_id)
    if stage is None:
        raise StageNotFound(stage_id, workflow_id=state.workflow_id, known=state.stages)
    suspension = stage.suspension
    if stage.status is not Status.SUSPENDED or suspension is None:
        return None
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
            look=f"{suspension.seq}/{suspension.next_poll_at.isoformat()}",
        )
        outcome = await ports.executor.check(check)
        output = outcome.output if isinstance(outcome, CheckReady) else None
        finding, notes = await _place(outcome, check, ports), outcome.notes
    except (BlobNotFound, CorruptHistory, InvalidConfig, PayloadRefused) as error:
        finding = _refused(error)

    def decide(state: RunState, moment: Moment, refusal: EngineError | None) -> Decision[Polled | None]:
        draft = Draft(state, moment)
        if not waits(state, stage_id, suspension):
            return draft.decided(None)
        draft.lease = lease
        what = finding if refusal is None else _refused(refusal)
        end_poll(draft, stage_id, what, policy, checked=suspension, notes=notes)
        return draft.decided(_POLLED[draft.state.stages[stage_id].status])

    try:
        return await record_output(ports.journals, run_id, stage_id, workflow, output, decide)
    except JobLost:
        return None
    except (BlobNotFound, CorruptHistory, PayloadRefused) as error:
        finding, notes = _refused(error), ()
        return await record_output(ports.journals, run_id, stage_id, workflow, None, decide)


_POLLED: dict[Status, Polled] = {
    Status.COMPLETED: "completed",
    Status.FAILED: "failed",
    Status.PENDING: "retrying",
    # Its next attempt has begun in the same append.
    Status.RUNNING: "retrying",
    Status.SUSPENDED: "waiting",
}


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
