"""Stages: a function, what it takes and returns, and how it is to be executed.

A stage is made once, when its module is imported, and shared by every workflow and run that uses it. Making one checks
what can be checked without its types; `resolve`, called when a workflow is built, reads the annotations and compiles
the schemas. A stage does not know its workflow, nor what executes it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Generic, Literal, cast, overload

from pydantic import BaseModel
from typing_extensions import TypeVar

from kernel.authoring.context import CheckContext, NoConfig
from kernel.authoring.identifiers import IDENTIFIER_RULE, identifier_problem
from kernel.authoring.results import Failed, NotReady, Ready
from kernel.authoring.schema import Schema, UnusableType, is_model
from kernel.authoring.signatures import (
    UNKNOWN,
    check_callable,
    locals_of_caller,
    names_in_scope,
    place_of,
    read_body,
    read_check_state,
    resolution_scope,
    returns_awaitable,
)
from kernel.authoring.type_names import type_name
from kernel.errors import InvalidStage
from kernel.model.retry import RetryPolicy

__all__ = ["BatchStage", "Isolation", "Stage", "StageSchemas"]

I_contra = TypeVar("I_contra", contravariant=True)
O_co = TypeVar("O_co", covariant=True)
K_co = TypeVar("K_co", bound=BaseModel, covariant=True, default=BaseModel)
SB = TypeVar("SB", bound=BaseModel, default=Any)

Isolation = Literal["process"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSchemas:
    """A stage's types, compiled. `config` and `state` are None when the stage has none; the flags say how to call."""

    input: Schema
    output: Schema
    config: Schema | None
    state: Schema | None
    body_is_async: bool
    check_is_async: bool


