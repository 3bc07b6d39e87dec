"""`run.reapStuck`: repair runs that nobody would ever look at again, and end those whose history is too long.

A run moves because its head says when it is due, whose it is, or which job it waits for. One whose head says none of
this is stuck, however healthy its history: a row that was changed by hand, restored badly, or left behind by a mistake
of ours. What the head should say is computed from the history, as always, and written back; then it is an ordinary run
again, and whoever claims it does what is due. Time plays no part: a run that waits is no suspect, however long it does.

A run that waits for a job which is not there is stuck as well. Jobs are made by appends, so one is made of facts that
say again what is queued; what ran as such a job is lost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, TypeAlias

from kernel.command import Command
from kernel.commands.execute_job import definition_of
from kernel.commands.transition_run import decide_transition
from kernel.errors import EngineError, ErrorInfo, InvalidCommand, Unavailable
from kernel.journal import fold_stored
from kernel.model.attempts import lose_attempt
from kernel.model.consequences import fail_run
from kernel.model.draft import Decision, Draft, Moment
from kernel.model.facts import StageScheduled
from kernel.model.head import head_of
from kernel.model.jobs import jobs_of
from kernel.model.machine import Status
from kernel.model.plan import Transition, plan
from kernel.model.polls import ask_to_look
from kernel.model.run import RunState
from kernel.model.stage import next_attempt
from kernel.payloads import Limits
from kernel.ports.clock import Clock
from kernel.ports.journals import Journals
from kernel.ports.persistence import Histories, Repairs, StoredHistory
from kernel.ports.registry import WorkflowRegistry

__all__ = [
    "ReapStuckRuns",
    "ReapStuckRunsPorts",
    "ReapStuckRunsResult",
    "decide_end_of_overlong",
    "decide_queue_again",
    "history_too_long",
    "reap_stuck_runs",
]

Outcome: TypeAlias = Literal["failed", "healed"]
Treatment: TypeAlias = Callable[[str, "ReapStuckRunsPorts"], Awaitable[Outcome | None]]

LOOKED_AT = 1000
"""Heads that one look passes over at most; the next one goes on behind them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReapStuckRunsResult:
    """How many runs can go on again, and how many were ended because they cannot."""

    failed: int
    healed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReapStuckRuns(Command[ReapStuckRunsResult]):
    """Repair up to `max_runs` runs that are stuck, or end them when there is nothing to repair."""

    type: ClassVar[str] = "run.reapStuck"

    max_runs: int = 100

    def __post_init__(self) -> None:
        """Refuse bounds that make no sense."""
        if self.max_runs < 1:
            raise InvalidCommand(f"max_runs must be at least 1, got {self.max_runs}.", field="max_runs")


class ReapStuckRunsStore(Histories, Repairs, Protocol):
    """The store, to find suspects, to read them and to mend their heads."""


class ReapStuckRunsPorts(Protocol):
    """What repairing touches."""

    @property
    def store(self) -> ReapStuckRunsStore:
        """Where the heads are."""
        ...

    @property
    def journals(self) -> Journals:
        """Where histories are extended."""
        ...

    @property
    def clock(self) -> Clock:
        """When it is."""
        ...

    @property
    def registry(self) -> WorkflowRegistry:
        """Where the policies of lost attempts are."""
        ...

    @property
    def limits(self) -> Limits:
        """How long a history may be."""
        ...


def history_too_long(events: int, *, events_max: int) -> ErrorInfo:
    """The error of a run that has too many events to go on."""
    message = f"its history has {events} events, and may have {events_max} (history_events_max)"
    return ErrorInfo(type="HistoryTooLong", message=message, retryable=False)


def decide_end_of_overlong(state: RunState, moment: Moment, *, events_max: int) -> Decision[bool]:
    """Fail a run that has not ended and whose history is longer than it may be."""
    draft = Draft(state, moment)
    if state.ended or state.seq <= events_max:
        return draft.decided(False)
    fail_run(draft, history_too_long(state.seq, events_max=events_max))
    return draft.decided(True)


def decide_queue_again(state: RunState, moment: Moment, *, seen: int, registry: WorkflowRegistry) -> Decision[bool]:
    """Queue what a run that has no jobs waits for; nothing, when it is not as it was seen at that sequence number.

    What is to wait longer is left until then. Raises: WorkflowNotFound, when an attempt was lost and its policy is
    not known here.
    """
    draft = Draft(state, moment)
    if state.seq != seen:
        return draft.decided(False)
    for stage_id, job in jobs_of(state).items():
        stage = draft.state.stages[stage_id]
        if not stage.active:
            continue  # what was lost before it has ended the run
        if isinstance(job, str):
            policy = definition_of(state, registry).get_stage(stage_id).retry
            lose_attempt(draft, stage_id, policy, owner=None)
        elif job.polls:
            ask_to_look(draft, stage_id)
        elif job.due_at is None or job.due_at < moment.now:
            draft.add(
                StageScheduled(
                    stage_id=stage_id,
                    execution=stage.execution,
                    attempt=next_attempt(stage),
                    queue=stage.plan.queue,
                    due_at=moment.now,
                )
            )
    return draft.decided(draft.state.seq != seen)


