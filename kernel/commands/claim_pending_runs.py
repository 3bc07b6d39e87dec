"""`run.claimPending`: a session takes due runs, or they are handed over to jobs.

With `dispatch="jobs"` nobody owns the runs: they are driven by jobs from then on and for life. One foreign append per
run says so and enqueues what is due in it, on the condition that nobody has taken or changed it meanwhile; so any
number of processes may do this at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, Protocol

from kernel.command import Command
from kernel.commands.create_run import find_fault
from kernel.commands.execute_job import definition_of
from kernel.errors import Conflict, EngineError, ErrorInfo, InvalidCommand, Unavailable
from kernel.journal import fold_stored
from kernel.model.attempts import lose_attempt
from kernel.model.consequences import advance_run, fail_run
from kernel.model.draft import Decision, Draft, Moment
from kernel.model.facts import RunOwnerChanged, RunStarted
from kernel.model.jobs import jobs_of, queue_of
from kernel.model.machine import Status
from kernel.model.retry import RetryPolicy
from kernel.model.run import RunState
from kernel.parking import park_unowned
from kernel.ports.clock import Clock
from kernel.ports.ids import Ids
from kernel.ports.journals import Journals
from kernel.ports.persistence import Appends, Claims, StoredHistory
from kernel.ports.registry import WorkflowRegistry

__all__ = [
    "ClaimPendingRuns",
    "ClaimPendingRunsPorts",
    "ClaimPendingRunsResult",
    "ClaimedRun",
    "claim_pending_runs",
    "decide_dispatch",
]

JOBS = "jobs"
"""Who drives a run that is driven by jobs, where a history otherwise names a session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedRun:
    """A run that was taken. `job_ids` are the jobs enqueued with it (run id/stage id); none when an actor executes."""

    run_id: str
    workflow_id: str
    job_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimPendingRunsResult:
    """The runs taken, in no particular order."""

    claimed: Sequence[ClaimedRun]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimPendingRuns(Command[ClaimPendingRunsResult]):
    """Take up to `max_claims` due runs for a session, of the workflows that the session was opened with.

    With `dispatch="jobs"`, hand them over to jobs instead, of the workflows that this kernel knows; no session is
    needed.
    """

    type: ClassVar[str] = "run.claimPending"

    session_id: str | None = None
    max_claims: int = 10
    dispatch: Literal["actor", "jobs"] = "actor"

    def __post_init__(self) -> None:
        """Refuse bounds that make no sense, and a claim for nobody."""
        if self.max_claims < 1:
            raise InvalidCommand(f"max_claims must be at least 1, got {self.max_claims}.", field="max_claims")
        if self.dispatch not in ("actor", "jobs"):
            raise InvalidCommand(f'dispatch is "actor" or "jobs", not "{self.dispatch}".', field="dispatch")
        if self.dispatch == "actor" and self.session_id is None:
            hint = 'Name the session that takes the runs, or use dispatch="jobs".'
            raise InvalidCommand("session_id is missing.", field="session_id", hint=hint)


class ClaimPendingRunsPorts(Protocol):
    """What claiming touches; all but the first only to hand runs over to jobs."""

    @property
    def claims(self) -> Claims:
        """Where runs are taken from."""
        ...

    @property
    def journals(self) -> Journals:
        """Where they are handed over, and where the input of a run is that nobody has checked."""
        ...

    @property
    def store(self) -> Appends:
        """Where those are parked that cannot be decided."""
        ...

    @property
    def registry(self) -> WorkflowRegistry:
        """Which workflows are known."""
        ...

    @property
    def clock(self) -> Clock:
        """When they are parked."""
        ...

    @property
    def ids(self) -> Ids:
        """Where the ids of those appends come from."""
        ...


def decide_dispatch(
    state: RunState,
    moment: Moment,
    *,
    previous: str | None = None,
    fault: ErrorInfo | None = None,
    policies: Mapping[str, RetryPolicy] | None = None,
) -> Decision[Sequence[str]]:
    """Have the run driven by jobs from now on, and enqueue what is due in it; `fault` is what is wrong with its input.

    An attempt that its former owner, the session `previous`, was executing is lost. The result is the ids of the stages
    that have jobs then.
    """
    draft = Draft(state, moment)
    if state.ended or state.drive == "jobs":
        return draft.decided(())
    if fault is not None:
        fail_run(draft, fault)
        return draft.decided(())
    if state.status is Status.PENDING:
        draft.add(RunStarted(owner=None, drive="jobs"))
    else:
        draft.add(RunOwnerChanged(owner=JOBS, previous=previous, cause="dispatched", drive="jobs"))
        for stage in state.stages.values():
            if stage.status is Status.RUNNING and queue_of(state, stage) is None:
                lose_attempt(
                    draft, stage.id, (policies or {}).get(stage.id, RetryPolicy()), owner=previous or state.owner
                )
    advance_run(draft)
    return draft.decided(tuple(jobs_of(draft.state)))


async def claim_pending_runs(command: ClaimPendingRuns, ports: ClaimPendingRunsPorts) -> ClaimPendingRunsResult:
    """Take runs; for a session no event is written until it does something.

    Atomic per run: two sessions never get the same one, and no two processes hand one over. Repeated, it takes further
    runs. Interrupted after the claim, the session owns runs that nobody drives until it reads what it owns
    (`Beat.adrift`) or is condemned; runs that were handed over are there, with their jobs. One that cannot be decided
    is parked and harms no other.
    """
    if command.session_id is not None and command.dispatch == "actor":
        taken = await ports.claims.claim(command.session_id, command.max_claims)
        return ClaimPendingRunsResult(
            claimed=tuple(
                ClaimedRun(run_id=run.history.head.run_id, workflow_id=run.history.head.workflow_id) for run in taken
            )
        )
    claimed: list[ClaimedRun] = []
    for stored in await ports.claims.look_due(ports.registry.known(), command.max_claims):
        try:
            handed = await _hand_over(stored, ports)
        except (Conflict, Unavailable):
            # Somebody was faster, or it stays due: the next tick meets it again.
            continue
        except EngineError as error:
            await park_unowned(stored.head, error, ports)
            continue
        if handed is not None:
            claimed.append(handed)
    return ClaimPendingRunsResult(claimed=tuple(claimed))


async def _hand_over(stored: StoredHistory, ports: ClaimPendingRunsPorts) -> ClaimedRun | None:
    state = fold_stored(stored)
    if state.ended or state.drive == "jobs":
        return None  # between finding it and reading it somebody was faster
    workflow = definition_of(state, ports.registry)
    fault: ErrorInfo | None = None
    if state.status is Status.PENDING and not state.checked:
        payloads = await ports.journals.payloads(state.run_id, [state.input])
        fault = find_fault(workflow, payloads[state.input], state.config)
    running = [stage.id for stage in state.stages.values() if stage.status is Status.RUNNING]
    decide = partial(
        decide_dispatch,
        previous=stored.head.owner,
        fault=fault,
        policies={stage_id: workflow.get_stage(stage_id).retry for stage_id in running},
    )
    jobs = await ports.journals.hand_over(state, decide)
    return ClaimedRun(
        run_id=state.run_id,
        workflow_id=state.workflow_id,
        job_ids=tuple(f"{state.run_id}/{stage_id}" for stage_id in jobs),
    )
