"""Starting and observing runs from any process: `Client`, and `RunHandle`, one run seen through it.

A client opens no session and executes nothing. A supervisor is a client that also executes (`runtime.supervisor`);
everything here works the same through both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, overload
from uuid import UUID

import anyio
import anyio.abc
from pydantic_core import to_json
from typing_extensions import TypeVar

from kernel.authoring.annotations import Attributes, NewAnnotations
from kernel.authoring.stage import Stage
from kernel.authoring.workflow import Workflow
from kernel.commands.create_run import CreateRun
from kernel.dispatch import Kernel, Middleware
from kernel.ending import Ending, ending_of
from kernel.errors import InvalidCommand, Unavailable
from kernel.journal import ForeignJournals, Teller
from kernel.model.facts import encode_plan
from kernel.model.machine import Status
from kernel.payloads import Limits
from kernel.ports.blobs import BlobStore
from kernel.ports.executor import Executor
from kernel.ports.jobs import JobInfo
from kernel.ports.journals import Journals
from kernel.ports.persistence import RunQuery, WorkflowRecord
from runtime.app import App
from runtime.bootstrap import Storage, open_storage
from runtime.config import Settings, load_settings
from runtime.info import RunInfo, run_info
from runtime.job_waiting import may_hang_on_jobs
from runtime.narration import OutageLog
from runtime.no_executor import NoExecutor
from runtime.run_handle import RunHandle
from runtime.start_many import started_in_order
from runtime.watch import Watch
from telemetry.find import find_tracing
from telemetry.logs import EventLogger, get_logger
from telemetry.metrics import Meters, find_meters, timed
from telemetry.privacy import Privacy
from telemetry.scope import never

if TYPE_CHECKING:
    from telemetry.tracing import Tracing

__all__ = ["Client", "GivenConfig", "Page", "RunHandle", "workflow_record"]

logger: EventLogger = get_logger("leasehold.runtime")

I = TypeVar("I")  # noqa: E741 - input and output, as in the authoring layer
O = TypeVar("O")  # noqa: E741

T = TypeVar("T")

GivenConfig = Mapping[str | Stage[Any, Any, Any], Any]
HINT_RETRY_S = 1.0
LIST_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[O]):
    """Some of many, in order, and the cursor with which to ask for what follows (None: that was all)."""

    items: Sequence[O]
    next: str | None = None


class Client:
    """A way into the runs of one database: `async with Client(app) as client`.

    `database` is a URL, `"embedded"`, or None for what the environment and pyproject.toml say; `settings` replaces all
    of that, and `storage` opens a store in another way altogether. Nothing of the process (signals, logging, tracing)
    is touched.

    Raises on entering: NoDatabase, SchemaOutdated, Unavailable, InvalidCommand (also when it has been entered before).
    """

    def __init__(
        self,
        app: App,
        *,
        database: str | None = None,
        settings: Settings | None = None,
        storage: AbstractAsyncContextManager[Storage] | None = None,
    ) -> None:
        self.app = app
        self._settings = settings or load_settings(database_url=database)
        self._opener = storage or open_storage(self._settings)
        self._stack = AsyncExitStack()
        self._storage: Storage | None = None
        self._tracing: Tracing | None = None
        self._meters: Meters | None = None
        self._kernel: Kernel | None = None
        self._watch: Watch | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._background: set[anyio.CancelScope] = set()
        self._entered = False

    # -- opening and closing ---------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._entered:
            what = type(self).__name__
            raise InvalidCommand(f"This {what} has been opened before.", field="client", hint=f"Make another {what}.")
        self._entered = True
        await self._stack.__aenter__()
        try:
            await self._open()
        except BaseException:
            await self._close(at_once=True)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Whoever is cancelled has no time left; any other error of the caller's does not concern the runs.
        await self._close(at_once=kind is not None and issubclass(kind, anyio.get_cancelled_exc_class()))

    async def _open(self) -> None:
        """Open the store, tell it our workflows, and start what runs beside the caller."""
        self._meters = find_meters()
        storage = self._storage = self._watched(await self._open_storage())
        await storage.persistence.register_workflows([workflow_record(workflow) for workflow in self.app.workflows])
        self._watch = Watch(storage.persistence, self._settings.poll_interval.total_seconds())
        self._kernel = self._make_kernel(storage)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        await self._start_services(self._tasks)

    def _watched(self, storage: Storage) -> Storage:
        """The store as this client uses it: watched, when the program traces."""
        self._tracing = find_tracing(
            storage.persistence,
            clock=storage.clock,
            ids=storage.ids,
            privacy=Privacy(capture=self._settings.capture_payloads, redact=self.app.redact),
        )
        if self._tracing is None:
            return storage
        if storage.observe_batches is not None:
            storage.observe_batches(self._tracing.appends.sent)
        return replace(storage, persistence=self._tracing.store)

    def _watched_executor(self, executor: Executor) -> Executor:
        return executor if self._tracing is None else self._tracing.watch_executor(executor)

    def _working(
        self, session_id: str | None = None, *, lost: Callable[[], bool] = never
    ) -> AbstractAsyncContextManager[None]:
        """What goes around a job; `lost` says whether its lease is."""
        return nullcontext() if self._tracing is None else self._tracing.working(session_id, lost=lost)

    @property
    def _around(self) -> Middleware | None:
        return timed(None if self._tracing is None else self._tracing.middleware, self._meters)

    async def _open_storage(self) -> Storage:
        """The store, with the app's own place for blobs if it has one."""
        if self.app.blob_store is not None and self._settings.blob_url is not None:
            raise InvalidCommand(
                "There are two places for blobs: the app has a blob_store, and LEASEHOLD_BLOB_URL names another.",
                field="blob_store",
                hint="Take one of them away; what was stored in the other cannot be read then.",
            )
        storage = await self._stack.enter_async_context(self._opener)
        own = await self._stack.enter_async_context(self.app.open_blob_store())
        if own is None:
            return storage
        return replace(storage, blobs=own, blobs_in_database=False, check_blobs=partial(_ask, own))

    async def _check_blobs(self) -> None:
        """End the opening of a process that could not keep what it is to store. Raises: Unavailable."""
        if self.storage.check_blobs is not None:
            await self.storage.check_blobs()

    async def _start_services(self, tasks: anyio.abc.TaskGroup) -> None:
        if self._meters is not None and self.storage.observe_batches is not None:
            self.storage.observe_batches(self._meters.batch_sent)
        tasks.start_soon(self._serve, "watch", self.watch.run)
        tasks.start_soon(self._serve, "hints", self._listen)

    async def _close(self, *, at_once: bool) -> None:
        """Stop what runs beside the caller.

        An error of the caller's is not passed through the task group, which would wrap it into an exception group.
        """
        tasks, self._tasks = self._tasks, None
        try:
            if tasks is not None:
                await self._stop(tasks, at_once=at_once)
        finally:
            with anyio.CancelScope(shield=True):
                await self._stack.aclose()
            if self._watch is not None:
                self._watch.close()
            self._storage = self._kernel = self._watch = None

    async def _stop(self, tasks: anyio.abc.TaskGroup, *, at_once: bool) -> None:
        try:
            await self._stop_services(at_once=at_once)
        finally:
            tasks.cancel_scope.cancel()
            for scope in self._background:
                scope.cancel()
            await tasks.__aexit__(None, None, None)

    async def _stop_services(self, *, at_once: bool) -> None:
        """What must happen before the background tasks are cancelled; `at_once` without waiting for bodies."""

    async def _serve(self, name: str, service: Callable[[], Any]) -> None:
        """Run a background service for ever: trouble is said and waited out, and never reaches the caller's task.

        Shielded, because whoever cancels the caller must not take away what leaving needs; `_stop` ends it.
        """
        with anyio.CancelScope(shield=self._tasks is not None) as scope:
            self._background.add(scope)
            if self._tracing is not None:
                self._tracing.begin_afresh()
            outage = OutageLog("store.unavailable", "store.recovered")
            while True:
                try:
                    await service()
                except Unavailable as error:
                    outage.failed(error, service=name)
                except Exception as error:
                    logger.exception("service.crashed", service=name, error=type(error).__name__)
                await anyio.sleep(HINT_RETRY_S)

    async def _listen(self) -> None:
        while True:
            self._hinted(news=await self.storage.persistence.next_hint())

    def _hinted(self, *, news: bool) -> None:  # noqa: ARG002 - a client executes nothing
        self.watch.hint()

    def _make_kernel(self, storage: Storage) -> Kernel:
        return Kernel(
            persistence=storage.persistence,
            blob_store=storage.blobs,
            clock=storage.clock,
            ids=storage.ids,
            registry=self.app,
            executor=NoExecutor(),
            scheduler=storage.scheduler,
            journals=self._foreign_journals(storage),
            limits=self._limits(),
            around=self._around,
        )

    def _foreign_journals(self, storage: Storage) -> Journals:
        """The journals of runs that are decided from outside."""
        return ForeignJournals(storage.persistence, storage.blobs, storage.clock, storage.ids, tellers=self._tellers())

    def _tellers(self) -> Sequence[Teller]:
        """Who is told what is appended there."""
        return () if self._meters is None else (self._meters.told,)

    def _limits(self) -> Limits:
        return Limits(
            payload_inline_bytes_max=self._settings.payload_inline_bytes_max,
            payload_bytes_max=self._settings.payload_bytes_max,
            history_events_max=self._settings.history_events_max,
            idempotency_expiry=self._settings.idempotency_expiry,
            unknown_workflow_grace=self._settings.unknown_workflow_grace,
        )

    @property
    def storage(self) -> Storage:
        """The open store. Raises: InvalidCommand outside of `async with`."""
        return _opened(self._storage)

    @property
    def kernel(self) -> Kernel:
        """The kernel, for commands that have no method here."""
        return _opened(self._kernel)

    @property
    def watch(self) -> Watch:
        """Who reads the heads of runs that are driven elsewhere."""
        return _opened(self._watch)

    # -- starting and finding runs -----------------------------------------------------------------------------------

    @overload
    async def start(
        self,
        workflow: Workflow[I, O],
        input: I,
        *,
        idempotency_key: str | None = None,
        config: GivenConfig | None = None,
        priority: int = 5,
        metadata: Mapping[str, Any] | None = None,
        annotations: Sequence[NewAnnotations] | Attributes | None = None,
        run_at: datetime | None = None,
        connection: object = None,
        trace_context: Mapping[str, str] | None = None,
    ) -> RunHandle[O]: ...

    @overload
    async def start(
        self,
        workflow: str,
        input: Any,
        *,
        idempotency_key: str | None = None,
        config: GivenConfig | None = None,
        priority: int = 5,
        metadata: Mapping[str, Any] | None = None,
        annotations: Sequence[NewAnnotations] | Attributes | None = None,
        run_at: datetime | None = None,
        connection: object = None,
        trace_context: Mapping[str, str] | None = None,
    ) -> RunHandle[Any]: ...

    async def start(
        self,
        workflow: Workflow[Any, Any] | str,
        input: Any,
        *,
        idempotency_key: str | None = None,
        config: GivenConfig | None = None,
        priority: int = 5,
        metadata: Mapping[str, Any] | None = None,
        annotations: Sequence[NewAnnotations] | Attributes | None = None,
        run_at: datetime | None = None,
        connection: object = None,
        trace_context: Mapping[str, str] | None = None,
    ) -> RunHandle[Any]:
        """Create a run and return its handle, after it has been committed.

        With an `idempotency_key` (unique per workflow) the same call answers with the same run. `config` maps stages
        to models or mappings that are merged over the defaults; `priority` is 0 to 9; nothing runs before `run_at`.
        `annotations` (values by key, or `NewAnnotations`) appear with the run.

        With a `connection` of asyncpg's to the same database (asyncio only) the run is created in its transaction: it
        exists when that is committed, and nothing of it when not, neither its key nor, in a blob store of the same
        database, its input. Until then the handle is of no use but its `id`. A supervisor finds the run by itself,
        within about three seconds. What is refused leaves the transaction as it was. Without a transaction the
        statement is one. Raises besides: IdempotencyInProgress, when another transaction took the key first.

        The run's trace continues that of the caller's current span, or of `trace_context`: W3C headers, `traceparent`.
        One that is not valid is passed over, as W3C demands of whoever is sent one; `tracestate` is not used.
        Raises: WorkflowNotFound, InvalidInput, InvalidConfig, IdempotencyKeyReused, PayloadRefused, Unavailable.
        """
        definition = None if isinstance(workflow, str) else workflow
        kernel = self.kernel if connection is None else await self._kernel_within(connection)
        result = await kernel.dispatch(
            CreateRun(
                workflow_id=_workflow_id(workflow),
                workflow_version=None if definition is None else definition.version,
                input=input,
                idempotency_key=idempotency_key,
                config=config,
                priority=priority,
                metadata=metadata,
                annotations=annotations,
                run_at=run_at,
                run_id=self.storage.ids.run_id(self.storage.clock.now()),
                trace_context=trace_context,
            )
        )
        return RunHandle(self, result.run_id, definition)

    async def _kernel_within(self, connection: object) -> Kernel:
        """A kernel for creations alone, in the transaction of somebody's connection."""
        storage = self.storage
        persistence, clock, ids = storage.persistence, storage.clock, storage.ids
        joined = await persistence.joined(connection)
        # Elsewhere than in the database a blob cannot be taken back; it then lies there, and nothing names it.
        blobs = joined.blobs if storage.blobs_in_database else storage.blobs
        return Kernel(
            persistence=persistence,
            journals=ForeignJournals(persistence, blobs, clock, ids, births=joined.appends),
            blob_store=blobs,
            clock=clock,
            ids=ids,
            registry=self.app,
            executor=NoExecutor(),
            limits=self._limits(),
            around=self._around,
        )

    async def start_many(
        self,
        workflow: Workflow[I, O],
        inputs: Iterable[I],
        *,
        idempotency_key: Callable[[I], str] | None = None,
    ) -> list[RunHandle[O]]:
        """Create a run for each input and return the handles in the same order, after all have been committed.

        `inputs` may be a generator: it is consumed as fast as runs are committed, no faster. `idempotency_key` makes
        the key of an input. When an input is refused, or `inputs` or `idempotency_key` raise, no further runs are
        begun; those before it, and up to 63 after it that were on their way, exist. The error of the first such
        input is raised, as `start` would, with a note of its position. With keys the whole call can be repeated.
        """

        async def start(value: I, key: str | None) -> RunHandle[O]:
            return await self.start(workflow, value, idempotency_key=key)

        return await started_in_order(start, inputs, idempotency_key)

    @overload
    def run(self, run_id: str | UUID, workflow: Workflow[Any, O], /) -> RunHandle[O]: ...

    @overload
    def run(self, run_id: str | UUID, /) -> RunHandle[Any]: ...

    def run(self, run_id: str | UUID, workflow: Workflow[Any, Any] | None = None, /) -> RunHandle[Any]:
        """The handle of a run by its id; nothing is looked up. Name the workflow to have its result typed.

        A `UUID` is what a driver answers with to `SELECT leasehold.create_run(...)`.
        Raises: InvalidCommand for what is neither a text nor a UUID. That no run has it, or could have it, is told by
        what is asked, as RunNotFound: it may come from a request's path.
        """
        given: object = str(run_id) if isinstance(run_id, UUID) else run_id
        if not isinstance(given, str):
            hint = "It is the id that `start` and `leasehold runs` give."
            raise InvalidCommand(f"run_id is no id of a run: {given!r:.60}.", field="run_id", hint=hint)
        return RunHandle(self, given, workflow)

    @overload
    async def find(self, workflow: Workflow[Any, O], idempotency_key: str) -> RunHandle[O] | None: ...

    @overload
    async def find(self, workflow: str, idempotency_key: str) -> RunHandle[Any] | None: ...

    async def find(self, workflow: Workflow[Any, Any] | str, idempotency_key: str) -> RunHandle[Any] | None:
        """The run that was started under this key, or None."""
        definition = None if isinstance(workflow, str) else workflow
        run_id = await self.storage.persistence.find_key(CreateRun.type, _workflow_id(workflow), idempotency_key)
        return None if run_id is None else RunHandle(self, run_id, definition)

    async def list_runs(
        self,
        *,
        status: str | None = None,
        workflow: Workflow[Any, Any] | str | None = None,
        since: datetime | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Page[RunInfo]:
        """One page of runs, newest first, from their heads alone; `after` is the `next` of the page before.

        Raises: InvalidCommand for an unknown status, a limit outside 1 to 1000, a time without a zone or a cursor that
        is none.
        """
        if status is not None and status not in Status.__members__:
            hint = f"Statuses: {', '.join(Status.__members__)}."
            raise InvalidCommand(f'"{status}" is not a status.', field="status", hint=hint)
        if not 1 <= limit <= LIST_MAX:
            raise InvalidCommand(f"limit must be 1 to {LIST_MAX}, got {limit}.", field="limit")
        if since is not None and since.tzinfo is None:
            raise InvalidCommand("since must be an aware datetime.", field="since", hint="Add a time zone, e.g. UTC.")
        workflow_id = None if workflow is None else _workflow_id(workflow)
        query = RunQuery(status=status, workflow_id=workflow_id, since=since, limit=limit, after=after)
        page = await self.storage.persistence.list_runs(query)
        live = await self.storage.persistence.live_workflows()
        now = self.storage.clock.now()
        jobs: dict[str, list[JobInfo]] = {head.run_id: [] for head in page.heads if may_hang_on_jobs(head, now)}
        if jobs:
            for job in await self.storage.jobs.jobs_of(*jobs):
                jobs[job.run_id].append(job)
        items = [run_info(head, now=now, live_workflows=live, jobs=jobs.get(head.run_id)) for head in page.heads]
        return Page(items=items, next=page.next)

    # -- for handles ---------------------------------------------------------------------------------------------------

    async def ended(self, run_id: str) -> Ending:
        """Wait for the run's end, also through an outage. Raises: RunNotFound; CorruptHistory."""
        return ending_of(await self.watch.ended(run_id))


def _workflow_id(workflow: Workflow[Any, Any] | str) -> str:
    return workflow if isinstance(workflow, str) else workflow.id


async def _ask(blobs: BlobStore) -> None:
    """A question that a store can only answer when it can be reached."""
    await blobs.has("leasehold-check")


def _opened(part: T | None) -> T:
    if part is None:
        raise InvalidCommand("It is not open.", field="client", hint='Use it inside "async with".')
    return part


def workflow_record(workflow: Workflow[Any, Any]) -> WorkflowRecord:
    """The definition as stores keep it."""
    return WorkflowRecord(
        workflow_id=workflow.id,
        version=workflow.version,
        fingerprint=workflow.fingerprint,
        plan=encode_plan(workflow.execution_plan()),
        description=to_json(dict(workflow.fingerprint_data)),
    )
