"""Annotations of runs that exist: `kernel.annotations.attach` and `.list`.

An annotation is a fact of its run's history like any other, so it is attached by an append from outside, at any time,
also to a run that has ended, and it is read from there: nothing else has to agree with the history, and a run without
annotations pays for none. Those that bodies make go with the ends of their attempts (`kernel.model.notes`).

Not a command: it moves nothing, and whoever reads a run may do it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Protocol, TypedDict, TypeVar, Unpack, cast, overload

from pydantic_core import from_json

from kernel.authoring.annotations import (
    Actor,
    Attributes,
    TypedKey,
    check_annotation_key,
    check_scope,
    make_notes,
)
from kernel.authoring.schema import Payload
from kernel.authoring.stage import Stage
from kernel.errors import InvalidCommand, InvalidInput, RunNotFound, StageNotFound
from kernel.model.draft import Decision, Draft, Moment
from kernel.model.facts import AnnotationCreated, CorruptHistory, decode_facts
from kernel.model.notes import Note, add_notes
from kernel.model.run import RunState
from kernel.payloads import Limits
from kernel.ports.journals import Journals
from kernel.ports.persistence import Histories, Notes, StoredNote

__all__ = ["LIST_MAX", "Annotation", "AnnotationFilters", "AnnotationPorts", "Annotations", "decide_attach"]

T = TypeVar("T")

LIST_MAX = 10_000
LIST_DEFAULT = 1_000
ROWS_AT_A_TIME = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation(Generic[T]):
    """One annotation as it was made; `seq` is its place in the history, `value` plain JSON, or of the typed key's type.

    `stage_id` is the stage that said it, with `execution` and `attempt` when a body did, or that it was said about.
    """

    run_id: str
    seq: int
    at: datetime
    key: str
    value: T
    scope: str
    scope_id: str | None
    stage_id: str | None
    execution: int | None
    attempt: int | None
    actor: Actor | None
    payload: Any
    idempotency_key: str | None


class AnnotationFilters(TypedDict, total=False):
    """What `list` can be asked for beside a key; what is None or absent is not asked.

    `key_prefix` is the beginning of a key. `since` is inclusive, `until` is not. `limit` is 1 to 10,000 (1,000).
    """

    key_prefix: str | None
    scope: str | None
    scope_id: str | None
    stage: Stage[Any, Any, Any] | str | None
    execution: int | None
    attempt: int | None
    actor_kind: str | None
    actor_id: str | None
    actor_version: str | None
    since: datetime | None
    until: datetime | None
    limit: int | None


class NotesAndHistories(Notes, Histories, Protocol):
    """What is read of a store."""


class AnnotationPorts(Protocol):
    """What annotations touch."""

    @property
    def journals(self) -> Journals:
        """Where they are appended."""
        ...

    @property
    def store(self) -> NotesAndHistories:
        """Where they are read."""
        ...

    @property
    def limits(self) -> Limits:
        """How long a history may become."""
        ...


def decide_attach(
    state: RunState, moment: Moment, notes: Sequence[Note], *, stage_id: str | None, limits: Limits
) -> Decision[int]:
    """Add the notes that are not there yet, whatever the run is doing. Raises: StageNotFound, InvalidCommand."""
    draft = Draft(state, moment)
    if stage_id is not None and stage_id not in state.stages:
        raise StageNotFound(stage_id, workflow_id=state.workflow_id, known=state.stages)
    added = add_notes(draft, notes, stage=state.stages.get(stage_id or ""), attempted=False)
    # A run whose history is too long fails; nobody may bring that about from outside.
    if added and draft.state.seq > limits.history_events_max // 2:
        raise InvalidCommand(
            f'Run "{state.run_id}" has {state.seq} events, and annotations may fill a history only up to half of '
            f"history_events_max ({limits.history_events_max}).",
            field="attributes",
            hint="Put what is many somewhere else, and annotate where it is.",
        )
    return draft.decided(added)


class Annotations:
    """Attaching annotations to runs, and listing them."""

    def __init__(self, ports: AnnotationPorts) -> None:
        self._ports = ports

    async def attach(
        self,
        run_id: str,
        attributes: Attributes,
        /,
        *,
        scope: str | None = None,
        scope_id: str | None = None,
        stage: Stage[Any, Any, Any] | str | None = None,
        actor: Actor | None = None,
        payload: Payload = None,
        idempotency_key: str | None = None,
        emit_event: bool = False,
    ) -> int:
        """Attach one annotation per attribute, all in one append, and return how many were new.

        A value of None is left out. `scope` is "stage" when a `stage` is named, else "run", or a word of the
        caller's, with `scope_id`. With an `idempotency_key` each key is attached once per run, however often this is
        sent; without one, sending again attaches again. Interrupted before the append nothing is there, after it all.
        Raises: InvalidCommand, InvalidInput, PayloadRefused, RunNotFound, StageNotFound, StaleVersion, Unavailable.
        """
        stage_id = stage.id if isinstance(stage, Stage) else stage
        notes = make_notes(
            attributes,
            scope=scope or ("run" if stage_id is None else "stage"),
            scope_id=scope_id,
            actor=actor,
            payload=payload,
            idempotency_key=idempotency_key,
            emit_event=emit_event,
        )
        limits = self._ports.limits
        return await self._ports.journals.record(
            run_id, lambda state, moment: decide_attach(state, moment, notes, stage_id=stage_id, limits=limits)
        )

    @overload
    async def list(
        self, run_id: str, /, *, key: TypedKey[T], **filters: Unpack[AnnotationFilters]
    ) -> Sequence[Annotation[T]]: ...
    @overload
    async def list(
        self, run_id: str, /, *, key: str | None = ..., **filters: Unpack[AnnotationFilters]
    ) -> Sequence[Annotation[Any]]: ...
    async def list(
        self, run_id: str, /, *, key: TypedKey[Any] | str | None = None, **filters: Unpack[AnnotationFilters]
    ) -> Sequence[Annotation[Any]]:
        """The annotations for which everything asked is true, in the order in which they were made.

        A `key` is exact, and a typed one gives typed values; `key_prefix` is not looked at beside it. At most `limit`
        are given, the oldest.
        Raises: RunNotFound, InvalidCommand; InvalidInput, when a value is not of the typed key's type (by its name,
        `key="..."`, it can still be read); CorruptHistory, Unavailable.
        """
        wanted = _wanted(key, filters)
        typed = key if isinstance(key, TypedKey) else None
        return await self._read(run_id, wanted, typed, _limit(filters.get("limit")))

    async def _read(
        self, run_id: str, wanted: _Wanted, typed: TypedKey[Any] | None, limit: int
    ) -> Sequence[Annotation[Any]]:
        found: list[Annotation[Any]] = []
        after = 0
        while True:
            rows = await self._ports.store.read_notes(run_id, after=after, limit=ROWS_AT_A_TIME)
            for row in rows:
                fact = _fact_of(run_id, row)
                if wanted.has(fact, row.at):
                    found.append(_annotation(run_id, row, fact, typed))
                    if len(found) == limit:
                        return found
            if len(rows) < ROWS_AT_A_TIME:
                break
            after = rows[-1].seq
        if after == 0 and not rows and run_id not in await self._ports.store.heads([run_id]):
            raise RunNotFound(run_id)
        return found


def _limit(asked: int | None) -> int:
    limit: object = LIST_DEFAULT if asked is None else asked
    if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= LIST_MAX:
        raise InvalidCommand(f"limit must be a whole number from 1 to {LIST_MAX}, got {limit!r}.", field="limit")
    return limit


def _wanted(key: TypedKey[Any] | str | None, filters: AnnotationFilters) -> _Wanted:
    unknown = sorted(filters.keys() - AnnotationFilters.__annotations__.keys())
    if unknown:
        hint = f"Filters: key, {', '.join(AnnotationFilters.__annotations__)}."
        raise InvalidCommand(f'Annotations are not filtered by "{unknown[0]}".', field=unknown[0], hint=hint)
    since, until = filters.get("since"), filters.get("until")
    for name, moment in (("since", since), ("until", until)):
        if moment is not None and (not isinstance(moment, datetime) or moment.tzinfo is None):
            raise InvalidCommand(f"{name} must be an aware datetime.", field=name, hint="Add a time zone, e.g. UTC.")
    scope, stage = filters.get("scope"), filters.get("stage")
    named = key.name if isinstance(key, TypedKey) else None if key is None else check_annotation_key(key)
    exact = {
        "key": named,
        "scope": None if scope is None else check_scope(scope),
        "scope_id": filters.get("scope_id"),
        "stage_id": stage.id if isinstance(stage, Stage) else stage,
        "execution": filters.get("execution"),
        "attempt": filters.get("attempt"),
    }
    actor = {"kind": filters.get("actor_kind"), "id": filters.get("actor_id"), "version": filters.get("actor_version")}
    return _Wanted(
        exact={name: value for name, value in exact.items() if value is not None},
        prefix=None if named is not None else filters.get("key_prefix"),
        actor={name: value for name, value in actor.items() if value is not None},
        since=since,
        until=until,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What is asked of an annotation: fields of its fact that are to be equal, and the rest."""

    exact: Mapping[str, object]
    prefix: str | None
    actor: Mapping[str, str]
    since: datetime | None
    until: datetime | None

    def has(self, fact: AnnotationCreated, at: datetime) -> bool:
        """Whether everything is true of this one."""
        if any(getattr(fact, name) != value for name, value in self.exact.items()):
            return False
        if self.prefix is not None and not fact.key.startswith(self.prefix):
            return False
        if (self.since is not None and at < self.since) or (self.until is not None and at >= self.until):
            return False
        if not self.actor:
            return True
        actor = None if fact.actor is None else Actor.parse(fact.actor)
        return actor is not None and all(getattr(actor, name) == value for name, value in self.actor.items())


def _fact_of(run_id: str, row: StoredNote) -> AnnotationCreated:
    (fact,) = decode_facts(b"[" + row.fact + b"]", run_id=run_id)
    if not isinstance(fact, AnnotationCreated):
        raise CorruptHistory(run_id, f"event {row.seq} is no annotation")
    return fact


def _annotation(run_id: str, row: StoredNote, fact: AnnotationCreated, typed: TypedKey[Any] | None) -> Annotation[Any]:
    if typed is None:
        value = from_json(row.value)
    else:
        where = f'annotation "{fact.key}" (event {row.seq} of run "{run_id}")'
        value = typed.schema.decode(row.value, where=where, refuse=InvalidInput)
    return Annotation(
        run_id=run_id,
        seq=row.seq,
        at=row.at,
        key=fact.key,
        value=value,
        scope=fact.scope,
        scope_id=fact.scope_id,
        stage_id=fact.stage_id,
        execution=fact.execution,
        attempt=fact.attempt,
        actor=None if fact.actor is None else Actor.parse(fact.actor),
        payload=None if fact.payload is None else cast("object", from_json(fact.payload)),
        idempotency_key=fact.once,
    )
