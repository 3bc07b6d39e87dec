"""The workflow definitions that a process knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from kernel.authoring.workflow import Workflow

__all__ = ["WorkflowRegistry"]


class WorkflowRegistry(Protocol):
    """Definitions by id and version."""

    def find_workflow(self, workflow_id: str, version: str | None = None, /) -> Workflow[Any, Any] | None:
        """The definition, or None; without a version the one that new runs get."""
        ...

    def known(self) -> Sequence[tuple[str, str]]:
        """Every (workflow id, version) pair."""
        ...

    def accepts(self, workflow: Workflow[Any, Any], fingerprint: str, /) -> bool:
        """Whether a run that was created from a definition with this fingerprint may go on with `workflow`."""
        ...
