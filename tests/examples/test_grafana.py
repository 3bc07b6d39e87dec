"""The dashboard can be imported as it is, and asks for metrics by the names that Prometheus has for ours."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY, generate_latest

from telemetry.names import METRICS, MetricName

DASHBOARD = json.loads(
    (Path(__file__).parents[2] / "examples" / "grafana" / "leasehold.json").read_text(encoding="utf-8")
)
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
METRIC = re.compile(r"\bleasehold_[a-z_]+(?=[{\[)])")
LABELS = re.compile(r"\b(?:by|without) \([^)]*\)")


def expressions(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def metrics_in(expression: str) -> set[str]:
    """Their full names, with what Prometheus adds for units, totals and buckets."""
    return set(METRIC.findall(LABELS.sub("", expression)))


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in {"s", "short", "ops"}
    assert all(metrics_in(each) for each in expressions(panel))


def test_no_panel_covers_another() -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in DASHBOARD["panels"]]

    def apart(a: dict[str, int], b: dict[str, int]) -> bool:
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        return beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]

    assert [(one, other) for (one, a), (other, b) in itertools.combinations(places, 2) if not apart(a, b)] == []
    assert all(place["x"] + place["w"] <= 24 for _, place in places)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_rates_are_of_what_only_grows_and_quantiles_of_buckets() -> None:
    for each in itertools.chain.from_iterable(map(expressions, PANELS)):
        names = metrics_in(each)
        assert all(name.endswith(("_total", "_bucket", "_sum", "_count")) for name in names) == ("rate(" in each), each
        assert all(name.endswith("_bucket") for name in names) == ("histogram_quantile(" in each), each


def exposed(metric: MetricName) -> dict[str, set[str]]:
    """The names under which Prometheus has it, each with its labels: what the exporter makes of the instrument."""
    reader = PrometheusMetricReader(disable_target_info=True)
    provider = MeterProvider([reader], shutdown_on_exit=False)
    meter, point = provider.get_meter("tests"), dict.fromkeys(metric.attributes, "any")
    match metric.kind:
        case "counter":
            meter.create_counter(metric.name, metric.unit).add(1, point)
        case "gauge":
            meter.create_gauge(metric.name, metric.unit).set(1, point)
        case "histogram":
            meter.create_histogram(metric.name, metric.unit).record(1, point)
    text = generate_latest(REGISTRY).decode()
    provider.shutdown()
    samples = re.findall(r"^(leasehold_\w+)(?:\{(.*?)\})? ", text, re.MULTILINE)
    return {name: set(re.findall(r"(\w+)=\"", labels)) for name, labels in samples}


# Prometheus adds who was asked.
TARGET = {"instance", "job"}


def test_every_metric_has_a_panel_and_no_panel_asks_for_another() -> None:
    names = [exposed(metric).keys() for metric in METRICS]
    asked_for = set().union(*(metrics_in(each) for panel in PANELS for each in expressions(panel)))

    assert [metric.name for metric, of_it in zip(METRICS, names, strict=True) if not of_it & asked_for] == []
    assert asked_for <= set().union(*names)


def test_a_metric_is_divided_only_by_the_labels_that_it_has() -> None:
    labels = {name: found for metric in METRICS for name, found in exposed(metric).items()}

    for each in itertools.chain.from_iterable(map(expressions, PANELS)):
        grouped = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", each) for label in group.split(",")}
        chosen = set(re.findall(r"(\w+)=~", each))
        assert grouped | chosen <= set().union(*(labels[name] for name in metrics_in(each))) | TARGET, each


def test_what_every_process_reports_alike_is_not_added_up() -> None:
    shared = set().union(*(exposed(metric).keys() for metric in METRICS if metric.shared))

    for each in itertools.chain.from_iterable(map(expressions, PANELS)):
        if metrics_in(each) & shared:
            assert re.search(r"\bmax *(?:by \([^)]*\) *)?\(leasehold_", each), each
