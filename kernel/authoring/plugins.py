"""Plugins: functions that are told what happened, after it happened.

A plugin watches and cannot change a run. It may be told the same event twice (delivery is at least once), so it should
be able to bear that. How plugins are called, retried and given up is not known here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from kernel.authoring.identifiers import IDENTIFIER_RULE, identifier_problem
from kernel.authoring.signatures import returns_awaitable
from kernel.errors import InvalidCommand
from kernel.events import Event, EventType, event_types

__all__ = ["Plugin", "plugin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A function and the types of the events that it is told; `id` names it in deliveries and dead letters."""

    id: str
    on: frozenset[EventType]
    handle: Callable[[Event], Awaitable[None]]


def plugin(id: str, *, on: Iterable[EventType]) -> Callable[[Callable[[Event], Awaitable[None]]], Plugin]:
    """Make a plugin of an async function of one event: `@plugin("audit", on=["run.completed"])`.

    Raises: InvalidCommand for an id that is not allowed, no or unknown event types, those that are live only, or a
    function that is not async.
    """
    problem = identifier_problem(id)
    if problem is not None:
        raise InvalidCommand(f"Plugin {id!r}: its id {problem}.", field="id", hint=IDENTIFIER_RULE)
    types = event_types(f'Plugin "{id}"', on, field="on")

    def decorate(handle: Callable[[Event], Awaitable[None]]) -> Plugin:
        if not returns_awaitable(handle):
            raise InvalidCommand(
                f'Plugin "{id}": {handle!r} is not an async function.',
                field="plugin",
                hint='Write "async def" and take one event.',
            )
        return Plugin(id=id, on=types, handle=handle)

    return decorate
