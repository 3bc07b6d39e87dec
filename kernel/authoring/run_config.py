"""The configuration of a run: what the caller gave, merged deeply over each stage's defaults, validated as a whole.

The merged configuration is stored with the run, so a later deploy that changes a default does not change runs that
have begun. All stages are validated before anything is refused, so that one answer names every mistake.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeAlias, cast, get_args, get_origin

from pydantic import AliasChoices, AliasPath, BaseModel, RootModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError

from kernel.authoring.payload_guard import decode_payload
from kernel.authoring.schema import is_model
from kernel.authoring.stage import Stage
from kernel.authoring.type_names import union_members
from kernel.errors import EngineError, InvalidConfig, InvalidStage

__all__ = ["GivenConfig", "check_defaults", "default_values", "field_keys", "has_fixed_defaults", "merge_run_config"]

AnyStage: TypeAlias = Stage[Any, Any, Any]

GivenConfig: TypeAlias = Mapping[str | AnyStage, Any]
"""Stage (or stage id) to a model, or to a mapping of some of its fields."""


def default_values(model: type[BaseModel]) -> dict[str, Any]:
    """Field to default as JSON, for those fields of the model that have one; factories are called.

    A default that is computed from other fields is there if those have defaults too.
    """
    if any(field.is_required() for field in model.model_fields.values()):
        return _independent_defaults(model)
    return _dumped(model.model_construct(), set(model.model_fields))


def _independent_defaults(model: type[BaseModel]) -> dict[str, Any]:
    """The defaults below a merge: without those that are computed from fields which the merge may still change."""
    fields = model.model_fields.items()
    known = {
        name: cast("object", field.get_default(call_default_factory=True))
        for name, field in fields
        if not field.is_required() and not _is_computed(field)
    }
    # Every field gets something, so that nothing is computed here; only what is known is looked at.
    blank = model.model_construct(_fields_set=None, **(dict.fromkeys(model.model_fields) | known))
    return _dumped(blank, set(known), without=_computed_parts(known))


def _dumped(blank: BaseModel, names: set[str], *, without: dict[Any, Any] | None = None) -> dict[str, Any]:
    return blank.model_dump(
        mode="json", include=names, exclude=without, by_alias=False, round_trip=True, warnings=False
    )


def _is_computed(field: FieldInfo) -> bool:
    """Whether the default is made from the fields before it."""
    return bool(field.default_factory_takes_validated_data)


def _computed_parts(values: Mapping[Any, object]) -> dict[Any, Any]:
    """Of models among these values, at any depth, the fields that were computed, in pydantic's form of `exclude`."""
    parts: dict[Any, Any] = {}
    for key, value in values.items():
        if isinstance(value, BaseModel):
            fields = type(value).model_fields
            computed = {n: True for n, f in fields.items() if _is_computed(f) and n not in value.model_fields_set}
            kept = {n: cast("object", getattr(value, n)) for n in fields if n not in computed and hasattr(value, n)}
            below = {**computed, **_computed_parts(kept)}
        elif isinstance(value, dict):
            below = _computed_parts(cast("dict[Any, object]", value))
        else:
            continue
        if below:
            parts[key] = below
    return parts


def has_fixed_defaults(model: type[BaseModel]) -> bool:
    """Whether the defaults are the same for every run: nothing is required and nothing is made by a factory."""
    return all(
        not field.is_required() and (field.default_factory is None or field.default_factory in (dict, list, set))
        for field in model.model_fields.values()
    )


def check_defaults(stage: AnyStage) -> None:
    """Refuse defaults that cannot be stored or do not satisfy their own model. Raises: InvalidStage."""
    schema = stage.schemas.config
    if schema is None:
        return
    if issubclass(schema.type, RootModel):
        raise InvalidStage(stage.id, f"its config {schema.name} is a RootModel, and has no fields that could be merged")
    if schema.drops_fields:
        reason = f"its config {schema.name} has fields with exclude=True, so what a caller sets there would be lost"
        raise InvalidStage(stage.id, reason, hint="Leave exclude out: configuration is stored with the run.")
    try:
        # Also without a use for it: a default that has no JSON form is a mistake wherever it stands.
        defaults = default_values(schema.type)
        if not any(field.is_required() for field in schema.type.model_fields.values()):
            schema.encode(defaults, where=f'stage "{stage.id}"', refuse=InvalidConfig)
    except EngineError as error:
        raise _unusable(stage, schema.name, error.message) from error
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise _unusable(stage, schema.name, f"one has no JSON form ({error})") from error


def _unusable(stage: AnyStage, name: str, problem: str) -> InvalidStage:
    return InvalidStage(stage.id, f"the defaults of its config {name} are not usable: {problem.rstrip('.')}")


def merge_run_config(
    workflow_id: str, stages: Sequence[AnyStage], given: GivenConfig | None
) -> dict[str, dict[str, Any]]:
    """Stage id to complete configuration as JSON, for the stages that have one.

    Raises: InvalidConfig with the findings of all stages; the first element of each location is the stage's id.
    """
    findings: list[Mapping[str, Any]] = []
    by_id = _by_stage_id(stages, given or {}, findings)
    merged: dict[str, dict[str, Any]] = {}
    for stage in stages:
        schema, values = stage.schemas.config, by_id.get(stage.id, {})
        if schema is None:
            if values:
                findings.append(_finding((stage.id,), "this stage takes no configuration", "no_config"))
            continue
        where = f'stage "{stage.id}"'
        findings.extend(_unknown_fields(schema.type, values, (stage.id,)))
        try:
            # Encoded and read again: what is stored is what a recovered run will see.
            complete = _merge_model(schema.type, _independent_defaults(schema.type), values)
            merged[stage.id] = decode_payload(schema.encode(complete, where=where, refuse=InvalidConfig))
        except InvalidConfig as refused:
            findings.extend({**finding, "loc": (stage.id, *finding["loc"])} for finding in refused.errors)
    if findings:
        raise InvalidConfig(f'workflow "{workflow_id}"', findings)
    return merged


