"""Figures of repetitions: medians with minimum and maximum, and percentiles; pure.

A mean would let one hiccup of a shared machine move the result, so there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from statistics import median
from typing import Any, cast

__all__ = ["figure", "percentile", "range_of", "rounded", "summary"]

DIGITS = 4


def summary(repetitions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One measure out of its repetitions: the median of each figure, at any depth, in the same shape.

    Beside them "range", with [minimum, maximum] by the dotted name of the figure, and "repetitions". A figure that is
    None in every repetition stays None; where it is None in some, they do not count.
    """
    ranges: dict[str, list[float]] = {}
    merged = _merged(repetitions, "", ranges)
    return {**merged, "range": ranges, "repetitions": len(repetitions)}


def _merged(repetitions: Sequence[Mapping[str, Any]], prefix: str, ranges: dict[str, list[float]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in repetitions[0]:
        values = [each[name] for each in repetitions]
        if isinstance(values[0], Mapping):
            found[name] = _merged(cast("Sequence[Mapping[str, Any]]", values), f"{prefix}{name}.", ranges)
            continue
        known = [value for value in values if value is not None]
        found[name] = rounded(median(known)) if known else None
        if known:
            ranges[f"{prefix}{name}"] = [_rounded(min(known)), _rounded(max(known))]
    return found


def figure(measure: Mapping[str, Any] | None, path: str) -> float | None:
    """The figure with this dotted name; None when there is none, or the measure failed."""
    found: object = measure
    for name in path.split("."):
        found = cast("Mapping[str, object]", found).get(name) if isinstance(found, Mapping) else None
    return float(found) if isinstance(found, int | float) else None


def range_of(measure: Mapping[str, Any] | None, path: str) -> tuple[float, float] | None:
    """Minimum and maximum of the figure with this dotted name."""
    found = (measure or {}).get("range", {}).get(path)
    return None if found is None else (float(found[0]), float(found[1]))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that at least so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[max(ceil(len(ordered) * percent / 100), 1) - 1]


def rounded(value: float | None, digits: int = DIGITS) -> float | None:
    """The number with so many significant digits, for more are not known; whole numbers stay as they are."""
    return None if value is None else _rounded(value, digits)


def _rounded(value: float, digits: int = DIGITS) -> float:
    return value if isinstance(value, int) else float(f"{value:.{digits}g}")