async def reap_stuck_runs(command: ReapStuckRuns, ports: ReapStuckRunsPorts) -> ReapStuckRunsResult:
    """Look at every suspect once, and repair or end it; each run by itself, so a bad one harms no other.

    Idempotent: a run that was repaired is no suspect any more. Interrupted, the next look finds what is left. Runs that
    an actor drives end by themselves when their history is too long; here end those that only others extend.
    Raises: Unavailable.
    """
    done: dict[Outcome, int] = {"failed": 0, "healed": 0}
    async for run_id, treat in _suspects(command, ports):
        try:
            outcome = await treat(run_id, ports)
        except Unavailable:
            raise
        except EngineError:
            # Somebody else was faster, or it cannot be written: the next look tells.
            continue
        if outcome is not None:
            done[outcome] += 1
        if sum(done.values()) >= command.max_runs:
            break
    return ReapStuckRunsResult(failed=done["failed"], healed=done["healed"])


async def _suspects(command: ReapStuckRuns, ports: ReapStuckRunsPorts) -> AsyncIterator[tuple[str, Treatment]]:
    """Every suspect, with what is to be done about it."""
    after: str | None = None
    while True:
        page = await ports.store.find_stuck(after=after, limit=LOOKED_AT, events_max=ports.limits.history_events_max)
        for run_id in page.run_ids:
            yield run_id, _repair
        after = page.next
        if after is None:
            break
    grace = ports.limits.unknown_workflow_grace
    if grace is not None:
        for run_id in await ports.store.find_unknown(grace=grace, limit=command.max_runs):
            yield run_id, _give_up


async def _give_up(run_id: str, ports: ReapStuckRunsPorts) -> Outcome | None:
    """Fail a run of a workflow that nobody knows, as somebody has asked for by setting a grace."""
    head = (await ports.store.load(run_id, bodies=False)).head
    if head.owner_live:
        # A process has come that knows it.
        return None
    grace = ports.limits.unknown_workflow_grace

    def decide(state: RunState, moment: Moment) -> Decision[bool]:
        draft = Draft(state, moment)
        if state.ended:
            return draft.decided(False)
        what = f'workflow "{state.workflow_id}" version "{state.workflow_version}"'
        message = f"no process has known {what} for {grace} (unknown_workflow_grace)"
        fail_run(draft, ErrorInfo(type="WorkflowNotFound", message=message, retryable=False))
        return draft.decided(True)

    return "failed" if await ports.journals.record(run_id, decide) else None


async def _repair(run_id: str, ports: ReapStuckRunsPorts) -> Outcome | None:
    """What became of one suspect; None when it was none after all."""
    stored = await ports.store.load(run_id, bodies=False)
    now, events_max = ports.clock.now(), ports.limits.history_events_max
    state = _read(stored)
    if state is None:
        # Whoever takes it finds out why, and sets it aside or leaves it to a newer release.
        return await _heal(stored, None, ports)
    if not state.ended and state.seq > events_max:
        ended = await ports.journals.record(
            run_id, lambda state, moment: decide_end_of_overlong(state, moment, events_max=events_max)
        )
        return "failed" if ended else None
    if stored.head.owner is None and state.status is Status.RUNNING and Transition() in plan(state, now, ()):
        advanced = await ports.journals.record(run_id, decide_transition)
        return None if advanced.action == "noop" else "healed"
    return await _heal(stored, state, ports)


def _read(stored: StoredHistory) -> RunState | None:
    try:
        return fold_stored(stored)
    except EngineError:
        return None


async def _heal(stored: StoredHistory, state: RunState | None, ports: ReapStuckRunsPorts) -> Outcome | None:
    """Write the head that the history leads to; a history that nobody can read makes its run due."""
    seq = stored.head.seq if state is None else state.seq
    head = replace(stored.head.head, wake_at=ports.clock.now()) if state is None else head_of(state)
    if state is not None and not state.ended and head.wake_at is None and stored.head.owner is None:
        seen, registry = state.seq, ports.registry
        queued = await ports.journals.record(
            stored.head.run_id,
            lambda state, moment: decide_queue_again(state, moment, seen=seen, registry=registry),
        )
        return "healed" if queued else None
    mended = await ports.store.heal(stored.head.run_id, head, expected=stored.head.seq, seq=seq)
    return "healed" if mended else None
