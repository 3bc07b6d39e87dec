"""What a stage body and a completion check may return, besides a bare output.

These are values that user code builds, so they refuse nonsense when they are built: the traceback then points at the
line that made it. They know nothing of schemas; whether an output fits its stage is decided in `outcomes`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, cast, overload

from pydantic import BaseModel
from typing_extensions import TypeVar

__all__ = ["Failed", "NotReady", "Ready", "StageResult", "Suspend"]

O_co = TypeVar("O_co", covariant=True)
S_co = TypeVar("S_co", covariant=True)
Ready_co = TypeVar("Ready_co", covariant=True, default=None)

NAME_LENGTH_MAX = 200
ARTIFACTS_MAX = 1000
"""Each is named in the history with its place and digest, about 300 bytes."""

_UNSTORABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class StageResult(Generic[O_co]):
    """An output with what was measured and made on the way.

    `metrics` are finite numbers by name (`total_cost` in USD and `total_tokens` are summed over the run); `artifacts`
    are further values by name, bytes or JSON, kept in the blob store with the result: `RunHandle.artifact` reads them,
    `leasehold artifacts` lists them, and a rerun of the stage discards them.

    Raises: TypeError or ValueError, naming the field, for a metric that is not a finite number, a name that cannot be
    kept, or more than 1,000 artifacts.
    """

    output: O_co
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    artifacts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        """Refuse what could not be stored."""
        object.__setattr__(self, "metrics", _checked_metrics("StageResult", self.metrics))
        object.__setattr__(self, "artifacts", _checked_artifacts("StageResult", self.artifacts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspend(Generic[S_co]):
    """Returned by a batch stage that waits for something outside: its check is asked after every `poll_interval`.

    `state` is a model; the check gets it back, from JSON. `max_wait` counts from now; when it is over and the check
    still says `NotReady`, the stage fails.

    Raises: TypeError for a state that is no model, ValueError for a negative interval, naming the field.
    """

    state: S_co
    poll_interval: timedelta = timedelta(seconds=30)
    max_wait: timedelta = timedelta(hours=24)
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])

    def __post_init__(self) -> None:
        """Refuse what could not be stored or waited for."""
        _check_state("Suspend", self.state)
        _check_interval("Suspend.poll_interval", self.poll_interval)
        _check_interval("Suspend.max_wait", self.max_wait)
        object.__setattr__(self, "metrics", _checked_metrics("Suspend", self.metrics))


@dataclass(frozen=True, slots=True, init=False)
class Ready(Generic[Ready_co]):
    """Returned by a check: what the stage waited for is there, and `output` is the stage's output.

    `Ready()` means the output None, and so completes only a stage whose output type admits None.

    Raises: TypeError or ValueError, naming the field, for a metric that is not a finite number or an empty name.
    """

    output: Ready_co
    metrics: Mapping[str, float]
    artifacts: Mapping[str, Any]

    @overload
    def __init__(
        self: Ready[None], *, metrics: Mapping[str, float] | None = None, artifacts: Mapping[str, Any] | None = None
    ) -> None: ...

    @overload
    def __init__(
        self,
        output: Ready_co,
        *,
        metrics: Mapping[str, float] | None = None,
        artifacts: Mapping[str, Any] | None = None,
    ) -> None: ...

    def __init__(
        self,
        output: Any = None,
        *,
        metrics: Mapping[str, float] | None = None,
        artifacts: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the output, or None when there is none."""
        object.__setattr__(self, "output", output)
        object.__setattr__(self, "metrics", _checked_metrics("Ready", metrics or {}))
        object.__setattr__(self, "artifacts", _checked_artifacts("Ready", artifacts or {}))


@dataclass(frozen=True, slots=True, kw_only=True)
class NotReady:
    """Returned by a check: ask again after `next_check_in` (else after the stage's poll interval).

    A `state` replaces the suspended state that the next check gets; None keeps the old one.

    Raises: TypeError for a state that is no model, ValueError for a negative interval, naming the field.
    """

    next_check_in: timedelta | None = None
    state: BaseModel | None = None

    def __post_init__(self) -> None:
        """Refuse what could not be stored or waited for."""
        if self.next_check_in is not None:
            _check_interval("NotReady.next_check_in", self.next_check_in)
        if self.state is not None:
            _check_state("NotReady", self.state)


@dataclass(frozen=True, slots=True)
class Failed:
    """Returned by a check: what the stage waited for will not come.

    With `retry` the stage's retry policy applies and the next attempt finds the suspended state in
    `ctx.resume_state`; without it the stage fails at once.

    Raises: ValueError when `error` does not say anything.
    """

    error: str
    retry: bool = False

    def __post_init__(self) -> None:
        """Refuse a failure that says nothing."""
        # Values come from user code that no type checker may have seen.
        if not isinstance(cast("object", self.error), str) or not self.error.strip():
            raise ValueError("Failed.error must be a text that says what went wrong.")


def _check_interval(name: str, value: object) -> None:
    if not isinstance(value, timedelta):
        raise TypeError(f"{name} must be a timedelta, got {type(value).__name__}: write timedelta(seconds=...).")
    if value < timedelta(0):
        raise ValueError(f"{name} must not be negative, got {value}.")


def _check_state(owner: str, state: object) -> None:
    if not isinstance(state, BaseModel):
        raise TypeError(f"{owner}.state must be an instance of a pydantic model, got {type(state).__name__}.")


def _checked_metrics(owner: str, metrics: Mapping[str, object]) -> dict[str, float]:
    checked: dict[str, float] = {}
    for name, value in metrics.items():
        _check_name(f"{owner}.metrics", name)
        # bool is an int to Python, but "true tokens" is a mistake.
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{owner}.metrics[{name!r}] must be a number, got {type(value).__name__}.")
        number = _as_float(value)
        if number is None or not math.isfinite(number):
            raise ValueError(f"{owner}.metrics[{name!r}] must be a finite number.")
        checked[name] = number
    return checked


def _as_float(value: float) -> float | None:
    try:
        return float(value)
    except OverflowError:  # an int that no float can hold
        return None


def _checked_artifacts(owner: str, artifacts: Mapping[str, Any]) -> dict[str, Any]:
    for name in artifacts:
        _check_name(f"{owner}.artifacts", name)
    if len(artifacts) > ARTIFACTS_MAX:
        raise ValueError(
            f"{owner}.artifacts has {len(artifacts)} entries, more than {ARTIFACTS_MAX}: keep so many in ctx.storage."
        )
    return dict(artifacts)


def _check_name(where: str, name: object) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where} must have names that are non-empty strings, got {name!r}.")
    if len(name) > NAME_LENGTH_MAX or _UNSTORABLE.search(name) is not None:
        raise ValueError(
            f"{where} must have names of at most {NAME_LENGTH_MAX} characters without control characters, got {name!r}."
        )
