"""A built workflow: groups of stages that have been checked against each other.

It answers what the kernel, a caller or a tool wants to know of a definition, and turns JSON texts into the typed
values of its stages and back. It is immutable and holds no state of any run. Workflows are made by `WorkflowBuilder`,
which does the checking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Generic, TypeAlias, cast

from pydantic import BaseModel
from pydantic_core import from_json, to_json
from typing_extensions import TypeVar

from kernel.authoring.context import NoConfig
from kernel.authoring.dataflow import StageGroup, joined_outputs, read_group, read_output, read_stage_input
from kernel.authoring.fingerprints import fingerprint_of, fingerprinted
from kernel.authoring.outputs import Outputs
from kernel.authoring.payload_guard import PAYLOAD_BYTES_MAX
from kernel.authoring.run_config import GivenConfig, default_values, has_fixed_defaults, merge_run_config
from kernel.authoring.schema import Schema, Value
from kernel.authoring.stage import Stage
from kernel.errors import InvalidCommand, InvalidConfig, InvalidInput, InvalidOutput, InvalidStage, StageNotFound
from kernel.model.execution_plan import ExecutionPlan, PlannedGroup, PlannedStage

__all__ = ["Workflow"]

I_contra = TypeVar("I_contra", contravariant=True)
O_co = TypeVar("O_co", covariant=True)

AnyStage: TypeAlias = Stage[Any, Any, Any]


class Workflow(Generic[I_contra, O_co]):
    """A definition that can be run: groups of stages, executed in order, the stages of a group at the same time.

    `input` and `output` are the declared types (None for none; the mapping of stage id to output when the workflow
    ends in a parallel group and declares nothing); `stages` are in definition order; `fingerprint` changes when a run
    of the old definition could not go on under the new one.
    """

    def __init__(
        self,
        id: str,
        *,
        name: str,
        description: str,
        version: str,
        groups: Sequence[StageGroup],
        input_schema: Schema,
        output_schema: Schema,
        output_declared: bool,
    ) -> None:
        self.id: str = id
        self.name: str = name
        self.description: str = description
        self.version: str = version
        self.groups: tuple[StageGroup, ...] = tuple(groups)
        self.stages: tuple[AnyStage, ...] = tuple(stage for group in self.groups for stage in group.stages)
        self.input_schema: Schema = input_schema
        self.output_schema: Schema = output_schema
        self._output_declared = output_declared
        self._by_id: Mapping[str, AnyStage] = MappingProxyType({stage.id: stage for stage in self.stages})
        self._group_of = {stage.id: n for n, group in enumerate(self.groups, start=1) for stage in group.stages}
        self._number_of = {stage.id: n for n, stage in enumerate(self.stages, start=1)}
        self._output_schemas = {stage.id: stage.schemas.output for stage in self.stages}
        self._before = {
            stage.id: before
            for before, group in zip((None, *self.groups), self.groups, strict=False)
            for stage in group.stages
        }
        self._loads = {stage.id: self._outputs_needed(stage) for stage in self.stages}
        self.fingerprint_data: Mapping[str, Any] = fingerprinted(self.groups, input=input_schema, output=output_schema)
        self.fingerprint: str = fingerprint_of(self.fingerprint_data)
        self._plan = _plan(self.groups)
        models = [stage.schemas.config.type for stage in self.stages if stage.schemas.config is not None]
        fixed = all(has_fixed_defaults(model) for model in models)
        # Most runs give no configuration, and the answer is then always the same.
        self._config_of_nothing = merge_run_config(id, self.stages, None) if fixed else None

    def __repr__(self) -> str:
        return f"<Workflow {self.id!r} version {self.version!r}: {' -> '.join(map(_group_text, self.groups))}>"

    def __contains__(self, stage_id: object) -> bool:
        return stage_id in self._by_id

    # -- looking ----------------------------------------------------------------------------------------------------

    @property
    def input(self) -> object:
        """The type of what `start` takes; None when it takes nothing."""
        return self.input_schema.type

    @property
    def output(self) -> object:
        """The type of what a completed run returns; None when it returns nothing."""
        return self.output_schema.type

    def stage_ids(self) -> tuple[str, ...]:
        """The ids of all stages, in definition order."""
        return tuple(self._by_id)

    def get_stage(self, stage_id: str) -> AnyStage:
        """The stage of this id. Raises: StageNotFound."""
        stage = self._by_id.get(stage_id)
        if stage is None:
            raise StageNotFound(stage_id, workflow_id=self.id, known=self._by_id)
        return stage

    def group_of(self, stage_id: str) -> int:
        """The number of the stage's group, from 1. Raises: StageNotFound."""
        return self._group_of[self.get_stage(stage_id).id]

    def number_of(self, stage_id: str) -> int:
        """The stage's number in definition order, from 1. Raises: StageNotFound."""
        return self._number_of[self.get_stage(stage_id).id]

    def stages_in_group(self, number: int) -> tuple[AnyStage, ...]:
        """The stages of a group, in definition order; empty when there is no group of this number (from 1)."""
        return self.groups[number - 1].stages if 1 <= number <= len(self.groups) else ()

    def execution_plan(self) -> ExecutionPlan:
        """What a run of this workflow executes, as data that is stored with the run."""
        return self._plan

    def outputs_to_load(self, stage_id: str) -> tuple[str, ...]:
        """The stages whose outputs an attempt of this stage must find at hand even when they are large.

        Those of the previous group, and those that the stage names as dependencies, or of all earlier groups when it
        names none. Raises: StageNotFound.
        """
        return self._loads[self.get_stage(stage_id).id]

    def _outputs_needed(self, stage: AnyStage) -> tuple[str, ...]:
        number = self._group_of[stage.id]
        needed = {each.id for each in self.stages_in_group(number - 1)}
        needed.update(stage.dependencies or (each for each, group in self._group_of.items() if group < number))
        return tuple(each for each in self._by_id if each in needed)

    # -- configuration ----------------------------------------------------------------------------------------------

    def default_config(self) -> dict[str, dict[str, Any]]:
        """Stage id to the defaults of its configuration, as JSON; only fields that have a default."""
        return {
            stage.id: {} if stage.schemas.config is None else default_values(stage.schemas.config.type)
            for stage in self.stages
        }

    def validate_config(self, config: GivenConfig | None = None) -> dict[str, BaseModel]:
        """Stage id to the configuration that a run would have with `config` merged over the defaults.

        Raises: InvalidConfig with the findings of all stages, the first element of each location being the stage.
        """
        merged = self.merge_config(config)
        return {stage.id: self.stage_config(stage.id, merged) for stage in self.stages if stage.config is not None}

    def merge_config(self, given: GivenConfig | None) -> dict[str, dict[str, Any]]:
        """The complete configuration to store with a run, as JSON: stage id to values, for stages that have one.

        Raises: InvalidConfig with the findings of all stages; PayloadRefused.
        """
        if given is not None and not isinstance(given, Mapping):
            raise InvalidCommand(
                f"config must be a mapping of stages to values, not {type(given).__name__}.",
                field="config",
                hint="Such as {stage: {...}}, by stages or their ids.",
            )
        if not given and self._config_of_nothing is not None:
            return {stage_id: dict(values) for stage_id, values in self._config_of_nothing.items()}
        return merge_run_config(self.id, self.stages, given)

    def stage_config(self, stage_id: str, stored: Mapping[str, Any]) -> BaseModel:
        """The configuration of one stage, from what `merge_config` made; `NoConfig()` when the stage has none.

        Raises: InvalidConfig when the stored values do not fit the model of today; StageNotFound.
        """
        schema = self.get_stage(stage_id).schemas.config
        if schema is None:
            return _NO_CONFIG
        values = stored.get(stage_id, {})
        model: BaseModel = schema.validate(values, where=f'stage "{stage_id}"', refuse=InvalidConfig)
        return model

    def estimate_cost(self, input: I_contra, config: GivenConfig | None = None) -> Decimal:
        """What a run is expected to cost in USD: the sum of what the stages with an estimate say; never negative.

        Raises: InvalidInput, InvalidConfig; InvalidStage when an estimate is not a finite number.
        """
        run_input = self.input_schema.validate(input, where=f'workflow "{self.id}"', refuse=InvalidInput)
        merged = self.merge_config(config)
        total = Decimal(0)
        for stage in self.stages:
            if stage.estimate_function is not None:
                cost = stage.estimate_function(run_input, self.stage_config(stage.id, merged))
                total += max(_as_cost(stage.id, cost), Decimal(0))
        return total

    # -- values, from and to JSON -------------------------------------------------------------------------------------

    def encode_input(self, value: object, *, bytes_max: int = PAYLOAD_BYTES_MAX) -> bytes:
        """The validated input of a run as the JSON text to store. Raises: InvalidInput, PayloadRefused."""
        where = f'workflow "{self.id}"'
        return self.input_schema.encode(value, where=where, refuse=InvalidInput, bytes_max=bytes_max)

    def decode_input(self, text: bytes) -> Value:
        """The typed input of a run from JSON, stored here or sent by somebody else. Raises: InvalidInput."""
        return self.input_schema.decode(text, where=f'workflow "{self.id}"', refuse=InvalidInput)

    def stage_input(self, stage_id: str, outputs: Mapping[str, bytes], run_input: bytes) -> Value:
        """What a stage is given, from the JSON texts of earlier outputs and of the run's input; always a fresh value.

        Raises: InvalidInput; MissingOutput when an output of the previous group is not in `outputs`; StageNotFound.
        """
        stage = self.get_stage(stage_id)
        return read_stage_input(stage, self._before[stage_id], outputs, run_input, self.input_schema)

    def stage_outputs(
        self, stage_id: str, outputs: Mapping[str, bytes], offloaded: frozenset[str] = frozenset()
    ) -> Outputs:
        """The `ctx.outputs` of a stage, over the JSON texts at hand; `offloaded` ids have completed but are not."""
        return Outputs(outputs, schemas=self._output_schemas, asked_by=stage_id, offloaded=offloaded)

    @property
    def joins_outputs(self) -> bool:
        """Whether the declared output is made of several stages' outputs, so that no single stage validates it."""
        return self.groups[-1].parallel and self._output_declared

    def encode_output(self, outputs: Mapping[str, bytes], *, bytes_max: int = PAYLOAD_BYTES_MAX) -> bytes:
        """The output of a completed run as the JSON text to store, from the texts of its last group's outputs.

        Raises: InvalidOutput when the declared output refuses it; PayloadRefused; MissingOutput.
        """
        last, where = self.groups[-1], f'workflow "{self.id}"'
        if last.parallel and not self._output_declared:
            return joined_outputs(last, outputs)
        if last.parallel:
            value: object = read_group(last, outputs)
        else:
            stage = last.stages[0]
            if stage.schemas.output.type == self.output_schema.type and stage.id in outputs:
                return outputs[stage.id]  # validated when the stage ended
            value = read_output(stage, outputs)
        return self.output_schema.encode(value, where=where, refuse=InvalidOutput, bytes_max=bytes_max)

    def decode_output(self, text: bytes) -> O_co:
        """The typed output of a run from what `encode_output` made. Raises: InvalidOutput."""
        if self.groups[-1].parallel and not self._output_declared:
            members = cast("dict[str, object]", from_json(text))
            value: Any = read_group(self.groups[-1], {key: to_json(member) for key, member in members.items()})
        else:
            value = self.output_schema.decode(text, where=f'workflow "{self.id}"', refuse=InvalidOutput)
        typed: O_co = value
        return typed

    def output_value(self, outputs: Mapping[str, bytes]) -> O_co:
        """The typed output of a run whose last group has these outputs. Raises: as `encode_output`."""
        return self.decode_output(self.encode_output(outputs))


