"""START HERE: every command of the engine, and how one travels.

A command is a frozen value. `Kernel.dispatch` looks up its row in the table below and calls the handler with the
kernel's ports. Most commands change one run's history: the handler prepares what it needs, hands a pure `decide`
function to the run's journal, and returns the decision's result. The journal (`kernel/journal.py`, or the run's actor
in the runtime) loads the state, decides, appends on condition that nothing changed meanwhile, and decides again when
something did. Claiming, reaping and unparking touch no history, only who may extend it, and ask the store directly.

To follow one command to the database, always forward:

1. its row in `ROUTES` names its module in `kernel/commands/`: the command, its result, what it touches, its handler;
2. its `decide_*` function there (pure) calls the rules in `kernel/model/`, which answer with facts;
3. `journals.record` or `journals.create` (`kernel/ports/journals.py`) turns the facts into one `Append`
   (`kernel/ports/persistence.py`). Without a runtime that is `kernel/journal.py`; with one `runtime/journals.py`, which
   gives the runs that live in its process to their actors (`runtime/actor.py`) and all others to the former;
4. `store.append` makes it rows. In Postgres: `adapters/postgres/persistence.py`, `committer.py` (when it is sent),
   `batches.py` (`STATEMENTS`: which mode is which file), `sql/append_foreign.sql`, or `append_owned.sql` from an actor
   and `append_create.sql` for a new run. In memory: `adapters/memory/appends.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Generic, TypeAlias, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from kernel.annotations import Annotations
from kernel.command import Command
from kernel.commands.cancel_run import CancelRun, cancel_run
from kernel.commands.claim_pending_runs import ClaimPendingRuns, claim_pending_runs
from kernel.commands.create_run import CreateRun, create_run
from kernel.commands.execute_job import ExecuteJob, execute_job
from kernel.commands.flush_outbox import FlushOutbox, flush_outbox
from kernel.commands.poll_suspended_stages import PollSuspendedStages, poll_suspended_stages
from kernel.commands.reap_stale_leases import ReapStaleLeases, reap_stale_leases
from kernel.commands.reap_stuck_runs import ReapStuckRuns, reap_stuck_runs
from kernel.commands.replay_dead_letters import ReplayDeadLetters, replay_dead_letters
from kernel.commands.rerun_from import RerunFrom, rerun_from
from kernel.commands.transition_run import TransitionRun, transition_run
from kernel.commands.unpark_run import UnparkRun, unpark_run
from kernel.errors import InvalidCommand
from kernel.journal import ForeignJournals
from kernel.payloads import Limits
from kernel.ports.blobs import BlobStore
from kernel.ports.clock import Clock
from kernel.ports.concurrency import Concurrency, InTurn
from kernel.ports.executor import Executor
from kernel.ports.ids import Ids
from kernel.ports.jobs import JobTransport
from kernel.ports.journals import Journals
from kernel.ports.persistence import Persistence
from kernel.ports.registry import WorkflowRegistry
from kernel.ports.scheduler import Scheduler
from kernel.ports.sinks import EventSink, Subscription, subscriptions_of
from kernel.scheduling import check_schedule_key, scheduled_command

__all__ = ["ROUTES", "Kernel", "Middleware", "Ports", "Route", "parse_command", "route"]

R = TypeVar("R")
C = TypeVar("C", bound="Command[Any]")

Middleware: TypeAlias = Callable[[Command[Any], Callable[[Command[Any]], Awaitable[Any]]], Awaitable[Any]]
"""What goes around every dispatch: it is given the command and what carries it out, and answers with the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything that handlers may touch; each handler's own protocol says which part it does."""

    store: Persistence
    journals: Journals
    blobs: BlobStore
    clock: Clock
    ids: Ids
    registry: WorkflowRegistry
    executor: Executor
    limits: Limits
    concurrency: Concurrency
    jobs: JobTransport | None = None
    subscriptions: Sequence[Subscription] = ()

    @property
    def sessions(self) -> Persistence:
        """The store, as the keeper of leases."""
        return self.store

    @property
    def claims(self) -> Persistence:
        """The store, as the place where runs are taken."""
        return self.store


@dataclass(frozen=True, slots=True)
class Route(Generic[C, R]):
    """A command and its handler."""

    command: type[C]
    handler: Callable[[C, Ports], Awaitable[R]]


def route(command: type[C], handler: Callable[[C, Ports], Awaitable[R]]) -> Route[C, R]:
    """A row of the table; the type variables tie the handler to its command, which `Any` in a table would not."""
    return Route(command, handler)


ROUTES: Mapping[type[Command[Any]], Route[Any, Any]] = {
    CreateRun: route(CreateRun, create_run),
    ClaimPendingRuns: route(ClaimPendingRuns, claim_pending_runs),
    ExecuteJob: route(ExecuteJob, execute_job),
    TransitionRun: route(TransitionRun, transition_run),
    PollSuspendedStages: route(PollSuspendedStages, poll_suspended_stages),
    CancelRun: route(CancelRun, cancel_run),
    RerunFrom: route(RerunFrom, rerun_from),
    ReapStaleLeases: route(ReapStaleLeases, reap_stale_leases),
    ReapStuckRuns: route(ReapStuckRuns, reap_stuck_runs),
    UnparkRun: route(UnparkRun, unpark_run),
    FlushOutbox: route(FlushOutbox, flush_outbox),
    ReplayDeadLetters: route(ReplayDeadLetters, replay_dead_letters),
}


