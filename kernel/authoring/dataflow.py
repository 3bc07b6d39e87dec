"""What flows between stages: which value each stage is given, and what a workflow returns.

One stage passes its output on. A group passes a mapping of stage id to output, which the next stage may take as a
mapping, as a model or TypedDict with a field per stage, or not at all. The run's input goes to every stage of the
first group.

A value is read from JSON by the schema of the stage that *produced* it and only then given to the schema that takes
it: a stage that takes a base class gets the real subclass, as it would from an ordinary function call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast, get_args, get_origin

from pydantic import BaseModel, RootModel

from kernel.authoring.assignability import assignable, typed_dict_fields
from kernel.authoring.run_config import field_keys
from kernel.authoring.schema import Schema, Value, is_model
from kernel.authoring.stage import Stage
from kernel.authoring.type_names import type_name, union_members
from kernel.errors import InvalidInput, InvalidOutput, MissingOutput
from kernel.model.execution_plan import OnFailure

__all__ = ["StageGroup", "group_problem", "joined_outputs", "read_group", "read_output", "read_stage_input"]

AnyStage: TypeAlias = Stage[Any, Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageGroup:
    """Stages that run at the same time; a piped stage is a group of one that is not `parallel`."""

    stages: tuple[AnyStage, ...]
    parallel: bool = False
    on_failure: OnFailure = "finish"


def read_stage_input(
    stage: AnyStage,
    before: StageGroup | None,
    outputs: Mapping[str, bytes],
    run_input: bytes,
    run_input_schema: Schema,
) -> Value:
    """What a stage is given, validated; `before` is the previous group, None in the first.

    Raises: InvalidInput when it does not satisfy the stage's input schema; MissingOutput when an output that it needs
    is not at hand.
    """
    schema = stage.schemas.input
    where = f'stage "{stage.id}"'
    if schema.is_none:
        return None
    if before is not None and before.parallel:
        return schema.validate(read_group(before, outputs), where=where, refuse=InvalidInput)
    if before is None:
        text, source = run_input, run_input_schema
    else:
        text, source = _text_of(before.stages[0], outputs), before.stages[0].schemas.output
    if source.type == schema.type:
        return schema.decode(text, where=where, refuse=InvalidInput)
    return schema.validate(source.decode(text, where=where, refuse=InvalidInput), where=where, refuse=InvalidInput)


def read_group(group: StageGroup, outputs: Mapping[str, bytes]) -> dict[str, Any]:
    """Stage id to typed output of a group, in definition order. Raises: MissingOutput, InvalidOutput."""
    return {stage.id: read_output(stage, outputs) for stage in group.stages}


def read_output(stage: AnyStage, outputs: Mapping[str, bytes]) -> Value:
    """The typed output of a completed stage. Raises: MissingOutput, InvalidOutput."""
    text = _text_of(stage, outputs)
    return stage.schemas.output.decode(text, where=f'stage "{stage.id}" (as stored)', refuse=InvalidOutput)


def joined_outputs(group: StageGroup, outputs: Mapping[str, bytes]) -> bytes:
    """The JSON object of stage id to output, put together from the stored texts. Raises: MissingOutput."""
    # Stage ids need no escaping: their alphabet has neither quotes nor backslashes.
    members = (b'"%b":%b' % (stage.id.encode(), _text_of(stage, outputs)) for stage in group.stages)
    return b"{" + b",".join(members) + b"}"


def group_problem(stages: Sequence[AnyStage], target: object) -> str | None:
    """Why the outputs of a parallel group cannot be given where `target` is declared; None when they can."""
    members = union_members(target)
    if len(members) > 1:
        problems = [group_problem(stages, member) for member in members]
        return None if None in problems else next(problem for problem in problems if problem is not None)
    if is_model(target):
        model = cast("type[BaseModel]", target)
        if issubclass(model, RootModel):
            return group_problem(stages, model.model_fields["root"].annotation)
        fields = {
            name: (field_keys(name, field), field.annotation, field.is_required())
            for name, field in model.model_fields.items()
        }
        return _fields_problem(stages, fields, type_name(target))
    typed_dict = typed_dict_fields(target)
    if typed_dict is not None:
        keyed = {name: ((name,), hint, required) for name, (hint, required) in typed_dict.items()}
        return _fields_problem(stages, keyed, type_name(target))
    return _mapping_problem(stages, target)


def _mapping_problem(stages: Sequence[AnyStage], target: object) -> str | None:
    if not assignable(dict[str, Any], target):
        return f"{type_name(target)} is neither a mapping nor a model or TypedDict with the stages' ids as fields"
    arguments = get_args(target)
    origin = get_origin(target)
    if len(arguments) != 2 or not isinstance(origin, type) or not issubclass(origin, Mapping):
        return None
    for stage in stages:
        if not assignable(stage.schemas.output.type, arguments[1]):
            output = stage.schemas.output.name
            return f'stage "{stage.id}" returns {output}, which {type_name(target)} does not take as a value'
    return None


def _fields_problem(
    stages: Sequence[AnyStage], fields: Mapping[str, tuple[tuple[str, ...], object, bool]], target_name: str
) -> str | None:
    by_id = {stage.id: stage for stage in stages}
    for name, (keys, annotation, _required) in fields.items():
        # An optional field that names no stage is refused too: it is most likely a misspelt id, and its default
        # would hide that the output was lost.
        source = next((by_id[key] for key in keys if key in by_id), None)
        if source is None:
            return f'field "{name}" of {target_name} is not the id of one of the stages {", ".join(by_id)}'
        output = source.schemas.output
        if not assignable(output.type, annotation):
            return f'stage "{source.id}" returns {output.name}, but {target_name} takes {type_name(annotation)}'
    return None


def _text_of(stage: AnyStage, outputs: Mapping[str, bytes]) -> bytes:
    text = outputs.get(stage.id)
    if text is None:
        raise MissingOutput(stage.id, available=sorted(outputs))
    return text
