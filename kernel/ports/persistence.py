"""What the engine asks of a store of runs, in slices that can be satisfied one by one.

One append to one run's history, conditional on the sequence number (and the owner) that it was decided on, is the
only way anything about a run changes. An adapter must pass `adapters/conformance/store/` to be believed.

Common to every call: a deadline inside the adapter bounds each wait; driver errors come out as `Unavailable` (wait
and retry) or as one of the errors named here. Payloads and facts cross as raw JSON bytes, encoded once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from kernel.errors import EngineError
from kernel.model.head import Head
from kernel.model.jobs import JobChanges
from kernel.ports.blobs import BlobStore
from kernel.ports.outbox import Outbox

__all__ = [
    "PRIORITIES",
    "Append",
    "Appends",
    "Backlog",
    "Beat",
    "Claimed",
    "Claims",
    "Gauges",
    "HeadRow",
    "Heartbeat",
    "Hints",
    "Histories",
    "HistoryRow",
    "Joined",
    "KeyRecord",
    "KeyTaken",
    "Lease",
    "Listings",
    "LogLine",
    "Logs",
    "Mode",
    "NewRun",
    "Notes",
    "Page",
    "Persistence",
    "Polls",
    "QueueBacklog",
    "Repairs",
    "RunQuery",
    "SessionInfo",
    "Sessions",
    "StoredHistory",
    "StoredNote",
    "Suspects",
    "SuspendedRuns",
    "Transactions",
    "WorkflowRecord",
    "Workflows",
]

Mode = Literal["create", "owned", "foreign", "dispatch", "poll", "release", "park", "unpark"]


@dataclass(frozen=True, slots=True)
class Lease:
    """The fencing token of one acquisition of one run: the session and the head's claim counter at that time."""

    session_id: str
    claim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """An idempotency key: unique per (command_type, scope, key); `digest` tells one payload from another.

    `expires_at` None means the adapter's default of 30 days.
    """

    command_type: str
    scope: str
    key: str
    digest: str
    expires_at: datetime | None = None


class KeyTaken(EngineError):
    """The append's key exists already, with this run and digest; nothing was appended."""

    def __init__(self, key: KeyRecord, *, run_id: str, digest: str) -> None:
        self.key = key
        self.run_id = run_id
        self.digest = digest
        super().__init__(f'Key "{key.key}" of {key.command_type} in "{key.scope}" belongs to run "{run_id}".')


