"""Which trace a run belongs to, whoever is asked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from telemetry.run_trace import (
    RunTrace,
    Traceparent,
    after_rerun,
    attempt_ids,
    parse_traceparent,
    root_id,
    run_trace,
    to_ns,
)

RUN = "0199a000-0000-7000-8000-000000000001"
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
HEADER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def trace_with(carrier: dict[str, str] | None, *, sampled: bool = True) -> RunTrace:
    return run_trace(RUN, "w", "1", began_at=NOW, carrier=carrier, sample=lambda _trace, _workflow: sampled)


def test_a_traceparent_is_read_and_written_as_the_w3c_says():
    found = parse_traceparent(HEADER)
    assert found == Traceparent(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, sampled=True)
    assert str(found) == HEADER


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
    ],
)
def test_what_is_no_traceparent_is_passed_over(text: str):
    assert parse_traceparent(text) is None
    assert trace_with({"traceparent": text}) == trace_with(None)


def test_a_later_version_may_say_more():
    assert parse_traceparent("01" + HEADER[2:] + "-more") is not None


def test_the_creators_span_is_the_parent_and_decides_about_sampling():
    trace = trace_with({"traceparent": HEADER}, sampled=False)
    assert f"{trace.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert trace.parent_id == 0xB7AD6B7169203331
    assert trace.sampled
    assert not trace_with({"traceparent": HEADER[:-1] + "0"}).sampled


def test_without_a_creators_span_everybody_derives_the_same_trace_from_the_runs_id():
    one, other = trace_with(None), trace_with(None)
    assert one == other
    assert one.parent_id is None
    assert one.span_id == root_id(RUN)
    assert (
        run_trace(RUN[:-1] + "2", "w", "1", began_at=NOW, carrier=None, sample=lambda *_: True).trace_id != one.trace_id
    )


def test_a_stored_root_without_a_parent_is_told_from_a_creators_span():
    decided = trace_with(None)
    stored = {"traceparent": str(Traceparent(decided.trace_id, decided.span_id, sampled=True))}
    assert trace_with(stored, sampled=False) == decided


def test_sampling_by_ratio_finds_the_derived_ids_evenly_spread():
    bound = 1 << 63
    ids = [
        run_trace(f"{number:036d}", "w", "1", began_at=NOW, carrier=None, sample=lambda *_: True).trace_id
        for number in range(2_000)
    ]
    # What the SDK compares are the lower 64 bits.
    below = sum(found & ((1 << 64) - 1) < bound for found in ids)
    assert 900 < below < 1_100


def test_each_rerun_has_a_root_of_its_own_that_knows_the_first():
    first = trace_with(None)
    again = after_rerun(first, 9, NOW + timedelta(hours=1))
    third = after_rerun(again, 15, NOW + timedelta(hours=2))
    assert len({first.span_id, again.span_id, third.span_id}) == 3
    assert again.first_id == third.first_id == first.span_id
    assert (again.trace_id, again.began_at) == (first.trace_id, NOW + timedelta(hours=1))


def test_an_attempts_spans_follow_from_its_token():
    assert attempt_ids("a") == attempt_ids("a")
    assert len({*attempt_ids("a"), *attempt_ids("b")}) == 4


def test_moments_become_nanoseconds_without_loss():
    assert to_ns(NOW) % 1_000_000_000 == 678_901_000
    assert to_ns(datetime(1970, 1, 1, tzinfo=UTC)) == 0
