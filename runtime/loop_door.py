"""The way from any thread into the event loop, with and without waiting for it.

Separate because those who knock (the log book, contexts of bodies in threads, child processes' readers) have nothing
else in common. Knows anyio, and what the tokens of its two event loops are able to do.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, TypeVarTuple, Unpack

from anyio import from_thread
from anyio.lowlevel import current_token

__all__ = ["LoopDoor"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class LoopDoor:
    """The way into the event loop that runs where this is made, from any thread."""

    def __init__(self) -> None:
        self._token = current_token()
        self._thread_id = threading.get_ident()
        # anyio has no way in without waiting for an answer. Both event loops do, and their tokens show which one it is.
        native: Any = self._token.native_token
        self._call_soon: Callable[[Callable[[], object]], object] = (
            native.run_sync_soon if hasattr(native, "run_sync_soon") else native.call_soon_threadsafe
        )

    @property
    def is_inside(self) -> bool:
        """Whether the caller is in the event loop's own thread, which must not wait for the loop."""
        return threading.get_ident() == self._thread_id

    def call(self, function: Callable[[], object]) -> None:
        """Have the function called soon, without waiting; nothing happens when the loop has ended."""
        try:
            self._call_soon(function)
        except RuntimeError:
            pass  # what both raise once they have ended

    def wait_for(self, function: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        """Run an async function in the loop and wait for its result; not for the loop's own thread."""
        assert not self.is_inside, "the event loop would wait for itself"

        async def call() -> T:
            return await function(*args)

        return from_thread.run(call, token=self._token)
