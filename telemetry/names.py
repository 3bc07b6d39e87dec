"""Every name that dashboards, alerts and queries may rely on: spans, their attributes and events, metrics, log events.

A name is stable: renaming one breaks somebody's dashboard. REFERENCE.md is written from this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "ACTORS",
    "APPEND",
    "APPEND_BATCH_SIZE",
    "APPEND_DURATION",
    "ATTRIBUTES",
    "BODIES_RUNNING",
    "BODIES_WAITING",
    "CAUSE",
    "CHECK",
    "CLAIM_LATENCY",
    "COMMAND",
    "COMMANDS",
    "COMMAND_DURATION",
    "COMMAND_TYPE",
    "DEAD_LETTERS",
    "DISCARDED",
    "DUE_AT",
    "HINTS_OUTAGES",
    "HINTS_SILENCE",
    "JOBS_WAITING",
    "LEASES_LOST",
    "LEASE_RENEWALS",
    "LEASE_RENEWAL_DURATION",
    "LOGS",
    "LOOP_LAG",
    "METRICS",
    "NEXT_POLL_AT",
    "OLDEST_JOB_AGE",
    "OLDEST_RUNNABLE_AGE",
    "OUTBOX_LAG",
    "OUTCOME",
    "PAYLOADS",
    "PREVIOUS_SESSION_ID",
    "QUEUE_NAME",
    "ROWS",
    "RUN",
    "RUNS_CANCELLED",
    "RUNS_COMPLETED",
    "RUNS_FAILED",
    "RUNS_RUNNABLE",
    "RUNS_STARTED",
    "RUN_DURATION",
    "RUN_EVENTS",
    "RUN_ID",
    "SCOPE",
    "SESSION_ID",
    "SPANS",
    "SPANS_DROPPED",
    "STAGE",
    "STAGES_FAILED",
    "STAGES_RETRIED",
    "STAGE_ATTEMPT",
    "STAGE_DURATION",
    "STAGE_EXECUTION",
    "STAGE_ID",
    "THREADS_ABANDONED",
    "UNKNOWN_WORKFLOW",
    "WORKFLOW_ID",
    "WORKFLOW_VERSION",
    "Attribute",
    "MetricName",
    "PayloadName",
    "SpanName",
]

SCOPE = "leasehold"
"""The instrumentation scope of all spans and instruments."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of spans: its key, the type of its values, what they mean."""

    key: str
    type: str
    meaning: str


RUN_ID = "leasehold.run.id"
WORKFLOW_ID = "leasehold.workflow.id"
WORKFLOW_VERSION = "leasehold.workflow.version"
STAGE_ID = "leasehold.stage.id"
STAGE_EXECUTION = "leasehold.stage.execution"
STAGE_ATTEMPT = "leasehold.stage.attempt"
SESSION_ID = "leasehold.session.id"
OUTCOME = "leasehold.outcome"
ROWS = "leasehold.append.rows"
CAUSE = "leasehold.cause"
DISCARDED = "leasehold.discarded"
DUE_AT = "leasehold.due_at"
NEXT_POLL_AT = "leasehold.next_poll_at"
PREVIOUS_SESSION_ID = "leasehold.session.previous_id"

PayloadName = Literal["run.input", "stage.config", "stage.output", "stage.state"]
"""What a payload is, to whoever redacts it; its attribute is called the same, after "leasehold."."""

PAYLOADS: Mapping[PayloadName, str] = {
    "run.input": "the run's input, on the span of every body",
    "stage.config": "what the run has configured for the stage, on the span of its body",
    "stage.output": "what a body, or a check that is ready, returned",
    "stage.state": "the state with which a body suspended its stage",
}

ATTRIBUTES = (
    Attribute(RUN_ID, "string", "the run"),
    Attribute(WORKFLOW_ID, "string", "its workflow"),
    Attribute(WORKFLOW_VERSION, "string", "the version of the workflow"),
    Attribute(STAGE_ID, "string", "the stage"),
    Attribute(STAGE_EXECUTION, "int", "which execution of the stage; a rerun begins a new one"),
    Attribute(STAGE_ATTEMPT, "int", "which attempt of the execution, from 1"),
    Attribute(SESSION_ID, "string", "the session of the process that did it"),
    Attribute(OUTCOME, "string", "how it ended, see the span"),
    Attribute(ROWS, "int", "how many appends one statement carried, of all runs"),
    *(Attribute(f"{SCOPE}.{name}", "string", f"if captured: {meaning}") for name, meaning in PAYLOADS.items()),
    Attribute(CAUSE, "string", "on events of a run's span: why its attempt is repeated, or its owner another"),
    Attribute(DUE_AT, "string", "on `stage.retrying`: when the next attempt is due, ISO 8601"),
    Attribute(NEXT_POLL_AT, "string", "on `stage.suspended`: when the stage is looked at, ISO 8601"),
    Attribute(PREVIOUS_SESSION_ID, "string", "on `run.owner_changed`: the session that owned the run before"),
    Attribute(DISCARDED, "string", "on `run.rerun`: the stages that are done again, with commas between"),
)


