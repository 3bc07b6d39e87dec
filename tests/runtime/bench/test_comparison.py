from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kernel.errors import InvalidCommand
from runtime.bench.comparison import compared, comparison_json, comparison_table, read_result
from runtime.bench.table import WIDTH
from runtime.commandline.layout import text_of, width_of


def a_result(*, p50: float = 4.0, runs_per_s: float = 1000.0, cpu: float = 1.0) -> dict[str, Any]:
    pipeline = {"runs_per_s": runs_per_s, "cpu_ms_per_run": {"worker": cpu}}
    return {"measures": {"latency_ms": {"p50": p50}, "pipeline": pipeline}}


def movements(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    return {each.row.path: each.movement for each in compared(before, now)}


def test_a_result_compared_with_itself_is_the_same() -> None:
    assert set(movements(a_result(), a_result()).values()) == {"same"}


def test_times_that_differ_by_less_than_a_third_are_noise_and_cpu_by_less_than_a_tenth() -> None:
    found = movements(a_result(), a_result(p50=5.0, runs_per_s=900.0, cpu=1.2))

    assert found == {"p50": "noise", "runs_per_s": "noise", "cpu_ms_per_run.worker": "worse"}


def test_less_time_is_better_and_a_lower_rate_is_worse() -> None:
    found = movements(a_result(), a_result(p50=2.0, runs_per_s=500.0, cpu=0.8))

    assert found == {"p50": "better", "runs_per_s": "worse", "cpu_ms_per_run.worker": "better"}


def test_what_only_one_of_them_measured_is_left_out() -> None:
    assert list(movements({"measures": {"latency_ms": {"p50": 1.0}}}, a_result())) == ["p50"]


def test_what_was_nothing_before_has_no_ratio() -> None:
    before, now = ({"measures": {"takeover": {"ran_again": value}}} for value in (0, 5))

    (moved,) = compared(before, now)

    assert (moved.ratio, moved.movement) == (None, "worse")


def test_the_comparison_is_shown_within_the_width_and_as_json() -> None:
    moved = compared(a_result(), a_result(p50=8.0))

    assert max(width_of(text_of(line)) for line in comparison_table(moved)) <= WIDTH
    assert json.loads(json.dumps(comparison_json(moved)))[-1] == {
        "measure": "latency_ms",
        "figure": "p50",
        "before": 4.0,
        "now": 8.0,
        "ratio": 2.0,
        "movement": "worse",
    }


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"measures": 3}'])
def test_a_file_that_is_no_result_is_refused_with_how_to_make_one(tmp_path: Path, text: str) -> None:
    file = tmp_path / "old.json"
    file.write_text(text)

    with pytest.raises(InvalidCommand) as refused:
        read_result(file)

    assert refused.value.field == "compare"
    assert "bench --json" in str(refused.value.hint)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidCommand, match=r"old\.json cannot be read: No such file"):
        read_result(tmp_path / "old.json")
