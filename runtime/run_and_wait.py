"""One run, start to result, in one call: for scripts and notebooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from kernel.authoring.workflow import Workflow
from runtime.app import App
from runtime.info import RunInfo
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

    `on_change` is called with the run after every change of its history, in order, though not for every event.
    Raises: as `Supervisor`, `start` and `RunHandle.result`, and what `on_change` raises, after handing the run back.
    """
    async with Supervisor(app, database=database) as supervisor:
        run = await supervisor.start(workflow, input)
        if on_change is not None:
            async for _ in run.events():
                on_change(await run.describe())
        return await run.result()