@dataclass(frozen=True, slots=True)
class SpanName:
    """A kind of span: its name (words in angle brackets vary), its parent, its outcomes, what it covers."""

    name: str
    parent: str
    outcomes: str
    meaning: str

    def of(self, what: str) -> str:
        """The name with its variable word."""
        return f"{self.name.partition('<')[0]}{what}"


RUN = SpanName(
    "run <workflow id>",
    "the creator's span, if there was one",
    "completed, failed, cancelled",
    "the run from its creation, or its rerun, to its end; sent by who owns it then, or else by whoever ends it",
)
COMMAND = SpanName(
    "<command>",
    "the caller's span, else the run's",
    "ok, or the class of the error; of job.execute: completed, suspended, failed, retrying, superseded, interrupted, "
    "lost",
    "one command, such as run.create, job.execute or run.cancel, until its outcome is durable",
)
STAGE = SpanName(
    "stage <stage id>",
    "its job.execute",
    "as its job.execute",
    "one attempt of the stage's body, without what recording its outcome takes",
)
CHECK = SpanName(
    "check <stage id>",
    "the run's",
    "ready, not_ready, failed, raised, interrupted",
    "one look at a suspended stage",
)
APPEND = SpanName(
    "append",
    "the command or the run that its first append belongs to; the others are links",
    "ok",
    "one statement of the committer that carried appends of a sampled run",
)

COMMANDS: Mapping[str, str] = {
    "run.create": "a run comes to be",
    "run.claimPending": "due runs are taken to be driven by jobs",
    "run.transition": "a run is taken one step further by hand",
    "run.cancel": "a run ends because somebody wants it to",
    "run.rerunFrom": "a run that has ended begins again at a stage",
    "run.reapStuck": "runs that nobody would look at again are repaired",
    "run.unpark": "a run that could not be decided is given back",
    "job.execute": "an attempt of a stage, from its start to its recorded end",
    "stage.pollSuspended": "suspended stages are looked at",
    "lease.reapStale": "leases whose holder has died are given up",
    "outbox.flush": "events are handed to sinks",
    "plugin.replayDLQ": "dead letters are tried again",
}
"""The commands whose spans there are, and what they cover."""

SPANS = (RUN, COMMAND, STAGE, CHECK, APPEND)

RUN_EVENTS = ("run.owner_changed", "run.rerun", "stage.retrying", "stage.suspended")
"""What happened to a run that its root span tells as events, under the names that the history has for them."""


# -- metrics -----------------------------------------------------------------------------------------------------------

COMMAND_TYPE = "leasehold.command.type"
QUEUE_NAME = "leasehold.queue.name"


