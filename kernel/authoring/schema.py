"""A schema: what a stage takes or returns, compiled once from a type and then only used.

Everything between two stages is JSON text. `encode` validates a value, writes it once, and reads it back with the
validator that the next stage will use; that text is stored, and both the live run and a run recovered years later get
their values by `decode` of the same text. The reading back is what makes "outputs are validated" true also for models
that were changed after construction, made by `model_construct`, or whose fields are excluded from serialisation.

Keys are field names, never aliases: every field can be read by its name, while an alias may exist for one direction
only. Reading accepts both. A schema knows types, not stages: the caller says whose value it is (`where`) and which
error a refusal is (`refuse`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from kernel.authoring.assignability import assignable
from kernel.authoring.payload_guard import (
    PAYLOAD_BYTES_MAX,
    find_payload_problem,
    non_finite_problem,
    refusal_of,
    replaced_problem,
)
from kernel.authoring.type_names import type_name
from kernel.errors import InvalidConfig, InvalidInput, InvalidOutput, PayloadRefused

__all__ = ["NONE", "Payload", "Refusal", "Schema", "UnusableType", "Value", "is_model"]

Payload: TypeAlias = BaseModel | Mapping[str, Any] | Sequence[Any] | str | int | float | bool | None
"""What a stage may take and return; the bound that lets a type checker tell an output from a Suspend or a coroutine."""

Refusal: TypeAlias = type[InvalidInput] | type[InvalidOutput] | type[InvalidConfig]


Value: TypeAlias = Any
"""A value whose type is known at run time only: to a schema, or to the user who wrote it."""


class UnusableType(Exception):
    """Nothing can be validated or written by this type; `reason` is the end of a sentence that begins with its name."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Schema:
    """A compiled type; immutable, and safe to use from several threads.

    `type` is the type as declared, with None for the type of None; `name` is the same in every module and process and
    takes part in fingerprints; `drops_fields` says that some fields are excluded from what is written.

    Raises: UnusableType when pydantic cannot make a schema of the type. `namespace` holds names that its forward
    references may need.
    """

    __slots__ = ("_nulls_floats", "_to_json", "_validate_json", "_validate_python", "drops_fields", "name", "type")

    def __init__(self, annotation: object, *, namespace: Mapping[str, Any] | None = None) -> None:
        self.type: Any = None if annotation is type(None) else annotation
        self.name: str = type_name(annotation)
        adapter = _adapter(annotation, namespace)
        self._validate_python = adapter.validator.validate_python
        self._validate_json = adapter.validator.validate_json
        self._to_json = adapter.serializer.to_json
        kinds = _kinds(adapter.core_schema)
        if kinds & _NO_JSON_FORM:
            raise UnusableType(f"{self.name} has no JSON form")
        if _STARS in kinds:
            raise UnusableType(f"{self.name} holds a secret, which would be stored as stars (take it from a service)")
        self.drops_fields: bool = _DROPPED in kinds
        self._nulls_floats = not kinds - {_DROPPED} <= _NEVER_A_FLOAT

    def __repr__(self) -> str:
        return f"Schema({self.name})"

    @property
    def is_none(self) -> bool:
        """Whether None is the only value: the stage takes, or returns, nothing."""
        return self.type is None

    @property
    def admits_none(self) -> bool:
        """Whether None is one of the values."""
        return assignable(None, self.type)

    def accepts(self, other: Schema) -> bool:
        """Whether every value of `other` is one of this schema's by its type, so that no conversion is needed."""
        return assignable(other.type, self.type)

    def validate(self, value: object, *, where: str, refuse: Refusal) -> Value:
        """The value as this type: an instance, or what can be read as one. Raises: `refuse`, with the findings."""
        try:
            return self._validate_python(value, by_alias=True, by_name=True)
        except ValidationError as error:
            found = error
        if _is_plain(value):
            # A payload is JSON. A strict model takes a date or a tuple from JSON that it refuses from Python's dict.
            try:
                return self._validate_json(to_json(value), by_alias=True, by_name=True)
            except ValidationError as again:
                # The first findings are about what the caller really sent, unless strictness has added to them.
                if again.error_count() < found.error_count():
                    found = again
            except (PydanticSerializationError, ValueError, RecursionError):
                pass
        raise _refused(found, where, refuse)

    def decode(self, text: bytes, *, where: str, refuse: Refusal) -> Value:
        """The value that a JSON text holds; every call makes a new one. Raises: `refuse`, with the findings."""
        try:
            return self._validate_json(text, by_alias=True, by_name=True)
        except ValidationError as error:
            raise _refused(error, where, refuse) from None

    def encode(self, value: object, *, where: str, refuse: Refusal, bytes_max: int = PAYLOAD_BYTES_MAX) -> bytes:
        """The JSON text to store: validated, guarded, and proven to be readable by `decode`.

        Raises: `refuse` when the value is not valid, or not valid any more when read back; PayloadRefused when no
        store could keep it.
        """
        checked = self.validate(value, where=where, refuse=refuse)
        try:
            text = self._to_json(checked, by_alias=False, round_trip=True, warnings=False)
        except (PydanticSerializationError, ValueError, RecursionError) as error:
            raise refusal_of(error, checked, what=_named(where, refuse), field=refuse.subject.lower()) from error
        problem = find_payload_problem(text, bytes_max=bytes_max) or replaced_problem(text, checked)
        if problem is None and self._nulls_floats and b"null" in text:
            # Models write NaN as null. Where the field also admits null, reading back would not notice the loss.
            problem = non_finite_problem(checked)
        if problem is not None:
            raise PayloadRefused(_named(where, refuse), problem, field=refuse.subject.lower())
        try:
            self._validate_json(text, by_alias=True, by_name=True)
        except ValidationError as error:
            raise _refused(error, f"{where} (read back from its JSON)", refuse) from None
        return text


