from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from kernel import Event, InvalidCommand, Sink, Subscription
from kernel.ports.sinks import subscriptions_of
from kernel.publishing import record_of


class Nowhere:
    async def publish(self, event: Event, /) -> None: ...


def test_a_bare_sink_has_one_name_and_wants_everything() -> None:
    sink = Nowhere()

    (only,) = subscriptions_of(sink)

    assert (only.name, only.sink, only.events) == ("events", sink, None)
    assert subscriptions_of(None) == ()


def test_a_sink_that_is_opened_keeps_its_bounds() -> None:
    sink = Sink(
        name="hook",
        open=Nowhere,
        events=frozenset({"run.completed"}),
        max_retries=9,
        backoff=timedelta(seconds=2),
        timeout=timedelta(seconds=3),
        at_once=4,
    )

    opened = sink.opened(Nowhere())

    assert (opened.name, opened.events, opened.max_retries) == ("hook", {"run.completed"}, 9)
    assert (opened.backoff, opened.timeout, opened.at_once) == (timedelta(seconds=2), timedelta(seconds=3), 4)
    assert record_of(opened).events == ("run.completed",)


@pytest.mark.parametrize(
    "bound, value",
    [
        ("name", ""),
        ("name", "a\0b"),
        ("max_retries", 0),
        ("at_once", 0),
        ("backoff", -timedelta(seconds=1)),
        ("timeout", timedelta(0)),
    ],
)
def test_a_bound_that_makes_no_sense_is_refused_by_name(bound: str, value: object) -> None:
    fields = {"name": "hook", bound: value}

    with pytest.raises(InvalidCommand, match=f"^Sink.{bound} must"):
        Sink(open=Nowhere, **fields)  # type: ignore[arg-type]
    with pytest.raises(InvalidCommand, match=f"^Subscription.{bound} must"):
        Subscription(sink=Nowhere(), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("events", [["run.complete"], ["log"], ["run.completed", "stage.progress"], []])
def test_events_that_can_never_be_given_are_refused(events: list[Any]) -> None:
    with pytest.raises(InvalidCommand, match=r'Sink "hook": .*Events: run\.created') as refused:
        Sink(name="hook", open=Nowhere, events=frozenset(events))

    assert refused.value.field == "events"