PRIORITIES = range(10)
"""What the priority of a run may be; `run.create` says what it means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """The parts of a head that are written once, at creation. `trace_context` is a W3C carrier (`traceparent`, …).

    They are for listing and claiming, and `RunState` has only those that `run.created` repeats: no decision sees
    `metadata`, the idempotency key or the trace.
    """

    workflow_id: str
    workflow_version: str
    fingerprint: str
    priority: int = 5
    run_at: datetime | None = None
    idempotency_key: str | None = None
    metadata: Mapping[str, Any] | None = None
    root_span_id: str | None = None
    trace_context: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """One change of one run; everything in it appears together or not at all.

    | mode | condition | writes |
    |---|---|---|
    | create | no such run; `key`, if any, is free | history, head (owned when `lease` is given), key |
    | owned | seq is `expected`, `lease` holds the run and its session lives | history, head; attention is cleared |
    | foreign | seq is `expected` | history, head; the owner stays; attention if owned, else `wake_at` |
    | poll | as owned with `lease`, else as foreign; no event | head: `poll_state`; without `lease` also `wake_at` |
    | dispatch | seq is `expected`, not parked, no owner but a condemned one | as foreign; driven by jobs for life |
    | release | as owned, no event | head: no owner, `wake_at` from `head` |
    | park | as owned (without `lease`: as dispatch), no event | head: no owner, no `wake_at`, `parked_reason` |
    | unpark | seq is `expected` and the run is parked, no event | head: `wake_at` from `head`, not parked |

    `events` is a JSON array and `bodies` a JSON object of raw payloads (None: no payload); `seq` is the sequence
    number of the last event after the append (equal to `expected` when there is none), `at` the moment decided.
    `format` is the newest that a reader of `events` must know; the head keeps the newest of its history.
    `poll_state` is a JSON object by stage id, which any of owned, foreign, poll and release may bring: its members
    replace those of the same name in the head, which keeps them until the run ends.
    A head that has ended has no `wake_at`, and no owner either; but a foreign append that ends an owned run leaves it
    its owner, with attention, who interrupts what it executes and releases the run. A `wake_at` in the past is stored
    as the database's now. `jobs` changes the run's jobs in the same transaction; with a lease in it, a foreign append
    is refused unless that job is leased so. Sending the same append again is safe: `append_id` is recognised.
    `kernel.journal.append_of` fills it; what a field may hold is checked in `adapters.postgres.batches.item_of` and
    `adapters.memory.payloads.check_append`.
    """

    mode: Mode
    run_id: str
    append_id: str
    expected: int
    seq: int
    at: datetime
    head: Head
    events: bytes | None = None
    format: int = 1
    bodies: bytes | None = None
    poll_state: bytes | None = None
    lease: Lease | None = None
    new: NewRun | None = None
    key: KeyRecord | None = None
    parked_reason: str | None = None
    jobs: JobChanges | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRow:
    """One append as stored. `bodies` is the raw JSON of each inline payload by its key, empty when not asked for."""

    first_seq: int
    seq: int
    append_id: str
    session_id: str | None
    at: datetime
    events: bytes
    bodies: Mapping[str, bytes] = field(default_factory=dict[str, bytes])


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRow:
    """A run's head as stored; enough to list it and to wait for its end.

    `owner_live` is whether the owner's session is neither condemned nor expired by the database's clock. `poll_state`
    is the JSON that appends have brought together, None when none has.
    """

    run_id: str
    workflow_id: str
    workflow_version: str
    fingerprint: str
    seq: int
    head: Head
    priority: int
    owner: str | None
    claim: int
    owner_live: bool
    attention: bool
    run_at: datetime | None
    parked_reason: str | None
    parked_at: datetime | None
    format: int
    idempotency_key: str | None
    metadata: Mapping[str, Any] | None
    root_span_id: str | None
    trace_context: Mapping[str, str] | None
    created_at: datetime
    updated_at: datetime
    poll_state: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredHistory:
    """A run's head and its rows in order, read in one snapshot."""

    head: HeadRow
    rows: Sequence[HistoryRow]


class Appends(Protocol):
    """Writing."""

    async def append(self, append: Append, /) -> bool:
        """Make the change durable; returns after the commit.

        Of what is appended from outside it answers whether a session owned the run at that moment: then its owner, or
        whoever takes the run over, has to read it. False for everything else.
        Cancelling the caller does not cancel the append. An unknown outcome is resolved inside, by sending the same
        append again until there is an answer.
        Raises: StaleVersion, LeaseLost, JobLost, KeyTaken, RunNotFound (foreign, unpark), PayloadRefused, Unavailable;
        InvalidCommand when a new run's id is more than an hour off the database's clock.
        """
        ...


@dataclass(frozen=True, slots=True)
class Joined:
    """A way to create runs in somebody's transaction; `blobs` are those of the store that joined it."""

    appends: Appends
    blobs: BlobStore


class Transactions(Protocol):
    """Creating runs in transactions that are not the store's own."""

    async def joined(self, connection: object, /) -> Joined:
        """What creates runs on this connection: they exist when its transaction commits, and never when it does not.

        Raises: InvalidCommand, when the connection is none that this store can use, or there is none; Unavailable.
        """
        ...


