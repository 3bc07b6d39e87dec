"""Moments and durations as people read them; the JSON output has its own, exact forms."""

from __future__ import annotations

from datetime import datetime, timedelta

__all__ = ["ago", "clock", "date_and_clock", "duration", "in_future"]

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0


def duration(seconds: float | None) -> str:
    """A span in at most two units: "240 ms", "1.24 s", "2 min 05 s", "3 h 04 min", "2 d 3 h"."""
    if seconds is None:
        return ""
    seconds = max(seconds, 0.0)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < _DAY / 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / _HOUR)
    return f"{hours // 24} d {hours % 24} h"


def ago(at: datetime, now: datetime) -> str:
    """How long ago a moment was, in one unit; a date when that says more."""
    seconds = (now - at).total_seconds()
    if seconds < -1:
        return in_future(at, now)
    if seconds < 1:
        return "just now"
    if seconds > 30 * _DAY:
        return at.astimezone().strftime("%Y-%m-%d")
    return f"{_one_unit(seconds)} ago"


def in_future(at: datetime, now: datetime) -> str:
    """How far away a moment is, in one unit."""
    seconds = (at - now).total_seconds()
    return "now" if seconds < 1 else f"in {_one_unit(seconds)}"


def _one_unit(seconds: float) -> str:
    for size, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {name}"
    return f"{int(seconds)} s"


def clock(at: datetime) -> str:
    """The local time of day, to the millisecond."""
    return at.astimezone().strftime("%H:%M:%S.%f")[:-3]


def date_and_clock(at: datetime) -> str:
    """The local date and time of day, to the second (rounded down)."""
    return (at - timedelta(microseconds=at.microsecond)).astimezone().strftime("%Y-%m-%d %H:%M:%S")
