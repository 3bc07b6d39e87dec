"""`ctx.step`: work inside a stage that is done once per execution of the stage, however often the body is started.

A body that is started again (a retry, a takeover, a resumption) runs from its first line. What it wraps in a step is
not done again: the recorded result is returned instead. Steps are told apart by their position, counted from 0, and
checked by their name; so they follow each other, and their order must not depend on anything that can change between
two attempts.

A result is written as JSON and read back before it is returned, so the first attempt sees exactly what later ones do.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, TypeVarTuple, cast, get_type_hints, overload

from kernel.authoring.identifiers import IDENTIFIER_LENGTH_MAX
from kernel.authoring.schema import Schema, UnusableType
from kernel.errors import DefinitionChanged, InvalidOutput, InvalidStage

__all__ = ["RecordedStep", "StepJournal", "Steps"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedStep:
    """A step of an earlier attempt of this execution; `result` is JSON."""

    name: str
    result: bytes


class StepJournal(Protocol):
    """The recorded steps of one execution of one stage."""

    def find_step(self, position: int, /) -> RecordedStep | None:
        """The step recorded at this position (from 0), if there is one; never waits."""
        ...

    async def record_step(self, position: int, name: str, result: bytes, /) -> None:
        """Append the step; returns after the commit. Raises: LeaseLost, StaleVersion when the attempt is superseded."""
        ...

    def record_step_blocking(self, position: int, name: str, result: bytes, /) -> None:
        """The same, waiting, for a body in a worker thread."""
        ...


class Steps:
    """Calls functions as recorded steps: `await ctx.step("fetch", fetch, url)`."""

    __slots__ = ("_done", "_journal", "_open", "_stage_id")

    def __init__(self, journal: StepJournal, *, stage_id: str) -> None:
        self._journal = journal
        self._stage_id = stage_id
        self._done = 0
        self._open: str | None = None

    @overload
    async def __call__(self, name: str, fn: Callable[[*Ts], Awaitable[T]], /, *args: *Ts) -> T: ...
    @overload
    async def __call__(self, name: str, fn: Callable[[*Ts], T], /, *args: *Ts) -> T: ...
    async def __call__(self, name: str, fn: Callable[[*Ts], Any], /, *args: *Ts) -> Any:
        """Do `fn(*args)` once and remember its result, which must have a JSON form.

        An async function is awaited; a plain one runs in the event loop. What it raises is not recorded, so the step
        is done again when the body repeats it. Steps of one body follow each other and do not overlap.

        Raises: DefinitionChanged when another name was recorded at this position; InvalidStage when a step is still
        being done; InvalidOutput or PayloadRefused when the result cannot be recorded.
        """
        position = self._begin(name)
        try:
            schema = _result_schema(self._stage_id, name, fn)
            recorded = self._find(position, name)
            if recorded is None:
                result: object = fn(*args)
                if inspect.isawaitable(result):
                    result = await result
                recorded = self._encoded(schema, name, result)
                await self._journal.record_step(position, name, recorded)
            self._done += 1
        finally:
            self._open = None
        return schema.decode(recorded, where=self._where(name), refuse=InvalidOutput)

    def blocking(self, name: str, fn: Callable[[*Ts], T], /, *args: *Ts) -> T:
        """The same for `def` bodies: `ctx.step.blocking("fetch", fetch, url)`."""
        position = self._begin(name)
        try:
            schema = _result_schema(self._stage_id, name, fn)
            recorded = self._find(position, name)
            if recorded is None:
                recorded = self._encoded(schema, name, fn(*args))
                self._journal.record_step_blocking(position, name, recorded)
            self._done += 1
        finally:
            self._open = None
        return cast("T", schema.decode(recorded, where=self._where(name), refuse=InvalidOutput))

    def _begin(self, name: object) -> int:
        if not isinstance(name, str) or not 0 < len(name) <= IDENTIFIER_LENGTH_MAX or not name.isprintable():
            raise InvalidStage(self._stage_id, f"a step's name must be a short printable text, got {name!r}")
        if self._open is not None:
            # Of two steps at once, which is the first would differ from attempt to attempt.
            raise InvalidStage(
                self._stage_id,
                f'its step "{name}" begins while step "{self._open}" is being done',
                hint="Do one step after the other; what runs at the same time belongs into one step, or into stages.",
            )
        self._open = name
        return self._done

    def _find(self, position: int, name: str) -> bytes | None:
        found = self._journal.find_step(position)
        if found is None:
            return None
        if found.name != name:
            raise DefinitionChanged(
                f'The order of the steps of stage "{self._stage_id}"',
                f'step {position} was recorded as "{found.name}" and is now "{name}"',
                hint="Keep the order of recorded steps, or rerun the stage.",
            )
        return found.result

    def _encoded(self, schema: Schema, name: str, result: object) -> bytes:
        return schema.encode(result, where=self._where(name), refuse=InvalidOutput)

    def _where(self, name: str) -> str:
        return f'step "{name}" of stage "{self._stage_id}"'


def _result_schema(stage_id: str, name: str, fn: Callable[..., Any]) -> Schema:
    """The schema of what the function is annotated to return; any JSON value when it is not annotated."""
    try:
        annotation = get_type_hints(inspect.unwrap(fn), include_extras=True).get("return", Any)
        return Schema(annotation)
    except (NameError, TypeError, AttributeError):
        # A name that is not resolvable at run time, a partial, a built-in: the value then has its plain JSON form.
        return Schema(Any)
    except UnusableType as error:
        raise InvalidStage(stage_id, f'the result of step "{name}" cannot be recorded: {error.reason}') from error