class Histories(Protocol):
    """Reading one run or the heads of several."""

    async def load(self, run_id: str, /, *, after: int = 0, bodies: bool = True) -> StoredHistory:
        """The head and the rows whose last event is after sequence number `after`.

        Raises: RunNotFound, Unavailable.
        """
        ...

    async def endings(self, run_ids: Sequence[str], /, *, limit: int) -> Mapping[str, StoredHistory | None]:
        """What there is to learn of the end of these runs, by run id, in one answer.

        At most `limit` of those that have ended, with their whole histories; None for those that do not exist. A run
        that goes on is absent, and so is what is beyond the limit: ask again for what is left. Raises: Unavailable.
        """
        ...

    async def heads(self, run_ids: Sequence[str], /) -> Mapping[str, HeadRow]:
        """The heads of those of these runs that exist, by run id."""
        ...

    async def find_key(self, command_type: str, scope: str, key: str, /) -> str | None:
        """The run that an idempotency key belongs to, or None when the key is free or has expired."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowRecord:
    """A definition as a store keeps it.

    `plan` is the JSON of its `ExecutionPlan`, `description` explains the fingerprint (stage ids, groups, schema
    names), so that two of them can be compared by a human.
    """

    workflow_id: str
    version: str
    fingerprint: str
    plan: bytes
    description: bytes


class Workflows(Protocol):
    """The definitions that processes know."""

    async def register_workflows(self, records: Sequence[WorkflowRecord], /) -> None:
        """Insert or replace definitions; afterwards runs of them can be created and claimed by this process."""
        ...

    async def find_workflow(self, workflow_id: str, version: str, /) -> WorkflowRecord | None:
        """The definition as last registered by anybody, or None."""
        ...

    async def unpark_workflows(self, definitions: Sequence[tuple[str, str, str | None]], /) -> int:
        """Give back runs that were parked because their definition had changed, and return how many.

        They are those whose `parked_reason` begins with "definition_changed" and that were created from one of these
        (workflow id, version, fingerprint); a fingerprint of None means any.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """What a session says of its process when it opens; shown to operators, never used to decide."""

    name: str
    hostname: str
    pid: int
    started_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """The answer of one heartbeat.

    `alive` False: the session is condemned, or had expired when the renewal arrived; it must stop and open another.
    `now` is the database's time. `attention` are owned runs that somebody else appended to, `adrift` runs that the
    store says are owned by this session (filled only when asked for). `due` counts runnable runs without an owner
    (and of condemned owners) of this session's workflows, up to a small bound; `next_due_at` is when the next one
    falls due. `others` counts other live sessions. `next_command_at` is when the next scheduled command that this
    session's process could dispatch is due, or was (`kernel.ports.scheduler`). `jobs_due`: a job that this session
    could take is due; `jobs_lost`: the lease of a job of its workflows has ended; `next_job_at` is when the next job
    falls due.
    """

    alive: bool
    now: datetime
    attention: Sequence[str] = ()
    adrift: Sequence[tuple[str, int]] = ()
    due: int = 0
    next_due_at: datetime | None = None
    others: int = 0
    next_command_at: datetime | None = None
    jobs_due: bool = False
    jobs_lost: bool = False
    next_job_at: datetime | None = None


class Heartbeat(Protocol):
    """A session's renewal, used from a thread of its own, because the event loop may be blocked by user code."""

    def beat(self, *, adrift: bool = False) -> Beat:
        """Renew the lease and learn what is new, in one statement; blocks, at most for the adapter's deadline.

        Also condemns other sessions whose lease has ended. With `adrift`, lists every run that the session owns.
        Raises: Unavailable.
        """
        ...

    def close(self) -> None:
        """Let go of the connection; idempotent."""
        ...