@dataclass(frozen=True, slots=True)
class MetricName:
    """An instrument: its name, what kind it is, its unit, the attributes of its points, what it tells.

    `bounds` are the upper ends of a histogram's buckets. `shared`: every process reports the same number, that of the
    whole database, so take the largest and not the sum. No attribute ever takes values without end, such as run ids.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    meaning: str
    attributes: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    shared: bool = False


_SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LONG_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)

RUNS_STARTED = MetricName(
    "leasehold.runs.started", "counter", "{run}", "runs that began to execute; a rerun is no beginning", (WORKFLOW_ID,)
)
RUNS_COMPLETED = MetricName("leasehold.runs.completed", "counter", "{run}", "runs that completed", (WORKFLOW_ID,))
RUNS_FAILED = MetricName("leasehold.runs.failed", "counter", "{run}", "runs that failed", (WORKFLOW_ID,))
RUNS_CANCELLED = MetricName("leasehold.runs.cancelled", "counter", "{run}", "runs that were cancelled", (WORKFLOW_ID,))
RUN_DURATION = MetricName(
    "leasehold.run.duration",
    "histogram",
    "s",
    "from a run's start to its end, waiting included; outcomes: completed, failed, cancelled",
    (WORKFLOW_ID, OUTCOME),
    _LONG_S,
)
STAGE_DURATION = MetricName(
    "leasehold.stage.duration",
    "histogram",
    "s",
    "how long the attempt took that completed a stage, as its history has it",
    (WORKFLOW_ID, STAGE_ID),
    _LONG_S,
)
STAGES_RETRIED = MetricName(
    "leasehold.stages.retried",
    "counter",
    "{attempt}",
    "attempts that ended without a result and are repeated; outcomes: raised, timeout, lost, drained",
    (WORKFLOW_ID, STAGE_ID, OUTCOME),
)
STAGES_FAILED = MetricName(
    "leasehold.stages.failed", "counter", "{stage}", "stages that failed for good", (WORKFLOW_ID, STAGE_ID)
)
COMMAND_DURATION = MetricName(
    "leasehold.command.duration",
    "histogram",
    "s",
    "from a command's dispatch until its outcome is durable; outcomes: ok, or the class of the error; "
    "of job.execute: completed, suspended, failed, retrying, superseded",
    (COMMAND_TYPE, OUTCOME),
    _LONG_S,
)
APPEND_BATCH_SIZE = MetricName(
    "leasehold.append.batch_size", "histogram", "{append}", "appends of one statement", (), _ROWS
)
APPEND_DURATION = MetricName(
    "leasehold.append.duration",
    "histogram",
    "s",
    "from sending a batch of appends to its answer; outcomes: ok, error",
    (OUTCOME,),
    _SHORT_S,
)
CLAIM_LATENCY = MetricName(
    "leasehold.claim.latency",
    "histogram",
    "s",
    "how long a run had been due when it was claimed, by the database's clock",
    (),
    _SHORT_S,
)
ACTORS = MetricName("leasehold.actors.active", "gauge", "{run}", "runs that this process drives")
BODIES_RUNNING = MetricName("leasehold.bodies.running", "gauge", "{body}", "stage bodies that execute")
BODIES_WAITING = MetricName("leasehold.bodies.waiting", "gauge", "{body}", "runs that wait for room to execute one")
THREADS_ABANDONED = MetricName(
    "leasehold.threads.abandoned", "gauge", "{thread}", "threads whose body nobody waits for any more"
)
LEASE_RENEWALS = MetricName(
    "leasehold.lease.renewals",
    "counter",
    "{renewal}",
    "heartbeats of the session; outcomes: ok, refused, error",
    (OUTCOME,),
)
LEASE_RENEWAL_DURATION = MetricName(
    "leasehold.lease.renewal_duration", "histogram", "s", "how long an answered heartbeat took", (), _SHORT_S
)
LEASES_LOST = MetricName("leasehold.lease.losses", "counter", "{session}", "sessions that ended while they were held")
LOOP_LAG = MetricName(
    "leasehold.loop.lag", "histogram", "s", "how long the event loop took to answer a heartbeat", (), _SHORT_S
)
HINTS_SILENCE = MetricName(
    "leasehold.hints.silence",
    "gauge",
    "s",
    "since the connection that listens last proved to be alive, which is looked at every 10 s; not behind a pooler",
)
HINTS_OUTAGES = MetricName(
    "leasehold.hints.outages",
    "counter",
    "{connection}",
    "connections that listened and broke; hints of that moment were missed, and found by looking",
)
SPANS_DROPPED = MetricName(
    "leasehold.spans.dropped",
    "counter",
    "{span}",
    "spans that found the queue full (OTEL_BSP_MAX_QUEUE_SIZE); only where the command line exports traces",
)
RUNS_RUNNABLE = MetricName(
    "leasehold.runs.runnable",
    "gauge",
    "{run}",
    "runs that are due and that nobody drives, up to 10,000 of each version",
    (WORKFLOW_ID,),
    shared=True,
)
OLDEST_RUNNABLE_AGE = MetricName(
    "leasehold.runs.oldest_runnable_age",
    "gauge",
    "s",
    "how long the first of them has been due; 0 when there is none",
    shared=True,
)
UNKNOWN_WORKFLOW = MetricName(
    "leasehold.runs.unknown_workflow",
    "gauge",
    "{run}",
    "those of them whose workflow no live process knows",
    shared=True,
)
JOBS_WAITING = MetricName(
    "leasehold.jobs.waiting",
    "gauge",
    "{job}",
    "jobs that are due and that nobody has (any more), up to 10,000 of each version of a workflow",
    (QUEUE_NAME,),
    shared=True,
)
OLDEST_JOB_AGE = MetricName(
    "leasehold.jobs.oldest_waiting_age",
    "gauge",
    "s",
    "how long the first of them has been due; 0 when there is none",
    (QUEUE_NAME,),
    shared=True,
)
OUTBOX_LAG = MetricName(
    "leasehold.outbox.lag", "gauge", "s", "how long the first due event has waited to be published", shared=True
)
DEAD_LETTERS = MetricName(
    "leasehold.dead_letters.waiting", "gauge", "{event}", "events that a sink refused too often", shared=True
)

METRICS = (
    RUNS_STARTED,
    RUNS_COMPLETED,
    RUNS_FAILED,
    RUNS_CANCELLED,
    RUN_DURATION,
    STAGE_DURATION,
    STAGES_RETRIED,
    STAGES_FAILED,
    COMMAND_DURATION,
    APPEND_BATCH_SIZE,
    APPEND_DURATION,
    CLAIM_LATENCY,
    ACTORS,
    BODIES_RUNNING,
    BODIES_WAITING,
    THREADS_ABANDONED,
    LEASE_RENEWALS,
    LEASE_RENEWAL_DURATION,
    LEASES_LOST,
    LOOP_LAG,
    HINTS_SILENCE,
    HINTS_OUTAGES,
    SPANS_DROPPED,
    RUNS_RUNNABLE,
    OLDEST_RUNNABLE_AGE,
    UNKNOWN_WORKFLOW,
    JOBS_WAITING,
    OLDEST_JOB_AGE,
    OUTBOX_LAG,
    DEAD_LETTERS,
)


# -- logs --------------------------------------------------------------------------------------------------------------

LOGS: Mapping[str, str] = {
    "actor.crashed": "an error of ours while a run was driven; it is driven again",
    "attempt.broken": "an error of ours around a stage's body",
    "batch.unobserved": "an error of ours while a batch of appends was measured",
    "blobs.recovered": "the blob store answers again",
    "blobs.unavailable": "the blob store does not answer; said once, then every ten seconds",
    "check.broken": "an error of ours around a stage's check",
    "command.failed": "a scheduled command was refused; it is tried again, or kept with its error",
    "command.not_settled": "a scheduled command was dispatched, and that could not be written down: it may be repeated",
    "database.embedded": "no database is configured, so a private one is used",
    "database.gone": "the directory of the private database is gone; the process ends",
    "database.restarted": "the private database's server has another process",
    "events.given_up": "a sink has refused events too often; they are dead letters",
    "events.left": "leaving, not all events could be published; another process does it",
    "history.long": "a run has used half of the events that it may have",
    "job.broken": "an error of ours around a job",
    "job.left": "what became of a job could not be written down; its lease ends by itself",
    "job.undecidable": "a job of a run that cannot be decided here; it is tried again later",
    "job.withdrawn": "a job was interrupted, because its lease is somebody else's",
    "lease.lost": "the session has ended; nothing executes under it any more, and another one is opened",
    "lease.renewal_broken": "an error of ours while the lease was renewed",
    "lease.renewal_failed": "the lease could not be renewed; said once, then every ten seconds",
    "lease.renewed_again": "it can be renewed again",
    "loop.blocked": "the event loop has not answered for a second or more; with the stage and the stack",
    "loop.blocked_too_long": "it has not answered for max_blocked; the process ends",
    "maintenance.failed": "an error of ours in a maintenance tick",
    "payload.not_redacted": "the redaction hook raised, so a payload was not recorded",
    "queues.without_stages": "queues that this process serves, and that no stage of its workflows names",
    "run.adopted": "a run is ours and had no actor: the answer of a claim was lost",
    "run.adoption_failed": "such a run could not be read; it is tried again",
    "run.cancelled": "a run was cancelled",
    "run.completed": "a run completed",
    "run.failed": "a run failed",
    "run.left_to_newer_release": "a run's history is of a newer release; another process has to drive it",
    "run.not_created": "a creation whose caller was cancelled did not happen",
    "run.parked": "a run cannot be decided and waits for a human: leasehold unpark",
    "run.parking_failed": "such a run could not be parked; it is tried again",
    "runs.repaired": "stuck runs were mended, or failed because they are too long",
    "runs.taken_over": "runs of a process that is dead, or silent for a lease, were taken",
    "runs.unparked": "runs were waiting for the definitions of this process",
    "service.crashed": "an error of ours in a background service; it begins again",
    "session.not_closed": "leaving, the session could not be closed; its lease ends by itself",
    "session.opened": "the process holds a lease",
    "sink.failed": "a sink refused events; they are tried again",
    "sink.recovered": "it takes them again",
    "stage.retrying": "an attempt ended without a result; another one is due",
    "store.recovered": "the database answers again",
    "store.unavailable": "the database does not answer; said once, then every ten seconds",
    "supervisor.draining": "asked to stop: no more is taken, and bodies have their grace",
    "supervisor.left_bodies": "bodies ignored their cancellation; the process ends without them",
    "supervisor.started": "the process executes runs",
    "supervisor.stopped": "every run was handed back",
    "telemetry.failed": "a sampler, a span processor or a view of the program's raised, or the backlog could not be "
    "measured, and so often since this was last said",
    "telemetry.recovered": "a collector takes what it is sent again; with how many spans were lost",
    "telemetry.spans_dropped": "spans found no room in the queue; with how many, said every ten seconds at most",
    "telemetry.unreachable": "a collector does not take what it is sent; said once",
    "trace.incomplete": "something about a run's trace could not be found out",
    "worker.died": "a worker of up --workers ended by itself; it is started again",
    "worker.started": "a worker was started",
}
"""Every event that the engine logs, under `leasehold...` loggers; ids and facts are fields."""
