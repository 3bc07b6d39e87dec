"""What user code raised, turned into data: the class's name, its message, its traceback, and whether to try again.

An attempt must be able to end whatever its exception is, so nothing here fails on hostile messages, and texts are
bounded and storable. Repeating is pointless for what the author says (`NonRetryable`, the policy's classes) and for
what a schema refuses; everything else is left to the retry policy.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import cast

from kernel import (
    DefinitionChanged,
    ErrorInfo,
    InvalidConfig,
    InvalidInput,
    InvalidOutput,
    InvalidStage,
    MissingOutput,
    NonRetryable,
    OutputNotLoaded,
    PayloadRefused,
    RetryAfter,
    RetryPolicy,
)
from kernel.authoring.context import BodyCancelled
from kernel.model.attempts import Raised
from runtime.storable_text import storable_text

__all__ = ["cut_off", "describe", "leaves_of", "raised_outcome", "traceback_text"]

MESSAGE_LENGTH_MAX = 8_192
TRACEBACK_LENGTH_MAX = 16_384
NAME_LENGTH_MAX = 200
LEAVES_SHOWN_MAX = 5

_NEVER_LUCKIER: tuple[type[BaseException], ...] = (
    NonRetryable,
    DefinitionChanged,
    InvalidConfig,
    InvalidInput,
    InvalidOutput,
    InvalidStage,
    MissingOutput,
    OutputNotLoaded,
    PayloadRefused,
)

_OWN_MODULES = frozenset({"runtime.bodies", "runtime.executor", "runtime.threads"})


def raised_outcome(error: BaseException, policy: RetryPolicy, *, message: str | None = None) -> Raised:
    """The outcome of an attempt whose body raised this; `message` replaces one that would not say enough.

    Of a group every leaf counts: it is final when all leaves are, and waits as long as the most patient one asks.
    """
    final = (*_NEVER_LUCKIER, *policy.non_retryable)
    leaves = list(leaves_of(error))
    retryable = not isinstance(error, final) and not all(isinstance(leaf, final) for leaf in leaves)
    delays = [leaf.delay for leaf in leaves if isinstance(leaf, RetryAfter)]
    info = ErrorInfo(
        type=storable_text(type(error).__name__, length_max=NAME_LENGTH_MAX),
        message=storable_text(_message(error) if message is None else message, length_max=MESSAGE_LENGTH_MAX),
        traceback=traceback_text(error),
        retryable=retryable,
    )
    return Raised(error=info, retry_after=max(delays) if delays and retryable else None)


def cut_off(what: str, *, stack: str | None = None, last_words: str = "") -> Raised:
    """The outcome of an attempt that its timeout ended; `stack` is where it was, if that is known."""
    message = f"{what} did not end within its timeout"
    if last_words:
        message = f"{message}. {last_words}"
    info = ErrorInfo(
        type="TimeoutError",
        message=storable_text(message, length_max=MESSAGE_LENGTH_MAX),
        traceback=None if stack is None else storable_text(stack, length_max=TRACEBACK_LENGTH_MAX),
    )
    return Raised(error=info, cause="timeout")


def describe(error: BaseException) -> str:
    """One line that names the exception."""
    return f"{type(error).__name__}: {_message(error)}"


def traceback_text(error: BaseException) -> str:
    """The traceback as Python prints it, without the engine's own frames at its top."""
    try:
        shown = traceback.TracebackException(type(error), error, _user_frames(error.__traceback__), compact=True)
        text = "".join(shown.format())
    except Exception as broken:  # noqa: BLE001 - attributes of a user's exception may raise anything
        text = f"{type(error).__name__} (its traceback cannot be shown: {type(broken).__name__})\n"
    return storable_text(text, length_max=TRACEBACK_LENGTH_MAX)


def _message(error: BaseException) -> str:
    if isinstance(error, BodyCancelled) and not error.args:
        return "the body stopped itself, although its result is still wanted"
    try:
        if not isinstance(error, BaseExceptionGroup):
            return str(error)
        leaves = [describe(leaf) for leaf in leaves_of(cast("BaseException", error))]
        more = f"; and {len(leaves) - LEAVES_SHOWN_MAX} more" if len(leaves) > LEAVES_SHOWN_MAX else ""
        return f"{error}: {'; '.join(leaves[:LEAVES_SHOWN_MAX])}{more}"
    except Exception as broken:  # noqa: BLE001 - a user's __str__ may raise anything
        return f"(its message cannot be shown: {type(broken).__name__})"


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """The exceptions of a group, however deep; an exception that is no group is its own leaf."""
    pending = [error]
    while pending:
        current = pending.pop()
        if isinstance(current, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", current)
            pending.extend(reversed(group.exceptions))
        else:
            yield current


def _user_frames(frames: TracebackType | None) -> TracebackType | None:
    first = frames
    while first is not None and first.tb_frame.f_globals.get("__name__") in _OWN_MODULES:
        first = first.tb_next
    return first or frames
