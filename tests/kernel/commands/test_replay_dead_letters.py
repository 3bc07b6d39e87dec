"""`plugin.replayDLQ`."""

from __future__ import annotations

import pytest

from kernel import Event, PluginRunner, plugin
from kernel.commands.create_run import CreateRun
from kernel.commands.flush_outbox import FlushOutbox
from kernel.commands.replay_dead_letters import ReplayDeadLetters, ReplayDeadLettersResult
from kernel.errors import InvalidCommand
from tests.kernel.by_hand import Hands
from tests.kernel.definitions import Doc, single


class Audited:
    """A plugin that fails while it is `broken`."""

    def __init__(self) -> None:
        self.broken = True
        self.told: list[str] = []

        @plugin("audit", on=["run.created"])
        async def audit(event: Event) -> None:
            if self.broken:
                raise ValueError("no")
            self.told.append(event.run_id)

        self.hands = Hands(single, event_sink=PluginRunner([audit], max_retries=1))

    def a_dead_letter(self) -> str:
        run_id = self.hands.dispatch(CreateRun(workflow_id="single", input=Doc(path="a.txt"))).run_id
        self.hands.dispatch(FlushOutbox())
        return run_id

    def replay(self, max_events: int = 100) -> int:
        return self.hands.dispatch(ReplayDeadLetters(max_events=max_events)).replayed


def test_replayed_events_are_published_by_the_next_flush() -> None:
    audited = Audited()
    runs = [audited.a_dead_letter() for _ in range(2)]
    audited.broken = False

    assert audited.replay() == 2
    assert audited.told == []
    audited.hands.dispatch(FlushOutbox())

    assert audited.told == runs
    assert audited.hands.store.dead == []


def test_no_more_are_replayed_than_asked_for() -> None:
    audited = Audited()
    for _ in range(3):
        audited.a_dead_letter()

    assert [audited.replay(2), audited.replay(2), audited.replay(2)] == [2, 1, 0]


def test_without_dead_letters_there_is_nothing_to_replay() -> None:
    assert Hands(single).dispatch(ReplayDeadLetters()) == ReplayDeadLettersResult(replayed=0)


def test_an_event_that_fails_again_is_a_dead_letter_again() -> None:
    audited = Audited()
    run_id = audited.a_dead_letter()
    audited.replay()

    audited.hands.dispatch(FlushOutbox())

    assert [(letter.run_id, letter.seq) for letter in audited.hands.store.dead] == [(run_id, 1)]


def test_a_bound_below_one_is_refused() -> None:
    with pytest.raises(InvalidCommand, match="max_events must be at least 1") as refused:
        ReplayDeadLetters(max_events=0)

    assert refused.value.field == "max_events"
