"""A flame graph of stacks as an SVG that any browser shows: callers above, the width of a frame its share; pure.

The colour says whose code it is. A frame's title, which browsers show under the pointer, has its name and its share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape

from runtime.bench.stacks import Stacks

__all__ = ["flame_graph"]

WIDTH = 1600
ROW = 17
HEAD = 44
LETTER = 6.6
SHARE_MIN = 0.0005

# The first of our packages, or of others, with which a frame's file begins.
_COLOURS: Mapping[str, str] = {
    "kernel": "#f4a259",
    "runtime": "#f6d55c",
    "adapters": "#8cb369",
    "telemetry": "#d9a5b3",
    "asyncpg": "#5b8e7d",
    "anyio": "#8fb8de",
    "asyncio": "#a9c5e8",
    "pydantic": "#c3a6d8",
}
_OTHERS = "#d0d0d0"


@dataclass(slots=True)
class _Frame:
    name: str
    count: int = 0
    children: dict[str, _Frame] = field(default_factory=dict[str, "_Frame"])


@dataclass(frozen=True, slots=True)
class _Box:
    frame: _Frame
    depth: int
    before: int


def flame_graph(stacks: Stacks, *, title: str, us_per_run: float) -> str:
    """The picture. `us_per_run` is what all samples together stand for, in microseconds of a run."""
    root = _tree(stacks)
    boxes = [box for box in _boxes(root, 0, 0) if box.frame.count >= SHARE_MIN * root.count]
    height = HEAD + ROW * (max(box.depth for box in boxes) + 1) + 8
    drawn = "\n".join(_drawn(box, root.count, us_per_run) for box in boxes)
    legend = "".join(
        f'<rect x="{8 + 110 * n}" y="24" width="12" height="12" fill="{colour}"/>'
        f'<text x="{24 + 110 * n}" y="34">{name}</text>'
        for n, (name, colour) in enumerate({**_COLOURS, "others": _OTHERS}.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="monospace" font-size="11">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n'
        f'<text x="8" y="15" font-size="13">{escape(title)}</text>\n{legend}\n{drawn}\n</svg>\n'
    )


def _tree(stacks: Stacks) -> _Frame:
    root = _Frame("all")
    for frames, count in stacks.items():
        root.count += count
        at = root
        for name in frames:
            at = at.children.setdefault(name, _Frame(name))
            at.count += count
    return root


def _boxes(frame: _Frame, depth: int, before: int) -> Iterator[_Box]:
    yield _Box(frame, depth, before)
    for child in sorted(frame.children.values(), key=lambda child: child.name):
        yield from _boxes(child, depth + 1, before)
        before += child.count


def _drawn(box: _Box, all_samples: int, us_per_run: float) -> str:
    share = box.frame.count / all_samples
    x, width = WIDTH * box.before / all_samples, WIDTH * share
    y = HEAD + ROW * box.depth
    letters = int((width - 6) / LETTER)
    name = box.frame.name
    label = name if len(name) <= letters else name[: letters - 1] + "…"
    text = f'<text x="{x + 3:.1f}" y="{y + 12}">{escape(label)}</text>' if letters >= 3 else ""
    return (
        f"<g><title>{escape(name)}: {share:.1%}, {us_per_run * share:.1f} µs per run</title>"
        f'<rect x="{x:.1f}" y="{y}" width="{max(width - 0.3, 0.3):.1f}" height="{ROW - 1}" fill="{_colour(name)}"/>'
        f"{text}</g>"
    )


def _colour(name: str) -> str:
    package = name.rpartition("(")[2].partition("/")[0]
    return _COLOURS.get(package.removesuffix("_core"), _OTHERS)