class Stage(Generic[I_contra, O_co, K_co]):
    """A unit of work with a typed input, output and configuration; made by `@stage`.

    `id` names it within its workflows; `body` is the function; `retry`, `timeout` (of one attempt), `isolation`,
    `queue` and `idempotent` say how to execute it; `dependencies` are the ids of earlier stages whose outputs it
    needs; `place` says where it is defined. `input`, `output` and `config` are its types, resolved on first use.
    """

    suspends: bool = False

    def __init__(
        self,
        id: str,
        body: Callable[..., Any],
        *,
        name: str | None = None,
        description: str = "",
        dependencies: Sequence[str | Stage[Any, Any, Any]] = (),
        input: object = None,
        output: object = None,
        config: object = None,
        retry: RetryPolicy | None = None,
        timeout: timedelta | None = None,
        isolation: Isolation | None = None,
        queue: str | None = None,
        idempotent: bool = False,
        scope: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        problem = identifier_problem(id)
        if problem is not None:
            raise InvalidStage(str(id), f"its id {problem}", hint=IDENTIFIER_RULE)
        check_callable(id, body, role="body", parameters=("ctx",))
        _check_options(id, retry=retry, timeout=timeout, isolation=isolation, queue=queue)
        self.id: str = id
        self.body: Callable[..., Any] = body
        self.name: str = name or id
        self.description: str = description or (inspect.getdoc(body) or "").partition("\n\n")[0]
        self.dependencies: tuple[str, ...] = _dependency_ids(id, dependencies)
        self.retry: RetryPolicy = retry if retry is not None else RetryPolicy()
        self.timeout: timedelta | None = timeout
        self.isolation: Isolation | None = isolation
        self.queue: str | None = queue
        self.idempotent: bool = idempotent
        self.place: str = place_of(body)
        self.check_function: Callable[..., Any] | None = None
        self.estimate_function: Callable[[Any, Any], float | Decimal] | None = None
        self._explicit: dict[Literal["input", "output", "config"], object] = {}
        if input is not None:
            self._explicit["input"] = input
        if output is not None:
            self._explicit["output"] = output
        if config is not None:
            self._explicit["config"] = config
        self._scope: Mapping[str, Any] = names_in_scope(body, scope)
        self._schemas: StageSchemas | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id!r} ({self.place})>"

    @property
    def schemas(self) -> StageSchemas:
        """The compiled types. Raises: InvalidStage when the annotations do not tell them."""
        return self.resolve()

    @property
    def input(self) -> object:
        """The input's type; None when the stage takes none. Raises: InvalidStage."""
        return self.resolve().input.type

    @property
    def output(self) -> object:
        """The output's type; None when the stage returns nothing. Raises: InvalidStage."""
        return self.resolve().output.type

    @property
    def config(self) -> type[BaseModel] | None:
        """The configuration's model, or None. Raises: InvalidStage."""
        schema = self.resolve().config
        return None if schema is None else cast("type[BaseModel]", schema.type)

    @property
    def is_async(self) -> bool:
        """Whether the body is to be awaited in the event loop. Raises: InvalidStage."""
        return self.resolve().body_is_async

    @property
    def reference(self) -> str:
        """`module:name`, by which a child process finds the stage."""
        plain = inspect.unwrap(self.body)
        return f"{plain.__module__}:{getattr(plain, '__qualname__', '')}"

    def estimate(self, fn: Callable[[Any, K_co], float | Decimal], /) -> Callable[[Any, K_co], float | Decimal]:
        """Register what the stage is expected to cost in USD, from the run's input and the stage's configuration.

        Used as a decorator. The input is the run's, since no other is known before the run. Raises: InvalidStage.
        """
        check_callable(self.id, fn, role="estimate", parameters=("run_input", "config"))
        if self.estimate_function is not None:
            raise _twice(self.id, "estimate", self.estimate_function, fn)
        self.estimate_function = fn
        return fn

    def resolve(self, builder_locals: Mapping[str, Any] = MappingProxyType({})) -> StageSchemas:
        """Read the annotations and compile the schemas, once.

        `builder_locals` are names that the workflow's builder sees, for models that were defined in a function after
        the stage. Raises: InvalidStage, with the fix.
        """
        if self._schemas is None:
            self._schemas = self._compile(resolution_scope(self.body, self._scope, builder_locals))
            self._scope = {}
        return self._schemas

    def _take_check(self, fn: Callable[..., Any]) -> None:
        self.check_function = fn
        self._schemas = None

    def check_runnable(self) -> None:
        """Refuse a stage that could be resolved but not executed. Raises: InvalidStage."""
        if self.isolation == "process":
            self._check_importable()

    def _compile(self, scope: dict[str, Any]) -> StageSchemas:
        types = read_body(self.id, self.body, scope, suspends=self.suspends, known=frozenset(self._explicit))
        config = self._explicit.get("config", types.config)
        if config is not None and not is_model(config):
            reason = f"its config is {type_name(config)}, which is not a pydantic model"
            raise InvalidStage(
                self.id, reason, hint="Make it a class that inherits from pydantic.BaseModel; NoConfig stands for none."
            )
        schemas = StageSchemas(
            input=self._schema("input", self._explicit.get("input", types.input), scope),
            output=self._schema("output", self._explicit.get("output", types.output), scope),
            config=None if config is None or config is NoConfig else self._schema("config", config, scope),
            state=None if types.state is None else self._schema("suspended state", types.state, scope),
            body_is_async=types.is_async,
            check_is_async=False if self.check_function is None else returns_awaitable(self.check_function),
        )
        if self.check_function is not None and schemas.state is not None:
            self._check_check(self.check_function, schemas.state, scope)
        return schemas

    def _schema(self, role: str, annotation: object, scope: Mapping[str, Any]) -> Schema:
        try:
            return Schema(annotation, namespace=scope)
        except UnusableType as error:
            raise InvalidStage(
                self.id,
                f"its {role} type cannot be used: {error.reason}",
                hint="Use pydantic models, TypedDicts, JSON scalars, and lists and mappings of them.",
            ) from error

    def _check_check(self, check: Callable[..., Any], state: Schema, scope: Mapping[str, Any]) -> None:
        # A check may be defined in another function than its stage, so its own scope comes on top.
        declared = read_check_state(self.id, check, {**scope, **resolution_scope(check, {}, {})})
        if declared is UNKNOWN:
            return
        if not Schema(declared).accepts(state):
            reason = f"its check {place_of(check)} takes {type_name(declared)}, but the body suspends with {state.name}"
            raise InvalidStage(self.id, reason, hint=f"Annotate the check's first parameter as {state.name}.")

    def _check_importable(self) -> None:
        module_name, _, qualified = self.reference.partition(":")
        hint = "Define it at the top level of an importable module, under the name of its function."
        if module_name == "__main__":
            reason = "isolation='process' needs a module that a child process can import, not __main__"
            raise InvalidStage(self.id, reason, hint=hint)
        found: object = sys.modules.get(module_name)
        for name in qualified.split("."):
            found = getattr(found, name, None)
        if found is not self:
            reason = f"isolation='process' finds its stage by name, and {self.reference} is not this stage"
            raise InvalidStage(self.id, reason, hint=hint)


