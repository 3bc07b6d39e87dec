"""An executor on a bench: its ports in memory, and attempts made from a stage alone."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
from anyio.lowlevel import checkpoint
from pydantic import BaseModel
from pydantic_core import to_json

from adapters.memory import MemoryBlobStore
from kernel import Stage, Workflow, WorkflowBuilder
from kernel.ports.executor import Attempt, CheckAttempt
from kernel.ports.persistence import LogLine
from runtime.executor import LocalExecutor
from runtime.logbook import LogBook

NOW = datetime(2025, 1, 1, 12, tzinfo=UTC)


class StillClock:
    """Noon, always."""

    def now(self) -> datetime:
        return NOW


class Steps:
    """Where bodies record steps; refuses them once the attempt is superseded."""

    def __init__(self) -> None:
        self.recorded: list[tuple[int, str, bytes]] = []
        self.superseded = False

    async def record_step(self, attempt: Attempt, /, *, position: int, name: str, result: bytes) -> bool:
        await checkpoint()
        if not self.superseded:
            self.recorded.append((position, name, result))
        return not self.superseded


class Lines:
    """A store of log lines."""

    def __init__(self) -> None:
        self.lines: list[LogLine] = []

    async def write_logs(self, lines: list[LogLine], /) -> None:
        await checkpoint()
        self.lines += lines

    async def read_logs(self, run_id: str, /, *, after: int = 0, limit: int = 1000) -> list[LogLine]:
        return [line for line in self.lines if line.run_id == run_id]

    async def read_progress(self, run_id: str, /) -> Mapping[str, LogLine]:
        return {}


@dataclass
class Bench:
    """One executor and everything it touches."""

    services: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 4
    processes: int = 2
    check_timeout: timedelta = timedelta(minutes=5)

    def __post_init__(self) -> None:
        self.blobs = MemoryBlobStore()
        self.steps = Steps()
        self.store = Lines()
        self.logs = LogBook(self.store)
        self.executor = LocalExecutor(
            services=self.services,
            threads=self.threads,
            processes=self.processes,
            logs=self.logs,
            blobs=self.blobs,
            steps=self.steps,
            clock=StillClock(),
            check_timeout=self.check_timeout,
        )

    async def run(self, stage: Stage[Any, Any, Any], input: object = None, **more: Any) -> Any:
        return await self.executor.run(attempt_of(stage, input, **more))

    async def written(self) -> list[LogLine]:
        """The log lines so far."""
        await self.logs.flush()
        return self.store.lines

    @asynccontextmanager
    async def serving(self):
        """With child interpreters."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.executor.run_services)
            try:
                yield self
            finally:
                tasks.cancel_scope.cancel()


def workflow_of(*stages: Stage[Any, Any, Any]) -> Workflow[Any, Any]:
    builder: Any = WorkflowBuilder("w", input=stages[0].input)
    for stage in stages:
        builder = builder.pipe(stage)
    return builder.build()


def attempt_of(
    stage: Stage[Any, Any, Any],
    input: object = None,
    *,
    after: tuple[Stage[Any, Any, Any], ...] = (),
    outputs: Mapping[str, object] | None = None,
    config: Mapping[str, Any] | None = None,
    steps: tuple[tuple[str, bytes], ...] = (),
    resume_state: BaseModel | None = None,
    offloaded: frozenset[str] = frozenset(),
) -> Attempt:
    workflow = workflow_of(*after, stage)
    return Attempt(
        workflow=workflow,
        stage=workflow.execution_plan().stages[stage.id],
        run_id="run-1",
        execution=1,
        number=1,
        token=f"token-of-{stage.id}",
        started_at=NOW,
        input=to_json(input),
        config=config or {},
        outputs={name: to_json(value) for name, value in (outputs or {}).items()},
        offloaded=offloaded,
        resume_state=None if resume_state is None else to_json(resume_state),
        steps=steps,
    )


def check_of(stage: Stage[Any, Any, Any], state: object, *, config: Mapping[str, Any] | None = None) -> CheckAttempt:
    workflow = workflow_of(stage)
    return CheckAttempt(
        workflow=workflow,
        stage=workflow.execution_plan().stages[stage.id],
        run_id="run-1",
        execution=1,
        number=1,
        state=to_json(state),
        config=config or {},
    )


async def until(fact) -> None:
    """Go round the event loop until something is so."""
    with anyio.fail_after(10):
        while not fact():
            await checkpoint()
