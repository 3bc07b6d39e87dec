"""What a process of a test counts, as an exporter would be given it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric

from telemetry import names
from telemetry.histograms import HistogramFeed
from telemetry.metrics import Meters

__all__ = ["Metered", "set_up"]


@dataclass
class Metered:
    """Meters, and what they have been told so far."""

    meters: Meters
    reader: InMemoryMetricReader
    feed: HistogramFeed | None

    def metrics(self) -> dict[str, Metric]:
        data = self.reader.get_metrics_data()
        assert data is not None
        data = data if self.feed is None else self.feed.added(data)
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
        assert {scope.scope.name for scope in scopes} == {"leasehold"}
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def points(self, name: names.MetricName) -> dict[tuple[str, ...], Any]:
        """The points by the values of their attributes: numbers, or how many values a histogram has."""
        metric = self.metrics().get(name.name)
        if metric is None:
            return {}
        return {
            tuple(str((point.attributes or {})[key]) for key in name.attributes): (
                point.count if name.kind == "histogram" else point.value
            )
            for point in metric.data.data_points
        }


def set_up(*, own_histograms: bool) -> Metered:
    reader = InMemoryMetricReader()
    meters = Meters(MeterProvider([reader], shutdown_on_exit=False), own_histograms=own_histograms)
    feed = HistogramFeed() if own_histograms else None
    if feed is not None:
        feed.of(meters.distributions)
    return Metered(meters, reader, feed)
