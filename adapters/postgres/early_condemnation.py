"""Noticing that a process is dead before its lease has ended.

The connection that renews a session holds an advisory lock, which the server takes back when the connection is gone.
A session whose lock is absent in two looks a second apart, and that has not renewed in between, has lost its process.
That is weaker evidence than a lease that has ended, so there is no verdict where it may have another cause: when the
server has just started and the session is older than that, when our own connection was lost just now, or when several
sessions seem to have died at once.

Remembers what the looks have found; looking is part of `heartbeat.sql`, and the verdict is `condemn_absent.sql`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

__all__ = ["Watch"]

BETWEEN_LOOKS_S = 1.0


class Watch:
    """What one process has seen of the others; moments are of its monotonic clock."""

    def __init__(self) -> None:
        self._quiet_until = float("-inf")
        self._seen: dict[str, tuple[float, datetime]] = {}
        self._last_loss: tuple[str, float] | None = None

    def distrust(self, now: float, lease: timedelta) -> None:
        """Something happened to more than one connection: draw no conclusion for one lease."""
        self._quiet_until = now + lease.total_seconds()
        self._seen.clear()

    def look(self, absent: Mapping[str, datetime], now: float, lease: timedelta) -> tuple[str, datetime] | None:
        """Take note of the sessions without a lock, with their last renewal, and name the one that may be condemned.

        Absences of two sessions within one lease of each other count as one event.
        """
        for session_id in absent:
            before = self._last_loss
            if before is None or before[0] != session_id:
                self._last_loss = session_id, now
                if before is not None and now - before[1] < lease.total_seconds():
                    self.distrust(now, lease)
        if now < self._quiet_until:
            return None
        self._seen = {
            session_id: self._seen[session_id] if self._is_as_before(session_id, renewed_at) else (now, renewed_at)
            for session_id, renewed_at in absent.items()
        }
        for session_id, (first_look, renewed_at) in self._seen.items():
            if now - first_look >= BETWEEN_LOOKS_S:
                return session_id, renewed_at
        return None

    def _is_as_before(self, session_id: str, renewed_at: datetime) -> bool:
        return session_id in self._seen and self._seen[session_id][1] == renewed_at
