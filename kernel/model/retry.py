"""How often and how late a failed attempt is repeated.

Exponential backoff with full jitter (a delay drawn evenly between zero and the backoff), because attempts that failed
together must not come back together; see Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. The
draw is a hash of the attempt's token, not a random number: deciding the same append again gives the same due time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta

__all__ = ["RetryPolicy", "delay_of", "retry_delay"]

_DELAY_MAX_S = 300_000_000_000
"""About 9,500 years: more than there are dates, less than a timedelta can hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a stage's failed attempt is repeated.

    `max_attempts` bounds the attempts of one execution that ended by raising, by a timeout or by a dead child process;
    attempts lost with their whole process have the separate bound `max_lost`, so that a body which kills its process
    cannot use up the attempts of its innocent neighbours. The n-th delay is at most
    `min(initial_interval * backoff ** (n - 1), max_interval)`. Exceptions that are instances of a class in
    `non_retryable` fail the stage at once.

    Raises: ValueError, naming the field, when a bound makes no sense.
    """

    max_attempts: int = 3
    initial_interval: timedelta = timedelta(seconds=1)
    backoff: float = 2.0
    max_interval: timedelta = timedelta(seconds=60)
    jitter: bool = True
    non_retryable: tuple[type[BaseException], ...] = ()
    max_lost: int = 5

    def __post_init__(self) -> None:
        """Refuse bounds that make no sense."""
        if self.max_attempts < 1:
            raise ValueError(f"RetryPolicy.max_attempts must be at least 1, got {self.max_attempts}.")
        if self.max_lost < 0:
            raise ValueError(f"RetryPolicy.max_lost must not be negative, got {self.max_lost}.")
        if self.initial_interval < timedelta(0) or self.max_interval < timedelta(0):
            raise ValueError("RetryPolicy.initial_interval and max_interval must not be negative.")
        if not self.backoff >= 1.0:
            raise ValueError(f"RetryPolicy.backoff must be at least 1.0, got {self.backoff}.")
        for kind in self.non_retryable:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise ValueError(  # noqa: TRY004 - one kind of error for every bound
                    f"RetryPolicy.non_retryable takes exception classes, got {kind!r}."
                )


def retry_delay(policy: RetryPolicy, *, failures: int, token: str) -> timedelta:
    """The wait after the `failures`-th failure (from 1); `token` seeds the jitter, so a repeated decision agrees."""
    ceiling_s = policy.max_interval.total_seconds()
    initial_s = policy.initial_interval.total_seconds()
    try:
        backoff_s = min(initial_s * policy.backoff ** (failures - 1), ceiling_s) if initial_s else 0.0
    except OverflowError:
        backoff_s = ceiling_s
    if not policy.jitter:
        return delay_of(backoff_s)
    draw = int.from_bytes(hashlib.blake2b(token.encode(), digest_size=7, person=b"retry").digest(), "big") / 2**56
    return delay_of(backoff_s * draw)


def delay_of(seconds: float) -> timedelta:
    """A delay of so many seconds; user code may ask to wait for ever, which no timedelta can hold."""
    return timedelta(seconds=min(seconds, _DELAY_MAX_S))
