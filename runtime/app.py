"""An app: the workflows that a process knows, and what their stages may use."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from inspect import isawaitable
from typing import Any, TypeAlias, cast

from kernel.authoring.plugins import Plugin
from kernel.authoring.workflow import Workflow
from kernel.errors import InvalidCommand, InvalidWorkflow
from kernel.plugin_runner import PluginRunner
from kernel.ports.blobs import BlobStore
from kernel.ports.sinks import EventSink, Sink, Subscription
from telemetry.privacy import Redact

__all__ = ["AcceptingChanges", "App", "BlobStoreFactory", "ServiceFactory"]

ServiceFactory = Callable[[], object]
BlobStoreFactory: TypeAlias = Callable[
    [],
    BlobStore | Awaitable[BlobStore] | AbstractContextManager[BlobStore] | AbstractAsyncContextManager[BlobStore],
]


class App:
    """Definitions by (id, version), and factories of services.

    The first listed version of an id is the one that new runs get by id. A service factory is called when a
    supervisor starts; what it returns is entered if it is a context manager (and left after the drain), awaited if it
    is awaitable, and given to stages as `ctx.service(name, type)`.

    `plugins` are told of events, and so are `sinks`, which are opened when a supervisor starts and closed after its
    drain. Each is owed its events under its name, which no two may share; give a `PluginRunner` instead of a list to
    say how often plugins are tried.

    With `LEASEHOLD_CAPTURE_PAYLOADS` traces have payloads in them; `redact(name, value)` is given each one first, as
    JSON, and returns what of it may be recorded (None: nothing). The name is "run.input" (the run's input, which is
    recorded on the span of every stage's body), "stage.config" (what the run has configured for the stage),
    "stage.output" (what a body or a check returned) or "stage.state" (with what a body suspended its stage).

    `blob_store` makes the place for large payloads, artifacts and `ctx.storage` when it is one of your own; it is made
    like a service, but in every process of the app, also in a `Client`. Without one, that is `LEASEHOLD_BLOB_URL`, or
    the database.

    Raises: InvalidWorkflow, naming both, when an (id, version) pair is listed twice; InvalidCommand, for two plugins
    or sinks of one name.
    """

    def __init__(
        self,
        *,
        workflows: Sequence[Workflow[Any, Any]],
        services: Mapping[str, ServiceFactory] | None = None,
        plugins: Sequence[Plugin] | PluginRunner = (),
        sinks: Sequence[Sink | Subscription] = (),
        redact: Redact | None = None,
        blob_store: BlobStoreFactory | None = None,
    ) -> None:
        self.workflows: tuple[Workflow[Any, Any], ...] = tuple(workflows)
        self.services: Mapping[str, ServiceFactory] = dict(services or {})
        self.plugins: PluginRunner = plugins if isinstance(plugins, PluginRunner) else PluginRunner(plugins)
        self.sinks: tuple[Sink | Subscription, ...] = tuple(sinks)
        self.redact: Redact | None = redact
        if blob_store is not None and not callable(blob_store):
            raise InvalidCommand(
                f"blob_store must be a function that makes a store, not a {type(blob_store).__name__}.",
                field="blob_store",
                hint="Such as blob_store=lambda: store.",
            )
        self.blob_store: BlobStoreFactory | None = blob_store
        self._check_names()
        self._by_version: dict[tuple[str, str], Workflow[Any, Any]] = {}
        self._newest: dict[str, Workflow[Any, Any]] = {}
        for position, workflow in enumerate(self.workflows):
            pair = (workflow.id, workflow.version)
            if pair in self._by_version:
                earlier = next(i for i, other in enumerate(self.workflows) if (other.id, other.version) == pair)
                raise InvalidWorkflow(
                    workflow.id,
                    f'version "{workflow.version}" is listed twice, at positions {earlier + 1} and {position + 1}',
                    hint="List it once, or give one of them another version.",
                )
            self._by_version[pair] = workflow
            self._newest.setdefault(workflow.id, workflow)

    def _check_names(self) -> None:
        names = [("plugin", plugin.id) for plugin in self.plugins.plugins]
        names += [(f"sink at position {n}", sink.name) for n, sink in enumerate(self.sinks, start=1)]
        for name, count in Counter(name for _, name in names).items():
            if count > 1:
                both = " and ".join(f"a {what}" for what, other in names if other == name)
                raise InvalidCommand(
                    f'"{name}" is the name of {both}.',
                    field="sinks",
                    hint="What is owed to a sink is owed to its name: give each its own.",
                )

    def find_workflow(self, workflow_id: str, version: str | None = None, /) -> Workflow[Any, Any] | None:
        """The definition, or None; without a version the first listed one."""
        if version is None:
            return self._newest.get(workflow_id)
        return self._by_version.get((workflow_id, version))

    def known(self) -> Sequence[tuple[str, str]]:
        """Every (workflow id, version) pair."""
        return tuple(self._by_version)

    def accepts(self, workflow: Workflow[Any, Any], fingerprint: str, /) -> bool:
        """Only a run of this very definition may go on with it."""
        return workflow.fingerprint == fingerprint

    @asynccontextmanager
    async def open_services(self, overrides: Mapping[str, ServiceFactory]) -> AsyncGenerator[Mapping[str, object]]:
        """Make the services, and close them in reverse order."""
        async with AsyncExitStack() as stack:
            yield {name: await _entered(stack, factory()) for name, factory in {**self.services, **overrides}.items()}

    @asynccontextmanager
    async def open_blob_store(self) -> AsyncGenerator[BlobStore | None]:
        """Open the app's own blob store, if it has one, and close it.

        Raises: InvalidCommand, when what was made is none.
        """
        if self.blob_store is None:
            yield None
            return
        async with AsyncExitStack() as stack:
            made = await _entered(stack, self.blob_store())
            if not isinstance(made, BlobStore):
                raise InvalidCommand(
                    f"The blob_store of the app makes no blob store but {type(made).__name__}.",
                    field="blob_store",
                    hint="Give it the async methods put, get, has, delete and list, as TESTING.md shows.",
                )
            yield made

    @asynccontextmanager
    async def open_sinks(self) -> AsyncGenerator[Sequence[Subscription]]:
        """Open the sinks, and close them in reverse order; plugins come first.

        Raises: InvalidCommand, when what a sink opens is none.
        """
        async with AsyncExitStack() as stack:
            opened = list(self.plugins.subscriptions())
            for sink in self.sinks:
                if isinstance(sink, Sink):
                    made = await _entered(stack, sink.open())
                    if not isinstance(made, EventSink):
                        raise InvalidCommand(
                            f'What sink "{sink.name}" opens is no event sink but {type(made).__name__}.',
                            field="sinks",
                            hint='Give it a method "async def publish(self, event)".',
                        )
                    opened.append(sink.opened(made))
                else:
                    opened.append(sink)
            yield opened


async def _entered(stack: AsyncExitStack, made: object) -> object:
    """What stages are given of the thing that a factory made."""
    if isinstance(made, AbstractAsyncContextManager):
        return await stack.enter_async_context(cast("AbstractAsyncContextManager[object]", made))
    if isinstance(made, AbstractContextManager):
        return stack.enter_context(cast("AbstractContextManager[object]", made))
    return await made if isawaitable(made) else made


class AcceptingChanges:
    """An app's definitions for a process that goes on with runs whose definition changed under their version."""

    def __init__(self, app: App) -> None:
        self._app = app

    def find_workflow(self, workflow_id: str, version: str | None = None, /) -> Workflow[Any, Any] | None:
        """What the app finds."""
        return self._app.find_workflow(workflow_id, version)

    def known(self) -> Sequence[tuple[str, str]]:
        """What the app knows."""
        return self._app.known()

    def accepts(self, workflow: Workflow[Any, Any], fingerprint: str, /) -> bool:  # noqa: ARG002
        """Every run, as far as its stages still exist."""
        return True
