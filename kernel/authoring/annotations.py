"""Annotations: durable remarks about a run, under keys that tools can agree on.

A `TypedKey` ties a key's name to the type of its value, for people and for type checkers. The namespaces below are a
small vocabulary that many workflows share: what triggered a run, what was decided, who approved, what it revises.
How annotations are stored and listed is not known here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from kernel.authoring.payload_guard import encode_payload
from kernel.authoring.schema import Schema, UnusableType
from kernel.errors import InvalidCommand, InvalidInput

__all__ = ["Actor", "Annotation", "Approval", "Decision", "Revision", "Trigger", "TypedKey", "make_annotation"]

T = TypeVar("T")

KEY_LENGTH_MAX = 200

_KEY = re.compile(r"[a-z0-9_]+(?:[.\-][a-z0-9_]+)*")
_RESERVED_PREFIX = "legacy.metadata."


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
    """Who made an annotation: a `kind` such as "user", "agent" or "system", and optionally which one."""

    kind: str
    id: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One remark, ready to be stored: `value` and `payload` are JSON texts.

    `scope` says what it is about ("run", "stage", or a word of the author's) and `scope_id` which one. With an
    `idempotency_key` the same key of the same run is written once.
    """

    key: str
    value: bytes
    scope: str = "run"
    scope_id: str | None = None
    actor: Actor | None = None
    payload: bytes | None = None
    idempotency_key: str | None = None


def make_annotation(
    key: TypedKey[Any] | str,
    value: object,
    *,
    scope: str,
    scope_id: str | None = None,
    actor: Actor | None = None,
    payload: object = None,
    idempotency_key: str | None = None,
) -> Annotation:
    """Check and encode one annotation. Raises: InvalidCommand (key), InvalidInput (typed value), PayloadRefused."""
    if isinstance(key, TypedKey):
        name = key.name
        text = key.schema.encode(value, where=f'annotation "{name}"', refuse=InvalidInput)
    else:
        name = check_annotation_key(key)
        text = encode_payload(value, what=f'Annotation "{name}"', field="value")
    encoded = None
    if payload is not None:
        encoded = encode_payload(payload, what=f'Payload of annotation "{name}"', field="payload")
    return Annotation(
        key=name,
        value=text,
        scope=scope,
        scope_id=scope_id,
        actor=actor,
        payload=encoded,
        idempotency_key=idempotency_key,
    )


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