class Sessions(Protocol):
    """Leases: a session is one process's right to own runs."""

    async def open_session(
        self,
        info: SessionInfo,
        workflows: Sequence[tuple[str, str]],
        /,
        *,
        lease: timedelta,
        queues: Sequence[str] = (),
    ) -> str:
        """Open a session for (workflow id, version) pairs that are registered, and return its id: a fresh UUID.

        `queues` are those that its process serves; its heartbeats tell of their jobs.
        """
        ...

    async def renew(self, session_id: str, /) -> Beat:
        """Renew once from the event loop, for those who drive the kernel by hand."""
        ...

    def heartbeat(self, session_id: str, /) -> Heartbeat:
        """The renewal to be used from another thread; it has a connection of its own."""
        ...

    async def close_session(self, session_id: str, /) -> None:
        """End the session at once (a clean leave). Its remaining runs, if any, are taken over like a dead one's."""
        ...

    async def condemn_expired(self, limit: int, /) -> Sequence[str]:
        """Condemn sessions whose lease has ended, by the database's clock, and return their ids."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A run taken: the lease that fences it, whose it was (None: nobody's), and its history with bodies.

    `waited` is how long it had been due, by the database's clock; None for one that was taken from somebody.
    """

    lease: Lease
    previous_owner: str | None
    history: StoredHistory
    waited: timedelta | None = None


class Claims(Protocol):
    """Taking runs."""

    async def claim(self, session_id: str, limit: int, /) -> Sequence[Claimed]:
        """Take up to `limit` due runs of the session's workflows; the head only, no event is written.

        Those of condemned sessions come first, then by `wake_at` less ten seconds for each step of priority. Runs of a
        newer format, parked runs and runs of unknown workflows are left alone.
        Raises: LeaseLost when the session is condemned; Unavailable.
        """
        ...

    async def look_due(self, definitions: Sequence[tuple[str, str]], limit: int, /) -> Sequence[StoredHistory]:
        """Up to `limit` runs that a claim for these workflows would take, without taking them; histories with bodies.

        Left out are those that have ended since their owner died, with which there is nothing to do but to take them.
        What is wanted of them is appended on the condition that nobody was faster (`dispatch`). Raises: Unavailable.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspects:
    """Runs that may be stuck, and where to go on looking for more (None: that was all)."""

    run_ids: Sequence[str]
    next: str | None = None


class Repairs(Protocol):
    """What keeps a store in order; any process may do it, and one at a time is enough."""

    async def find_stuck(self, *, after: str | None, limit: int, events_max: int) -> Suspects:
        """Runs that have not ended and that nothing will move, in the order of their ids.

        They have no owner, are not due, not parked and wait for no job; or their owner is a session that does not
        exist. Also those that only jobs move and whose history has more than `events_max` events. One look passes over
        at most `limit` heads that are neither owned nor due; `after` is the `next` of the look before. Raises:
        Unavailable.
        """
        ...

    async def find_unknown(self, *, grace: timedelta, limit: int) -> Sequence[str]:
        """At most `limit` runs, due for `grace` or longer, of workflows that no session has known for so long.

        Sessions that have ended count for as long as they are remembered. Raises: Unavailable.
        """
        ...

    async def heal(self, run_id: str, head: Head, /, *, expected: int, seq: int) -> bool:
        """Write the head of a run that is stuck at sequence number `expected`; False when it is not (any more).

        Afterwards nobody owns it, and it is due at `head.wake_at`, or now when that has passed. `seq` is that of the
        history. Raises: Unavailable.
        """
        ...

    async def take_chore(self, name: str, session_id: str, /, *, every: timedelta) -> bool:
        """Whether it is the caller's turn to do a chore that somebody has to do once per so much time.

        Of all processes that ask, one is told so; it need not say when it is done. Raises: Unavailable.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspendedRuns:
    """Ids of runs. Those `held` were suspended and due, and nobody owned them: the longest due come first.

    They are due again only after the hold, or as the next append says, so that nobody else takes them meanwhile. A
    session owns those `attended`, and somebody else has appended to them: they may be driven from outside, and whether
    anything of them is due only their states can say.
    """

    held: Sequence[str]
    attended: Sequence[str]


class Polls(Protocol):
    """Finding suspended runs, for those who poll without a session."""

    async def hold_suspended(
        self, workflows: Sequence[tuple[str, str]], limit: int, /, *, hold: timedelta
    ) -> SuspendedRuns:
        """Runs of these (workflow id, version) pairs that may have a check to be made, at most `limit` of either kind.

        Runs of a newer format and parked runs are left alone. Raises: Unavailable.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuery:
    """Which runs to list, newest first. `after` is the cursor of the page before; `since` bounds the creation."""

    status: str | None = None
    workflow_id: str | None = None
    since: datetime | None = None
    limit: int = 50
    after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Heads, newest first, and the cursor of the next page (None: this was the last)."""

    heads: Sequence[HeadRow]
    next: str | None = None


