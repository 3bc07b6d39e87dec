"""What an actor is told: requests to decide something, and nudges to look again.

Posting never waits, so it can be done from any task of the event loop; who asks for a decision waits for the reply.
The number of open requests is bounded by the number of tasks that wait for one.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import anyio

from kernel.ports.journals import Decide

__all__ = ["ActorGone", "Ask", "Mailbox"]


class ActorGone(Exception):
    """The actor has ended or released its run; ask whoever has it now."""


class Ask:
    """A request to decide on the run's state; resolved once, with a result or an error.

    `ends_attempt`: the body behind it has returned, so its slot is free for what follows. `own`: the actor asks
    itself, and an error is the actor's.
    """

    __slots__ = ("_answered", "_done", "decide", "ends_attempt", "error", "own", "result")

    def __init__(self, decide: Decide[Any], *, ends_attempt: bool = False, own: bool = False) -> None:
        self.decide: Decide[Any] = decide
        self.ends_attempt: bool = ends_attempt
        self.own: bool = own
        self.result: Any = None
        self.error: BaseException | None = None
        self._answered = False
        # Made when somebody waits: an actor that asks itself never does.
        self._done: anyio.Event | None = None

    def answer(self, result: Any) -> None:
        """Resolve with what was decided, after it is durable."""
        self.result = result
        self._resolve()

    def fail(self, error: BaseException) -> None:
        """Resolve with an error, which the asking task raises; nothing when it is resolved already."""
        if not self._answered:
            self.error = error
            self._resolve()

    def _resolve(self) -> None:
        self._answered = True
        if self._done is not None:
            self._done.set()

    async def reply(self) -> Any:
        """Wait for the resolution. Cancelling the wait does not withdraw the request."""
        if not self._answered:
            self._done = anyio.Event()
            await self._done.wait()
        if self.error is not None:
            raise self.error
        return self.result


class Mailbox:
    """A queue of requests with a bell."""

    def __init__(self) -> None:
        self._asks: deque[Ask] = deque()
        self._rung = False
        # Made when the actor waits.
        self._bell: anyio.Event | None = None
        self.closed: BaseException | None = None

    def post(self, ask: Ask) -> None:
        """Queue a request. Raises: what the mailbox was closed with."""
        if self.closed is not None:
            raise self.closed
        self._asks.append(ask)
        self.ring()

    def ring(self) -> None:
        """Make the actor look again, with or without a request."""
        self._rung = True
        if self._bell is not None:
            self._bell.set()

    def take_all(self) -> list[Ask]:
        """Empty the queue, and silence the bell: everything that happened before is about to be looked at."""
        self._rung = False
        asks = list(self._asks)
        self._asks.clear()
        return asks

    async def wait(self, timeout_s: float | None) -> None:
        """Return when the bell rings, or after this many seconds; None waits for ever."""
        if self._rung or (timeout_s is not None and timeout_s <= 0):
            return
        self._bell = anyio.Event()
        try:
            if timeout_s is None:
                await self._bell.wait()
            else:
                with anyio.move_on_after(timeout_s):
                    await self._bell.wait()
        finally:
            self._bell = None

    def close(self, error: BaseException) -> None:
        """Refuse further requests, and fail the queued ones with this error."""
        self.closed = error
        for ask in self._asks:
            ask.fail(error)
        self._asks.clear()
