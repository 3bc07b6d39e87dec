"""How late a failed attempt is repeated."""

from datetime import timedelta

import pytest

from kernel.model.retry import RetryPolicy, delay_of, retry_delay


def delays(policy: RetryPolicy, count: int) -> list[float]:
    return [retry_delay(policy, failures=n, token="t").total_seconds() for n in range(1, count + 1)]


def test_the_wait_doubles_up_to_the_longest_interval() -> None:
    policy = RetryPolicy(initial_interval=timedelta(seconds=2), max_interval=timedelta(seconds=10), jitter=False)

    assert delays(policy, 5) == [2, 4, 8, 10, 10]


def test_a_backoff_of_one_waits_the_same_time_every_time() -> None:
    assert delays(RetryPolicy(backoff=1.0, jitter=False), 3) == [1, 1, 1]


def test_jitter_draws_from_zero_to_the_backoff_and_spreads_attempts_that_failed_together() -> None:
    drawn = [retry_delay(RetryPolicy(), failures=3, token=f"t{n}").total_seconds() for n in range(200)]

    assert all(0 <= delay < 4 for delay in drawn)
    assert len(set(drawn)) == 200
    assert 1.5 < sum(drawn) / 200 < 2.5


def test_the_same_token_draws_the_same_delay() -> None:
    once, again = (retry_delay(RetryPolicy(), failures=1, token="t") for _ in range(2))

    assert once == again
    assert once != retry_delay(RetryPolicy(), failures=1, token="another")


@pytest.mark.parametrize("failures", [1, 2, 61, 5000])
@pytest.mark.parametrize("backoff", [1.0, 2.0, 1e9, float("inf")])
def test_no_policy_is_too_wild_to_decide_by(failures: int, backoff: float) -> None:
    policy = RetryPolicy(backoff=backoff, max_interval=timedelta.max, jitter=False)

    assert retry_delay(policy, failures=failures, token="t") >= timedelta(seconds=1)


def test_an_initial_interval_of_zero_never_waits() -> None:
    policy = RetryPolicy(initial_interval=timedelta(0), backoff=float("inf"), jitter=False)

    assert delays(policy, 3) == [0, 0, 0]


def test_waiting_for_ever_is_a_very_long_delay() -> None:
    assert delay_of(float("inf")) > timedelta(days=365 * 9000)


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_lost": -1}, "max_lost"),
        ({"initial_interval": timedelta(seconds=-1)}, "initial_interval"),
        ({"max_interval": timedelta(seconds=-1)}, "max_interval"),
        ({"backoff": 0.5}, "backoff"),
        ({"backoff": float("nan")}, "backoff"),
        ({"non_retryable": ("ValueError",)}, "non_retryable"),
        ({"non_retryable": (str,)}, "non_retryable"),
    ],
)
def test_a_bound_that_makes_no_sense_is_refused_by_name(fields: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        RetryPolicy(**fields)  # type: ignore[arg-type]  # wrong on purpose
