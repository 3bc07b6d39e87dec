"""Waiting for runs that are driven elsewhere: one reader for however many wait.

Hints make it quick, the clock makes it certain: while anybody waits, all awaited runs are looked at in one query
after a hint and at least once per poll interval. The pause between two such reads grows with what a read costs,
so ten thousand waiters slow each other down instead of the database. Who has just come is looked at without a pause,
together with whoever came meanwhile: most of them ask for a run that has ended already.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import anyio
import anyio.abc

from kernel.errors import InvalidCommand, RunNotFound, Unavailable
from kernel.model.ids import is_run_id
from kernel.ports.persistence import HeadRow, Histories, StoredHistory
from runtime.narration import OutageLog

__all__ = ["Watch"]

PAUSE_MIN_S = 0.004
PAUSE_FACTOR = 4.0
"""The reader rests this many times as long as it read, so it takes at most a fifth of a connection's time."""
RETRY_S = 0.5
RUNS_MAX = 1000
"""Asked for in one query."""
ENDINGS_MAX = 100
"""Whole histories in one answer."""


class _Waiter:
    """Who waits for a run to move beyond a sequence number, or (`whole`) for its end and its history."""

    __slots__ = ("after", "answered", "event", "found", "run_id", "whole")

    def __init__(self, run_id: str, after: int, *, whole: bool) -> None:
        self.run_id = run_id
        self.after = after
        self.whole = whole
        self.found: HeadRow | StoredHistory | None = None
        self.answered = False
        self.event = anyio.Event()


class Watch:
    """Reads for those who wait; `run` is its task."""

    def __init__(self, histories: Histories, poll_interval_s: float) -> None:
        self._histories = histories
        self._poll_interval_s = poll_interval_s
        self._waiters: dict[_Waiter, None] = {}
        # Those of them whose run has not been looked at since they came.
        self._newcomers: dict[_Waiter, None] = {}
        self._hinted = False
        self._bell = anyio.Event()
        self._closed = False
        self._outage = OutageLog("store.unavailable", "store.recovered")

    def close(self) -> None:
        """Whoever still waits, and whoever comes later, is told that nobody looks any more."""
        self._closed = True
        for waiter in tuple(self._waiters):
            waiter.event.set()

    def hint(self) -> None:
        """Something changed somewhere."""
        if not self._hinted:
            self._hinted = True
            self._bell.set()

    async def moved(self, run_id: str, *, after: int) -> HeadRow:
        """Return the head once its sequence number is above `after`, or once it has ended.

        Raises: RunNotFound; InvalidCommand when the client is closed meanwhile. An unavailable database is waited out.
        """
        found = await self._wait(_Waiter(run_id, after, whole=False))
        assert isinstance(found, HeadRow)
        return found

    async def ended(self, run_id: str) -> StoredHistory:
        """Return the whole history once the run has ended. Raises: as `moved`."""
        found = await self._wait(_Waiter(run_id, 0, whole=True))
        assert isinstance(found, StoredHistory)
        return found

    async def _wait(self, waiter: _Waiter) -> HeadRow | StoredHistory:
        # One query asks for everybody: what it could stumble over must not come into it.
        if not is_run_id(waiter.run_id):
            raise RunNotFound(waiter.run_id)
        self._waiters[waiter] = self._newcomers[waiter] = None
        self._bell.set()
        try:
            if not self._closed:
                await waiter.event.wait()
        finally:
            self._waiters.pop(waiter, None)
            self._newcomers.pop(waiter, None)
        if waiter.answered:
            if waiter.found is None:
                raise RunNotFound(waiter.run_id)
            return waiter.found
        reason = f'The client was closed while it waited for run "{waiter.run_id}", which goes on.'
        raise InvalidCommand(reason, field="client", hint='Wait inside "async with".')

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Read while anybody waits; sleeps without a timer otherwise."""
        task_status.started()
        rested_at = 0.0
        poll_at = anyio.current_time() + self._poll_interval_s
        while True:
            self._bell = anyio.Event()
            now = anyio.current_time()
            if not self._waiters:
                await self._bell.wait()
            elif now >= poll_at or (self._hinted and now >= rested_at):
                self._hinted = False
                await self._read(tuple(self._waiters))
                done = anyio.current_time()
                rested_at = done + min(max((done - now) * PAUSE_FACTOR, PAUSE_MIN_S), self._poll_interval_s)
                poll_at = done + self._poll_interval_s
            elif self._newcomers:
                await self._read(tuple(islice(self._newcomers, RUNS_MAX)))
            else:
                with anyio.move_on_at(rested_at if self._hinted else poll_at):
                    await self._bell.wait()

    async def _read(self, waiters: Sequence[_Waiter]) -> None:
        for waiter in waiters:
            self._newcomers.pop(waiter, None)
        try:
            for some in _slices([waiter for waiter in waiters if not waiter.whole]):
                heads = await self._histories.heads(sorted({waiter.run_id for waiter in some}))
                for waiter in some:
                    head = heads.get(waiter.run_id)
                    if head is None or head.seq > waiter.after or head.head.completed_at is not None:
                        self._answer(waiter, head)
            for some in _slices([waiter for waiter in waiters if waiter.whole]):
                await self._read_endings(some)
        except Unavailable as error:
            self._outage.failed(error, service="watch")
            await anyio.sleep(RETRY_S)
        else:
            self._outage.worked(service="watch")

    async def _read_endings(self, waiters: Sequence[_Waiter]) -> None:
        run_ids = {waiter.run_id for waiter in waiters}
        while run_ids:
            endings = await self._histories.endings(sorted(run_ids), limit=ENDINGS_MAX)
            for waiter in waiters:
                if waiter.run_id in endings:
                    self._answer(waiter, endings[waiter.run_id])
            if len(endings) < ENDINGS_MAX:
                return
            run_ids -= endings.keys()

    def _answer(self, waiter: _Waiter, found: HeadRow | StoredHistory | None) -> None:
        waiter.found = found
        waiter.answered = True
        waiter.event.set()
        self._waiters.pop(waiter, None)


def _slices(waiters: Sequence[_Waiter]) -> Iterable[Sequence[_Waiter]]:
    return (waiters[start : start + RUNS_MAX] for start in range(0, len(waiters), RUNS_MAX))
