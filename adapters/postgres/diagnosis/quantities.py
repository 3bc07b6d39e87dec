"""Figures with their units, as findings say them."""

from __future__ import annotations

__all__ = ["counted", "size", "span"]

_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))
COUNTED_MAX = 10_000
"""Counting stops here: a backlog that large is one, and the look must not be a burden."""


def span(seconds: float) -> str:
    """A length of time in one unit, with what it takes to compare it."""
    seconds = max(seconds, 0.0)
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    for length, unit in _UNITS:
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s"


def counted(number: int, what: str, *, bounded: bool = False) -> str:
    """So many of something: "1 run", "3 runs"; with `bounded` what stands for "so many or more" says so."""
    more = "at least " if bounded and number >= COUNTED_MAX else ""
    return f"{more}{number:,} {what}{'' if number == 1 else 's'}"


def size(of_bytes: int) -> str:
    """An amount of data in one unit."""
    amount = float(of_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
