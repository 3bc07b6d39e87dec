"""The histograms of `telemetry.tallies` as points of OpenTelemetry, put among what an exporter is given.

The one place that knows both. Each exporter has a `HistogramFeed` of its own, because an exporter that wants deltas
wants them since its own last time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)

from telemetry import names
from telemetry.tallies import Distributions, Key, Point, attributes_of, since

__all__ = ["HistogramFeed"]


class HistogramFeed:
    """Adds our histograms to what one exporter is given; `deltas`: what came since the last time."""

    def __init__(self, *, deltas: bool = False) -> None:
        self._distributions: Sequence[Distributions] = ()
        self._deltas = deltas
        self._began_ns = time.time_ns()
        self._before: dict[tuple[str, Key], Point] = {}

    def of(self, distributions: Sequence[Distributions]) -> None:
        """These are the histograms; they are made after the exporters, since they need the provider of those."""
        self._distributions = distributions

    def added(self, data: MetricsData) -> MetricsData:
        """The same with our histograms in our scope."""
        now_ns = time.time_ns()
        metrics = [metric for each in self._distributions if (metric := self._metric(each, now_ns)) is not None]
        if self._deltas:
            self._began_ns = now_ns
        return replace(data, resource_metrics=[_with(resource, metrics) for resource in data.resource_metrics])

    def _metric(self, distributions: Distributions, now_ns: int) -> Metric | None:
        name = distributions.name
        points: list[HistogramDataPoint] = []
        for key, live in list(distributions.points.items()):
            point = live.copy()
            shown = point
            if self._deltas:
                shown = since(point, self._before.get((name.name, key)))
                self._before[name.name, key] = point
            # Nothing new is no delta.
            if any(shown.buckets):
                points.append(self._data_point(distributions, key, shown, now_ns))
        if not points:
            return None
        temporality = AggregationTemporality.DELTA if self._deltas else AggregationTemporality.CUMULATIVE
        histogram = Histogram(data_points=points, aggregation_temporality=temporality)
        return Metric(name=name.name, description=name.meaning, unit=name.unit, data=histogram)

    def _data_point(self, distributions: Distributions, key: Key, point: Point, now_ns: int) -> HistogramDataPoint:
        return HistogramDataPoint(
            attributes=attributes_of(distributions.name, key),
            start_time_unix_nano=self._began_ns,
            time_unix_nano=now_ns,
            count=sum(point.buckets),
            sum=point.total,
            bucket_counts=point.buckets,
            explicit_bounds=distributions.name.bounds,
            min=point.least,
            max=point.most,
        )


def _with(resource: ResourceMetrics, metrics: Sequence[Metric]) -> ResourceMetrics:
    scopes = [
        ScopeMetrics(scope=scope.scope, metrics=[*scope.metrics, *metrics], schema_url=scope.schema_url)
        if scope.scope.name == names.SCOPE
        else scope
        for scope in resource.scope_metrics
    ]
    return ResourceMetrics(resource=resource.resource, scope_metrics=scopes, schema_url=resource.schema_url)
