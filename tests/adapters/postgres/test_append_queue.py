"""Which appends may go together, and who waits for whose answer; no database is needed to decide that."""

from __future__ import annotations

from asyncio import Future, new_event_loop
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count

import pytest

from adapters.conformance.store.builders import IDS, KnownRun, a_creation, a_key, annotating, noting
from adapters.postgres.append_queue import BYTES_MAX, ROWS_MAX, AppendQueue, is_stuck
from adapters.postgres.batches import Item, item_of
from kernel.errors import InvalidCommand, Unavailable
from kernel.ports.persistence import Append, KeyTaken, Lease

NOW = datetime.now(UTC)
MOMENTS = count()


@pytest.fixture
def futures() -> Iterator[type[Future[None]]]:
    loop = new_event_loop()
    yield loop.create_future  # type: ignore[misc]
    loop.close()


class Desk:
    """A queue and what was put into it."""

    def __init__(self, futures) -> None:
        self.queue = AppendQueue()
        self._futures = futures

    def add(self, append: Append) -> Item:
        item = item_of(append, self._futures(), float(next(MOMENTS)))
        self.queue.add(item)
        return item

    def creation(self, **fields) -> Item:
        return self.add(a_creation("greet", NOW, **fields))


@pytest.fixture
def desk(futures) -> Desk:
    return Desk(futures)


def a_run(*, lease: Lease | None = None) -> KnownRun:
    return KnownRun.of(a_creation("greet", NOW, lease=lease), lambda: NOW)


def test_what_came_since_the_last_batch_goes_together_in_the_order_of_run_ids(desk: Desk) -> None:
    items = [desk.creation() for _ in range(20)]

    batch = desk.queue.take()

    assert batch == sorted(items, key=lambda item: item.append.run_id)
    assert desk.queue.take() == []


def test_a_run_is_in_one_batch_at_a_time(desk: Desk) -> None:
    run = a_run()
    first, second = (desk.add(run.foreign(annotating)) for _ in range(2))

    assert desk.queue.take() == [first]
    assert desk.queue.take() == []
    desk.queue.finish(first)
    assert desk.queue.take() == [second]


def test_a_run_stays_under_way_while_its_append_is_sent_again(desk: Desk) -> None:
    run = a_run()
    first, second = (desk.add(run.foreign(annotating)) for _ in range(2))

    desk.queue.put_back(desk.queue.take(), 1.0)

    assert desk.queue.take() == [first]
    desk.queue.finish(first)
    assert desk.queue.take() == [second]


def test_a_refused_predecessor_lets_its_successor_go(desk: Desk) -> None:
    run = a_run()
    first, second = (desk.add(run.foreign(annotating)) for _ in range(2))
    desk.queue.take()

    desk.queue.finish(first, Unavailable("no"))

    assert isinstance(first.answer.exception(), Unavailable)
    assert desk.queue.take() == [second]


def test_appends_of_different_kinds_do_not_share_a_batch_and_the_oldest_goes_first(desk: Desk) -> None:
    mine, yours = (Lease(session_id=IDS.append_id(), claim=1) for _ in range(2))
    foreign = desk.add(a_run().foreign(annotating))
    owned = desk.add(a_run(lease=mine).owned(annotating))
    of_another_session = desk.add(a_run(lease=yours).owned(annotating))
    release = desk.add(a_run(lease=mine).release())
    keyed = desk.creation(key=a_key("k", scope="greet"))
    creation = desk.creation()

    batches = [desk.queue.take() for _ in range(6)]

    assert [set(batch) for batch in batches] == [
        *({foreign}, {owned, release}, {of_another_session}, {keyed}, {creation}, set()),
    ]


def test_a_batch_is_bounded_by_its_rows(desk: Desk) -> None:
    for _ in range(ROWS_MAX + 3):
        desk.creation()

    assert [len(desk.queue.take()) for _ in range(2)] == [ROWS_MAX, 3]


