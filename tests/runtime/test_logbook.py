"""Log lines on their way to the store: never waiting, never failing, in order, and bounded."""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernel import PayloadRefused, Unavailable
from kernel.authoring.context import BodyIdentity
from kernel.ports.persistence import LogLine
from runtime.logbook import LogBook
from tests.runtime.executing import NOW, Lines, until

pytestmark = pytest.mark.anyio


def source(attempt: int = 1) -> BodyIdentity:
    return BodyIdentity("run-1", "w", "extract", "Extract", 1, 1, attempt)


class Store(Lines):
    """Takes lines in batches; out of order for a while, hanging, or refusing some of them, when told so."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.failures = 0
        self.refused = ""
        self.open = anyio.Event()
        self.open.set()

    async def write_logs(self, lines: Sequence[LogLine], /) -> None:
        await self.open.wait()
        await checkpoint()
        if self.failures:
            self.failures -= 1
            raise Unavailable("not now")
        if self.refused and any(line.message == self.refused for line in lines):
            raise PayloadRefused("A log line", "the test says so", field="message")
        self.batches.append(len(lines))
        self.lines += lines

    @property
    def messages(self) -> list[str]:
        return [line.message for line in self.lines]


@asynccontextmanager
async def writing(book: LogBook) -> AsyncIterator[anyio.abc.TaskGroup]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: book.run(task_status=task_status))
        yield tasks
        tasks.cancel_scope.cancel()


def log(book: LogBook, *messages: str, attempt: int = 1) -> None:
    for message in messages:
        book.log(source(attempt), NOW, "INFO", message, {"n": 1})


async def test_a_line_is_written_as_it_was_logged() -> None:
    store = Store()
    book = LogBook(store)

    async with writing(book):
        book.log(source(2), NOW, "WARN", "low", {"left": 3})
        await until(lambda: store.lines)

    expected = LogLine(
        run_id="run-1",
        stage_id="extract",
        execution=1,
        attempt=2,
        at=NOW,
        level="WARN",
        message="low",
        fields={"left": 3},
    )
    assert store.lines == [expected]


async def test_lines_keep_their_order_and_go_in_batches() -> None:
    store = Store()
    book = LogBook(store, interval_s=0)
    messages = [f"line {number}" for number in range(1_200)]

    log(book, *messages)
    async with writing(book):
        await until(lambda: book.waiting == 0)

    assert store.messages == messages
    assert store.batches == [500, 500, 200]


async def test_between_two_writes_lines_gather() -> None:
    store = Store()
    book = LogBook(store, interval_s=0.05)

    async with writing(book):
        log(book, "first")
        await until(lambda: store.lines)
        for number in range(3):
            log(book, f"line {number}")
            await checkpoint()
        await until(lambda: len(store.lines) == 4)

    assert store.batches == [1, 3]


async def test_a_thread_does_not_wait_for_the_event_loop() -> None:
    store = Store()
    book = LogBook(store, interval_s=0)

    async with writing(book):
        await anyio.wait_all_tasks_blocked()
        thread = threading.Thread(target=log, args=(book, "from a thread"))
        thread.start()
        thread.join(10)  # blocks the event loop: the thread must end without it
        assert not thread.is_alive()
        await until(lambda: store.lines)

    assert store.messages == ["from a thread"]


async def test_lines_of_many_threads_all_arrive() -> None:
    store = Store()
    book = LogBook(store, interval_s=0)

    async with writing(book):
        threads = [
            threading.Thread(target=log, args=(book, *(f"{t}-{n}" for n in range(200))), kwargs={"attempt": t})
            for t in range(8)
        ]
        for thread in threads:
            thread.start()
        await until(lambda: len(store.lines) == 1_600)
        for thread in threads:
            thread.join(10)

    for t in range(8):
        assert [line.message for line in store.lines if line.attempt == t] == [f"{t}-{n}" for n in range(200)]


async def test_the_last_report_of_an_attempt_wins() -> None:
    store = Store()
    book = LogBook(store)

    for percent in range(100):
        book.progress(source(1), NOW, percent / 100, "", {})
        book.progress(source(2), NOW, percent / 200, "second", {"of": 200})
    log(book, "between")
    book.progress(source(1), NOW, 1.0, "done", {})
    await book.flush()

    assert [(line.level, line.attempt, line.message) for line in store.lines] == [
        ("PROGRESS", 2, "second"),
        ("INFO", 1, "between"),
        ("PROGRESS", 1, "done"),
    ]
    assert store.lines[0].fields == {"progress": 0.495, "details": {"of": 200}}


async def test_a_store_that_is_away_for_a_while_loses_nothing() -> None:
    store = Store()
    store.failures = 3
    book = LogBook(store, interval_s=0.001)

    async with writing(book):
        log(book, "one", "two")
        await until(lambda: store.lines)

    assert store.messages == ["one", "two"]
    assert book.dropped == 0


async def test_what_does_not_fit_is_counted_and_reported_by_attempt() -> None:
    store = Store()
    book = LogBook(store, lines_max=3)

    log(book, *"abcdef", attempt=1)
    log(book, *"gh", attempt=2)
    await book.flush()

    assert book.dropped == 5
    assert store.messages[:3] == ["a", "b", "c"]
    reports = [(line.attempt, line.level, line.fields) for line in store.lines[3:]]
    assert reports == [(1, "WARN", {"dropped": 3}), (2, "WARN", {"dropped": 2})]


async def test_a_report_of_progress_needs_no_new_room() -> None:
    store = Store()
    book = LogBook(store, lines_max=1)

    book.progress(source(), NOW, 0.1, "", {})
    book.progress(source(), NOW, 0.2, "", {})
    await book.flush()

    assert [line.fields["progress"] for line in store.lines] == [0.2]
    assert book.dropped == 0


async def test_lines_lost_on_their_way_are_reported_too() -> None:
    store = Store()
    book = LogBook(store)

    async with writing(book):
        book.drop(source(), NOW, 7)
        await until(lambda: store.lines)

    assert store.lines[0].fields == {"dropped": 7}


async def test_a_line_that_the_store_refuses_does_not_hold_up_the_others() -> None:
    store = Store()
    store.refused = "poison"
    book = LogBook(store)

    log(book, "before", "poison", "after")
    await book.flush()

    assert store.messages == ["before", "after"]
    assert (book.dropped, book.waiting) == (1, 0)


async def test_leaving_writes_what_is_left() -> None:
    store = Store()
    book = LogBook(store, interval_s=30)

    async with writing(book):
        log(book, "first")
        await until(lambda: store.lines)
        log(book, "last words")

    assert store.messages == ["first", "last words"]


async def test_leaving_does_not_wait_long_for_a_store_that_is_away() -> None:
    store = Store()
    store.failures = 10**9
    book = LogBook(store, interval_s=0.001, last_flush_s=0.05)

    with anyio.fail_after(10):
        async with writing(book):
            log(book, "lost")

    assert book.waiting == 1


async def test_a_write_that_was_begun_is_finished_before_leaving() -> None:
    store = Store()
    store.open = anyio.Event()
    book = LogBook(store)

    async with writing(book) as tasks:
        log(book, "once")
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
        store.open.set()

    assert store.messages == ["once"]


async def test_the_writer_may_be_started_again() -> None:
    store = Store()
    book = LogBook(store, interval_s=0)

    for message in ("first", "second"):
        async with writing(book):
            log(book, message)
            await until(lambda message=message: message in store.messages)

    assert store.messages == ["first", "second"]


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_an_idle_writer_has_no_timer() -> None:
    import trio

    def next_deadline() -> float:
        return trio.current_time() + trio.lowlevel.current_statistics().seconds_to_next_deadline

    book = LogBook(Store(), interval_s=0)
    before = next_deadline()

    async with writing(book):
        log(book, "something")
        await until(lambda: book.waiting == 0)
        await anyio.wait_all_tasks_blocked()
        assert next_deadline() == pytest.approx(before)


async def test_a_line_is_what_it_was_when_it_was_logged() -> None:
    store = Store()
    book = LogBook(store)
    pages = [1, 2]

    book.log(source(), NOW, "INFO", "pages", {"pages": pages})
    pages.append(3)
    await book.flush()

    assert store.lines[0].fields == {"pages": [1, 2]}


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "fields, kept",
    [
        ({"a": "nul \0", "b\ud800": math.inf}, {"a": "nul \ufffd", "b\ufffd": "inf"}),
        ({"big": 1 << 2000}, None),
        ({"text": "x" * 100_000}, None),
        ({"deep": [[[[[[[[[["end"]]]]]]]]]]}, None),
        ({"bytes": b"\xff", "set": {1}}, {"bytes": "_w==", "set": [1]}),
        ({"hostile": Hostile()}, {}),
    ],
)
async def test_any_value_may_be_logged(fields, kept) -> None:
    store = Store()
    book = LogBook(store)

    book.log(source(), NOW, "INFO", "fields", fields)
    await book.flush()

    (line,) = store.lines
    assert len(str(line.fields)) < 10_000
    if kept is not None:
        assert line.fields == kept


async def test_something_that_contains_itself_may_be_logged() -> None:
    store = Store()
    book = LogBook(store)
    endless: dict[str, object] = {}
    endless["self"] = endless

    book.log(source(), NOW, "INFO", "endless", endless)
    await book.flush()

    assert len(store.lines) == 1
