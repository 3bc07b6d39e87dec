"""What a run executes, as data: groups of stages in order.

The plan is stored in `run.created`, so that folding a history, deciding and listing need no workflow definition:
a process without the user's code can still cancel, rerun and show a run. Code, schemas, retry policies and timeouts
stay with the definition, in the process that executes. Its JSON form is pydantic's own of these classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

__all__ = ["ExecutionPlan", "OnFailure", "PlannedGroup", "PlannedStage"]

OnFailure = Literal["finish", "cancel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """One stage of a plan; `number` counts from 1 over the whole workflow, `group` from 1 in execution order."""

    id: str
    name: str
    number: int
    group: int
    queue: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedGroup:
    """Stages that run at the same time; `parallel` tells a group of one apart from a single piped stage."""

    number: int
    stages: tuple[PlannedStage, ...]
    parallel: bool = False
    on_failure: OnFailure = "finish"


@dataclass(frozen=True, kw_only=True)
class ExecutionPlan:
    """The groups of a workflow in the order in which they run; shared by every run of one definition."""

    groups: tuple[PlannedGroup, ...]

    @cached_property
    def stages(self) -> Mapping[str, PlannedStage]:
        """Stage id to stage, in definition order."""
        return {stage.id: stage for group in self.groups for stage in group.stages}

    @cached_property
    def has_queues(self) -> bool:
        """Whether attempts of any stage are executed from a queue."""
        return any(stage.queue is not None for group in self.groups for stage in group.stages)

    def group(self, number: int) -> PlannedGroup:
        """The group with this number; groups count from 1."""
        return self.groups[number - 1]
