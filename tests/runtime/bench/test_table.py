from __future__ import annotations

from typing import Any

import pytest

from runtime.bench.milestones import ROWS, Row, find, verdict
from runtime.bench.table import WIDTH, figures_table, number
from runtime.commandline.layout import text_of, width_of


def measures_with(value: float) -> dict[str, Any]:
    """Every figure that is shown, all with the same value as it is shown, and a range around it."""
    found: dict[str, Any] = {}
    for row in ROWS:
        stored = value / row.factor
        measure = found.setdefault(row.measure, {"range": {}})
        measure["range"][row.path] = [stored * 0.9, stored * 1.1]
        *above, name = row.path.split(".")
        for each in above:
            measure = measure.setdefault(each, {})
        measure[name] = stored
    return found


@pytest.mark.parametrize("value", [0.0, 0.123456, 98.7654, 123456.789])
def test_no_line_is_wider_than_a_hundred_cells(value: float) -> None:
    lines = [text_of(line) for line in figures_table(measures_with(value))]

    assert len(lines) == len(ROWS) + 1
    assert max(width_of(line) for line in lines) <= WIDTH


def test_no_label_is_cut_when_figures_have_their_usual_size() -> None:
    text = "\n".join(text_of(line) for line in figures_table(measures_with(1234.0)))

    assert all(row.label in text for row in ROWS)


def test_what_was_not_measured_has_no_line_and_what_failed_says_why() -> None:
    lines = [text_of(line) for line in figures_table({"latency_ms": {"p50": 3.0}, "idle": {"error": "it broke"}})]

    assert [line.split("  ")[0] for line in lines] == [
        "MEASURE",
        "one run at a time, p50, ms",
        "idle was not measured: it broke",
    ]


def test_a_measure_that_failed_alone_leaves_no_empty_table() -> None:
    assert [text_of(line) for line in figures_table({"idle": {"error": "it broke"}})] == [
        "idle was not measured: it broke"
    ]


@pytest.mark.parametrize(
    "value,higher,expected",
    [(5, False, "goal"), (7, False, "milestone"), (11, False, "missed"), (4, True, "missed"), (10, True, "goal")],
)
def test_the_verdict_is_the_most_that_is_reached(value: float, expected: str, *, higher: bool) -> None:
    low, high = 5.0, 10.0
    milestone, goal = (low, high) if higher else (high, low)
    row = Row(label="a figure", measure="m", path="p", milestone=milestone, goal=goal, higher=higher)

    assert verdict(row, value) == expected


def test_a_figure_of_which_nothing_is_owed_has_no_verdict() -> None:
    assert verdict(Row(label="a figure", measure="m", path="p"), 1.0) == ""


def test_a_figure_is_shown_in_the_unit_of_its_label() -> None:
    row = next(row for row in ROWS if row.path == "wal_bytes_per_run")

    found = find(row, {row.measure: {"wal_bytes_per_run": 5120, "range": {"wal_bytes_per_run": [1024, 10240]}}})

    assert found is not None
    assert (found.value, found.low, found.high) == (5.0, 1.0, 10.0)


@pytest.mark.parametrize(
    "value,text", [(0, "0"), (0.0421, "0.042"), (1.5, "1.5"), (12.34, "12.3"), (100, "100"), (12345.6, "12,346")]
)
def test_numbers_have_about_three_digits(value: float, text: str) -> None:
    assert number(value) == text
