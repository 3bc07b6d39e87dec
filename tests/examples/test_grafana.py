"""The dashboard can be imported as it is, and asks for metrics by the names that Prometheus has for ours."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

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
