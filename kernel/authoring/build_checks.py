"""Everything about a workflow that can be wrong before it runs, found when it is built.

Each check takes the groups and raises the error of the first mistake, which names the stage and the repair. They run
in the order of the table at the end: identities first, then order, then types, since a later check may rely on an
earlier one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from kernel.authoring.dataflow import StageGroup, group_problem
from kernel.authoring.run_config import check_defaults
from kernel.authoring.schema import Schema
from kernel.authoring.stage import Stage
from kernel.errors import InvalidStage, InvalidWorkflow

__all__ = ["check_output", "check_stages_follow", "check_structure"]

AnyStage: TypeAlias = Stage[Any, Any, Any]


def check_structure(workflow_id: str, groups: Sequence[StageGroup]) -> None:
    """What needs no types: stages exist, ids are unique, dependencies come earlier. Raises: InvalidWorkflow/-Stage."""
    for check in _STRUCTURE_CHECKS:
        check(workflow_id, groups)


def check_stages_follow(workflow_id: str, groups: Sequence[StageGroup], run_input: Schema) -> None:
    """Every stage can take what it will be given, and can be executed at all. Raises: InvalidWorkflow, InvalidStage."""
    before: StageGroup | None = None
    for group in groups:
        for stage in group.stages:
            stage.check_runnable()
            check_defaults(stage)
            _check_follows(workflow_id, stage, before, run_input)
        before = group


def check_output(workflow_id: str, last: StageGroup, declared: Schema) -> None:
    """The declared output is what the last group gives. Raises: InvalidWorkflow."""
    if last.parallel:
        problem = group_problem(last.stages, declared.type)
        if problem is not None:
            raise InvalidWorkflow(
                workflow_id,
                f"its output cannot be {declared.name}: {problem}",
                hint="Leave output= out to get a mapping of stage id to output, or declare a model with those fields.",
            )
        return
    stage = last.stages[0]
    output = stage.schemas.output
    if not declared.accepts(output):
        raise InvalidWorkflow(
            workflow_id,
            f'it declares output={declared.name}, but its last stage "{stage.id}" returns {output.name}',
            hint=f"Declare output={output.name}, leave it out, or add a stage that returns {declared.name}.",
        )


def _check_not_empty(workflow_id: str, groups: Sequence[StageGroup]) -> None:
    if not groups:
        raise InvalidWorkflow(workflow_id, "it has no stages", hint="Add one: .pipe(stage).")
    for number, group in enumerate(groups, start=1):
        if not group.stages:
            raise InvalidWorkflow(
                workflow_id,
                f"its group {number} has no stages",
                hint="Give .parallel(...) at least one stage, or leave the call out.",
            )


def _check_on_failure(workflow_id: str, groups: Sequence[StageGroup]) -> None:
    for number, group in enumerate(groups, start=1):
        if group.on_failure not in ("finish", "cancel"):
            raise InvalidWorkflow(
                workflow_id,
                f"on_failure of its group {number} is {group.on_failure!r}",
                hint='Write "finish" (siblings end first) or "cancel" (siblings are cancelled at once).',
            )


def _check_unique(workflow_id: str, groups: Sequence[StageGroup]) -> None:
    seen: dict[str, AnyStage] = {}
    for stage in (stage for group in groups for stage in group.stages):
        if stage.id in seen:
            first = seen[stage.id]
            where = first.place if first is stage else f"{first.place} and {stage.place}"
            reason = f'it has two stages with the id "{stage.id}" ({where})'
            raise InvalidWorkflow(workflow_id, reason, hint="A stage appears once; give the second its own id.")
        seen[stage.id] = stage


def _check_dependencies(workflow_id: str, groups: Sequence[StageGroup]) -> None:
    group_of = {stage.id: number for number, group in enumerate(groups, start=1) for stage in group.stages}
    for stage in (stage for group in groups for stage in group.stages):
        number = group_of[stage.id]
        for dependency in stage.dependencies:
            earlier = ", ".join(each for each, group in group_of.items() if group < number) or "(none)"
            hint = f'Stages before "{stage.id}": {earlier}.'
            if dependency == stage.id:
                raise InvalidStage(stage.id, "it depends on itself", hint=hint)
            if dependency not in group_of:
                reason = f'it depends on "{dependency}", which is not a stage of workflow "{workflow_id}"'
                raise InvalidStage(stage.id, reason, hint=hint)
            if group_of[dependency] == number:
                reason = f'it depends on "{dependency}", which runs at the same time'
                raise InvalidStage(stage.id, reason, hint=f"Move one of them to another group. {hint}")
            if group_of[dependency] > number:
                reason = f'it depends on "{dependency}", which runs later'
                raise InvalidStage(stage.id, reason, hint=f'Move "{dependency}" before "{stage.id}". {hint}')


def _check_follows(workflow_id: str, stage: AnyStage, before: StageGroup | None, run_input: Schema) -> None:
    wanted = stage.schemas.input
    if wanted.is_none:
        return
    if before is not None and before.parallel:
        problem = group_problem(before.stages, wanted.type)
        if problem is None:
            return
        ids = ", ".join(each.id for each in before.stages)
        raise InvalidStage(
            stage.id,
            f"it cannot be given the outputs of the parallel stages {ids}: {problem}",
            hint="Take a mapping, a model with a field per stage, or StageContext[None] and ctx.require(stage).",
        )
    given = run_input if before is None else before.stages[0].schemas.output
    if wanted.accepts(given):
        return
    source = f'the input of workflow "{workflow_id}"' if before is None else f'stage "{before.stages[0].id}"'
    raise InvalidStage(
        stage.id,
        f"it takes {wanted.name}, but {source} gives {given.name}",
        hint=f"Take {given.name} or a base of it, or take StageContext[None] and use ctx.require.",
    )


_STRUCTURE_CHECKS: tuple[Callable[[str, Sequence[StageGroup]], None], ...] = (
    _check_not_empty,
    _check_on_failure,
    _check_unique,
    _check_dependencies,
)
