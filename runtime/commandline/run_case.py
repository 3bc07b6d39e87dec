"""What is known of a run that does not progress, and the sentences that more than one explanation has.

A `Case` is a value: nothing is read here, and why the run waits is not decided here either. Moments are told with their
distance from `now`, which is the database's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from kernel.model.machine import Status
from kernel.ports.diagnosis import SessionSeen, SinkDebt
from kernel.ports.jobs import JobInfo
from kernel.ports.persistence import HeadRow
from runtime.commandline.runs_view import short_id
from runtime.commandline.times import ago, date_and_clock, in_future
from runtime.info import RunInfo, StageInfo

__all__ = [
    "PROVIDE_IT",
    "Case",
    "attempt_sentence",
    "held",
    "held_meanwhile",
    "job_held",
    "job_of",
    "moment",
    "moment_at",
    "no_process",
    "retry_sentence",
    "suspension_sentence",
    "unknown_sentence",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is known of a run and of who could drive it.

    `sessions` None: the store cannot tell. `begun` says when the running or last attempt of each stage began.
    """

    info: RunInfo
    head: HeadRow
    now: datetime
    jobs: Sequence[JobInfo] = ()
    sessions: Sequence[SessionSeen] | None = None
    debts: Sequence[SinkDebt] = ()
    begun: Mapping[str, datetime] = field(default_factory=dict[str, datetime])

    @property
    def short_id(self) -> str:
        """By which commands find the run."""
        return short_id(self.info.id)

    @property
    def live(self) -> Sequence[SessionSeen]:
        """The sessions that may work."""
        return [seen for seen in self.sessions or () if seen.state != "dead"]

    @property
    def knowing(self) -> Sequence[SessionSeen]:
        """Those of them that know the run's workflow in its version."""
        definition = (self.info.workflow_id, self.info.workflow_version)
        return [seen for seen in self.live if definition in seen.workflows]

    @property
    def owner(self) -> SessionSeen | None:
        """The session that the head names, dead or alive, if the store remembers it."""
        return self.session(self.head.owner)

    def session(self, session_id: str | None) -> SessionSeen | None:
        """The session of this id, if the store remembers it."""
        return next((seen for seen in self.sessions or () if seen.id == session_id), None)

    def stages(self, status: Status) -> Sequence[StageInfo]:
        """The stages that are in this status."""
        return [stage for stage in self.info.stages or () if stage.status == status]


def who_is(case: Case, session_id: str) -> str:
    """The process of a session, as people find it."""
    seen = case.session(session_id)
    if seen is None:
        return f"session {session_id}"
    return f'"{seen.name}" (host {seen.hostname}, pid {seen.pid}, session {session_id})'


def held(case: Case) -> str:
    """Who holds the run, or held it, and until when."""
    assert case.head.owner is not None
    seen, who = case.owner, who_is(case, case.head.owner)
    if seen is None:
        return f"It is held by {who}, of which the store knows nothing more."
    if seen.state == "dead":
        return f"It was held by {who}, whose lease ended {moment_at(seen.ended_at, case.now)}."
    late = ", and was not renewed in time" if seen.state == "expiring" else ""
    return f"It is held by {who}, whose lease lasts until {date_and_clock(seen.lease_expires_at)}{late}."


def job_of(case: Case, stage: StageInfo) -> JobInfo | None:
    """The job that executes this stage, if it has one."""
    return next((job for job in case.jobs if job.stage_id == stage.id), None)


def job_held(case: Case, job: JobInfo) -> str:
    """Who has taken a job, or since when nobody has."""
    what = f'Its job in queue "{job.queue}"'
    if job.session_id is not None:
        seen, who = case.session(job.session_id), who_is(case, job.session_id)
        if seen is None or seen.state != "dead":
            return f"{what} was taken by {who}."
        return f"{what} was taken by {who}, whose lease ended {moment_at(seen.ended_at, case.now)}. {_LOST}"
    if job.lease_until is None:
        if job.due_at > case.now:
            return f"{what} is due {moment_at(job.due_at, case.now)}."
        return f"{what} is due since {moment(job.due_at, case.now)}, and nobody has taken it."
    if job.lease_until > case.now:
        return f"{what} was taken by a call of a host, until {date_and_clock(job.lease_until)}."
    return f"{what} was taken by a call of a host, whose lease ended {moment_at(job.lease_until, case.now)}. {_LOST}"


