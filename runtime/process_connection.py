"""The child's end of the connection to its parent: two threads around a socket.

One thread reads, so that a cancellation arrives while the body computes; one writes, so that a log line never waits.
When the connection closes while an attempt is current, the parent is gone, and this process ends at once together with
everything that it has started; otherwise the main thread is told to leave, and gets a moment for it.

Knows frames and jobs, not stages.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NoReturn

from runtime.frames import Frame, FrameReader, NotAFrame
from runtime.process_messages import Job, read_job
from telemetry.logs import configure_logging

__all__ = ["Connection"]

LEAVE_S = 5.0
RECEIVE_BYTES = 256 * 1024


class Connection:
    """Our end of the connection to the parent, with its two threads.

    A frame is sent at once when the connection takes it, so that what a body says before it dies is not lost; what
    the connection does not take now is left to the writing thread, in order.
    """

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._socket = socket.socket(fileno=descriptor)
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.parent_exports: bool = False
        """Whether the parent sends telemetry as this process would; known with the first job."""
        self._lock = threading.Lock()
        self._cancelled: str | None = None
        self._on_cancel: Callable[[], None] | None = None
        self._token: str | None = None
        # Reentrant: the garbage collector may run a finaliser that logs, while this thread is about to send.
        self._sending = threading.Condition(threading.RLock())
        self._unsent: deque[bytes] = deque()
        self._busy = False
        # What a body forks must not keep the connection open when this process dies.
        os.register_at_fork(after_in_child=self._socket.close)

    def start(self) -> None:
        """Begin to read and to write."""
        for work in (self._read, self._write):
            threading.Thread(target=work, name=f"leasehold-{work.__name__.strip('_')}", daemon=True).start()

    # -- the main thread -----------------------------------------------------------------------------------------------

    def begin(self, token: str) -> None:
        """This attempt is the current one."""
        with self._lock:
            self._token, self._on_cancel = token, None

    def is_cancelled(self) -> bool:
        """Whether the parent has asked to stop the current attempt."""
        return self._cancelled == self._token

    def when_cancelled(self, call: Callable[[], None]) -> None:
        """Call this when the parent asks to stop the current attempt, or now if it has."""
        with self._lock:
            self._on_cancel = call
            cancelled = self._cancelled == self._token
        if cancelled:
            call()

    def send(self, frame: Frame) -> None:
        """Send now or soon, without waiting."""
        data = frame.encode()
        with self._sending:
            if self._busy or self._unsent:
                self._unsent.append(data)
                return
            self._busy = True
            sent = self._send_now(data)
            self._busy = False
            if sent < len(data):
                self._unsent.appendleft(data[sent:])
            if self._unsent:
                self._sending.notify_all()

    def send_and_wait(self, frame: Frame) -> None:
        """Return when everything is on its way."""
        self.send(frame)
        with self._sending:
            self._sending.wait_for(lambda: not self._busy and not self._unsent)

    @property
    def backlog(self) -> int:
        """How many frames wait to be sent."""
        return len(self._unsent)

    def _send_now(self, data: bytes) -> int:
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)  # the parent is gone; the reader sees it too, and acts

    # -- the two threads -----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            self._take_frames()
        except NotAFrame:
            pass  # the parent broke off in the middle of a frame, and is about to kill us
        self.jobs.put(None)
        if self._token is None:
            time.sleep(LEAVE_S)  # idle: the main thread is leaving
        _end_with_parent()

    def _take_frames(self) -> None:
        reader = FrameReader()
        while data := self._received():
            for frame in reader.feed(data):
                match frame.kind:
                    case "hello":
                        _see_as_the_parent_does(frame)
                        self.parent_exports = bool(frame.header["exports"])
                    case "run":
                        self.jobs.put(read_job(frame))
                    case "cancel":
                        self._cancel(frame.header["token"])
                    case _:
                        raise NotAFrame(f"a frame of kind {frame.kind!r}")

    def _received(self) -> bytes:
        try:
            return self._socket.recv(RECEIVE_BYTES)
        except OSError:
            return b""

    def _cancel(self, token: str) -> None:
        with self._lock:
            self._cancelled = token
            call = self._on_cancel if token == self._token else None
        if call is not None:
            call()

    def _write(self) -> None:
        while True:
            with self._sending:
                self._sending.wait_for(lambda: self._unsent and not self._busy)
                data = b"".join(self._unsent)
                self._unsent.clear()
                self._busy = True
            try:
                self._socket.sendall(data)
            except OSError:
                pass  # as above
            with self._sending:
                self._busy = False
                self._sending.notify_all()

    def finish(self) -> None:
        """No attempt is current."""
        with self._lock:
            self._token = self._on_cancel = None


def _see_as_the_parent_does(frame: Frame) -> None:
    """See modules where the parent sees them; how we found our own is nothing for the body's children."""
    sys.path[:] = frame.header["path"]
    if (logging := frame.header["logging"]) is not None:
        # The parent's log is written by a command of ours, and standard error is the same stream.
        configure_logging(**logging)
    pythonpath = frame.header["pythonpath"]
    if pythonpath is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = pythonpath


def _end_with_parent() -> NoReturn:
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