class BatchStage(Stage[I_contra, O_co, K_co], Generic[I_contra, O_co, K_co, SB]):
    """A stage that may hand its work to something outside and wait for it; made by `@batch_stage`.

    Its body may return `Suspend`; its `check` is then called, in whatever process, until it says `Ready` or `Failed`.
    """

    suspends = True

    @overload
    def check(
        self, fn: Callable[[SB, CheckContext[K_co]], Awaitable[Ready[O_co] | NotReady | Failed]], /
    ) -> Callable[[SB, CheckContext[K_co]], Awaitable[Ready[O_co] | NotReady | Failed]]: ...
    @overload
    def check(
        self, fn: Callable[[SB, CheckContext[K_co]], Ready[O_co] | NotReady | Failed], /
    ) -> Callable[[SB, CheckContext[K_co]], Ready[O_co] | NotReady | Failed]: ...
    def check(self, fn: Callable[..., Any], /) -> Callable[..., Any]:
        """Register the completion check; used as a decorator. Raises: InvalidStage for a second one."""
        check_callable(self.id, fn, role="check", parameters=("state", "ctx"))
        if self.check_function is not None:
            raise _twice(self.id, "check", self.check_function, fn)
        self._take_check(fn)
        self._scope = {**names_in_scope(fn, locals_of_caller()), **self._scope}
        return fn

    def check_runnable(self) -> None:
        """Refuse a stage that could suspend and then never continue. Raises: InvalidStage."""
        super().check_runnable()
        if self.check_function is None:
            raise InvalidStage(
                self.id,
                "it may suspend, but nothing checks whether it is ready",
                hint=f"Write @{getattr(self.body, '__name__', 'stage')}.check over a function of (state, ctx).",
            )


def _twice(stage_id: str, role: str, first: Callable[..., Any], second: Callable[..., Any]) -> InvalidStage:
    return InvalidStage(
        stage_id,
        f"it has two {role} functions: {place_of(first)} and {place_of(second)}",
        hint="Remove one of them.",
    )


def _check_options(stage_id: str, *, retry: object, timeout: object, isolation: object, queue: object) -> None:
    if retry is not None and not isinstance(retry, RetryPolicy):
        raise InvalidStage(stage_id, f"retry is {retry!r}", hint="Write retry=RetryPolicy(max_attempts=3).")
    if timeout is not None and (not isinstance(timeout, timedelta) or timeout <= timedelta(0)):
        raise InvalidStage(stage_id, f"timeout is {timeout!r}", hint="Write timeout=timedelta(minutes=5).")
    if isolation not in (None, "process"):
        raise InvalidStage(stage_id, f"isolation is {isolation!r}", hint='Leave it out, or write isolation="process".')
    if queue is not None and (problem := identifier_problem(queue)) is not None:
        raise InvalidStage(stage_id, f"its queue {problem}", hint=IDENTIFIER_RULE)


def _dependency_ids(stage_id: str, dependencies: Sequence[str | Stage[Any, Any, Any]]) -> tuple[str, ...]:
    hint = 'Write dependencies=["extract-text"] or dependencies=[extract].'
    if isinstance(dependencies, str | Stage):
        raise InvalidStage(stage_id, f"dependencies is {dependencies!r}, not a list", hint=hint)
    ids: list[str] = []
    for dependency in dependencies:
        if not isinstance(dependency, str | Stage):
            raise InvalidStage(stage_id, f"{dependency!r} is not a dependency", hint=hint)
        ids.append(dependency if isinstance(dependency, str) else dependency.id)
    return tuple(dict.fromkeys(ids))