_LOST = "Whoever looks next takes note of the loss, and tries again."


def no_process(case: Case) -> tuple[list[str], list[str]]:
    """What is to be said when no process could go on with the run, and what to do."""
    if case.sessions is None or case.knowing:
        return [], []
    if not case.live:
        return ["No process lives that could go on with it."], ["Start one: leasehold up"]
    return [unknown_sentence(case)], [PROVIDE_IT]


def unknown_sentence(case: Case) -> str:
    """How many processes live without knowing the run's workflow, and which versions they know."""
    info = case.info
    versions = sorted({v for seen in case.live for w, v in seen.workflows if w == info.workflow_id})
    others = f" They know it in version {', '.join(versions)}." if versions else ""
    living = (
        "One process lives, and it does not know"
        if len(case.live) == 1
        else f"{len(case.live)} processes live, and none knows"
    )
    return f'{living} workflow "{info.workflow_id}" in version "{info.workflow_version}".{others}'


PROVIDE_IT = (
    "Run an app with this version beside the others (leasehold up --app …), or put the definition back into "
    "App(workflows=[…])."
)


def attempt_sentence(case: Case, stage: StageInfo) -> str:
    """Which attempt of a stage executes, since when, and how far it is."""
    share = "" if stage.progress is None else f", {stage.progress:.0%} done"
    begun = case.begun.get(stage.id, stage.started_at)
    since = "" if begun is None else f", begun {moment_at(begun, case.now)}"
    execution = "" if stage.execution == 1 else f" of execution {stage.execution}"
    return f'Stage "{stage.id}" executes: attempt {stage.attempt}{execution}{since}{share}.'


def retry_sentence(case: Case, stage: StageInfo) -> str:
    """When a stage is tried again, and after what."""
    assert stage.retry_at is not None
    failed = "" if stage.error is None else f" failed ({stage.error.type}: {stage.error.message})"
    attempt = f", after attempt {stage.attempt}{failed}" if stage.attempt else ""
    is_due = stage.retry_at <= case.now
    again = f"could be tried again since {moment(stage.retry_at, case.now)}"
    return (
        f'Stage "{stage.id}" {again if is_due else f"is tried again {moment_at(stage.retry_at, case.now)}"}{attempt}.'
    )


def suspension_sentence(case: Case, stage: StageInfo) -> str:
    """When a stage that has suspended is looked at again, and until when at most."""
    again, at = "", stage.next_poll_at
    if at is not None:
        is_due = at <= case.now
        again = (
            f", due since {moment(at, case.now)}" if is_due else f" and is looked at again {moment_at(at, case.now)}"
        )
    most = "" if stage.max_wait_until is None else f", until {date_and_clock(stage.max_wait_until)} at most"
    return f'Stage "{stage.id}" waits for something outside{again}{most}.'


def held_meanwhile(case: Case) -> list[str]:
    """Who holds a run that waits for a moment, if anybody."""
    if case.head.owner is None:
        return ["Nobody holds it meanwhile; whoever has room takes it then."]
    return [held(case)]


def moment_at(at: datetime, now: datetime) -> str:
    """A moment, and how far away it is: "at 2030-01-01 12:00:00 (in 5 min)"."""
    return f"at {moment(at, now)}"


def moment(at: datetime, now: datetime) -> str:
    """A moment, and how far away it is: "2030-01-01 12:00:00 (in 5 min)"."""
    far = in_future(at, now) if at > now else ago(at, now)
    # Of what is long ago the distance is a date as well.
    return date_and_clock(at) + (f" ({far})" if not far[:1].isdigit() or far.endswith("ago") else "")
