"""Stage ids as constants, for code that names stages of a workflow it did not define."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import EnumMeta, StrEnum
from typing import TYPE_CHECKING, Any, cast

from kernel.authoring.identifiers import IDENTIFIER_RULE, identifier_problem
from kernel.authoring.workflow import Workflow
from kernel.errors import InvalidStage, StageNotFound

__all__ = ["StageId", "assert_valid_stage_id", "define_stage_ids", "is_valid_stage_id", "stage_id_enum"]


class StageIdType(EnumMeta):
    """Lets a type checker know that the members, whose names exist only at run time, are stage ids."""

    if TYPE_CHECKING:

        def __getattr__(cls, name: str) -> StageId: ...


class StageId(StrEnum, metaclass=StageIdType):
    """A stage id that is also a string: `ids.EXTRACT_TEXT == "extract-text"`."""


def define_stage_ids(stage_ids: Iterable[str], *, name: str = "StageIds") -> type[StageId]:
    """An enumeration of stage ids, in order; names are in upper case with "_" for what a name cannot have.

    Raises: InvalidStage for an id that is not allowed, or that leads to the same name as another.
    """
    members: dict[str, str] = {}
    for stage_id in stage_ids:
        problem = identifier_problem(stage_id)
        if problem is not None:
            raise InvalidStage(str(stage_id), f"its id {problem}", hint=IDENTIFIER_RULE)
        member = _member_name(stage_id)
        if member in members:
            reason = f'both it and "{members[member]}" would be called {member}'
            raise InvalidStage(stage_id, reason, hint="Rename one of them.")
        members[member] = stage_id
    # The functional form of an enumeration is typed as if it were a lookup of a member.
    return cast("type[StageId]", cast("Any", StageId)(name, members))


def stage_id_enum(workflow: Workflow[Any, Any]) -> type[StageId]:
    """The stage ids of a workflow as an enumeration, in definition order."""
    return define_stage_ids(workflow.stage_ids(), name="StageIds")


def is_valid_stage_id(workflow: Workflow[Any, Any], stage_id: str) -> bool:
    """Whether the workflow has a stage of this id."""
    return stage_id in workflow


def assert_valid_stage_id(workflow: Workflow[Any, Any], stage_id: str) -> None:
    """Raises: StageNotFound, naming the stages that exist, when the workflow has no stage of this id."""
    if stage_id not in workflow:
        raise StageNotFound(stage_id, workflow_id=workflow.id, known=workflow.stage_ids())


def _member_name(stage_id: str) -> str:
    name = re.sub(r"\W", "_", stage_id.upper())
    # A name of an enumeration's member may not begin with a digit; an underscore on both ends would hide it.
    return f"ID_{name}" if name[0].isdigit() or name.startswith("_") else name
