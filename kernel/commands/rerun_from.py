"""`run.rerunFrom`: a run that has ended begins again at one of its stages.

Reruns go by groups: the stage's own group and every later one get a new execution, what comes before stays. The plan is
the one that the run was created with, so no definition is needed here; whoever drives the run next compares it with
its own, and sets the run aside when the two differ.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

from kernel.command import Command
from kernel.errors import EngineError, IdempotencyKeyReused, RunNotRerunnable, StageNotFound
from kernel.idempotency_keys import check_idempotency_key
from kernel.journal import fold_stored
from kernel.model.consequences import begin_group
from kernel.model.draft import Decision, Draft, Moment
from kernel.model.facts import BlobRef, Fact, RunRerun, StageCompleted, StageSuspended, StepRecorded, decode_facts
from kernel.model.head import head_of, shown_status
from kernel.model.machine import Status
from kernel.model.run import RunState
from kernel.payloads import Limits
from kernel.ports.blobs import BlobStore
from kernel.ports.clock import Clock
from kernel.ports.journals import Journals
from kernel.ports.persistence import Histories, KeyRecord, KeyTaken, StoredHistory

__all__ = ["RerunFrom", "RerunFromPorts", "RerunFromResult", "decide_rerun", "rerun_from"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RerunFromResult:
    """`discarded` are the stages that are done again, in definition order."""

    from_stage_id: str
    discarded: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RerunFrom(Command[RerunFromResult]):
    """Do the stage's group and all later ones again, in a new execution whose attempts count from 1.

    With `keep_completed`, those siblings of the stage's parallel group that have completed stay as they are. The same
    `idempotency_key` with the same arguments is one rerun, however often it is sent.
    """

    type: ClassVar[str] = "run.rerunFrom"

    run_id: str
    from_stage_id: str
    keep_completed: bool = False
    idempotency_key: str | None = None

    def __post_init__(self) -> None:
        """Refuse a key that no store can keep."""
        check_idempotency_key(self.idempotency_key)


class RerunFromPorts(Protocol):
    """What a rerun touches."""

    @property
    def journals(self) -> Journals:
        """Where the run's history goes on."""
        ...

    @property
    def store(self) -> Histories:
        """Where keys and what has been discarded are found."""
        ...

    @property
    def blobs(self) -> BlobStore:
        """Where large payloads are deleted."""
        ...

    @property
    def clock(self) -> Clock:
        """When a key expires."""
        ...

    @property
    def limits(self) -> Limits:
        """How long a history may be, and how long a key is kept."""
        ...


def decide_rerun(state: RunState, moment: Moment, command: RerunFrom, *, events_max: int) -> Decision[RerunFromResult]:
    """Begin a new execution of the stage's group, and let it be its turn.

    Raises: StageNotFound; RunNotRerunnable, when the run is active, when an earlier stage has not completed, or when
    the history is so long already that the run would be failed for it.
    """
    stage = state.stages.get(command.from_stage_id)
    if stage is None:
        raise StageNotFound(command.from_stage_id, workflow_id=state.workflow_id, known=state.stages)
    if not state.ended:
        status = shown_status(head_of(state))
        raise RunNotRerunnable(state.run_id, f"it is {status}; wait for its end, or cancel it first")
    group = stage.plan.group
    for earlier in state.stages.values():
        if earlier.plan.group < group and earlier.status is not Status.COMPLETED:
            reason = f'stage "{earlier.id}", before "{stage.id}", is {earlier.status}; rerun from "{earlier.id}"'
            raise RunNotRerunnable(state.run_id, reason)
    if state.seq >= events_max:
        reason = f"its history has {state.seq} events and may have {events_max} (history_events_max); start a new run"
        raise RunNotRerunnable(state.run_id, reason)
    discarded = tuple(
        other.id
        for other in state.stages.values()
        if other.plan.group > group
        or other.id == stage.id
        or (other.plan.group == group and not (command.keep_completed and other.status is Status.COMPLETED))
    )
    draft = Draft(state, moment)
    draft.add(
        RunRerun(
            from_stage_id=stage.id,
            discarded=discarded,
            keep_completed=command.keep_completed or None,
            key=command.idempotency_key,
        )
    )
    begin_group(draft, group)
    return draft.decided(RerunFromResult(from_stage_id=stage.id, discarded=discarded))


