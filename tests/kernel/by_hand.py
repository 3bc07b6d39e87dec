"""Handlers driven by hand: ports that never wait, in memory, for tests without an event loop.

The store keeps the promises that handlers rely on: an append is refused when the sequence number has moved or the key
is taken, and what is refused leaves no trace. It leaves out what handlers cannot see (leases that expire, unknown
outcomes, other connections); those are the business of `adapters/conformance/store` and of the real stores.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast

from kernel.authoring.workflow import Workflow
from kernel.command import Command
from kernel.dispatch import Kernel
from kernel.errors import BlobNotFound, RunNotFound, StaleVersion
from kernel.journal import ForeignJournals, fold_stored
from kernel.model.facts import Fact, decode_facts
from kernel.model.head import Head
from kernel.model.ids import run_id_from
from kernel.model.run import RunState
from kernel.payloads import Limits
from kernel.ports.concurrency import InTurn
from kernel.ports.executor import Attempt, BodyCompleted, BodyOutcome, CheckAttempt, CheckNotReady, CheckOutcome
from kernel.ports.persistence import (
    Append,
    Claimed,
    HeadRow,
    HistoryRow,
    KeyRecord,
    KeyTaken,
    Lease,
    NewRun,
    Persistence,
    StoredHistory,
    Suspects,
    SuspendedRuns,
)
from kernel.ports.sinks import EventSink
from tests.kernel.hand_outbox import HandOutbox
from tests.kernel.stories import NOW, OUTPUT

R = TypeVar("R")


def drive(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run to the end without an event loop: nothing in here ever waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: R = stop.value
        return result
    coroutine.close()
    raise AssertionError("it waits for something")


@dataclass
class HandClock:
    time: datetime = NOW

    def now(self) -> datetime:
        return self.time


@dataclass
class HandIds:
    count: int = 0

    def run_id(self, now: datetime, /) -> str:
        self.count += 1
        return run_id_from(now, self.count.to_bytes(10, "big"))

    def append_id(self) -> str:
        self.count += 1
        return f"00000000-0000-4000-8000-{self.count:012x}"


@dataclass
class HandBlobs:
    """`puts` are the keys in the order in which they were written, with repetitions."""

    stored: dict[str, bytes] = field(default_factory=dict[str, bytes])
    puts: list[str] = field(default_factory=list[str])

    async def put(self, key: str, data: bytes, /) -> None:
        self.puts.append(key)
        self.stored[key] = data

    async def get(self, key: str, /) -> bytes:
        if key not in self.stored:
            raise BlobNotFound(key)
        return self.stored[key]

    async def has(self, key: str, /) -> bool:
        return key in self.stored

    async def delete(self, key: str, /) -> None:
        self.stored.pop(key, None)

    async def list(self, prefix: str, /) -> Sequence[str]:
        return sorted(key for key in self.stored if key.startswith(prefix))


@dataclass
class HandRun:
    new: NewRun
    head: Head
    created_at: datetime
    seq: int = 0
    rows: list[HistoryRow] = field(default_factory=list[HistoryRow])
    owner: str | None = None
    claim: int = 0
    attention: bool = False
    format: int = 1
    parked_reason: str | None = None
    looks: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def definition(self) -> tuple[str, str]:
        return self.new.workflow_id, self.new.workflow_version


@dataclass
class HandStore(HandOutbox):
    """The narrow ports of the handlers. `meanwhile` are things that happen just before each of the next appends;
    `sent` are the appends that landed."""

    clock: HandClock
    runs: dict[str, HandRun] = field(default_factory=dict[str, HandRun])
    jobless: set[str] = field(default_factory=set[str])
    keys: dict[tuple[str, str, str], tuple[str, str]] = field(
        default_factory=dict[tuple[str, str, str], tuple[str, str]]
    )
    expired: list[str] = field(default_factory=list[str])
    meanwhile: list[Callable[[], object]] = field(default_factory=list[Callable[[], object]])
    sent: list[Append] = field(default_factory=list[Append])

    async def append(self, append: Append, /) -> bool:
        if self.meanwhile:
            self.meanwhile.pop(0)()
        match append.mode:
            case "create":
                self._create(append)
            case "foreign":
                run = self._at(append)
                self._admit(append)
                self._extend(run, append)
            case "poll":
                run = self._at(append)
                run.head = append.head
                run.looks |= json.loads(append.poll_state or b"{}")
            case "unpark":
                run = self._at(append)
                if run.parked_reason is None:
                    raise StaleVersion(append.run_id, expected=append.expected, actual=run.seq)
                run.parked_reason, run.head = None, append.head
            case mode:
                raise AssertionError(f"handlers append from outside, not {mode}")
        self.sent.append(append)
        return self.runs[append.run_id].owner is not None

    def _create(self, append: Append) -> None:
        assert append.new is not None
        existing = self.runs.get(append.run_id)
        if existing is not None:
            raise StaleVersion(append.run_id, expected=append.expected, actual=existing.seq)
        self._admit(append)
        self.runs[append.run_id] = HandRun(new=append.new, head=append.head, created_at=append.at)
        self._extend(self.runs[append.run_id], append)

    def _admit(self, append: Append) -> None:
        if append.key is None:
            return
        if _name(append.key) in self.keys:
            run_id, digest = self.keys[_name(append.key)]
            raise KeyTaken(append.key, run_id=run_id, digest=digest)
        self.keys[_name(append.key)] = append.run_id, append.key.digest

    def _at(self, append: Append) -> HandRun:
        run = self._run(append.run_id)
        if run.seq != append.expected:
            raise StaleVersion(append.run_id, expected=append.expected, actual=run.seq)
        return run

    def _extend(self, run: HandRun, append: Append) -> None:
        assert append.events is not None
        facts = decode_facts(append.events, run_id=append.run_id)
        assert facts
        assert append.seq == run.seq + len(facts)
        bodies = json.loads(append.bodies or b"{}")
        run.rows.append(
            HistoryRow(
                first_seq=run.seq + 1,
                seq=append.seq,
                append_id=append.append_id,
                session_id=None,
                at=append.at,
                events=append.events,
                bodies={seq: json.dumps(body, separators=(",", ":")).encode() for seq, body in bodies.items()},
            )
        )
        run.format = max(run.format, append.format)
        run.looks |= json.loads(append.poll_state or b"{}")
        run.seq, run.head, run.attention = append.seq, append.head, run.owner is not None

    def _run(self, run_id: str) -> HandRun:
        if run_id not in self.runs:
            raise RunNotFound(run_id)
        return self.runs[run_id]

    async def load(self, run_id: str, /, *, after: int = 0, bodies: bool = True) -> StoredHistory:
        run = self._run(run_id)
        rows = [row for row in run.rows if row.seq > after]
        return StoredHistory(
            head=self._head(run_id, run), rows=[row if bodies else replace(row, bodies={}) for row in rows]
        )

    async def heads(self, run_ids: Sequence[str], /) -> Mapping[str, HeadRow]:
        return {run_id: self._head(run_id, self.runs[run_id]) for run_id in run_ids if run_id in self.runs}

    async def find_key(self, command_type: str, scope: str, key: str, /) -> str | None:
        return self.keys.get((command_type, scope, key), (None,))[0]

    async def claim(self, session_id: str, limit: int, /) -> Sequence[Claimed]:
        due = [
            (run_id, run)
            for run_id, run in self.runs.items()
            if run.owner is None and run.head.wake_at is not None and run.head.wake_at <= self.clock.now()
        ]
        taken: list[Claimed] = []
        for run_id, run in due[:limit]:
            run.owner, run.claim = session_id, run.claim + 1
            taken.append(
                Claimed(lease=Lease(session_id, run.claim), previous_owner=None, history=await self.load(run_id))
            )
        return taken

    async def hold_suspended(
        self, workflows: Sequence[tuple[str, str]], limit: int, /, *, hold: timedelta
    ) -> SuspendedRuns:
        now = self.clock.now()
        known = {run_id: run for run_id, run in self.runs.items() if run.definition in workflows}
        due = [
            (run.head.wake_at, run_id)
            for run_id, run in known.items()
            if run.owner is None and run.head.wake_at is not None and run.head.wake_at <= now
            if run.head.phase == "suspended"
        ]
        held = [run_id for _, run_id in sorted(due)[:limit]]
        for run_id in held:
            self.runs[run_id].head = replace(self.runs[run_id].head, wake_at=now + hold)
        return SuspendedRuns(held=held, attended=[run_id for run_id, run in known.items() if run.attention])

    async def condemn_expired(self, limit: int, /) -> Sequence[str]:
        condemned, self.expired = self.expired[:limit], self.expired[limit:]
        return condemned

    async def find_stuck(self, *, after: str | None, limit: int, events_max: int) -> Suspects:
        idle = [run_id for run_id, run in sorted(self.runs.items()) if self._is_idle(run) and run_id > (after or "")]
        found = [
            id_
            for id_ in idle[:limit]
            if self.runs[id_].head.phase != "queued" or self.runs[id_].seq > events_max or id_ in self.jobless
        ]
        return Suspects(run_ids=found, next=idle[limit - 1] if len(idle) > limit else None)

    async def find_unknown(self, *, grace: timedelta, limit: int) -> Sequence[str]:
        late = self.clock.now() - grace
        runs = self.runs.items()
        return [run_id for run_id, run in runs if run.head.wake_at is not None and run.head.wake_at <= late][:limit]

    async def heal(self, run_id: str, head: Head, /, *, expected: int, seq: int) -> bool:
        run = self.runs[run_id]
        if self.meanwhile:
            self.meanwhile.pop(0)()
        if run.seq != expected or not self._is_idle(run):
            return False
        run.seq, run.head = seq, head
        return True

    def _is_idle(self, run: HandRun) -> bool:
        return (run.owner, run.head.wake_at, run.parked_reason, run.head.completed_at) == (None,) * 4

    def _head(self, run_id: str, run: HandRun) -> HeadRow:
        return HeadRow(
            run_id=run_id,
            workflow_id=run.new.workflow_id,
            workflow_version=run.new.workflow_version,
            fingerprint=run.new.fingerprint,
            seq=run.seq,
            head=run.head,
            priority=run.new.priority,
            owner=run.owner,
            claim=run.claim,
            owner_live=run.owner is not None,
            attention=run.attention,
            run_at=run.new.run_at,
            parked_reason=run.parked_reason,
            parked_at=None,
            format=run.format,
            idempotency_key=run.new.idempotency_key,
            metadata=run.new.metadata,
            root_span_id=run.new.root_span_id,
            trace_context=run.new.trace_context,
            created_at=run.created_at,
            updated_at=run.created_at,
            poll_state=json.dumps(run.looks).encode() if run.looks else None,
        )


def _name(key: KeyRecord) -> tuple[str, str, str]:
    return key.command_type, key.scope, key.key


class HandRegistry:
    """`accepted` are fingerprints of former definitions whose runs may go on with the present one."""

    def __init__(self, workflows: Iterable[Workflow[Any, Any]]) -> None:
        self.workflows = {(workflow.id, workflow.version): workflow for workflow in workflows}
        self.accepted: set[str] = set()

    def find_workflow(self, workflow_id: str, version: str | None = None, /) -> Workflow[Any, Any] | None:
        if version is not None:
            return self.workflows.get((workflow_id, version))
        return next((workflow for (id_, _), workflow in self.workflows.items() if id_ == workflow_id), None)

    def known(self) -> Sequence[tuple[str, str]]:
        return list(self.workflows)

    def accepts(self, workflow: Workflow[Any, Any], fingerprint: str, /) -> bool:
        return fingerprint in {workflow.fingerprint, *self.accepted}


@dataclass
class HandExecutor:
    """Answers with the outcome set for a stage, or what it calls to get one, and remembers what it was given."""

    outcomes: dict[str, BodyOutcome | Callable[[Attempt], BodyOutcome]] = field(
        default_factory=dict[str, BodyOutcome | Callable[[Attempt], BodyOutcome]]
    )
    findings: dict[str, CheckOutcome | Callable[[CheckAttempt], CheckOutcome]] = field(
        default_factory=dict[str, CheckOutcome | Callable[[CheckAttempt], CheckOutcome]]
    )
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    checks: list[CheckAttempt] = field(default_factory=list[CheckAttempt])

    async def run(self, attempt: Attempt, /) -> BodyOutcome:
        self.attempts.append(attempt)
        answer = self.outcomes.get(attempt.stage.id, BodyCompleted(output=OUTPUT, metrics={}, artifacts={}))
        return answer(attempt) if callable(answer) else answer

    async def check(self, check: CheckAttempt, /) -> CheckOutcome:
        self.checks.append(check)
        answer = self.findings.get(check.stage.id, CheckNotReady())
        return answer(check) if callable(answer) else answer


class Hands:
    """All ports at once, and the kernel over them."""

    def __init__(
        self, *workflows: Workflow[Any, Any], limits: Limits | None = None, event_sink: EventSink | None = None
    ) -> None:
        self.clock = HandClock()
        self.ids = HandIds()
        self.blobs = HandBlobs()
        self.store = HandStore(self.clock)
        self.registry = HandRegistry(workflows)
        self.executor = HandExecutor()
        self.limits = limits or Limits()
        self.concurrency = InTurn()
        self.event_sink = event_sink
        self.journals = ForeignJournals(self.store, self.blobs, self.clock, self.ids)

    def kernel(self) -> Kernel:
        return Kernel(
            # Handlers ask for no more of the store than is there; mypy has checked that, handler by handler.
            persistence=cast("Persistence", self.store),
            blob_store=self.blobs,
            clock=self.clock,
            ids=self.ids,
            registry=self.registry,
            executor=self.executor,
            event_sink=self.event_sink,
            limits=self.limits,
            concurrency=self.concurrency,
        )

    def dispatch(self, command: Command[R]) -> R:
        return drive(self.kernel().dispatch(command))

    def state(self, run_id: str) -> RunState:
        return fold_stored(drive(self.store.load(run_id)))

    def facts(self, run_id: str) -> list[Fact]:
        return [fact for row in self.store.runs[run_id].rows for fact in decode_facts(row.events, run_id=run_id)]

    def kinds(self, run_id: str, rows: slice = slice(None)) -> list[list[str]]:
        """The kinds of the facts of each append."""
        stored = self.store.runs[run_id].rows[rows]
        return [[fact.type for fact in decode_facts(row.events, run_id=run_id)] for row in stored]

    def payloads(self, run_id: str) -> Collection[bytes]:
        """Every payload that is kept beside its fact."""
        return [body for row in self.store.runs[run_id].rows for body in row.bodies.values()]
