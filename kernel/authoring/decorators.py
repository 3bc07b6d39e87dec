"""`@stage` and `@batch_stage`: what turns a function into a stage, and how type checkers see it.

The decorators' types are protocols with one overload for `async def` and one for `def`, from which a checker infers
the stage's input, output and configuration. At run time they only collect options; the checking is done by `Stage`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Protocol, TypeVar, cast, overload

from pydantic import BaseModel

from kernel.authoring.context import StageContext
from kernel.authoring.results import StageResult, Suspend
from kernel.authoring.schema import Payload
from kernel.authoring.signatures import locals_of_caller
from kernel.authoring.stage import BatchStage, Isolation, Stage
from kernel.model.retry import RetryPolicy

__all__ = ["BatchDecorator", "StageDecorator", "batch_stage", "stage"]

I = TypeVar("I")  # noqa: E741  # reads better than any other letter beside O
# The bound is what lets mypy tell an output from a Suspend or a coroutine.
O = TypeVar("O", bound=Payload)  # noqa: E741
C = TypeVar("C", bound=BaseModel)
S = TypeVar("S", bound=BaseModel)


class StageDecorator(Protocol):
    """Turns a body into a stage."""

    @overload
    def __call__(self, body: Callable[[StageContext[I, C]], Awaitable[O | StageResult[O]]], /) -> Stage[I, O, C]: ...
    @overload
    def __call__(self, body: Callable[[StageContext[I, C]], O | StageResult[O]], /) -> Stage[I, O, C]: ...


class BatchDecorator(Protocol):
    """Turns a body into a batch stage."""

    @overload
    def __call__(
        self, body: Callable[[StageContext[I, C, Any]], Awaitable[Suspend[S] | O | StageResult[O]]], /
    ) -> BatchStage[I, O, C, S]: ...
    @overload
    def __call__(
        self, body: Callable[[StageContext[I, C, Any]], Suspend[S] | O | StageResult[O]], /
    ) -> BatchStage[I, O, C, S]: ...


def stage(
    id: str,
    *,
    name: str | None = None,
    description: str = "",
    dependencies: Sequence[str | Stage[Any, Any, Any]] = (),
    input: object = None,
    output: object = None,
    config: type[BaseModel] | None = None,
    retry: RetryPolicy | None = None,
    timeout: timedelta | None = None,
    isolation: Isolation | None = None,
    queue: str | None = None,
    idempotent: bool = False,
) -> StageDecorator:
    """Make a stage of a function `(ctx: StageContext[Input, Config]) -> Output`.

    `async def` runs in the event loop, `def` in a worker thread, and with `isolation="process"` in a child
    interpreter. `input`, `output` and `config` replace the types of the annotations at run time (`type(None)` for
    none). `timeout` bounds one attempt; `retry` says when another follows; `queue` hands the stage to workers of that
    queue; `idempotent` says that the body may be repeated without harm. `dependencies` are stages of earlier groups.

    Raises: InvalidStage.
    """
    # The scope in which the function is defined, where its annotations may name local classes. A frame knows it; the
    # function does not.
    scope = locals_of_caller()

    def decorate(body: Callable[..., Any], /) -> Stage[Any, Any, Any]:
        return Stage(
            id,
            body,
            name=name,
            description=description,
            dependencies=dependencies,
            input=input,
            output=output,
            config=config,
            retry=retry,
            timeout=timeout,
            isolation=isolation,
            queue=queue,
            idempotent=idempotent,
            scope=scope,
        )

    return cast("StageDecorator", decorate)


def batch_stage(
    id: str,
    *,
    name: str | None = None,
    description: str = "",
    dependencies: Sequence[str | Stage[Any, Any, Any]] = (),
    input: object = None,
    output: object = None,
    config: type[BaseModel] | None = None,
    retry: RetryPolicy | None = None,
    timeout: timedelta | None = None,
    queue: str | None = None,
    idempotent: bool = False,
) -> BatchDecorator:
    """Make a batch stage of a function `(ctx: StageContext[Input, Config]) -> Suspend[State] | Output`.

    The options are those of `stage`, except isolation. Give it a completion check with `.check`. Raises: InvalidStage.
    """
    scope = locals_of_caller()

    def decorate(body: Callable[..., Any], /) -> BatchStage[Any, Any, Any, Any]:
        return BatchStage(
            id,
            body,
            name=name,
            description=description,
            dependencies=dependencies,
            input=input,
            output=output,
            config=config,
            retry=retry,
            timeout=timeout,
            queue=queue,
            idempotent=idempotent,
            scope=scope,
        )

    return cast("BatchDecorator", decorate)
