"""Annotations: durable remarks about a run, under keys that tools can agree on.

A `TypedKey` ties a key's name to the type of its value, for people and for type checkers. The namespaces below are a
small vocabulary that many workflows share: what triggered a run, what was decided, who approved, what it revises.
How annotations are stored and listed is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

from pydantic import ConfigDict
from pydantic_core import from_json

from kernel.authoring.payload_guard import encode_payload
from kernel.authoring.schema import Schema, UnusableType
from kernel.errors import InvalidCommand, InvalidInput, PayloadRefused
from kernel.idempotency_keys import KEY_BYTES_MAX, check_idempotency_key
from kernel.model.notes import Note

__all__ = [
    "NOTE_BYTES_MAX",
    "Actor",
    "Approval",
    "Attributes",
    "Decision",
    "NewAnnotations",
    "Revision",
    "Trigger",
    "TypedKey",
    "check_annotation_key",
    "check_scope",
    "make_note",
    "make_notes",
    "notes_of",
    "plain_annotations",
]

T = TypeVar("T")

KEY_LENGTH_MAX = 200
NOTE_BYTES_MAX = 16_384
"""Of a value, and of a payload, as JSON: an annotation is a remark, and stands in the history itself."""

_KEY = re.compile(r"[a-z0-9_]+(?:[.\-][a-z0-9_]+)*")
_RESERVED_PREFIX = "legacy.metadata."
_OWN_SCOPES = frozenset(("run", "stage"))


class TypedKey(Generic[T]):
    """The name of an annotation and the type of its value: `TypedKey("decision.confidence", float)`.

    Names are lower case words joined by dots. `stability` tells readers whether the meaning may still change.

    Raises: InvalidCommand for a name that is not allowed or a type that has no JSON form.
    """

    __slots__ = ("description", "name", "schema", "stability", "type")

    def __init__(
        self,
        name: str,
        type_: type[T],
        *,
        stability: Literal["stable", "experimental"] = "experimental",
        description: str = "",
    ) -> None:
        check_annotation_key(name)
        try:
            self.schema: Schema = Schema(type_)
        except UnusableType as error:
            raise InvalidCommand(f'Annotation key "{name}": {error.reason}.', field="type_") from error
        self.name: str = name
        self.type: type[T] = type_
        self.stability: Literal["stable", "experimental"] = stability
        self.description: str = description

    def __repr__(self) -> str:
        return f"TypedKey({self.name!r}, {self.schema.name})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who made an annotation: a `kind` such as "user", "agent" or "system", and optionally which one.

    Its text, as events and SQL show it, is "kind", "kind:id" or "kind:id:version"; a colon within a part is "%3A".
    Raises: InvalidCommand for a part that is empty or cannot be stored.
    """

    kind: str
    id: str | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        """Refuse what could not be told apart or stored."""
        for name, part in (("kind", self.kind), ("id", self.id), ("version", self.version)):
            if part is not None or name == "kind":
                _check_word(part, f"actor.{name}")

    def __str__(self) -> str:
        parts = [self.kind, self.id or "", self.version or ""]
        return ":".join(part.replace("%", "%25").replace(":", "%3A") for part in parts).rstrip(":")

    @classmethod
    def parse(cls, text: str) -> Actor:
        """The actor of such a text. Raises: InvalidCommand, when it has no kind."""
        parts = [part.replace("%3A", ":").replace("%25", "%") for part in text.split(":", 2)]
        kind, id_, version = [*parts, "", ""][:3]
        return cls(kind=kind, id=id_ or None, version=version or None)


