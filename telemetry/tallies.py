"""Counting so cheaply that every run can be counted: numbers under keys, brought together when somebody looks.

Why not the instruments of the OpenTelemetry SDK: one recording of theirs costs about as much as a tenth of a stage
(12 to 17 µs, two cores of 2026), and a run makes a dozen. An addition here costs a quarter of a microsecond. Counters
and gauges need nothing more, since the SDK asks for their sums. It has no such instrument for histograms, so those
reach the exporters that this package sets up as points (`telemetry.histograms`), and other people's as recordings.

A key is the values of the attributes, in the order of the metric's name. A tally is fed by one thread at a time, as
good as always, and read by any; a reader may see a value whose sum comes a moment later.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from telemetry.faults import passed_over
from telemetry.names import MetricName

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram

__all__ = ["Distribution", "Distributions", "Key", "Point", "RecordedDistribution", "Totals", "attributes_of", "since"]

Key: TypeAlias = tuple[str, ...]


def attributes_of(name: MetricName, key: Key) -> dict[str, str]:
    """What a key stands for."""
    return dict(zip(name.attributes, key, strict=True))


class Totals:
    """A counter. One that starts at 0 shows its first addition as an increase; one that is not there yet does not."""

    __slots__ = ("name", "sums")

    def __init__(self, name: MetricName) -> None:
        self.name: MetricName = name
        self.sums: dict[Key, int] = {}

    def start(self, key: Key = ()) -> None:
        """Have it be there, at 0 if nothing was counted yet."""
        self.sums.setdefault(key, 0)

    def add(self, key: Key = (), number: int = 1) -> None:
        """Count."""
        try:
            self.sums[key] += number
        except KeyError:
            self.sums[key] = number


class Distribution(Protocol):
    """Takes the values of a histogram."""

    def record(self, value: float, key: Key = (), /) -> None:
        """Take one value."""
        ...


@dataclass(slots=True)
class Point:
    """The values under one key: how many fell into each bucket (the last one has no upper end), sum and extremes."""

    buckets: list[int]
    total: float = 0.0
    least: float = float("inf")
    most: float = float("-inf")

    def copy(self) -> Point:
        """As it is now."""
        return Point(list(self.buckets), self.total, self.least, self.most)


class Distributions:
    """A histogram of our own."""

    __slots__ = ("_bounds", "name", "points")

    def __init__(self, name: MetricName) -> None:
        self.name: MetricName = name
        self.points: dict[Key, Point] = {}
        self._bounds = name.bounds

    def record(self, value: float, key: Key = (), /) -> None:
        """Take one value."""
        try:
            point = self.points[key]
        except KeyError:
            point = self.points[key] = Point([0] * (len(self._bounds) + 1))
        point.buckets[bisect_left(self._bounds, value)] += 1
        point.total += value
        # Half as dear as min() and max().
        if value < point.least:  # noqa: PLR1730
            point.least = value
        if value > point.most:  # noqa: PLR1730
            point.most = value


class RecordedDistribution:
    """An instrument of somebody else's meter provider, which may raise; its attributes are made once per key."""

    def __init__(self, name: MetricName, instrument: Histogram) -> None:
        self._name = name
        self._record: Callable[..., None] = instrument.record
        self._attributes: dict[Key, Mapping[str, str]] = {}

    def record(self, value: float, key: Key = (), /) -> None:
        """Take one value."""
        attributes = self._attributes.get(key)
        if attributes is None:
            attributes = self._attributes[key] = attributes_of(self._name, key)
        try:
            self._record(value, attributes)
        except Exception as error:  # noqa: BLE001 - what is measured has been done, whatever can be told of it
            passed_over(error)


def since(point: Point, before: Point | None) -> Point:
    """What came into a point since it was copied; the extremes are those of all of it."""
    if before is None:
        return point
    buckets = [now - then for now, then in zip(point.buckets, before.buckets, strict=True)]
    return Point(buckets, point.total - before.total, point.least, point.most)
