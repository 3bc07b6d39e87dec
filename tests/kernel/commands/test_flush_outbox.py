"""`outbox.flush`, and with it everything that giving events to sinks is about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from kernel import Event, PluginRunner, Subscription, plugin
from kernel.commands.cancel_run import CancelRun
from kernel.commands.create_run import CreateRun
from kernel.commands.execute_job import ExecuteJob
from kernel.commands.flush_outbox import FlushOutbox, FlushOutboxResult
from kernel.errors import BlobNotFound, InvalidCommand, NonRetryable, RetryAfter, Unavailable
from kernel.model.facts import FORMAT
from kernel.payloads import Limits
from kernel.publishing import publish_to
from tests.kernel.by_hand import Hands, drive
from tests.kernel.definitions import Doc, single

SECOND = timedelta(seconds=1)


@dataclass
class Told:
    """A sink that remembers what it took, and refuses what `refuse` has an error for."""

    refuse: Callable[[Event], Exception | None] = lambda _event: None
    taken: list[Event] = field(default_factory=list[Event])
    asked: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])

    async def publish(self, event: Event, /) -> None:
        self.asked.append((event.run_id, event.seq))
        error = self.refuse(event)
        if error is not None:
            raise error
        self.taken.append(event)

    def seqs(self, run_id: str) -> list[int]:
        return [event.seq for event in self.taken if event.run_id == run_id]


@dataclass
class Several:
    """A sink that consists of others."""

    parts: Sequence[Subscription]

    def subscriptions(self) -> Sequence[Subscription]:
        return self.parts

    async def publish(self, event: Event, /) -> None:
        raise AssertionError


def hands_for(*sinks: Told, **options: object) -> Hands:
    parts = [Subscription(name=f"sink {n}", sink=sink, **options) for n, sink in enumerate(sinks)]  # type: ignore[arg-type]
    return Hands(single, event_sink=Several(parts))


def a_run(hands: Hands, *, completed: bool = False) -> str:
    run_id = hands.dispatch(CreateRun(workflow_id="single", input=Doc(path="a.txt"))).run_id
    if completed:
        hands.dispatch(ExecuteJob(run_id=run_id, stage_id="extract"))
    return run_id


def flush(hands: Hands, max_events: int = 100) -> int:
    return hands.dispatch(FlushOutbox(max_events=max_events)).published


def failing(*seqs: int, error: Exception | None = None) -> Callable[[Event], Exception | None]:
    return lambda event: (error or ValueError("no")) if event.seq in seqs else None


# -- what arrives ------------------------------------------------------------------------------------------------------


def test_nothing_reaches_a_sink_before_it_is_flushed() -> None:
    sink = Told()
    hands = Hands(single, event_sink=sink)

    run_id = a_run(hands, completed=True)
    assert sink.taken == []
    flush(hands)

    assert sink.seqs(run_id) == list(range(1, hands.state(run_id).seq + 1))


def test_events_come_in_order_and_once_with_what_everybody_may_see() -> None:
    sink = Told()
    hands = Hands(single, event_sink=sink)
    run_id = a_run(hands, completed=True)

    assert [flush(hands), flush(hands)] == [len(sink.taken), 0]

    assert [event.type for event in sink.taken] == [fact.type for fact in hands.facts(run_id)]
    completed = sink.taken[-1]
    assert (completed.type, getattr(completed, "output", None)) == ("run.completed", {"words": 3})


def test_the_output_of_a_run_is_found_when_only_its_end_is_owed() -> None:
    sink = Told()
    hands = Hands(single, event_sink=sink)
    hands.store.pieces = 1
    run_id = a_run(hands, completed=True)

    while flush(hands):
        pass

    assert sink.seqs(run_id) == list(range(1, hands.state(run_id).seq + 1))
    assert getattr(sink.taken[-1], "output", None) == {"words": 3}


def test_large_payloads_are_fetched() -> None:
    sink = Told()
    hands = Hands(single, event_sink=sink, limits=Limits(payload_inline_bytes_max=1))
    a_run(hands, completed=True)

    flush(hands)

    (output,) = [getattr(event, "output", None) for event in sink.taken if event.type == "stage.completed"]
    assert output == {"words": 3}


def test_no_more_events_are_given_than_asked_for_and_the_next_flush_goes_on() -> None:
    sink = Told()
    hands = Hands(single, event_sink=sink)
    run_id = a_run(hands, completed=True)
    last = hands.state(run_id).seq

    assert flush(hands, 2) == 2
    assert sink.seqs(run_id) == [1, 2]
    assert flush(hands) == last - 2

    assert sink.seqs(run_id) == list(range(1, last + 1))


def test_every_sink_is_told_and_only_of_what_it_wants() -> None:
    everything, ends = Told(), Told()
    both = Several(
        [
            Subscription(name="everything", sink=everything),
            Subscription(name="ends", sink=ends, events=frozenset({"run.completed"})),
        ]
    )
    hands = Hands(single, event_sink=both)
    a_run(hands, completed=True)

    published = flush(hands)

    assert [event.type for event in ends.taken] == ["run.completed"]
    assert published == len(everything.taken) + 1


def test_many_runs_are_all_flushed() -> None:
    sink = Told()
    hands = Hands(single, event_sink=sink)
    runs = [a_run(hands) for _ in range(150)]

    assert flush(hands, 1000) == 150

    assert sorted(event.run_id for event in sink.taken) == sorted(runs)


def test_without_a_sink_there_is_nothing_to_publish() -> None:
    hands = Hands(single)
    a_run(hands)

    assert hands.dispatch(FlushOutbox()) == FlushOutboxResult(published=0)
    assert hands.store.sinks == {}


def test_a_bound_below_one_is_refused() -> None:
    with pytest.raises(InvalidCommand, match="max_events must be at least 1") as refused:
        FlushOutbox(max_events=0)

    assert refused.value.field == "max_events"


# -- what fails --------------------------------------------------------------------------------------------------------


def test_a_failing_event_holds_back_the_later_ones_of_its_run_and_no_other_run() -> None:
    sink = Told()
    hands = hands_for(sink)
    bad, good = a_run(hands, completed=True), a_run(hands, completed=True)
    sink.refuse = lambda event: ValueError("no") if (event.run_id, event.seq) == (bad, 2) else None

    published = flush(hands)

    assert (sink.seqs(bad), sink.seqs(good)) == ([1], list(range(1, hands.state(good).seq + 1)))
    assert published == len(sink.taken)


def test_a_failed_event_is_tried_again_after_a_pause_that_doubles() -> None:
    sink = Told(refuse=failing(1))
    hands = hands_for(sink, max_retries=5)
    a_run(hands)

    tries: list[float] = []
    for second in range(8):
        hands.clock.time += SECOND
        before = len(sink.asked)
        flush(hands)
        tries += [second] * (len(sink.asked) - before)

    assert tries == [0, 1, 3, 7]


def test_after_a_failure_the_run_goes_on_where_it_stopped() -> None:
    sink = Told(refuse=failing(2))
    hands = hands_for(sink)
    run_id = a_run(hands, completed=True)
    flush(hands)
    sink.refuse = lambda _event: None
    hands.clock.time += SECOND

    flush(hands)

    assert sink.seqs(run_id) == list(range(1, hands.state(run_id).seq + 1))


def test_a_failing_sink_does_not_make_the_others_see_an_event_again() -> None:
    sound, sick = Told(), Told(refuse=failing(1))
    hands = hands_for(sound, sick)
    run_id = a_run(hands)
    for _ in range(10):
        flush(hands)
        hands.clock.time += SECOND

    assert sound.asked == [(run_id, 1)]
    assert sick.asked == [(run_id, 1)] * 3


def test_an_event_that_fails_too_often_is_a_dead_letter_and_the_run_goes_on_behind_it() -> None:
    sink = Told(refuse=failing(2))
    hands = hands_for(sink)
    run_id = a_run(hands, completed=True)
    for _ in range(5):
        flush(hands)
        hands.clock.time += timedelta(minutes=1)

    last = hands.state(run_id).seq
    assert sink.seqs(run_id) == [1, *range(3, last + 1)]
    (letter,) = hands.store.dead
    assert (letter.run_id, letter.seq, letter.sink, letter.tries) == (run_id, 2, "sink 0", 3)
    assert letter.error == "ValueError: no"


def test_what_will_never_work_is_a_dead_letter_at_once() -> None:
    sink = Told(refuse=failing(1, error=NonRetryable("gone")))
    hands = hands_for(sink)
    run_id = a_run(hands, completed=True)

    flush(hands)

    assert sink.seqs(run_id) == list(range(2, hands.state(run_id).seq + 1))
    assert [(letter.seq, letter.tries) for letter in hands.store.dead] == [(1, 1)]


def test_a_sink_says_how_long_to_wait() -> None:
    sink = Told(refuse=failing(1, error=RetryAfter(30)))
    hands = hands_for(sink)
    a_run(hands)
    flush(hands)

    hands.clock.time += timedelta(seconds=29)
    flush(hands)
    assert len(sink.asked) == 1
    hands.clock.time += SECOND
    flush(hands)

    assert len(sink.asked) == 2


def test_an_error_that_no_store_could_keep_is_kept_as_far_as_it_can_be() -> None:
    sink = Told(refuse=failing(1, error=NonRetryable("\0 \ud800" + "x" * 5000)))
    hands = hands_for(sink)
    a_run(hands)

    flush(hands)

    (letter,) = hands.store.dead
    assert letter.error.startswith("NonRetryable: \ufffd ?x")
    assert len(letter.error) == 2000


@pytest.mark.parametrize("trouble", [Unavailable("it is out of reach"), OSError("unplugged"), BlobNotFound("runs/1")])
def test_a_payload_that_cannot_be_read_is_waited_for_without_counting_against_the_sink(trouble: Exception) -> None:
    sink = Told()
    hands = Hands(single, event_sink=Several([Subscription(name="sink", sink=sink, max_retries=1)]))
    hands.limits = Limits(payload_inline_bytes_max=1)
    run_id = a_run(hands, completed=True)
    found = hands.blobs.get

    async def away(_key: str, /) -> bytes:
        raise trouble

    hands.blobs.get = away  # type: ignore[method-assign]
    for _ in range(4):
        flush(hands)
        hands.clock.time += timedelta(minutes=5)
    hands.blobs.get = found  # type: ignore[method-assign]
    flush(hands)

    assert sink.seqs(run_id) == list(range(1, hands.state(run_id).seq + 1))
    assert hands.store.dead == []


def test_a_payload_that_is_not_there_is_looked_for_at_growing_intervals() -> None:
    hands = Hands(single, event_sink=Several([Subscription(name="sink", sink=Told(), max_retries=1)]))
    hands.limits = Limits(payload_inline_bytes_max=1)
    a_run(hands, completed=True)
    asked: list[datetime] = []

    async def lost(key: str, /) -> bytes:
        asked.append(hands.clock.time)
        raise BlobNotFound(key)

    hands.blobs.get = lost  # type: ignore[method-assign]
    for _ in range(600):
        flush(hands)
        hands.clock.time += SECOND

    assert 4 <= len(asked) <= 12


def test_events_of_a_newer_release_are_left_to_it() -> None:
    sink = Told()
    hands = hands_for(sink)
    run_id = a_run(hands)
    row = hands.store.runs[run_id].rows[0]
    newer = row.events.replace(b"run.created", b"run.conjured")
    hands.store.runs[run_id].format = FORMAT + 1
    hands.store.runs[run_id].rows[0] = type(row)(
        first_seq=1, seq=1, append_id=row.append_id, session_id=None, at=row.at, events=newer, bodies=row.bodies
    )
    for _ in range(10):
        flush(hands)
        hands.clock.time += SECOND

    assert sink.asked == []
    assert hands.store.dead == []
    assert len(hands.store.owed) == 1


# -- how long ----------------------------------------------------------------------------------------------------------


def test_no_try_is_begun_when_half_of_the_claim_has_passed() -> None:
    sink = Told()
    hands = hands_for(sink, timeout=timedelta(seconds=10))
    runs = [a_run(hands) for _ in range(3)]
    flush_one, sink.refuse = Subscription(name="sink 0", sink=sink), slowly(hands, timedelta(seconds=15))
    hands.dispatch(FlushOutbox(max_events=1))
    sink.asked.clear()

    drive(hands.store.spread(10))
    done = drive(publish_to(flush_one, hands.kernel().ports, max_events=100))

    assert len(sink.asked) == 1
    assert (done.taken, done.claimed) == (1, 2)
    assert len({run_id for run_id, _ in sink.asked} & set(runs)) == 1


def slowly(hands: Hands, takes: timedelta) -> Callable[[Event], None]:
    def refuse(_event: Event) -> None:
        hands.clock.time += takes

    return refuse


def test_who_is_told_to_stop_writes_down_what_was_taken() -> None:
    sink = Told()
    hands = hands_for(sink)
    run_id = a_run(hands, completed=True)
    hands.dispatch(FlushOutbox(max_events=1))
    sink_again = Subscription(name="sink 0", sink=sink)

    drive(publish_to(sink_again, hands.kernel().ports, max_events=100, go_on=lambda: len(sink.taken) < 3))
    flush(hands)

    assert sink.seqs(run_id) == list(range(1, hands.state(run_id).seq + 1))


# -- plugins -----------------------------------------------------------------------------------------------------------


def test_each_plugin_of_a_runner_is_a_sink_of_its_own() -> None:
    told: list[str] = []

    @plugin("sick", on=["run.created"])
    async def sick(event: Event) -> None:
        told.append(f"sick {event.type}")
        raise ValueError

    @plugin("sound", on=["run.created", "run.cancelled"])
    async def sound(event: Event) -> None:
        told.append(f"sound {event.type}")

    hands = Hands(single, event_sink=PluginRunner([sick, sound], max_retries=2))
    run_id = a_run(hands)
    hands.dispatch(CancelRun(run_id=run_id))
    for _ in range(5):
        flush(hands)
        hands.clock.time += SECOND

    assert sorted(told) == ["sick run.created"] * 2 + ["sound run.cancelled", "sound run.created"]
    assert [(letter.sink, letter.seq) for letter in hands.store.dead] == [("sick", 1)]
