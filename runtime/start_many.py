"""Starting many runs of one workflow, no faster than they are committed.

Separate from the client, because the order of handles and errors is a subject of its own. Knows a function that starts
one run, and nothing else of clients.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeVar

import anyio

from kernel.errors import InvalidCommand
from runtime.run_handle import RunHandle

__all__ = ["STARTS_AT_ONCE", "started_in_order"]

I = TypeVar("I")  # noqa: E741
O = TypeVar("O")  # noqa: E741

STARTS_AT_ONCE = 64
"""How many runs are created at a time: enough to fill a batch of appends, few enough to bound memory."""


async def started_in_order(
    start: Callable[[I, str | None], Awaitable[RunHandle[O]]],
    inputs: Iterable[I],
    key_of: Callable[[I], str] | None,
) -> list[RunHandle[O]]:
    """Start a run for each input and return the handles in their order; see `Client.start_many`."""
    if key_of is not None and not callable(key_of):
        raise InvalidCommand(
            f"idempotency_key of start_many must be a function of an input, not {type(key_of).__name__}.",
            field="idempotency_key",
            hint="For example: idempotency_key=lambda document: document.path",
        )
    handles: list[RunHandle[O] | None] = []
    errors: dict[int, Exception] = {}
    source: Iterator[Any] = iter(inputs)

    async def work() -> None:
        position = len(handles)
        try:
            for value in source:
                position = len(handles)
                handles.append(None)
                handles[position] = await start(value, None if key_of is None else key_of(value))
                if errors:
                    return
                position = len(handles)
        except Exception as error:  # noqa: BLE001 - raised bare below, not in an exception group
            errors.setdefault(position, error)

    async with anyio.create_task_group() as tasks:
        for _ in range(STARTS_AT_ONCE):
            tasks.start_soon(work)
    if errors:
        position = min(errors)
        errors[position].add_note(f"It is about inputs[{position}] of start_many.")
        raise errors[position]
    return [handle for handle in handles if handle is not None]
