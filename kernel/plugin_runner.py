"""Plugins as sinks, each by itself: one that fails does not make the others see an event again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from kernel.authoring.plugins import Plugin
from kernel.errors import InvalidCommand
from kernel.events import Event
from kernel.ports.sinks import Subscription

__all__ = ["PluginRunner"]

REMEMBERED_MAX = 10_000
"""Events that only some of the plugins have taken; beyond, the oldest is forgotten, and its plugins see it again."""


class PluginRunner:
    """An event sink of plugins: `Kernel(..., event_sink=PluginRunner([audit, notify]))`.

    A kernel serves each plugin as a sink of its own, named by the plugin's id: an event that a plugin refuses is tried
    `max_retries` times, first after `backoff`, and then becomes a dead letter of this plugin.

    Raises: InvalidCommand, when two plugins have the same id, naming their positions.
    """

    def __init__(
        self, plugins: Sequence[Plugin], max_retries: int = 3, *, backoff: timedelta = timedelta(seconds=1)
    ) -> None:
        self.plugins: tuple[Plugin, ...] = tuple(plugins)
        self.max_retries = max_retries
        self.backoff = backoff
        self._taken: dict[tuple[str, int], set[str]] = {}
        first: dict[str, int] = {}
        for position, plugin in enumerate(self.plugins, start=1):
            if plugin.id in first:
                raise InvalidCommand(
                    f'Plugin "{plugin.id}" is listed twice, at positions {first[plugin.id]} and {position}.',
                    field="plugins",
                    hint="List it once, or give one of them another id.",
                )
            first[plugin.id] = position

    def subscriptions(self) -> Sequence[Subscription]:
        """One for each plugin, in their order."""
        return [
            Subscription(
                name=plugin.id,
                sink=_One(plugin),
                events=plugin.on,
                max_retries=self.max_retries,
                backoff=self.backoff,
            )
            for plugin in self.plugins
        ]

    async def publish(self, event: Event, /) -> None:
        """Tell every plugin that asked for this kind of event, in their order, also those behind one that fails.

        Given the same event again, it tells only those that have failed, as far as this object remembers. Raises: what
        the first of them raised.
        """
        key = (event.run_id, event.seq)
        taken = self._taken.get(key, set())
        failures: list[Exception] = []
        for plugin in self.plugins:
            if event.type in plugin.on and plugin.id not in taken:
                try:
                    await plugin.handle(event)
                except Exception as error:  # noqa: BLE001 - raised below, after the others have been told
                    failures.append(error)
                else:
                    taken.add(plugin.id)
        self._taken.pop(key, None)
        if failures:
            self._remember(key, taken)
            raise failures[0]

    def _remember(self, key: tuple[str, int], taken: set[str]) -> None:
        self._taken[key] = taken
        if len(self._taken) > REMEMBERED_MAX:
            del self._taken[next(iter(self._taken))]


@dataclass(frozen=True, slots=True)
class _One:
    """One plugin as a sink."""

    plugin: Plugin

    async def publish(self, event: Event, /) -> None:
        if event.type in self.plugin.on:
            await self.plugin.handle(event)
