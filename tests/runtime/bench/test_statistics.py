from __future__ import annotations

import pytest

from runtime.bench.statistics import figure, percentile, range_of, rounded, summary


def test_a_summary_has_the_median_of_each_figure_and_its_range() -> None:
    repetitions = [{"rate": 10.0, "cpu": {"worker": 3.0}}, {"rate": 30.0, "cpu": {"worker": 1.0}}]

    found = summary([*repetitions, {"rate": 11.0, "cpu": {"worker": 2.0}}])

    assert found["rate"] == 11.0
    assert found["cpu"] == {"worker": 2.0}
    assert range_of(found, "rate") == (10.0, 30.0)
    assert range_of(found, "cpu.worker") == (1.0, 3.0)
    assert found["repetitions"] == 3


def test_what_could_not_be_read_is_none_and_has_no_range() -> None:
    found = summary([{"postgres": None}, {"postgres": None}])

    assert found["postgres"] is None
    assert range_of(found, "postgres") is None
    assert figure(found, "postgres") is None


def test_what_could_be_read_only_sometimes_counts_when_it_was() -> None:
    assert summary([{"postgres": None}, {"postgres": 2.0}])["postgres"] == 2.0


def test_a_figure_that_is_not_there_is_none() -> None:
    assert figure({"error": "it broke"}, "cpu.worker") is None
    assert figure({"cpu": 1.0}, "cpu.worker") is None
    assert figure(None, "cpu") is None


@pytest.mark.parametrize("percent,expected", [(1, 1.0), (50, 50.0), (99, 99.0), (100, 100.0)])
def test_a_percentile_is_one_of_the_values(percent: float, expected: float) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], percent) == expected


def test_the_percentiles_of_one_value_are_that_value() -> None:
    assert percentile([7.0], 1) == percentile([7.0], 99) == 7.0


def test_rounding_keeps_what_is_known_and_leaves_whole_numbers_alone() -> None:
    assert rounded(1234.5678) == 1235.0
    assert rounded(0.00123456) == 0.001235
    assert rounded(123456) == 123456
    assert rounded(None) is None
