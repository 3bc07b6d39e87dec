"""Runs for the suite, made by the real kernel: every fact, head and sequence number is one it decided.

A *change* is a function that adds facts to a draft. A `KnownRun` is a run as somebody who has looked at it knows it;
its methods draft appends, and `land` sends one and remembers where it led.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from pydantic import TypeAdapter

from adapters.system import RandomIds
from kernel.errors import ErrorInfo
from kernel.journal import append_of
from kernel.model.attempts import Completed, Outcome, Raised, Suspended, end_attempt, lose_attempt
from kernel.model.consequences import advance_run, close_stages, start_stage
from kernel.model.draft import Draft, Moment
from kernel.model.execution_plan import ExecutionPlan, PlannedGroup, PlannedStage
from kernel.model.facts import AnnotationCreated, RunCancelled, RunCreated, RunRerun, RunStarted, decode_facts
from kernel.model.head import head_of
from kernel.model.jobs import JobLease
from kernel.model.looks import decode_looks, lay_over
from kernel.model.machine import Status
from kernel.model.polls import FoundNotReady, ask_to_look, end_poll
from kernel.model.retry import RetryPolicy
from kernel.model.run import RunState, fold
from kernel.ports.persistence import Append, Appends, KeyRecord, Lease, Mode, NewRun, WorkflowRecord

Change = Callable[[Draft], object]
Now = Callable[[], datetime]

IDS = RandomIds()
OUTPUT = b'{"words":3}'
PLAN = ExecutionPlan(
    groups=tuple(
        PlannedGroup(number=n, stages=(PlannedStage(id=name, name=name.title(), number=n, group=n),))
        for n, name in enumerate(["extract", "report"], start=1)
    )
)


# Two stages of a queue at the same time, then one of nobody's.
QUEUED = ExecutionPlan(
    groups=(
        PlannedGroup(
            number=1,
            stages=tuple(
                PlannedStage(id=name, name=name, number=n, group=1, queue="gpu")
                for n, name in enumerate(["left", "right"], start=1)
            ),
            parallel=True,
            on_failure="cancel",
        ),
        PlannedGroup(number=2, stages=(PlannedStage(id="report", name="Report", number=3, group=2),)),
    )
)


def a_definition(workflow_id: str, version: str = "1") -> WorkflowRecord:
    return WorkflowRecord(
        workflow_id=workflow_id,
        version=version,
        fingerprint=f"print-of-{version}",
        plan=TypeAdapter(ExecutionPlan).dump_json(PLAN),
        description=b'{"stages":["extract","report"]}',
    )


def a_key(key: str, *, scope: str, digest: str = "d1", expires_at: datetime | None = None) -> KeyRecord:
    return KeyRecord(command_type="run.create", scope=scope, key=key, digest=digest, expires_at=expires_at)


# -- changes ----------------------------------------------------------------------------------------------------------


def starting(draft: Draft) -> None:
    """Begin the run and the attempt of its first stage."""
    draft.starts = 1
    advance_run(draft)


def completing(draft: Draft) -> None:
    """End what runs with an output; after the last group the run is completed."""
    draft.starts = 1
    for stage in [stage for stage in draft.state.stages.values() if stage.status is Status.RUNNING]:
        end_attempt(draft, stage.id, Completed(output=OUTPUT), RetryPolicy())


def suspending(draft: Draft) -> None:
    waiting = Suspended(state=b'{"batch":7}', poll_interval=timedelta(hours=1), max_wait=timedelta(days=1))
    end_attempt(draft, "extract", waiting, RetryPolicy())


def looking(draft: Draft) -> None:
    """Look at the stage that waits, find nothing, and look again in five minutes."""
    end_poll(draft, "extract", FoundNotReady(next_check_in=timedelta(minutes=5)), RetryPolicy())


def asking(draft: Draft) -> None:
    ask_to_look(draft, "extract")


def failing(draft: Draft) -> None:
    error = ErrorInfo(type="ValueError", message="no such file", traceback="Traceback ...", retryable=False)
    end_attempt(draft, "extract", Raised(error=error), RetryPolicy())


def annotating(draft: Draft) -> None:
    draft.add(AnnotationCreated(key="note"), b'"seen"')


def cancelling(draft: Draft) -> None:
    close_stages(draft, reason="the run was cancelled")
    draft.add(RunCancelled(reason="not needed"))


def rerunning(draft: Draft) -> None:
    draft.add(RunRerun(from_stage_id="extract", discarded=("extract", "report")))
    advance_run(draft)


def dispatching(draft: Draft) -> None:
    draft.add(RunStarted(drive="jobs"))
    advance_run(draft)


def scheduling(draft: Draft) -> None:
    """Begin the run, and leave its first group to whoever serves its queue."""
    advance_run(draft)


def starting_job(lease: JobLease) -> Change:
    """Start the attempt of a job, in the name of its lease."""

    def change(draft: Draft) -> None:
        draft.lease = lease
        start_stage(draft, draft.state.stages[lease.stage_id], token=lease.token)

    return change


def ending_job(lease: JobLease, outcome: Outcome | None = None) -> Change:
    """End the attempt of a job, in the name of its lease; with an output if nothing else is said."""

    def change(draft: Draft) -> None:
        draft.lease = lease
        end_attempt(draft, lease.stage_id, outcome or Completed(output=OUTPUT), RetryPolicy())

    return change


def losing_job(lease: JobLease) -> Change:
    def change(draft: Draft) -> None:
        draft.lease = lease
        lose_attempt(draft, lease.stage_id, RetryPolicy(), owner=None)

    return change


def noting(body: bytes) -> Change:
    """An annotation with this raw JSON as its value."""
    return lambda draft: draft.add(AnnotationCreated(key="note"), body)


# -- runs -------------------------------------------------------------------------------------------------------------


def a_creation(
    workflow_id: str,
    now: datetime,
    *,
    version: str = "1",
    change: Change | None = None,
    minted: datetime | None = None,
    lease: Lease | None = None,
    key: KeyRecord | None = None,
    plan: ExecutionPlan = PLAN,
    **new: Any,
) -> Append:
    """The append that creates a run, of these fields of `NewRun`; `change` adds to its first facts."""
    moment = Moment(now=now, append_id=IDS.append_id(), session=None if lease is None else lease.session_id, starts=1)
    fact = RunCreated(
        workflow_id=workflow_id,
        workflow_version=version,
        fingerprint=f"print-of-{version}",
        plan=plan,
        priority=new.get("priority", 5),
        run_at=new.get("run_at"),
    )
    draft = Draft.opening(IDS.run_id(minted or now), fact, moment, b'{"path":"a.txt"}')
    if change is not None:
        change(draft)
    parts = NewRun(workflow_id=workflow_id, workflow_version=version, fingerprint=fact.fingerprint, **new)
    return append_of(draft.decided(None), moment, mode="create", expected=0, lease=lease, new=parts, key=key)


@dataclass
class KnownRun:
    """A run at the state that somebody has seen, and the lease of that somebody, if it has one."""

    state: RunState
    now: Now
    lease: Lease | None = None

    @classmethod
    def of(cls, creation: Append, now: Now) -> KnownRun:
        return cls(state_after(creation, None), now, creation.lease)

    @property
    def id(self) -> str:
        return self.state.run_id

    def owned(self, change: Change, *, lease: Lease | None = None) -> Append:
        return self._changed(change, "owned", lease or self.lease)

    def foreign(self, change: Change) -> Append:
        return self._changed(change, "foreign", None)

    def poll(self, change: Change, *, lease: Lease | None = None) -> Append:
        """As the owner when a lease is given."""
        return self._changed(change, "poll", lease)

    def dispatch(self) -> Append:
        return self._changed(dispatching, "dispatch", None)

    def release(self, *, lease: Lease | None = None) -> Append:
        return self._unchanged("release", lease or self.lease)

    def release_with(self, change: Change) -> Append:
        """Give the run back together with a change that has no facts."""
        return self._changed(change, "release", self.lease)

    def park(self, reason: str, *, lease: Lease | None = None) -> Append:
        return replace(self._unchanged("park", lease or self.lease), parked_reason=reason)

    def park_unowned(self, reason: str) -> Append:
        return replace(self._unchanged("park", None), parked_reason=reason)

    def unpark(self) -> Append:
        return self._unchanged("unpark", None)

    async def land(self, store: Appends, append: Append) -> Append:
        """Send the append and take its outcome as known."""
        await store.append(append)
        self.state = state_after(append, self.state)
        return append

    def _changed(self, change: Change, mode: Mode, lease: Lease | None) -> Append:
        session = None if lease is None else lease.session_id
        moment = Moment(now=self.now(), append_id=IDS.append_id(), session=session, starts=int(session is not None))
        draft = Draft(self.state, moment)
        change(draft)
        return append_of(draft.decided(None), moment, mode=mode, expected=self.state.seq, lease=lease)

    def _unchanged(self, mode: Mode, lease: Lease | None) -> Append:
        return Append(
            mode=mode,
            run_id=self.id,
            append_id=IDS.append_id(),
            expected=self.state.seq,
            seq=self.state.seq,
            at=self.now(),
            head=head_of(self.state),
            lease=lease,
        )


def state_after(append: Append, state: RunState | None) -> RunState:
    if append.events is not None:
        facts = decode_facts(append.events, run_id=append.run_id)
        state = fold(append.run_id, [(append.expected + 1, append.at, facts)], state)
    assert state is not None
    return (
        state if append.poll_state is None else lay_over(state, decode_looks(append.poll_state, run_id=append.run_id))
    )


def plain(value: bytes | Mapping[str, bytes]) -> Any:
    """JSON as Python values, since a store may write the same JSON in another form."""
    return json.loads(value) if isinstance(value, bytes) else {name: json.loads(data) for name, data in value.items()}