class Listings(Protocol):
    """Looking at many runs; folds nothing."""

    async def list_runs(self, query: RunQuery, /) -> Page:
        """One page of heads. `status="RUNNING"` leaves out suspended runs, which `"SUSPENDED"` finds."""
        ...

    async def find_runs(self, suffix: str, /) -> Sequence[str]:
        """Ids of at most ten runs whose id ends with these characters (8 or more, or a whole id), newest first."""
        ...

    async def live_workflows(self) -> Sequence[tuple[str, str]]:
        """The (workflow id, version) pairs that some live session knows."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line that a stage body logged, or one report of progress (`level` "PROGRESS"); `id` orders and resumes."""

    run_id: str
    stage_id: str | None
    execution: int | None
    attempt: int | None
    at: datetime
    level: str
    message: str
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueBacklog:
    """The jobs of one queue that are due and that nobody has, at least one; those of parked runs do not wait.

    Nobody has it who took it and whose lease is over. `oldest_age` is how long the first of them has been due, or lost.
    """

    jobs: int
    oldest_age: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits in the whole store, by its own clock.

    `runnable` counts, by workflow id, the runs that are due and that nobody drives (those of condemned owners too), as
    far as the adapter counts; of these nobody live knows the workflow of `unknown`. `oldest_age` is how long the first
    of them has been due, `outbox_lag` how long the first event has that is due to be published; None: there is none.
    `queues` has every queue in which a job waits.
    """

    runnable: Mapping[str, int]
    unknown: int
    oldest_age: timedelta | None
    queues: Mapping[str, QueueBacklog]
    outbox_lag: timedelta | None
    dead_letters: int


class Gauges(Protocol):
    """What operators watch of the store as a whole."""

    async def backlog(self) -> Backlog:
        """What waits; bounded in cost, however much that is. Raises: Unavailable."""
        ...


class Logs(Protocol):
    """What bodies log, kept with the run."""

    async def write_logs(self, lines: Sequence[LogLine], /) -> None:
        """Keep the lines in order; one round trip. May raise Unavailable; the caller may drop them."""
        ...

    async def read_logs(self, run_id: str, /, *, after: int = 0, limit: int = 1000) -> Sequence[LogLine]:
        """Lines of the run with an id above `after`, in order."""
        ...

    async def read_progress(self, run_id: str, /) -> Mapping[str, LogLine]:
        """The last line of level "PROGRESS" of each stage of the run that has one, by stage id."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredNote:
    """An annotation in a history: its place, when it was appended, its fact as a JSON object and its value as JSON."""

    seq: int
    at: datetime
    fact: bytes
    value: bytes


class Notes(Protocol):
    """What was annotated, as the histories have it."""

    async def read_notes(self, run_id: str, /, *, after: int = 0, limit: int = 1000) -> Sequence[StoredNote]:
        """The first `limit` annotations of the run with a `seq` above `after`, in order; none of an unknown run.

        Raises: Unavailable.
        """
        ...


class Hints(Protocol):
    """Hearing early that something may have changed; correctness never depends on it."""

    async def next_hint(self) -> bool:
        """Return when somebody's append may concern this process: a runnable run, a foreign append, a run's end.

        False when it is certain that only runs of this process have moved, by its own hand: nothing is there to be
        claimed and nothing needs attention. One waiter at a time. Hints that come while nobody waits are kept as one.
        None may ever come (a broken connection, a pooler); whoever waits must also look by the clock.
        """
        ...


class Persistence(
    Appends,
    Transactions,
    Histories,
    Workflows,
    Sessions,
    Claims,
    Polls,
    Repairs,
    Listings,
    Gauges,
    Logs,
    Notes,
    Hints,
    Outbox,
    Protocol,
):
    """The whole store."""
