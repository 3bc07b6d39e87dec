"""The lease of this process: renewed from a thread of its own, watched from the event loop.

Theory of operation. User code may block the event loop, so the renewal cannot live there. A thread beats at the
store's heartbeat, puts each answer into a slot and rings a socket that the loop waits for; it never waits for the
loop. The loop answers every ring, which is how the thread notices that the loop is blocked: then it says which stage
is at fault and shows its stack, and, when the blockage outlasts `max_blocked`, ends the process, because a process
that never looks at its runs must not keep them.

The lease is trusted only until a deadline on the monotonic clock: the moment before the last successful renewal was
sent, plus the lease, less a margin. Whoever holds actors must have cancelled them by then; `run` returns when the
deadline passes or the store says that the session is no more, and the supervisor opens another one.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType

import anyio

from kernel.errors import Unavailable
from kernel.ports.executor import Attempt, CheckAttempt
from kernel.ports.persistence import Beat, Heartbeat
from runtime.narration import OutageLog
from telemetry.logs import EventLogger, get_logger
from telemetry.metrics import Meters

__all__ = ["Renewal", "Session", "SessionTiming"]

logger: EventLogger = get_logger("leasehold.runtime")

MARGIN = 0.1
"""Part of the lease that is not trusted: time for cancelled bodies to notice before somebody else may begin."""
BUSY_INTERVAL_S = 1.0
RETRY_INTERVAL_S = 0.5
HURRY_INTERVAL_S = 0.1
ADRIFT_INTERVAL_S = 30.0
THREAD_END_S = 2.0
BLOCKED_REPORT_S = 1.0
BODY_FRAME = "call_body"
"""The function of `runtime.bodies` that calls user code; its local `attempt` says whose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTiming:
    """How long a lease lasts, how often an idle process renews it, and how long the loop may be blocked."""

    lease: timedelta
    renew: timedelta
    max_blocked: timedelta


@dataclass(frozen=True, slots=True)
class Renewal:
    """A successful beat, with the monotonic moment before it was sent."""

    beat: Beat
    sent_at: float


class Session:
    """One lease, from `run` to its end. The session itself is opened and closed by the supervisor."""

    def __init__(
        self,
        session_id: str,
        heartbeat: Heartbeat,
        timing: SessionTiming,
        asked_at: float,
        meters: Meters | None = None,
    ) -> None:
        self.id = session_id
        self._heartbeat = heartbeat
        self._timing = timing
        self._margin_s = timing.lease.total_seconds() * MARGIN
        self._trusted_until = asked_at + timing.lease.total_seconds() - self._margin_s
        self._latest: Renewal | None = None
        self._dead = False
        self._outage = OutageLog("lease.renewal_failed", "lease.renewed_again")
        # Guards what both sides change: `_latest` and `_adrift_wanted`.
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._hurried = False
        self._adrift_wanted = False
        self._busy = True
        self._rung_at: float | None = None
        self._loop_thread = threading.get_ident()
        self._meters = meters

    def hurry(self) -> None:
        """Beat soon: something happened that a beat would tell about. Does not wait."""
        # Hints may come by the hundred, and waking the thread takes the interpreter away from the loop each time.
        if not self._hurried:
            self._hurried = True
            self._wake.set()

    def reread(self) -> None:
        """Ask the next beat, soon, for every run that the session owns: one may be ours without our knowing."""
        with self._lock:
            self._adrift_wanted = True
        self._wake.set()

    def set_busy(self, *, busy: bool) -> None:
        """With runs or neighbours a session beats every second, otherwise every `renew`."""
        self._busy = busy

    @property
    def trusted(self) -> bool:
        """Whether the lease certainly holds now, as far as this process can know by itself."""
        return not self._dead and time.monotonic() < self._trusted_until

    async def run(self, on_beat: Callable[[Beat], None], on_loss: Callable[[], None]) -> None:
        """Keep the lease and report its beats; returns when it is lost. Cancel to stop.

        `on_loss` is called at that moment: the thread's end, which may take longer, is only then waited for.
        """
        # Made here and not with the session: one that is never run has nothing to close.
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        thread = threading.Thread(target=self._renew, args=[writer], name="leasehold-renewal", daemon=True)
        thread.start()
        try:
            while True:
                remaining_s = self._trusted_until - time.monotonic()
                if remaining_s <= 0 or self._dead:
                    on_loss()
                    return
                with anyio.move_on_after(remaining_s):
                    await anyio.wait_readable(reader)
                self._answer(reader)
                with self._lock:
                    renewal, self._latest = self._latest, None
                if renewal is not None and renewal.beat.alive:
                    on_beat(renewal.beat)
        finally:
            self._stop.set()
            self._wake.set()
            with anyio.move_on_after(THREAD_END_S, shield=True):
                await anyio.to_thread.run_sync(thread.join, THREAD_END_S, abandon_on_cancel=True)
            # The other end belongs to the thread, which may still be waiting for its last answer.
            reader.close()

    def _answer(self, reader: socket.socket) -> None:
        try:
            while reader.recv(64):
                pass
        except BlockingIOError:
            pass
        # Only now: a ring in between either is in the socket still, and wakes us again, or has just been answered.
        rung_at, self._rung_at = self._rung_at, None
        if self._meters is not None and rung_at is not None:
            self._meters.loop_answered(time.monotonic() - rung_at)

    # -- in the thread ----------------------------------------------------------------------------------------------

    def _renew(self, writer: socket.socket) -> None:
        try:
            next_beat = next_adrift = hurried_from = time.monotonic()
            blocked = _Blockage(self._timing.max_blocked.total_seconds(), self._loop_thread, self.id)
            while not self._stop.is_set() and not self._dead:
                now = time.monotonic()
                blocked.watch(self._rung_at, now)
                if now >= next_beat:
                    self._wake.clear()
                    self._hurried = False
                    # Taken back before the beat, so that a wish during it is not lost.
                    with self._lock:
                        adrift, self._adrift_wanted = self._adrift_wanted or now >= next_adrift, False
                    pause_s = self._beat(adrift=adrift)
                    if adrift:
                        next_adrift = now + ADRIFT_INTERVAL_S
                    next_beat = time.monotonic() + pause_s
                    hurried_from = time.monotonic() + HURRY_INTERVAL_S
                    self._ring(writer)
                if self._wake.is_set():
                    # One look answers all hints that came before it.
                    next_beat = min(next_beat, hurried_from)
                    self._wake.clear()
                wait_s = next_beat - time.monotonic()
                if self._rung_at is not None:
                    wait_s = min(wait_s, BLOCKED_REPORT_S / 2)
                self._wake.wait(max(wait_s, 0.0))
        finally:
            writer.close()
            self._heartbeat.close()

    def _beat(self, *, adrift: bool) -> float:
        """Beat once and return the pause until the next time."""
        sent_at = time.monotonic()
        try:
            beat = self._heartbeat.beat(adrift=adrift)
        except Unavailable as error:
            if self._meters is not None:
                self._meters.not_renewed()
            self._outage.failed(error, session_id=self.id)
            # Whatever was under way when the store went away may have been done.
            self._adrift_wanted = True
            return RETRY_INTERVAL_S
        except Exception as error:
            logger.exception("lease.renewal_broken", session_id=self.id, error=type(error).__name__)
            return RETRY_INTERVAL_S
        self._outage.worked(session_id=self.id)
        if self._meters is not None:
            self._meters.renewed(time.monotonic() - sent_at, alive=beat.alive)
        if not beat.alive:
            self._dead = True
            return 0.0
        lease_s = self._timing.lease.total_seconds()
        self._trusted_until = sent_at + lease_s - self._margin_s
        with self._lock:
            older = self._latest
            self._latest = Renewal(beat if older is None else _merged(older.beat, beat), sent_at)
        renew_s = self._timing.renew.total_seconds()
        busy = self._busy or beat.others > 0 or beat.due > 0
        return min(BUSY_INTERVAL_S, renew_s) if busy else renew_s

    def _ring(self, writer: socket.socket) -> None:
        if self._rung_at is None:
            self._rung_at = time.monotonic()
        try:
            writer.send(b"!")
        except OSError:
            pass  # full: the loop has rings to answer already; closed: it is leaving


