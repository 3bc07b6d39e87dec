"""What is appended is owed to every sink, claimed by one process at a time, and settled or put aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from anyio import create_task_group

from adapters.conformance.store.builders import KnownRun, annotating, cancelling, completing, starting
from adapters.conformance.store.worlds import LONG, World
from kernel.ports.outbox import DeadLetter, Delivery, Refused, Settlement, SinkRecord

pytestmark: pytest.MarkDecorator = pytest.mark.anyio

Seqs = list[tuple[str, int, int]]


@pytest.fixture
async def sink(world: World) -> AsyncIterator[str]:
    """The only sink; it is owed nothing of what other tests have left."""
    name = f"sink-{uuid4().hex[:8]}"
    for stale in await world.store.list_sinks():
        await world.store.forget_sink(stale.name)
    await spread(world)
    await world.store.register_sinks([SinkRecord(name=name)])
    yield name
    await world.store.forget_sink(name)


async def spread(world: World) -> int:
    moved = 0
    while now := await world.store.spread(50):
        moved += now
    return moved


async def owed(world: World, sink: str, *, limit: int = 100, lease: timedelta = LONG) -> Sequence[Delivery]:
    return await world.store.claim_deliveries(sink, limit, lease=lease)


def settled(delivery: Delivery, **fields: Any) -> Settlement:
    return replace(Settlement(delivery=delivery, next_seq=delivery.last_seq + 1), **fields)


def ranges(deliveries: Sequence[Delivery]) -> Seqs:
    return sorted((delivery.run_id, delivery.next_seq, delivery.last_seq) for delivery in deliveries)


async def letters(world: World, sink: str) -> list[DeadLetter]:
    page = await world.store.list_dead_letters(limit=1000)
    return [letter for letter in page.letters if letter.sink == sink]


async def a_dead_letter(world: World, sink: str, *, run: KnownRun | None = None) -> KnownRun:
    run = run or await world.create()
    await spread(world)
    (delivery,) = await owed(world, sink)
    await world.store.settle([settled(delivery, dead=[Refused(seq=1, tries=3, error="ValueError: no")])])
    return run


# -- what is owed ------------------------------------------------------------------------------------------------------


async def test_a_new_run_is_owed_to_every_sink_with_its_appends(world: World, sink: str) -> None:
    other = f"{sink}-other"
    await world.other.register_sinks([SinkRecord(name=other, events=["run.completed"])])
    run = await world.create()

    assert await spread(world) == 1

    for name in (sink, other):
        (delivery,) = await owed(world, name)
        assert (delivery.run_id, delivery.next_seq, delivery.last_seq) == (run.id, 1, 1)
        assert (delivery.sink, delivery.replayed, delivery.tries) == (name, 0, 0)
        assert delivery.rows == (await world.store.load(run.id)).rows
    await world.store.forget_sink(other)


async def test_nothing_is_owed_before_it_is_spread(world: World, sink: str) -> None:
    await world.create()

    assert await owed(world, sink) == []


async def test_what_is_spread_is_not_spread_again(world: World, sink: str) -> None:
    await world.create()

    assert [await spread(world), await spread(world)] == [1, 0]


async def test_every_kind_of_append_is_owed(world: World, sink: str) -> None:
    owner = await world.session()
    owned, foreign, ended = await world.started(owner), await world.create(), await world.create()
    await spread(world)
    await owned.land(world.store, owned.owned(completing))
    await world.adds(foreign, annotating)
    await world.adds(ended, cancelling)

    assert await spread(world) == 3

    assert ranges(await owed(world, sink)) == sorted((run.id, 1, run.state.seq) for run in (owned, foreign, ended))


async def test_a_release_is_no_news(world: World, sink: str) -> None:
    run = await world.started(await world.session())
    await spread(world)

    await world.store.append(run.release())

    assert await spread(world) == 0


async def test_without_sinks_nothing_is_marked(world: World, sink: str) -> None:
    await world.store.forget_sink(sink)
    run = await world.started(await world.session())
    await run.land(world.store, run.owned(completing))

    await world.store.register_sinks([SinkRecord(name=sink)])

    assert await spread(world) == 0


async def test_a_run_that_was_never_published_is_owed_from_its_beginning(world: World, sink: str) -> None:
    await world.store.forget_sink(sink)
    run = await world.create()
    await world.store.register_sinks([SinkRecord(name=sink)])
    await world.adds(run, annotating)

    await spread(world)

    assert ranges(await owed(world, sink)) == [(run.id, 1, 2)]


async def test_a_later_sink_is_owed_what_comes_after(world: World, sink: str) -> None:
    run, later = await world.create(), f"{sink}-later"
    await spread(world)
    await world.store.register_sinks([SinkRecord(name=later)])
    await world.adds(run, annotating)

    await spread(world)

    assert ranges(await owed(world, later)) == [(run.id, 2, 2)]
    assert ranges(await owed(world, sink)) == [(run.id, 1, 2)]
    await world.store.forget_sink(later)


async def test_the_news_that_wait_longest_are_spread_first(world: World, sink: str) -> None:
    # Minted in the opposite order: ids are no measure of how long somebody waits.
    now = world.now()
    runs: list[KnownRun] = []
    for n in range(3):
        runs.append(await world.create(minted=now - timedelta(seconds=n)))
        await world.a_little()

    found: list[str] = []
    for _ in runs:
        assert await world.store.spread(1) == 1
        found += [delivery.run_id for delivery in await owed(world, sink)]

    assert found == [run.id for run in runs]


async def test_a_long_history_is_owed_in_pieces(world: World, sink: str) -> None:
    run = await world.create()
    for _ in range(60):
        await world.adds(run, annotating)
    await spread(world)

    (delivery,) = await owed(world, sink)
    came = delivery.rows[-1].seq
    await world.store.settle([settled(delivery, next_seq=came + 1)])
    (rest,) = await owed(world, sink)

    assert (delivery.last_seq, came < 61) == (61, True)
    assert [row.first_seq for row in rest.rows] == list(range(came + 1, 62))


# -- claims ------------------------------------------------------------------------------------------------------------


async def test_a_claimed_delivery_is_nobody_elses(world: World, sink: str) -> None:
    await world.create()
    await spread(world)

    assert [len(await owed(world, sink)), len(await world.other.claim_deliveries(sink, 10, lease=LONG))] == [1, 0]


async def test_a_delivery_is_due_again_when_its_claim_has_ended(world: World, sink: str) -> None:
    run = await world.create()
    await spread(world)
    await owed(world, sink, lease=timedelta(milliseconds=100))

    (again,) = await world.until(lambda: owed(world, sink))

    assert again.run_id == run.id


async def test_who_has_lost_the_claim_settles_nothing(world: World, sink: str) -> None:
    run = await world.create()
    await spread(world)
    (lost,) = await owed(world, sink, lease=timedelta(milliseconds=100))
    (mine,) = await world.until(lambda: owed(world, sink))

    await world.store.settle([settled(lost, dead=[Refused(seq=1, tries=3, error="late")])])

    assert await letters(world, sink) == []
    await world.store.settle([settled(mine, next_seq=1, tries=2)])
    (again,) = await owed(world, sink)
    assert (again.run_id, again.next_seq, again.tries) == (run.id, 1, 2)


async def test_no_more_are_claimed_than_asked_for_those_that_are_due_longest_first(world: World, sink: str) -> None:
    runs: list[KnownRun] = []
    for _ in range(3):
        runs.append(await world.create())
        await spread(world)
        await world.a_little()

    found = [delivery.run_id for _ in range(2) for delivery in await owed(world, sink, limit=2)]

    assert sorted(found[:2]) == sorted(run.id for run in runs[:2])
    assert found[2:] == [runs[2].id]


async def test_each_delivery_is_claimed_by_one_of_those_who_ask_at_once(world: World, sink: str) -> None:
    runs = [await world.create() for _ in range(20)]
    taken: Counter[str] = Counter()

    async def serve(n: int) -> None:
        store = world.store if n % 2 else world.other
        for _ in range(10):
            await store.spread(3)
            claimed = await store.claim_deliveries(sink, 3, lease=LONG)
            taken.update(delivery.run_id for delivery in claimed)
            await store.settle([settled(delivery) for delivery in claimed])

    async with create_task_group() as group:
        for n in range(6):
            group.start_soon(serve, n)

    assert taken == Counter({run.id: 1 for run in runs})


# -- settling ----------------------------------------------------------------------------------------------------------


async def test_what_is_settled_whole_is_owed_no_more(world: World, sink: str) -> None:
    await world.create()
    await spread(world)

    await world.store.settle([settled(delivery) for delivery in await owed(world, sink)])

    assert await owed(world, sink) == []
    (record,) = [record for record in await world.store.list_sinks() if record.name == sink]
    assert record.owed == 0


async def test_what_failed_waits_for_its_time_with_its_count(world: World, sink: str) -> None:
    run = await world.create()
    await world.adds(run, annotating)
    await spread(world)
    (delivery,) = await owed(world, sink)

    failed = settled(delivery, next_seq=2, tries=1, delay=timedelta(milliseconds=200), error="OSError: away")
    await world.store.settle([failed])

    assert await owed(world, sink) == []
    (again,) = await world.until(lambda: owed(world, sink))
    assert (again.next_seq, again.last_seq, again.tries) == (2, 2, 1)


async def test_what_is_spread_during_a_claim_is_owed_after_it(world: World, sink: str) -> None:
    run = await world.create()
    await spread(world)
    (delivery,) = await owed(world, sink)
    await world.adds(run, annotating)
    await spread(world)

    assert await owed(world, sink) == []
    await world.store.settle([settled(delivery)])

    assert ranges(await owed(world, sink)) == [(run.id, 2, 2)]


async def test_news_and_settlements_at_the_same_time_lose_no_event(world: World, sink: str) -> None:
    runs = [await world.create(change=starting) for _ in range(3)]
    seen: dict[str, list[int]] = {run.id: [] for run in runs}

    async def append(run: KnownRun) -> None:
        for _ in range(15):
            await world.adds(run, annotating)

    async def serve(n: int) -> None:
        store = world.store if n % 2 else world.other
        while sum(map(len, seen.values())) < sum(run.state.seq for run in runs) or not done:
            await store.spread(10)
            claimed = await store.claim_deliveries(sink, 2, lease=LONG)
            for delivery in claimed:
                seen[delivery.run_id] += range(delivery.next_seq, delivery.last_seq + 1)
            await store.settle([settled(delivery) for delivery in claimed])

    done: list[bool] = []
    async with create_task_group() as group:
        for n in range(3):
            group.start_soon(serve, n)
        async with create_task_group() as appending:
            for run in runs:
                appending.start_soon(append, run)
        done.append(True)

    assert seen == {run.id: list(range(1, run.state.seq + 1)) for run in runs}


# -- dead letters ------------------------------------------------------------------------------------------------------


async def test_a_refused_event_becomes_a_dead_letter_and_the_run_goes_on(world: World, sink: str) -> None:
    run = await world.create()
    await world.adds(run, annotating)
    await spread(world)
    (delivery,) = await owed(world, sink)

    refused = Refused(seq=1, tries=3, error="ValueError: no")
    await world.store.settle([settled(delivery, next_seq=2, dead=[refused])])

    (letter,) = await letters(world, sink)
    assert (letter.run_id, letter.seq, letter.tries, letter.error) == (run.id, 1, 3, "ValueError: no")
    assert ranges(await owed(world, sink)) == [(run.id, 2, 2)]


async def test_a_replayed_letter_is_owed_alone_and_to_its_sink_alone(world: World, sink: str) -> None:
    other = f"{sink}-other"
    run = await a_dead_letter(world, sink)
    await world.store.register_sinks([SinkRecord(name=other)])
    await world.adds(run, annotating)
    await spread(world)

    assert await world.other.replay_dead_letters(100) >= 1

    assert await letters(world, sink) == []
    found = await owed(world, sink)
    assert sorted((d.replayed, d.next_seq, d.last_seq, d.tries) for d in found) == [(0, 2, 2, 0), (1, 1, 1, 0)]
    assert {d.replayed for d in await owed(world, other)} == {0}
    await world.store.forget_sink(other)


async def test_a_letter_that_is_refused_again_is_one_letter(world: World, sink: str) -> None:
    run = await a_dead_letter(world, sink)
    await world.store.replay_dead_letters(100)
    (delivery,) = await owed(world, sink)

    await world.store.settle([settled(delivery, dead=[Refused(seq=1, tries=3, error="again")])])

    assert [(letter.run_id, letter.error) for letter in await letters(world, sink)] == [(run.id, "again")]
    assert await owed(world, sink) == []


async def test_letters_are_replayed_oldest_first_and_no_more_than_asked_for(world: World, sink: str) -> None:
    while await world.store.replay_dead_letters(100):
        pass
    runs = [await a_dead_letter(world, sink) for _ in range(3)]

    assert [await world.store.replay_dead_letters(2), await world.store.replay_dead_letters(2)] == [2, 1]
    assert await world.store.replay_dead_letters(2) == 0
    assert {delivery.run_id for delivery in await owed(world, sink)} == {run.id for run in runs}


async def test_letters_are_listed_page_by_page(world: World, sink: str) -> None:
    runs = [await a_dead_letter(world, sink) for _ in range(3)]
    found: list[DeadLetter] = []
    after: int | None = 0
    while after is not None:
        page = await world.store.list_dead_letters(after=after, limit=2)
        found += page.letters
        after = page.next

    assert [letter.run_id for letter in found if letter.sink == sink] == [run.id for run in runs]


# -- sinks -------------------------------------------------------------------------------------------------------------


async def test_a_forgotten_sink_is_owed_nothing(world: World, sink: str) -> None:
    run = await a_dead_letter(world, sink)
    await world.adds(run, annotating)
    await spread(world)

    assert [await world.store.forget_sink(sink), await world.other.forget_sink(sink)] == [True, False]

    assert await owed(world, sink) == []
    assert await letters(world, sink) == []
    assert sink not in [record.name for record in await world.store.list_sinks()]


async def test_registering_again_replaces_what_is_known_and_keeps_what_is_owed(world: World, sink: str) -> None:
    await world.create()
    await spread(world)

    await world.other.register_sinks([SinkRecord(name=sink, events=["run.completed", "run.failed"])])

    (record,) = [record for record in await world.store.list_sinks() if record.name == sink]
    assert (list(record.events or ()), record.owed) == (["run.completed", "run.failed"], 1)
    assert len(await owed(world, sink)) == 1
