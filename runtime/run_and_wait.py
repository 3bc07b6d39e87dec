"""One run, start to result, in one call: for scripts and notebooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from kernel.authoring.workflow import Workflow
from kernel.events import Log
from runtime.app import App
from runtime.info import RunInfo
from runtime.run_handle import RunHandle
from runtime.supervisor import Supervisor

__all__ = ["run_and_wait"]

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741


async def run_and_wait(
    app: App,
    workflow: Workflow[I, O],
    input: I,
    *,
    database: str | None = None,
    on_change: Callable[[RunInfo], None] | None = None,
) -> O:
    """Open a supervisor, start a run, wait for it, close, and return its typed output.

    `on_change` is called in this event loop with the run as it is after each change that shows in it (progress of its
    stages included), in order and last with its end; changes that happen at the same time are one.
    Raises: as `Supervisor`, `start` and `RunHandle.result`, and what `on_change` raises, after handing the run back.
    """
    async with Supervisor(app, database=database) as supervisor:
        run = await supervisor.start(workflow, input)
        if on_change is not None:
            await _report(run, on_change)
        return await run.result()


async def _report(run: RunHandle[Any], on_change: Callable[[RunInfo], None]) -> None:
    seen: RunInfo | None = None
    async for event in run.events():
        # A log line shows nowhere else.
        if isinstance(event, Log):
            continue
        info = await run.describe()
        if info != seen:
            seen = info
            on_change(info)
