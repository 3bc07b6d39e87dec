"""The configuration of a run: what the caller gave, merged deeply over each stage's defaults, validated as a whole.

The merged configuration is stored with the run, so a later deploy that changes a default does not change runs that
have begun. All stages are validated before anything is refused, so that one answer names every mistake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias, cast, get_args, get_origin

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo

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
    """Field to default as JSON, for those fields of the model that have one; factories are called."""
    names = {name for name, field in model.model_fields.items() if not field.is_required()}
    blank = model.model_construct()
    return blank.model_dump(mode="json", include=names, by_alias=False, round_trip=True, warnings=False)


def has_fixed_defaults(model: type[BaseModel]) -> bool:
    """Whether the defaults are the same for every run: nothing is required and nothing is made by a factory."""
    return all(
        not field.is_required() and (field.default_factory is None or field.default_factory in (dict, list, set))
        for field in model.model_fields.values()
    )


def check_defaults(stage: AnyStage) -> None:
    """Refuse defaults that cannot be stored or do not satisfy their own model. Raises: InvalidStage."""
    schema = stage.schemas.config
    if schema is None or any(field.is_required() for field in schema.type.model_fields.values()):
        return
    try:
        schema.encode(default_values(schema.type), where=f'stage "{stage.id}"', refuse=InvalidConfig)
    except EngineError as error:
        reason = f"the defaults of its config {schema.name} are not usable: {error.message.rstrip('.')}"
        raise InvalidStage(stage.id, reason) from error


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
        try:
            # Encoded and read again: what is stored is what a recovered run will see.
            complete = _merge_model(schema.type, default_values(schema.type), values)
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