def is_model(annotation: object) -> bool:
    """Whether the annotation is a class of pydantic models."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _refused(error: ValidationError, where: str, refuse: Refusal) -> InvalidInput | InvalidOutput | InvalidConfig:
    # Without `input` and `ctx`: a refused value must not travel into logs and answers with its error.
    found = error.errors(include_url=False, include_context=False, include_input=False)
    # A default that could not be computed is only ever the consequence of another finding.
    causes = [finding for finding in found if finding["type"] != "default_factory_not_called"]
    return refuse(where, cast("Sequence[Mapping[str, Any]]", causes))


def _named(where: str, refuse: Refusal) -> str:
    return f"{refuse.subject} of {where}"


def _is_plain(value: object) -> bool:
    return isinstance(value, Mapping | list | str | int | float)


def _adapter(annotation: object, namespace: Mapping[str, Any] | None) -> TypeAdapter[Any]:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(cast("Any", annotation))
        _complete(annotation, adapter, namespace)
    except (PydanticUserError, NameError, TypeError) as error:
        # PydanticUserError covers "no schema for this class", "class not fully defined" and "undefined annotation".
        first_sentence = str(error).splitlines()[0].partition(". ")[0].rstrip(".")
        raise UnusableType(f"{type_name(annotation)} has no schema: {first_sentence}") from error
    return adapter


def _complete(annotation: object, adapter: TypeAdapter[Any], namespace: Mapping[str, Any] | None) -> None:
    """Resolve forward references that were not resolvable when the type was defined."""
    names = None if namespace is None else dict(namespace)
    if is_model(annotation) and not cast("type[BaseModel]", annotation).__pydantic_complete__:
        cast("type[BaseModel]", annotation).model_rebuild(_types_namespace=names)
    if not adapter.pydantic_complete:
        adapter.rebuild(_types_namespace=names)


# Kinds of compiled schemas, as pydantic calls them. The lists are cautious: a kind that is not known may hold floats.
_NEVER_A_FLOAT = frozenset(
    (
        *("none", "bool", "int", "decimal", "str", "bytes", "date", "time", "datetime", "timedelta", "literal", "enum"),
        *("uuid", "url", "multi-host-url", "list", "tuple", "set", "frozenset", "dict", "model", "model-fields"),
        *(
            "model-field",
            "typed-dict",
            "typed-dict-field",
            "dataclass",
            "dataclass-args",
            "dataclass-field",
            "nullable",
        ),
        *("union", "tagged-union", "default", "definitions", "definition-ref", "lax-or-strict", "json-or-python"),
        *("chain", "function-before", "function-after", "function-wrap"),
    )
)
_NO_JSON_FORM = frozenset(("callable", "generator", "is-subclass", "arguments", "arguments-v3", "call"))
_OPEN = "(open)"
_STARS = "(stars)"
_DROPPED = "(dropped)"


def _kinds(core_schema: object) -> frozenset[str]:
    """The kinds of schemas that a compiled schema consists of, with `_OPEN` where anything may be added or written.

    `_STARS` where a secret is written as stars, `_DROPPED` where a field is not written at all.
    """
    kinds: set[str] = set()
    pending: list[tuple[object, bool]] = [(core_schema, False)]
    while pending:
        node, written_by_user = pending.pop()
        if isinstance(node, Mapping):
            schema = cast("Mapping[str, object]", node)
            kind = schema.get("type")
            if isinstance(kind, str):
                kinds.add(kind)
                if "serialization" in schema:
                    kinds.add(_OPEN)  # a custom serialiser may write what it likes
                    if not _hides_secrets(schema["serialization"]):
                        written_by_user = True
                    elif not written_by_user:
                        kinds.add(_STARS)
                if schema.get("serialization_exclude"):
                    kinds.add(_DROPPED)
            if "allow" in (schema.get("extra"), schema.get("extra_behavior"), schema.get("extra_fields_behavior")):
                kinds.add(_OPEN)
            children = (child for key, child in schema.items() if key not in ("metadata", "cls", "function"))
            pending.extend((child, written_by_user) for child in children)
        elif isinstance(node, list | tuple):
            pending.extend((child, written_by_user) for child in cast("list[object]", node))
    return frozenset(kinds)


def _hides_secrets(serialization: object) -> bool:
    """Whether this is how pydantic writes its own types of secrets."""
    function = (
        cast("Mapping[str, object]", serialization).get("function") if isinstance(serialization, Mapping) else None
    )
    return getattr(function, "__module__", "") == "pydantic.types" and "secret" in getattr(function, "__name__", "")


NONE = Schema(type(None))
"""The schema of stages that take, or return, nothing."""
