"""Durations and moments for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from runtime.commandline.times import ago, duration, in_future

NOW = datetime(2030, 6, 15, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "seconds,text",
    [
        (None, ""),
        (-1, "0 ms"),
        (0, "0 ms"),
        (0.2404, "240 ms"),
        (0.9999, "1.00 s"),
        (1.239, "1.24 s"),
        (9.996, "10.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (11_050, "3 h 04 min"),
        (86_390, "1 d 0 h"),
        (183_600, "2 d 3 h"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "seconds,text",
    [(0, "just now"), (59.9, "59 s ago"), (61, "1 min ago"), (7300, "2 h ago"), (200_000, "2 d ago"), (-30, "in 30 s")],
)
def test_a_moment_is_told_in_one_unit(seconds: float, text: str) -> None:
    assert ago(NOW - timedelta(seconds=seconds), NOW) == text


def test_a_moment_long_ago_is_a_date() -> None:
    assert ago(NOW - timedelta(days=40), NOW) == "2030-05-06"


def test_a_moment_to_come_that_has_come_is_now() -> None:
    assert in_future(NOW - timedelta(seconds=5), NOW) == "now"