_NO_CONFIG = NoConfig()


def _group_text(group: StageGroup) -> str:
    ids = " | ".join(stage.id for stage in group.stages)
    return f"({ids})" if group.parallel else ids


def _as_cost(stage_id: str, cost: object) -> Decimal:
    # bool is an int to Python, but "true USD" is a mistake.
    if isinstance(cost, int | float | Decimal) and not isinstance(cost, bool):
        exact = Decimal(str(cost))
        if exact.is_finite():
            return exact
    shown = repr(cost) if isinstance(cost, int | float | Decimal) else type(cost).__name__
    raise InvalidStage(stage_id, f"its estimate returned {shown}", hint="Return a finite number of USD.")


def _plan(groups: Sequence[StageGroup]) -> ExecutionPlan:
    planned: list[PlannedGroup] = []
    number = 0
    for group_number, group in enumerate(groups, start=1):
        stages: list[PlannedStage] = []
        for stage in group.stages:
            number += 1
            stages.append(
                PlannedStage(id=stage.id, name=stage.name, number=number, group=group_number, queue=stage.queue)
            )
        planned.append(
            PlannedGroup(
                number=group_number, stages=tuple(stages), parallel=group.parallel, on_failure=group.on_failure
            )
        )
    return ExecutionPlan(groups=tuple(planned))