async def rerun_from(command: RerunFrom, ports: RerunFromPorts) -> RerunFromResult:
    """Decide and append, the key in the same append; then delete the blobs of what was discarded.

    Interrupted before the append nothing has happened; after it the run goes on. Blobs that could not be deleted are
    left, and the next rerun of the run, or the same one sent again, tries again.
    Raises: RunNotFound, StageNotFound, RunNotRerunnable, IdempotencyKeyReused.
    """
    result = await _find_replay(command, ports)
    if result is None:
        events_max = ports.limits.history_events_max
        try:
            result = await ports.journals.reopen(
                command.run_id,
                lambda state, moment: decide_rerun(state, moment, command, events_max=events_max),
                key=_key_record(command, ports),
            )
        except (KeyTaken, RunNotRerunnable):
            # Perhaps the same command, sent twice, is why: then both have the same answer.
            result = await _find_replay(command, ports)
            if result is None:
                raise
    try:
        stored = await ports.store.load(command.run_id, bodies=False)
        for key in _discarded_blobs(stored):
            await ports.blobs.delete(key)
    except EngineError:
        # The rerun is a fact, whatever becomes of these.
        pass
    return result


def _key_record(command: RerunFrom, ports: RerunFromPorts) -> KeyRecord | None:
    if command.idempotency_key is None:
        return None
    asked = json.dumps([command.from_stage_id, command.keep_completed])
    return KeyRecord(
        command_type=RerunFrom.type,
        scope=command.run_id,
        key=command.idempotency_key,
        digest=hashlib.sha256(asked.encode()).hexdigest(),
        expires_at=ports.clock.now() + ports.limits.idempotency_expiry,
    )


async def _find_replay(command: RerunFrom, ports: RerunFromPorts) -> RerunFromResult | None:
    """The answer that the key got before, read back from the history. Raises: IdempotencyKeyReused."""
    key = command.idempotency_key
    if key is None or await ports.store.find_key(RerunFrom.type, command.run_id, key) is None:
        return None
    stored = await ports.store.load(command.run_id, bodies=False)
    # An expired key may have been used again: the last one counts.
    done = [fact for fact in _facts(stored) if isinstance(fact, RunRerun) and fact.key == key]
    if not done:
        return None
    fact = done[-1]
    paths = [
        *(["from_stage_id"] if fact.from_stage_id != command.from_stage_id else []),
        *(["keep_completed"] if bool(fact.keep_completed) != command.keep_completed else []),
    ]
    if paths:
        raise IdempotencyKeyReused(key, run_id=command.run_id, paths=paths, sent="rerun with other arguments")
    return RerunFromResult(from_stage_id=fact.from_stage_id, discarded=fact.discarded)


def _discarded_blobs(stored: StoredHistory) -> list[str]:
    """The keys that only earlier executions of stages name. Raises: CorruptHistory."""
    state = fold_stored(stored)
    gone: dict[str, None] = {}
    present: set[str] = set()
    for fact in _facts(stored):
        for blob in _blobs_of(fact):
            stage_id, execution = _where(fact)
            if execution < state.stages[stage_id].execution:
                gone[blob.key] = None
            else:
                present.add(blob.key)
    return [key for key in gone if key not in present]


def _blobs_of(fact: Fact) -> Iterator[BlobRef]:
    match fact:
        case StageCompleted():
            yield from [fact.output_blob] if fact.output_blob is not None else []
            yield from (fact.artifacts or {}).values()
        case StageSuspended(state_blob=BlobRef() as blob) | StepRecorded(result_blob=BlobRef() as blob):
            yield blob
        case _:
            pass


def _where(fact: Fact) -> tuple[str, int]:
    assert isinstance(fact, StageCompleted | StageSuspended | StepRecorded)
    return fact.stage_id, fact.execution


def _facts(stored: StoredHistory) -> Iterator[Fact]:
    for row in stored.rows:
        yield from decode_facts(row.events, run_id=stored.head.run_id)
