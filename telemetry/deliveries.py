"""Whether collectors take what they are sent: said when it changes, and not otherwise.

Kept apart from the exporters because it is called by threads of theirs and knows nothing of spans and metrics.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable

from telemetry.logs import EventLogger, get_logger

__all__ = ["Deliveries"]

logger: EventLogger = get_logger("leasehold.telemetry")

TALKATIVE = (
    "opentelemetry.exporter",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.trace.export",
    "opentelemetry.sdk.metrics._internal.export",
)
"""Loggers that have a line, often with a traceback, for every batch that does not arrive."""
FULL_QUEUE = ("Queue full", "Queue is full")
"""How a batch processor of the SDK begins its line about a span that it drops: one for each, thinned out by its log."""
SAY_AGAIN_S = 10.0
REASON_LENGTH_MAX = 200
_QUERY = re.compile(r"\?\S*")
_SYSTEM_ERROR = re.compile(r"\[Errno -?\d+\] ([\w ]+)")


class _LastWords(logging.Handler):
    """Keeps what was said last instead of writing it."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.text = record.getMessage()


class _FullQueue(logging.Filter):
    """Has what is dropped counted instead of logged; asked once for every span that found no room."""

    def __init__(self, dropped: Callable[[], None]) -> None:
        super().__init__()
        self._dropped = dropped

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is about something else."""
        if not str(record.msg).startswith(FULL_QUEUE):
            return True
        self._dropped()
        return False


class Deliveries:
    """One line when a collector stops taking what it is sent, and one when it takes it again.

    A collector that is away for traces is away for metrics, and that is one thing to say; one that takes the first and
    not the second, as some do, is said too, once. Made, it also silences who would say it every time.

    Spans that find no room while the collector takes all that it is sent are said with their number, every ten seconds
    at most and at the end. While it takes nothing, they are lost with the rest of that outage.

    With `told_by_parent` nothing is said of collectors: the parent process sends to the same ones, and says it.
    """

    def __init__(self, *, told_by_parent: bool = False) -> None:
        self._told_by_parent = told_by_parent
        self._lock = threading.Lock()
        self._failing: dict[tuple[str, str], float] = {}
        self._worked_at: dict[tuple[str, str], float] = {}
        self._said_at: dict[str, float] = {}
        self._lost: dict[str, int] = {}
        self._dropped = 0
        self._dropped_said = 0
        self._dropped_said_at = -math.inf
        self._words = _LastWords()
        full = _FullQueue(self._count_dropped)
        for name in TALKATIVE:
            talkative = logging.getLogger(name)
            talkative.propagate = False
            talkative.handlers[:] = [self._words]
            # Before the SDK's own filter, which lets few of many equal lines through.
            talkative.filters[:] = [full, *(one for one in talkative.filters if not isinstance(one, _FullQueue))]

    @property
    def troubled(self) -> bool:
        """Whether something was not taken, or is not about to be, as far as its exporter has said."""
        return bool(self._failing or self._words.text)

    @property
    def dropped(self) -> int:
        """How many spans found no room in the queue, since the process began."""
        return self._dropped

    def worked(self, endpoint: str, signal: str) -> None:
        """A batch was taken."""
        if signal == "traces":
            self.say_dropped(every_s=SAY_AGAIN_S)
        with self._lock:
            self._worked_at[endpoint, signal] = now = time.monotonic()
            self._words.text = ""
            since = self._failing.pop((endpoint, signal), None)
            if since is None or any(other == endpoint for other, _ in self._failing):
                return
            said_at, lost = self._said_at.pop(endpoint, now), self._lost.pop(endpoint, 0)
        if self._told_by_parent:
            return
        logger.info("telemetry.recovered", endpoint=endpoint, after_s=round(now - min(since, said_at), 1), lost=lost)

    def failed(self, endpoint: str, signal: str, *, lost: int = 0, error: Exception | None = None) -> None:
        """A batch was not taken; of spans that many are `lost`."""
        with self._lock:
            now = time.monotonic()
            first = (endpoint, signal) not in self._failing
            self._failing.setdefault((endpoint, signal), now)
            if signal == "traces":
                lost, self._dropped_said = lost + self._dropped - self._dropped_said, self._dropped
            self._lost[endpoint] = self._lost.get(endpoint, 0) + lost
            said_at = self._said_at.get(endpoint)
            # What has worked since the other signal failed is not part of that outage.
            new = said_at is None or (first and self._worked_at.get((endpoint, signal), 0.0) > said_at)
            if not new:
                return
            self._said_at[endpoint] = now
        reason = self._words.text if error is None else f"{type(error).__name__}: {error}"
        self._say(endpoint, signal, reason)

    def gave_up(self, endpoint: str, signal: str) -> None:
        """The process leaves, and something has not been sent there."""
        if not self._said_at:
            self._said_at[endpoint] = time.monotonic()
            self._say(endpoint, signal, self._words.text or "no answer when the process had to leave")

    def say_dropped(self, *, every_s: float = 0.0) -> None:
        """Say how many spans have found no room since that was last said, unless that is less than `every_s` ago."""
        with self._lock:
            now, in_all = time.monotonic(), self._dropped
            new = in_all - self._dropped_said
            if not new or self._failing or now - self._dropped_said_at < every_s:
                return
            self._dropped_said, self._dropped_said_at = in_all, now
        logger.warning(
            "telemetry.spans_dropped",
            spans=new,
            in_all=in_all,
            hint="They ended faster than they were sent: raise OTEL_BSP_MAX_QUEUE_SIZE. Runs go on.",
        )

    def _count_dropped(self) -> None:
        with self._lock:
            self._dropped += 1

    def _say(self, endpoint: str, signal: str, reason: str) -> None:
        if self._told_by_parent:
            return
        # The system's own word, if it had one, is at the end of a long story. An address may have a token in its query.
        reason = (
            found[1].strip()
            if (found := _SYSTEM_ERROR.search(reason))
            else _QUERY.sub("?…", reason)[:REASON_LENGTH_MAX]
        )
        logger.warning(
            "telemetry.unreachable",
            endpoint=endpoint,
            signal=signal,
            reason=reason or "it was refused",
            hint="Runs go on; what cannot be sent is dropped. Said once, and again when it works.",
        )