def test_a_batch_is_bounded_by_its_bytes_but_one_append_always_goes(desk: Desk) -> None:
    large = b'"' + b"x" * (BYTES_MAX // 2) + b'"'
    for body in (large, large, b'"' + b"x" * (2 * BYTES_MAX) + b'"', b"1"):
        desk.add(a_run().foreign(noting(body)))

    assert [len(desk.queue.take()) for _ in range(5)] == [1, 1, 1, 1, 0]


def test_an_append_that_is_to_go_alone_goes_alone(desk: Desk) -> None:
    items = [desk.creation() for _ in range(3)]
    desk.queue.take()
    items[1].alone = True

    desk.queue.put_back(items, 1.0)

    assert [desk.queue.take() for _ in range(3)] == [[items[0]], [items[1]], [items[2]]]


def test_what_is_sent_again_does_not_go_before_other_kinds_that_have_waited_since(desk: Desk) -> None:
    foreign, creation = desk.add(a_run().foreign(annotating)), desk.creation()
    desk.queue.take()

    desk.queue.put_back([foreign], float(next(MOMENTS)))

    assert [desk.queue.take(), desk.queue.take()] == [[creation], [foreign]]


def test_the_size_of_what_waits_is_known(desk: Desk) -> None:
    first, second = (desk.add(a_run().foreign(noting(b'"' + b"x" * 100 + b'"'))) for _ in range(2))
    desk.queue.take()
    assert desk.queue.size_bytes == first.size + second.size > 200

    desk.queue.finish(first)

    assert desk.queue.size_bytes == second.size


def test_a_key_is_admitted_once_and_the_others_get_the_winner_s_answer(desk: Desk) -> None:
    winner, *losers = [desk.creation(key=a_key("k", scope="greet", digest=f"d{n}")) for n in range(4)]

    assert desk.queue.take() == [winner]
    assert desk.queue.take() == []
    desk.queue.finish(winner)

    for loser in losers:
        refused = loser.answer.exception()
        assert isinstance(refused, KeyTaken)
        assert (refused.run_id, refused.digest, refused.key) == (winner.append.run_id, "d0", loser.append.key)
    assert not desk.queue.unanswered


def test_a_key_that_is_taken_already_is_answered_once_for_all_who_wait(desk: Desk) -> None:
    first, second = (desk.creation(key=a_key("k", scope="greet")) for _ in range(2))
    desk.queue.take()
    assert first.append.key is not None

    desk.queue.finish(first, KeyTaken(first.append.key, run_id="somebody's", digest="d9"))

    assert isinstance(refused := second.answer.exception(), KeyTaken)
    assert (refused.run_id, refused.digest) == ("somebody's", "d9")


def test_a_key_goes_to_the_next_one_when_the_first_fails_otherwise(desk: Desk) -> None:
    first, second, third = (desk.creation(key=a_key("k", scope="greet")) for _ in range(3))
    desk.queue.take()

    desk.queue.finish(first, Unavailable("no"))

    assert desk.queue.take() == [second]
    desk.queue.finish(second)
    assert isinstance(third.answer.exception(), KeyTaken)


def test_a_creation_that_is_sent_twice_with_its_key_asks_the_database_again(desk: Desk) -> None:
    creation = a_creation("greet", NOW, key=a_key("k", scope="greet"))
    first, again = desk.add(creation), desk.add(creation)
    desk.queue.take()

    desk.queue.finish(first)

    assert desk.queue.take() == [again]


def test_a_caller_that_was_cancelled_gets_no_answer_and_blocks_nobody(desk: Desk) -> None:
    run = a_run()
    first, second = (desk.add(run.foreign(annotating)) for _ in range(2))
    desk.queue.take()
    first.answer.cancel()

    desk.queue.finish(first)

    assert desk.queue.take() == [second]


def test_patience_counts_from_the_first_failure_and_not_for_what_may_have_been_done(desk: Desk) -> None:
    foreign, uncertain = (desk.add(a_run().foreign(annotating)) for _ in range(2))
    owned = desk.add(a_run(lease=Lease(session_id=IDS.append_id(), claim=1)).owned(annotating))
    uncertain.uncertain = True

    assert desk.queue.take_stuck(100.0, patience_s=5.0) == []
    assert desk.queue.take_stuck(104.0, patience_s=5.0) == []
    assert desk.queue.take_stuck(106.0, patience_s=5.0) == [foreign]
    assert not is_stuck(uncertain, 1000.0, 5.0)
    assert not is_stuck(owned, 1000.0, 5.0)


@pytest.mark.parametrize("append_id", ["", "x", "a,b", "{}", "NULL", "6DB57940-9BDA-4AB9-AF3C-4CB490A5FF5B"])
def test_an_id_that_could_change_the_text_of_an_array_is_refused(desk: Desk, append_id: str) -> None:
    append = replace(a_run().foreign(annotating), append_id=append_id)

    with pytest.raises(InvalidCommand):
        desk.add(append)
