"""What is being watched in the current task: the runs it deals with, and what has been noticed of them.

A scope is opened around an actor and around each command, and travels as a context variable, so that what wraps a port
knows for whom it is called. Tasks that begin inside inherit it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kernel.ports.persistence import Append

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from telemetry.run_trace import RunTrace
    from telemetry.spans import Failure, SpanRef

__all__ = ["SCOPE", "Body", "Scope", "never", "trace_ids"]


@dataclass(slots=True)
class Body:
    """A body's span that has ended but not been sent: what became of it is not durable yet."""

    span: Span
    end_ns: int
    failure: Failure | None = None


def never() -> bool:
    """No lease can be lost where there is none."""
    return False


@dataclass(slots=True)
class Scope:
    """`runs` are those met so far, by id; of those that are not sampled nothing else is noted.

    `command` is the span of the command, `run_id` the run that it is about (None for one of no run in particular), and
    `attempt` what its span says of the attempt that it executed. `ended` has the append that ended a run, `eventful`
    the runs of whose history the root has something to tell, `links` the commands that wait for a run's next append.
    `lost` says whether the lease under which all this happens is lost, `born` whether a run was created, `over` which
    runs had ended before, `busy_until_ns` when the last command of those ended that were carried out here.
    """

    runs: dict[str, RunTrace] = field(default_factory=dict["str", "RunTrace"])
    command: SpanRef | None = None
    run_id: str | None = None
    attempt: Mapping[str, str | int] = field(default_factory=dict[str, "str | int"])
    session_id: str | None = None
    lost: Callable[[], bool] = never
    born: bool = False
    over: set[str] = field(default_factory=set[str])
    ended: dict[str, Append] = field(default_factory=dict[str, Append])
    eventful: set[str] = field(default_factory=set[str])
    links: dict[str, dict[SpanRef, None]] = field(default_factory=dict["str", "dict[SpanRef, None]"])
    bodies: list[Body] = field(default_factory=list[Body])
    busy_until_ns: int = 0


SCOPE: ContextVar[Scope | None] = ContextVar("leasehold_scope", default=None)


def trace_ids(run_id: str) -> Mapping[str, str]:
    """The ids that a line about this run carries, said in a command or a job of it; none, if nobody traces."""
    scope = SCOPE.get()
    trace = None if scope is None else scope.runs.get(run_id)
    if scope is None or trace is None:
        return {}
    command, span_id = scope.command, trace.span_id
    # A command that its caller sent is in the caller's trace, which is another one.
    if command is not None and trace.sampled and command.trace_id in (0, trace.trace_id):
        span_id = command.span_id
    return {"trace_id": f"{trace.trace_id:032x}", "span_id": f"{span_id:016x}"}
