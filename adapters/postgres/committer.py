"""Group commit: the appends of all runs of a process go to the database in batches, one statement each.

Theory of operation. An append becomes an `Item` in the `AppendQueue`, which lets a run be under way at most once; what
comes for it meanwhile waits behind its predecessor's answer. Two lanes, each with a
connection of its own, take the longest waiting kind's items: while Postgres commits one batch, the next one forms from
what comes in. So an idle system adds no delay, and a busy one makes larger batches. The second lane does not wait for
the first one's answer when enough has come together, or when that answer is long in coming.

An item leaves the committer with an answer and in no other way. Missing from a statement's answer, it is judged by a
second read. A connection that breaks leaves its batch *uncertain*: the same appends, with the same ids, are sent again
until the database has said what became of them, and nothing is bisected, given up or acknowledged meanwhile. What
certainly was not done may be given up after some patience, except what owners append: an actor decides nothing until
it has its answer, so that is kept until the database is back or the adapter is closed.

Knows batches and connections; knows nothing of what an append means.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic, perf_counter_ns, time_ns

from adapters.postgres.append_queue import AppendQueue, is_stuck, key_name
from adapters.postgres.background import end_tasks
from adapters.postgres.batches import (
    STATEMENTS,
    Item,
    concerns_others,
    item_of,
    parameters,
)
from adapters.postgres.connections import Line, Target
from adapters.postgres.failures import DRIVER_ERRORS, Failure, describe, failure_of, unavailable
from adapters.postgres.refusals import Refusal, judge, questions
from adapters.postgres.statements import Schema, statement
from adapters.postgres.workflows import WorkflowKeys
from kernel.errors import EngineError, PayloadRefused, Unavailable
from kernel.ports.persistence import Append, NewRun
from telemetry.logs import EventLogger, get_logger
from telemetry.observing import BatchObserver

__all__ = ["Committer"]

logger: EventLogger = get_logger("leasehold.postgres")

QUEUE_MAX = 10_000
QUEUE_BYTES_MAX = 67_108_864
LANES = 2
OVERLAP_ROWS = 64
"""From so many ready appends on a batch is sent beside another one; fewer wait to become part of the next one. Chosen,
not measured; that small batches wait made them 28 rows long instead of 10 (1,500 three-stage runs in one process)."""
OVERLAP_AFTER_S = 0.02
"""An answer that has not come after so long may be waiting for a lock, which is no concern of other runs."""
BACKOFF_MAX_S = 1.0
BUSY_BACKOFF_MAX_S = 0.05
CLOSED = "The database adapter has been closed."
CLOSED_MEANWHILE = "The database adapter was closed before the append was answered; it may have been done."


class Committer:
    """The one writer of histories and heads in this process; `open` it, `append`, and `close` it."""

    def __init__(
        self,
        target: Target,
        schema: Schema,
        workflows: WorkflowKeys,
        hint: Callable[[bool], None],
        *,
        lanes: int = LANES,
    ) -> None:
        self._target = target
        self._sql = {
            (group, jobs): statement(name, schema, jobs=jobs)
            for group, name in STATEMENTS.items()
            for jobs in (False, True)
        }
        self._sql_refused = statement("append_refused", schema)
        self._sql_expired = statement("delete_expired_keys", schema)
        self._workflows = workflows
        self._hint = hint
        self._queue = AppendQueue()
        self._work = asyncio.Event()
        # When each batch was sent whose answer has not come.
        self._sent_at: dict[Line, float] = {}
        self._reminded = False
        self._room: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self._observers: tuple[BatchObserver, ...] = ()
        self.queue_max = QUEUE_MAX
        self._lines = [Line(target.to("append")) for _ in range(lanes)]
        self._lanes: list[asyncio.Task[None]] = []
        self._lookups: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def lines(self) -> Sequence[Line]:
        """The connections, one per lane."""
        return self._lines

    @property
    def unanswered(self) -> int:
        """How many appends are queued or on their way."""
        return len(self._queue.unanswered)

    def observe(self, observer: BatchObserver) -> None:
        """Have it told of every batch from now on, on the driver's loop."""
        self._observers = (*self._observers, observer)

    def start(self) -> None:
        """Begin to send."""
        self._lanes = [self._loop.create_task(self._drive(line), name="leasehold append") for line in self._lines]

    async def append(self, append: Append) -> bool:
        """`Appends.append`; see the port."""
        if self._closed:
            raise Unavailable(CLOSED)
        item = item_of(append, self._loop.create_future(), monotonic())
        # Owners have one append at a time per run, so their number bounds itself, and what an actor has sent must
        # land although the actor is cancelled. Everybody else waits outside while the queue is full, and is not sent
        # when cancelled there.
        if item.kind.group != "owned":
            while self._is_full() and not self._closed:
                await self._wait_for_room()
            if self._closed:
                raise Unavailable(CLOSED)
        if append.new is None:
            self._add(item)
        elif (key := self._workflows.known(append.new.workflow_id, append.new.workflow_version)) is not None:
            item.workflow_key = key
            self._add(item)
        else:
            # Looked up by a task of ours, because cancelling the caller does not cancel the append.
            task = self._loop.create_task(self._add_with_key(item, append.new))
            self._lookups.add(task)
            task.add_done_callback(self._lookups.discard)
        return await item.answer

    def _add(self, item: Item) -> None:
        self._queue.add(item)
        self._work.set()

    async def _add_with_key(self, item: Item, new: NewRun) -> None:
        try:
            item.workflow_key = await self._workflows.key_of(new.workflow_id, new.workflow_version)
        except EngineError as error:
            if not item.answer.done():
                item.answer.set_exception(error)
        else:
            self._add(item)

    def _is_full(self) -> bool:
        return len(self._queue.unanswered) >= self.queue_max or self._queue.size_bytes >= QUEUE_BYTES_MAX

    async def _wait_for_room(self) -> None:
        turn = self._loop.create_future()
        self._room.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # The turn may have been given to us just then; pass it on.
            if turn.done() and not turn.cancelled():
                self._make_room()
            raise

    def _make_room(self) -> None:
        while self._room and not self._is_full():
            turn = self._room.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    async def close(self) -> None:
        """Send what is there, for a while, then give the rest up; idempotent.

        Whoever still waits gets Unavailable, and cannot know whether an append that was under way has been done.
        """
        self._closed = True
        for turn in self._room:
            if not turn.done():
                turn.set_result(None)
        await asyncio.gather(*self._lookups)
        waiting = [item.answer for item in self._queue.unanswered]
        if waiting:
            await asyncio.wait(waiting, timeout=self._target.deadlines.close_s)
        await end_tasks(self._lanes)
        self._lanes = []
        for item in list(self._queue.unanswered):
            if not item.answer.done():
                item.answer.set_exception(Unavailable(CLOSED_MEANWHILE))
        self._queue.unanswered.clear()
        for line in self._lines:
            await line.close()

    # -- lanes --------------------------------------------------------------------------------------------------------

    async def _drive(self, line: Line) -> None:
        failures = 0
        while True:
            # Who can run in this turn of the loop may have something to send along.
            await asyncio.sleep(0)
            batch = self._queue.take() if self._may_send() else []
            if not batch:
                self._work.clear()
                await self._work.wait()
                continue
            self._sent_at[line] = monotonic()
            try:
                reached = await self._commit(line, batch)
            except Exception as error:  # noqa: BLE001 - a mistake of ours must reach who waits, and not end the lane
                for item in batch:
                    if item in self._queue.unanswered:
                        self._finish(item, error)
                reached = True
            finally:
                del self._sent_at[line]
            # The other lane may have waited for this answer.
            self._work.set()
            failures = 0 if reached else failures + 1
            if failures:
                await asyncio.sleep(min(0.02 * 2**failures, BACKOFF_MAX_S) * random.uniform(0.5, 1))  # noqa: S311 - jitter

    def _may_send(self) -> bool:
        if not self._sent_at or self._queue.ready >= OVERLAP_ROWS:
            return True
        wait_s = max(self._sent_at.values()) + OVERLAP_AFTER_S - monotonic()
        if wait_s > 0 and not self._reminded:
            # Once, for every append that comes meanwhile asks again.
            self._reminded = True
            self._loop.call_later(wait_s, self._remind)
        return wait_s <= 0

    def _remind(self) -> None:
        self._reminded = False
        self._work.set()

    async def _commit(self, line: Line, batch: list[Item]) -> bool:
        """Send one batch; returns whether the database could be reached. Every item is finished or put back."""
        try:
            connection = await line.connection()
        except EngineError as error:
            self._put_back(batch, error)
            return False
        kind = batch[0].kind
        deadline = self._target.deadlines.statement_s
        try:
            values = parameters(kind, batch)
        except Exception as error:  # noqa: BLE001 - an append of wrong types is a mistake, but not of those beside it
            if len(batch) > 1:
                return await self._halve(line, batch)
            self._finish(batch[0], error)
            return True
        # Without an observer nobody asks what time it is.
        sent = (time_ns(), perf_counter_ns()) if self._observers else None
        try:
            row = await connection.fetchrow(self._sql[kind.group, kind.jobs], *values, timeout=deadline)
        except DRIVER_ERRORS as error:
            if sent is not None:
                self._tell(batch, sent, error)
            return await self._failed(line, batch, error)
        if sent is not None:
            self._tell(batch, sent, None)
        assert row is not None
        done: set[int] = set(row["done"] or ())
        owned: set[int] = set(row["owned"] or () if kind.group == "foreign" else ())
        rest: list[Item] = []
        for place, item in enumerate(batch):
            if place in done:
                self._finish(item, owned=place in owned)
            else:
                rest.append(item)
        return not rest or await self._explain(line, rest)

    async def _explain(self, line: Line, items: list[Item], otherwise: Exception | None = None) -> bool:
        """Ask why these were not done, and act on it; `otherwise` is the error of those for which nothing speaks."""
        try:
            connection = await line.connection()
            deadline = self._target.deadlines.statement_s
            rows = await connection.fetch(self._sql_refused, *questions(items), timeout=deadline)
            found = {int(row["place"]): Refusal(*list(row)[1:]) for row in rows}
            verdicts = [judge(item, found[place]) for place, item in enumerate(items)]
            expired = [item for place, item in enumerate(items) if verdicts[place].forget_key]
            if expired:
                names = [key_name(item.append.key) for item in expired if item.append.key is not None]
                await connection.execute(self._sql_expired, *zip(*sorted(names), strict=True), timeout=deadline)
        except EngineError as error:
            self._put_back(items, error)
            return False
        except DRIVER_ERRORS as error:
            if failure_of(error) is Failure.LOST:
                line.drop()
            self._put_back(items, unavailable(error, "tell what became of an append"))
            return False
        again: list[Item] = []
        for place, item in enumerate(items):
            verdict = verdicts[place]
            if verdict.done or verdict.error is not None:
                outside = item.kind.group == "foreign"
                self._finish(item, verdict.error, owned=outside and found[place].owner is not None)
            elif otherwise is not None:
                self._finish(item, otherwise)
            else:
                again.append(item)
        if again:
            self._send_later(again, None)
        return True

    async def _failed(self, line: Line, batch: list[Item], error: Exception) -> bool:
        failure = failure_of(error)
        match failure:
            case Failure.LOST:
                line.drop()
                for item in batch:
                    item.uncertain = True
                self._put_back(batch, unavailable(error, "be asked"))
                return False
            case Failure.UNAVAILABLE if len(batch) == 1 or not _too_slow(error):
                self._put_back(batch, unavailable(error, "append to a run"))
                return False
            case Failure.RETRY:
                for item in batch:
                    item.alone = item.alone or item.kind.group == "foreign" or item.kind.keyed
                self._send_later(batch, unavailable(error, "append to a run"))
                return True
            case Failure.BUG:
                for item in batch:
                    self._finish(item, unavailable(error, "append to a run"))
                return True
            case _ if len(batch) > 1:
                # One row is at fault, or there are too many: halve it until the others are through.
                return await self._halve(line, batch)
            case _:
                refused = PayloadRefused(
                    f'An append to run "{batch[0].append.run_id}"', describe(error), field="events"
                )
                refused.__cause__ = error
                return await self._explain(line, batch, refused)

    async def _halve(self, line: Line, batch: list[Item]) -> bool:
        middle = len(batch) // 2
        return await self._commit(line, batch[:middle]) & await self._commit(line, batch[middle:])

    def _tell(self, batch: list[Item], sent: tuple[int, int], error: Exception | None) -> None:
        # The end is counted from the beginning, because the clock on the wall may have been set meanwhile.
        started_ns, began = sent
        ended_ns = started_ns + perf_counter_ns() - began
        appends = [item.append for item in batch]
        for observer in self._observers:
            try:
                observer(appends, started_ns, ended_ns, error)
            except Exception:
                # Who watches must not harm what it watches.
                logger.exception("batch.unobserved")

    # -- items --------------------------------------------------------------------------------------------------------

    def _finish(self, item: Item, error: Exception | None = None, *, owned: bool = False) -> None:
        self._queue.finish(item, error, owned=owned)
        if error is None and concerns_others(item, owned=owned):
            # What an owner appends is news to others only.
            outside = item.append.mode not in ("create", "owned") or item.append.lease is None
            self._hint(outside or item.append.jobs is not None)
        if self._room:
            self._make_room()
        # Who waited behind it may be ready now.
        self._work.set()

    def _put_back(self, items: list[Item], error: EngineError) -> None:
        """To be sent again as soon as the database can be reached; give up what has waited too long for it."""
        now = monotonic()
        self._queue.put_back(items, now)
        for item in self._queue.take_stuck(now, self._target.deadlines.patience_s):
            self._finish(item, error)

    def _send_later(self, items: list[Item], error: EngineError | None) -> None:
        """To be sent again when whoever was in the way has had a moment."""
        now = monotonic()
        again: list[Item] = []
        for item in items:
            item.tries += 1
            if is_stuck(item, now, self._target.deadlines.patience_s):
                self._finish(item, error or Unavailable(f'Run "{item.append.run_id}" is locked by somebody else.'))
            else:
                again.append(item)
        if again:
            delay = min(0.001 * 2 ** min(item.tries for item in again), BUSY_BACKOFF_MAX_S)
            self._loop.call_later(delay * random.uniform(0.5, 1), self._requeue, again)  # noqa: S311 - jitter

    def _requeue(self, items: list[Item]) -> None:
        if self._lanes:
            self._queue.put_back(items, monotonic())
            self._work.set()


def _too_slow(error: BaseException) -> bool:
    """Whether the server's own deadline ended the statement; a smaller batch may come through."""
    return getattr(error, "sqlstate", None) == "57014"
