"""Signals that ask a process to stop: the first asks, the second one does not.

A handler of the event loop would only be called when the loop turns, and the loop may be blocked by a stage, which is
when people press Ctrl-C twice. These handlers are called between two instructions of the main thread whatever it
does; the loop learns of the first signal through a pipe. A terminal that is closed (SIGHUP) asks like any other.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

import anyio

from runtime.commandline.failures import INTERRUPTED

__all__ = ["StopRequest", "stop_request"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOW_CURSOR = b"\x1b[?25h"


class StopRequest:
    """Whether somebody has asked this process to stop; `name` says how. `at_once` is called by the second signal."""

    def __init__(self, at_once: Callable[[], None]) -> None:
        self.name: str | None = None
        self._at_once = at_once
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)

    def ask(self, name: str) -> None:
        """Ask to stop, as the first signal does; idempotent, and safe in a signal handler."""
        if self.name is None:
            self.name = name
            with suppress(OSError):
                os.write(self._write, b"\0")

    async def wait(self) -> str:
        """Return how it was asked, as soon as it was."""
        while self.name is None:
            await anyio.wait_readable(self._read)
        return self.name

    def close(self) -> None:
        """Let go of the pipe."""
        os.close(self._read)
        os.close(self._write)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """The handler of all of them."""
        if self.name is not None:
            self._at_once()
            _end_at_once()
        self.ask(signal.Signals(number).name)


def _end_at_once() -> NoReturn:
    """Let nothing delay the end: not a `finally`, not a thread that cannot be interrupted.

    What this process held is taken over when its lease ends.
    """
    with suppress(OSError):
        if os.isatty(2):
            os.write(2, _SHOW_CURSOR)  # a live display has hidden it
    os._exit(INTERRUPTED)


@contextmanager
def stop_request(
    at_once: Callable[[], None] = lambda: None, *, signals: Sequence[signal.Signals] = _SIGNALS
) -> Generator[StopRequest]:
    """Handle these signals until the end of the block; enter it before the event loop starts.

    A loop that finds a handler of somebody else's does not install its own.
    """
    request = StopRequest(at_once)
    # nohup means it: a process that was started to outlive its terminal must not drain when that is closed.
    wanted = [n for n in signals if n is not signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, request.handle) for number in wanted}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        request.close()
