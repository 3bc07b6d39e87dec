"""An app: the workflows that a process knows, and what their stages may use."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from inspect import isawaitable
from typing import Any, cast

from kernel.authoring.workflow import Workflow
from kernel.errors import InvalidWorkflow

__all__ = ["AcceptingChanges", "App", "ServiceFactory"]

ServiceFactory = Callable[[], object]


class App:
    """Definitions by (id, version), and factories of services.

    The first listed version of an id is the one that new runs get by id. A service factory is called when a
    supervisor starts; what it returns is entered if it is a context manager (and left after the drain), awaited if it
    is awaitable, and given to stages as `ctx.service(name, type)`.

    Raises: InvalidWorkflow, naming both, when an (id, version) pair is listed twice.
    """

    def __init__(
        self,
        *,
        workflows: Sequence[Workflow[Any, Any]],
        services: Mapping[str, ServiceFactory] | None = None,
    ) -> None:
        self.workflows: tuple[Workflow[Any, Any], ...] = tuple(workflows)
        self.services: Mapping[str, ServiceFactory] = dict(services or {})
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