def _merged(older: Beat, newer: Beat) -> Beat:
    """Two answers that the loop has not read yet, as one: nothing that needs attention is dropped."""
    attention = (*dict.fromkeys((*older.attention, *newer.attention)),)
    return Beat(
        alive=newer.alive,
        now=newer.now,
        attention=attention,
        adrift=newer.adrift or older.adrift,
        due=newer.due,
        next_due_at=newer.next_due_at,
        others=newer.others,
        next_command_at=newer.next_command_at,
        jobs_due=newer.jobs_due,
        jobs_lost=newer.jobs_lost,
        next_job_at=newer.next_job_at,
    )


class _Blockage:
    """Watches one thread's silence, and says who blocks it: once after a second, then at doubling intervals."""

    def __init__(self, max_blocked_s: float, loop_thread: int, session_id: str) -> None:
        self._max_blocked_s = max_blocked_s
        self._loop_thread = loop_thread
        self._session_id = session_id
        self._report_after_s = BLOCKED_REPORT_S

    def watch(self, rung_at: float | None, now: float) -> None:
        """Given the oldest unanswered ring, report or end the process."""
        if rung_at is None:
            self._report_after_s = BLOCKED_REPORT_S
            return
        blocked_s = now - rung_at
        if blocked_s > self._max_blocked_s:
            logger.critical("loop.blocked_too_long", session_id=self._session_id, blocked_s=round(blocked_s, 1))
            faulthandler.dump_traceback(all_threads=True)
            os._exit(70)
        if blocked_s >= self._report_after_s:
            self._report_after_s *= 2
            self._report(blocked_s)

    def _report(self, blocked_s: float) -> None:
        # The documented way to see what another thread is doing, underscore or not.
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        attempt = _attempt_in(frame)
        logger.error(
            "loop.blocked",
            session_id=self._session_id,
            blocked_s=round(blocked_s, 1),
            run_id=None if attempt is None else attempt.run_id,
            stage_id=None if attempt is None else attempt.stage.id,
            hint="Make the stage a plain def, which runs in a thread, or give it isolation='process'.",
            stack="" if frame is None else "".join(_from_the_body(traceback.extract_stack(frame)).format()),
        )


def _from_the_body(stack: traceback.StackSummary) -> traceback.StackSummary:
    """The end of a stack that is user code; all of it when no body is on it. What is above is always the same."""
    calls = [place for place, frame in enumerate(stack) if frame.name == BODY_FRAME]
    return traceback.StackSummary.from_list(stack[calls[-1] :] if calls else stack)


def _attempt_in(frame: FrameType | None) -> Attempt | CheckAttempt | None:
    """The attempt whose body is on this stack."""
    while frame is not None:
        if frame.f_code.co_name == BODY_FRAME:
            attempt = frame.f_locals.get("attempt")
            if isinstance(attempt, Attempt | CheckAttempt):
                return attempt
        frame = frame.f_back
    return None
