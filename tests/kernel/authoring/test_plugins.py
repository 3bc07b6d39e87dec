from __future__ import annotations

import functools

import pytest

from kernel import Event, InvalidCommand, plugin


async def note(event: Event) -> None: ...


def test_a_plugin_is_a_function_with_an_id_and_events() -> None:
    audit = plugin("audit", on=["run.completed", "run.failed", "run.completed"])(note)

    assert (audit.id, audit.on, audit.handle) == ("audit", {"run.completed", "run.failed"}, note)


@pytest.mark.parametrize(
    "on, complaint",
    [
        (["run.complete"], "no event 'run.complete'.*Events: .*run.completed"),
        (["run.completed", "x", "y"], "no event 'x', 'y'"),
        (["run.completed", "log"], "'log' cannot arrive"),
        ([], "names no event"),
        ("run.completed", r'Write on=\["run.completed"\]'),
    ],
)
def test_events_that_do_not_exist_are_refused_at_decoration(on, complaint) -> None:
    with pytest.raises(InvalidCommand, match=f'Plugin "audit": .*{complaint}'):
        plugin("audit", on=on)


def test_an_id_with_the_wrong_letters_is_refused() -> None:
    with pytest.raises(InvalidCommand, match="its id"):
        plugin("an audit", on=["run.completed"])


def test_a_plugin_must_be_async() -> None:
    with pytest.raises(InvalidCommand, match=r'not an async function.*"async def"'):
        plugin("audit", on=["run.completed"])(lambda _event: None)


def test_a_wrapped_async_function_is_a_plugin() -> None:
    @functools.wraps(note)
    async def wrapped(event: Event) -> None: ...

    assert plugin("audit", on=["run.completed"])(wrapped).handle is wrapped


def test_what_is_offered_instead_can_arrive() -> None:
    with pytest.raises(InvalidCommand) as refused:
        plugin("audit", on=["stage.progress"])

    offered = (refused.value.hint or "").removeprefix("Events: ").rstrip(".").split(", ")
    assert "stage.completed" in offered
    assert {"stage.progress", "log"}.isdisjoint(offered)