def field_keys(name: str, field: FieldInfo) -> tuple[str, ...]:
    """Every key under which a model takes this field: its name and its aliases."""
    aliases: list[object] = [field.alias, field.validation_alias]
    if isinstance(field.validation_alias, AliasChoices):
        aliases.extend(field.validation_alias.choices)
    return tuple(dict.fromkeys([name, *(alias for alias in aliases if isinstance(alias, str))]))


def _by_stage_id(
    stages: Sequence[AnyStage], given: GivenConfig, findings: list[Mapping[str, Any]]
) -> dict[str, Mapping[str, Any] | BaseModel]:
    known = [stage.id for stage in stages]
    by_id: dict[str, Mapping[str, Any] | BaseModel] = {}
    for key, values in given.items():
        stage_id = key.id if isinstance(key, Stage) else key
        if stage_id not in known:
            message = f"is not a stage of this workflow; its stages: {', '.join(known)}"
            findings.append(_finding((str(stage_id),), message, "unknown_stage"))
        elif stage_id in by_id:
            findings.append(_finding((stage_id,), "is given twice, by the stage and by its id", "given_twice"))
        elif not isinstance(values, Mapping | BaseModel):
            findings.append(_finding((stage_id,), "must be a model or a mapping of its fields", "mapping_type"))
        else:
            by_id[stage_id] = cast("Mapping[str, Any] | BaseModel", values)
    return by_id


def _finding(loc: tuple[str, ...], message: str, kind: str) -> Mapping[str, Any]:
    return {"loc": loc, "msg": message, "type": kind}


def _merge_model(
    model: type[BaseModel], defaults: Mapping[str, Any], values: Mapping[str, Any] | BaseModel
) -> Mapping[str, Any] | BaseModel:
    """`values` over `defaults`, field by field, under the fields' names; a model of the right class is complete."""
    if isinstance(values, model):
        return values
    if isinstance(values, BaseModel):
        values = values.model_dump(exclude_unset=True, by_alias=False, round_trip=True)
    names = {key: name for name, field in model.model_fields.items() for key in field_keys(name, field)}
    merged = dict(defaults)
    for key, value in values.items():
        name = names.get(key, key)
        field = model.model_fields.get(name)
        below = merged.get(name)
        nested = None if field is None else _nested_model(field.annotation)
        if nested is not None and isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[name] = _merge_model(nested, cast("Mapping[str, Any]", below), cast("Mapping[str, Any]", value))
        elif field is not None and _is_mapping(field.annotation):
            merged[name] = _merge_mapping(cast("object", below), value)
        else:
            merged[name] = value
    return merged


def _unknown_fields(model: type[BaseModel], values: object, loc: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    """Findings for keys that the model would drop without a word; a model that says `extra` itself has decided."""
    if not isinstance(values, Mapping) or "extra" in model.model_config or _reads_keys_itself(model):
        return
    names = {key: name for name, field in model.model_fields.items() for key in _keys_taken(name, field)}
    for key, value in cast("Mapping[Any, object]", values).items():
        if key not in names:
            known = ", ".join(model.model_fields) or "none"
            message = f"is not a field of {model.__name__}; its fields: {known}"
            yield _finding((*loc, str(key)), message, "unknown_field")
        elif (nested := _nested_model(model.model_fields[names[key]].annotation)) is not None:
            yield from _unknown_fields(nested, value, (*loc, str(key)))


def _reads_keys_itself(model: type[BaseModel]) -> bool:
    """Whether a validator of the model sees what was given before its fields do, such as one that renames keys."""
    validators = model.__pydantic_decorators__.model_validators.values()
    return any(validator.info.mode in ("before", "wrap") for validator in validators)


def _keys_taken(name: str, field: FieldInfo) -> Iterator[str]:
    """Every key in which a model looks for this field, with those in whose value it does."""
    yield from field_keys(name, field)
    alias = field.validation_alias
    for each in alias.choices if isinstance(alias, AliasChoices) else [alias]:
        if isinstance(each, AliasPath):
            yield str(each.path[0])


def _merge_mapping(below: object, value: object) -> object:
    if not isinstance(below, Mapping) or not isinstance(value, Mapping):
        return value
    merged: dict[object, object] = {**below}
    for key, item in cast("Mapping[object, object]", value).items():
        merged[key] = _merge_mapping(merged.get(key), item)
    return merged


def _nested_model(annotation: object) -> type[BaseModel] | None:
    """The one model that a field holds, or None. Between several models a merge would mix their fields."""
    members = [member for member in union_members(_bare(annotation)) if member not in (None, type(None))]
    only = _bare(members[0]) if len(members) == 1 else None
    return cast("type[BaseModel]", only) if is_model(only) else None


def _is_mapping(annotation: object) -> bool:
    members = [member for member in union_members(_bare(annotation)) if member not in (None, type(None))]
    if len(members) != 1:
        return False
    origin = get_origin(_bare(members[0])) or _bare(members[0])
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _bare(annotation: object) -> object:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