# A mapping is invariant in its keys, so one that names both kinds would refuse a mapping of either.
Attributes: TypeAlias = Mapping[Any, Any]
"""Annotations that are made together: values by typed key or by name; a value of None is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAnnotations:
    """Annotations of a new run, and what they have in common; the fields are those of `ctx.annotate`."""

    attributes: Attributes
    scope: str = "run"
    scope_id: str | None = None
    actor: Actor | None = None
    payload: Any = None
    idempotency_key: str | None = None
    emit_event: bool = False

    # Keys may be of our own class; read from JSON they are names.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True, extra="forbid")


def make_note(
    key: TypedKey[Any] | str,
    value: object,
    *,
    scope: str,
    scope_id: str | None = None,
    actor: Actor | None = None,
    payload: object = None,
    idempotency_key: str | None = None,
    emit_event: bool = False,
) -> Note:
    """Check and encode one annotation.

    Raises: InvalidCommand (key, scope, scope_id, idempotency_key), InvalidInput (typed value), PayloadRefused.
    """
    if isinstance(key, TypedKey):
        name = key.name
        text = key.schema.encode(value, where=f'annotation "{name}"', refuse=InvalidInput)
    else:
        name = check_annotation_key(key)
        text = encode_payload(value, what=f'Annotation "{name}"', field="value")
    _check_size(text, f'Annotation "{name}"', "value")
    encoded = None
    if payload is not None:
        encoded = encode_payload(payload, what=f'Payload of annotation "{name}"', field="payload")
        _check_size(encoded, f'Payload of annotation "{name}"', "payload")
    check_scope(scope)
    if scope_id is not None:
        _check_word(scope_id, "scope_id")
        if scope in _OWN_SCOPES:
            raise InvalidCommand(
                f'scope_id "{scope_id}" has no meaning in the scope "{scope}".',
                field="scope_id",
                hint='It says which one of a scope of your own is meant: scope="page", scope_id="7".',
            )
    check_idempotency_key(idempotency_key)
    return Note(
        key=name,
        value=text,
        scope=scope,
        scope_id=scope_id,
        actor=None if actor is None else str(actor),
        payload=encoded,
        idempotency_key=idempotency_key,
        emit=emit_event,
    )


def make_notes(attributes: Attributes, **common: Any) -> tuple[Note, ...]:
    """As `make_note`, for each attribute whose value is not None."""
    return tuple(make_note(key, value, **common) for key, value in attributes.items() if value is not None)


def notes_of(annotations: Sequence[NewAnnotations] | Attributes | None) -> tuple[Note, ...]:
    """The notes with which a run begins. Raises: as `make_note`."""
    return tuple(
        note
        for each in _listed(annotations)
        for note in make_notes(
            each.attributes,
            scope=each.scope,
            scope_id=each.scope_id,
            actor=each.actor,
            payload=each.payload,
            idempotency_key=each.idempotency_key,
            emit_event=each.emit_event,
        )
    )


def plain_annotations(
    annotations: Sequence[NewAnnotations] | Attributes | None,
) -> Sequence[NewAnnotations] | None:
    """The same with names as keys and plain JSON as values, to be kept until then. Raises: as `make_note`."""
    return None if annotations is None else [_plain(each) for each in _listed(annotations)]


def _plain(each: NewAnnotations) -> NewAnnotations:
    notes = notes_of([each])
    payload = notes[0].payload if notes else None
    return replace(
        each,
        attributes={note.key: from_json(note.value) for note in notes},
        payload=None if payload is None else from_json(payload),
    )


def _listed(annotations: Sequence[NewAnnotations] | Attributes | None) -> Sequence[NewAnnotations]:
    match annotations:
        case None:
            return ()
        case Mapping():
            return (NewAnnotations(attributes=annotations),)
        case _:
            return annotations


def check_scope(scope: object) -> str:
    """The scope itself. Raises: InvalidCommand."""
    if not isinstance(scope, str) or len(scope) > KEY_LENGTH_MAX or _KEY.fullmatch(scope) is None:
        raise InvalidCommand(
            f"Scope {scope!r} is not allowed.",
            field="scope",
            hint=f'Use "run", "stage", or a lower case word of your own, at most {KEY_LENGTH_MAX} characters.',
        )
    return scope


def _check_word(text: object, field: str) -> None:
    try:
        storable = isinstance(text, str) and bool(text.strip()) and "\0" not in text
        size = len(text.encode()) if isinstance(text, str) else 0
    except UnicodeEncodeError:
        storable, size = False, 0
    if not storable or size > KEY_BYTES_MAX:
        raise InvalidCommand(f"{field} must be a text of 1 to {KEY_BYTES_MAX} bytes without NUL.", field=field)


def _check_size(text: bytes, what: str, field: str) -> None:
    if len(text) > NOTE_BYTES_MAX:
        reason = (
            f"it is {len(text)} bytes long as JSON, and a remark may have {NOTE_BYTES_MAX}; "
            "put it into ctx.storage, and annotate where it is"
        )
        raise PayloadRefused(what, reason, field=field)


def check_annotation_key(name: object) -> str:
    """The name itself. Raises: InvalidCommand when it cannot be an annotation's key."""
    if not isinstance(name, str) or len(name) > KEY_LENGTH_MAX or _KEY.fullmatch(name) is None:
        raise InvalidCommand(
            f"Annotation key {name!r} is not allowed.",
            field="key",
            hint=f'Use lower case words joined by dots, at most {KEY_LENGTH_MAX} characters: "decision.confidence".',
        )
    if name.startswith(_RESERVED_PREFIX):
        raise InvalidCommand(
            f'Annotation key "{name}" is reserved.', field="key", hint=f'Do not begin with "{_RESERVED_PREFIX}".'
        )
    return name


class Trigger:
    """What made the run happen."""

    source: TypedKey[str] = TypedKey(
        "trigger.source", str, stability="stable", description="What started the run: api, schedule, ..."
    )
    parent_run_id: TypedKey[str] = TypedKey(
        "trigger.parent_run_id", str, stability="stable", description="The run that started it."
    )
    reason: TypedKey[str] = TypedKey("trigger.reason", str, stability="stable", description="Why, in words.")
    actor_kind: TypedKey[str] = TypedKey(
        "trigger.actor.kind", str, stability="stable", description="The kind of who started it."
    )
    actor_id: TypedKey[str] = TypedKey("trigger.actor.id", str, stability="stable", description="Who started it.")


class Decision:
    """What was decided, by a model or a person, and how surely."""

    outcome: TypedKey[str] = TypedKey("decision.outcome", str, stability="stable", description="What was decided.")
    rationale: TypedKey[str] = TypedKey("decision.rationale", str, stability="stable", description="Why, in words.")
    confidence: TypedKey[float] = TypedKey(
        "decision.confidence", float, stability="stable", description="From 0 (a guess) to 1."
    )
    alternatives: TypedKey[list[str]] = TypedKey(
        "decision.alternatives", list[str], stability="stable", description="What else was open."
    )
    used_fallback: TypedKey[bool] = TypedKey(
        "decision.used_fallback", bool, description="Whether the first choice was not available."
    )


class Approval:
    """Who approved, when, and under which rules."""

    approvers: TypedKey[list[str]] = TypedKey(
        "approval.approvers", list[str], stability="stable", description="Who approved."
    )
    timestamp: TypedKey[datetime] = TypedKey(
        "approval.timestamp", datetime, stability="stable", description="When the approval was given."
    )
    policy_version: TypedKey[str] = TypedKey(
        "approval.policy.version", str, description="The version of the rules that applied."
    )


class Revision:
    """Which earlier run this one revises."""

    previous_run_id: TypedKey[str] = TypedKey(
        "revision.previous_run_id", str, stability="stable", description="The run it revises."
    )
    reason: TypedKey[str] = TypedKey(
        "revision.reason", str, stability="stable", description="Why it had to be revised."
    )
