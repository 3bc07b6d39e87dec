from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kernel import Event, EventSink, InvalidCommand, Plugin, PluginRunner, plugin
from kernel.events import RunCancelled, RunStarted
from kernel.ports.sinks import FanOut, subscriptions_of
from tests.kernel.by_hand import drive

CANCELLED = RunCancelled(run_id="r", seq=3, at=datetime(2025, 1, 1, tzinfo=UTC))
STARTED = RunStarted(run_id="r", seq=2, at=datetime(2025, 1, 1, tzinfo=UTC))


class Plugins:
    """Two plugins that note what they are told; those in `sick` fail."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.sick: set[str] = set()

    def make(self, id: str) -> Plugin:
        @plugin(id, on=["run.cancelled"])
        async def note(event: Event) -> None:
            self.told.append((id, event.seq))
            if id in self.sick:
                raise ValueError(id)

        return note


def test_every_plugin_that_wants_an_event_is_told_in_their_order() -> None:
    plugins = Plugins()
    runner = PluginRunner([plugins.make("b"), plugins.make("a")])

    drive(runner.publish(CANCELLED))

    assert plugins.told == [("b", 3), ("a", 3)]


def test_an_event_that_nobody_wants_is_taken() -> None:
    plugins = Plugins()

    drive(PluginRunner([plugins.make("a")]).publish(STARTED))

    assert plugins.told == []


def test_what_a_plugin_raises_comes_out_after_the_others_have_been_told() -> None:
    plugins = Plugins()
    runner = PluginRunner([plugins.make("a"), plugins.make("b")])
    plugins.sick = {"a"}

    with pytest.raises(ValueError, match="a"):
        drive(runner.publish(CANCELLED))

    assert plugins.told == [("a", 3), ("b", 3)]


def test_given_the_same_event_again_it_tells_only_those_that_failed() -> None:
    plugins = Plugins()
    runner = PluginRunner([plugins.make("a"), plugins.make("b")])
    plugins.sick = {"a"}
    with pytest.raises(ValueError, match="a"):
        drive(runner.publish(CANCELLED))
    plugins.sick.clear()

    drive(runner.publish(CANCELLED))

    assert plugins.told == [("a", 3), ("b", 3), ("a", 3)]


def test_it_tries_three_times_unless_told_otherwise() -> None:
    plugins = [Plugins().make("a")]

    assert [part.max_retries for part in PluginRunner(plugins).subscriptions()] == [3]
    assert [part.max_retries for part in PluginRunner(plugins, 7).subscriptions()] == [7]


def test_it_is_an_event_sink_of_one_part_per_plugin() -> None:
    runner = PluginRunner([Plugins().make("a"), Plugins().make("b")])

    assert isinstance(runner, EventSink)
    assert isinstance(runner, FanOut)
    assert [part.name for part in subscriptions_of(runner)] == ["a", "b"]


def test_two_plugins_of_one_id_are_refused_with_both_their_positions() -> None:
    plugins = Plugins()

    with pytest.raises(InvalidCommand, match='Plugin "a" is listed twice, at positions 1 and 3'):
        PluginRunner([plugins.make("a"), plugins.make("b"), plugins.make("a")])
