"""Folded stacks, as sampling profilers write them: a line per stack, `outermost;...;innermost count`; pure.

A frame is `function (file:line)`, the line being that at which the function begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["FunctionShare", "Stacks", "folded", "functions_of", "read_stacks"]

Stacks: TypeAlias = Mapping[tuple[str, ...], int]
"""How many samples met each stack of frames, the outermost first."""

# A sampler takes a thread for busy that waits with a timeout. Nobody computes where one of these is on the stack.
_WAITING = (
    "Condition.wait (threading.py:",
    "wait (threading.py:",
    "EpollSelector.select (selectors.py:",
    "KqueueSelector.select (selectors.py:",
    "EpollIOManager.get_events (trio/",
    "KqueueIOManager.get_events (trio/",
    "epoll_wait (",
    "epoll_pwait (",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionShare:
    """A function, and the shares of all samples in which it ran itself, and in which it or what it called did."""

    name: str
    self_share: float
    total_share: float


def read_stacks(lines: Iterable[str]) -> Stacks:
    """The stacks of those who computed; who only waited is left out, and so is what is no stack."""
    stacks: Counter[tuple[str, ...]] = Counter()
    for text in lines:
        stack, _, number = text.strip().rpartition(" ")
        frames = tuple(stack.split(";"))
        if stack and number.isdigit() and not any(frame.startswith(_WAITING) for frame in frames):
            stacks[frames] += int(number)
    return stacks


def folded(stacks: Stacks) -> str:
    """The text again."""
    return "".join(f"{';'.join(frames)} {count}\n" for frames, count in stacks.items())


def functions_of(stacks: Stacks) -> Sequence[FunctionShare]:
    """All functions in these stacks, those first that ran most themselves. A recursion counts once in a total."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for frames, count in stacks.items():
        own[frames[-1]] += count
        for name in set(frames):
            total[name] += count
    samples = sum(stacks.values())
    shares = [
        FunctionShare(name=name, self_share=own[name] / samples, total_share=total[name] / samples) for name in total
    ]
    return sorted(shares, key=lambda share: (-share.self_share, -share.total_share, share.name))