class Kernel:
    """The engine without a runtime: give it ports, dispatch commands.

    Holds no state of its own; any number of kernels may share a store.
    """

    def __init__(
        self,
        *,
        persistence: Persistence,
        blob_store: BlobStore,
        clock: Clock,
        ids: Ids,
        registry: WorkflowRegistry,
        executor: Executor,
        scheduler: Scheduler | None = None,
        event_sink: EventSink | None = None,
        journals: Journals | None = None,
        limits: Limits | None = None,
        concurrency: Concurrency | None = None,
        job_transport: JobTransport | None = None,
        around: Middleware | None = None,
    ) -> None:
        self._around = around
        self.ports: Ports = Ports(
            store=persistence,
            journals=journals or ForeignJournals(persistence, blob_store, clock, ids),
            blobs=blob_store,
            clock=clock,
            ids=ids,
            registry=registry,
            executor=executor,
            limits=limits or Limits(),
            concurrency=concurrency or InTurn(),
            jobs=job_transport,
            subscriptions=subscriptions_of(event_sink),
        )
        self.annotations: Annotations = Annotations(self.ports)
        self._scheduler = scheduler

    async def dispatch(self, command: Command[R], /) -> R:
        """Carry out one command and return its result.

        Raises: what the command's handler documents, all of it `EngineError`.
        """
        if type(command) not in ROUTES:
            raise InvalidCommand(f"{type(command).__name__} is not a command.", field="type", hint=_known())
        result: R
        if self._around is None:
            result = await self._handle(command)
        else:
            result = await self._around(command, self._handle)
        return result

    def _handle(self, command: Command[Any]) -> Awaitable[Any]:
        return ROUTES[type(command)].handler(command, self.ports)

    async def schedule(self, command: Command[Any], /, *, at: datetime, key: str | None = None) -> str:
        """Have a command dispatched at or after a moment, and return the key under which it waits.

        It survives any crash. Some process that hosts commands (a supervisor does) dispatches it: at least once, never
        early by the database's clock, within about three seconds, later if none is there. Its result is dropped; an
        error that trying again does not mend is logged and kept with it. What would be refused then is refused now, as
        far as it can be known. Scheduling under a `key` that waits replaces what waits there.
        Raises: InvalidCommand, PayloadRefused, Unavailable; for a `run.create` also what that raises.
        """
        if type(command) not in ROUTES:
            raise InvalidCommand(f"{type(command).__name__} is not a command.", field="type", hint=_known())
        waiting = scheduled_command(
            command,
            at=at,
            key=key,
            schedule_id=self.ports.ids.append_id(),
            registry=self.ports.registry,
            limits=self.ports.limits,
        )
        parse_command(from_json(waiting.command))
        await self._schedule.schedule(waiting)
        return waiting.key

    async def cancel_scheduled(self, key: str, /) -> bool:
        """Take back what waits under this key; False when nothing does, and then nothing is changed.

        What is being dispatched by now goes on, and waits again if it has to be tried again: then it can be taken back.
        What has failed is kept with its error, whatever is asked; it happens no more.
        Raises: InvalidCommand, Unavailable.
        """
        check_schedule_key(key)
        return await self._schedule.cancel(key)

    @property
    def _schedule(self) -> Scheduler:
        if self._scheduler is None:
            raise InvalidCommand(
                "This kernel has no scheduler.", field="scheduler", hint="Give it one: Kernel(..., scheduler=...)."
            )
        return self._scheduler


def parse_command(data: Mapping[str, Any], /) -> Command[Any]:
    """The command in a JSON object: its `type` and its fields, in Python's spelling.

    Raises: InvalidCommand, naming the field that is absent, unknown or wrong.
    """
    if not isinstance(data, Mapping):
        raise InvalidCommand(f"A command is a JSON object, not {type(data).__name__}.", field="type", hint=_known())
    kind = data.get("type")
    command_class = next((command for command in ROUTES if command.type == kind), None)
    if command_class is None:
        raise InvalidCommand(f"{kind!r} is not a command.", field="type", hint=_known())
    given = {name: value for name, value in data.items() if name != "type"}
    known = set(inspect.signature(command_class).parameters)
    unknown = sorted(given.keys() - known)
    if unknown:
        hint = f"Its fields: {', '.join(sorted(known))}."
        raise InvalidCommand(f'"{kind}" has no field "{unknown[0]}".', field=unknown[0], hint=hint)
    try:
        return _reader(command_class.type).validate_python(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidCommand(f'"{kind}": {where}: {first["msg"]}.', field=where) from None


@cache
def _reader(kind: str) -> TypeAdapter[Command[Any]]:
    """What reads a command of this type; making one takes longer than reading a thousand commands."""
    return TypeAdapter(next(command for command in ROUTES if command.type == kind))


def _known() -> str:
    return f"Commands: {', '.join(sorted(command.type for command in ROUTES))}."
