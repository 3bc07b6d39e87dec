"""How annotations become facts: one place for those of bodies, of creators and of whoever looks at a run later.

A note is an annotation that has been checked and encoded; `kernel.authoring.annotations` makes them, and what their
keys mean is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kernel.model.draft import Draft
from kernel.model.facts import AnnotationCreated
from kernel.model.stage import StageState

__all__ = ["Note", "add_notes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One annotation, ready to be recorded: `value` and `payload` are raw JSON, `actor` is the text of an `Actor`.

    `scope` says what it is about ("run", "stage", or a word of the author's) and `scope_id` which one. With an
    `idempotency_key` the same key of the same run is noted once. `emit`: sinks are given it as an event.
    """

    key: str
    value: bytes
    scope: str = "stage"
    scope_id: str | None = None
    actor: str | None = None
    payload: bytes | None = None
    idempotency_key: str | None = None
    emit: bool = False


def add_notes(draft: Draft, notes: Iterable[Note], *, stage: StageState | None = None, attempted: bool = True) -> int:
    """Add a fact for each note that is not there yet, and return how many that are.

    `stage` is the one that they come from or are about; `attempted`: its present attempt is what says them.
    """
    before = len(draft.facts)
    said_by = stage if attempted else None
    for note in notes:
        if note.idempotency_key is not None and (note.key, note.idempotency_key) in draft.state.noted:
            continue
        draft.add(
            AnnotationCreated(
                key=note.key,
                scope=note.scope,
                scope_id=note.scope_id,
                stage_id=None if stage is None else stage.id,
                execution=None if said_by is None else said_by.execution,
                attempt=None if said_by is None else said_by.attempt,
                actor=note.actor,
                payload=None if note.payload is None else note.payload.decode(),
                once=note.idempotency_key,
                emit=note.emit or None,
            ),
            note.value,
        )
    return len(draft.facts) - before
