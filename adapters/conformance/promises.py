"""How a check says that an adapter does not do what its port promises.

Not by `assert`, which only pytest explains, and only where it was asked to, as the suite for stores does; these checks
do without pytest, and `python -O` drops asserts, with which every adapter would pass.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

__all__ = ["BrokenPromise", "expect", "expect_raised"]

E = TypeVar("E", bound=Exception)

_SHOWN = 500


class BrokenPromise(AssertionError):
    """An adapter did something else than its port promises: `promise` in words, what was `expected` and `found`."""

    def __init__(self, promise: str, *, expected: object, found: object) -> None:
        self.promise: str = promise
        self.expected: object = expected
        self.found: object = found
        super().__init__(f"{promise}: expected {_short(expected)}, found {_short(found)}.")


def expect(promise: str, found: object, expected: object) -> None:
    """Raise BrokenPromise unless both are equal."""
    if found != expected:
        raise BrokenPromise(promise, expected=expected, found=found)


async def expect_raised(promise: str, error: type[E], call: Callable[[], Awaitable[object]]) -> E:
    """The error that the call raises. Raises: BrokenPromise, when it returns or raises anything else."""
    try:
        returned = await call()
    except error as raised:
        return raised
    except Exception as other:
        raise BrokenPromise(promise, expected=error.__name__, found=other) from other
    raise BrokenPromise(promise, expected=error.__name__, found=returned)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
