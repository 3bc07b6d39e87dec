"""The spans of a trace as a tree, and as text for people. Knows neither where they came from nor what they mean."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.otlp_records import Span


@dataclass(frozen=True, slots=True)
class Node:
    """A span and those that name it as their parent, in the order that was asked for."""

    span: Span
    children: tuple[Node, ...]

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def attributes(self) -> Mapping[str, Any]:
        return self.span.attributes

    @property
    def status(self) -> str:
        return self.span.status

    def walk(self) -> Iterator[Node]:
        """This and all below it, each before its children."""
        yield self
        for child in self.children:
            yield from child.walk()

    def find(self, name: str) -> Node:
        """The only one of that name, here or below."""
        [found] = [node for node in self.walk() if node.name == name]
        return found


def by_begin(span: Span) -> Any:
    """Who began first; of two at once, who took longer."""
    return span.start, -span.end


def trees_of(spans: Iterable[Span], order: Callable[[Span], Any] = by_begin) -> tuple[Node, ...]:
    """One tree for each root; a span whose parent is missing is a root too, with a `parent_id`."""
    ordered = sorted(spans, key=order)
    present = {(span.trace_id, span.span_id) for span in ordered}
    below: defaultdict[tuple[str, str | None], list[Span]] = defaultdict(list)
    roots: list[Span] = []
    for span in ordered:
        parent = (span.trace_id, span.parent_id)
        (below[parent] if parent in present else roots).append(span)

    def node(span: Span) -> Node:
        return Node(span, tuple(node(child) for child in below[span.trace_id, span.span_id]))

    return tuple(node(root) for root in roots)


def tree_of(spans: Iterable[Span], order: Callable[[Span], Any] = by_begin) -> Node:
    """The only one: a single root, and every other span's parent is present."""
    trees = trees_of(spans, order)
    assert len(trees) == 1, f"{len(trees)} trees:\n{as_text(trees)}"
    assert trees[0].span.parent_id is None, f"the root's parent is missing:\n{as_text(trees)}"
    return trees[0]


def outside_of(root: Node) -> list[str]:
    """The names of those below it that begin before it or end after it."""
    return [node.name for node in root.walk() if node.span.start < root.span.start or node.span.end > root.span.end]


def as_text(trees: Sequence[Node], *, show: Sequence[str] = ()) -> str:
    """A line for each span: its name, those of the attributes named, by their last word, and what went wrong.

    Times and ids are left out, so that the same run gives the same text. Events follow their span, each with a dot.
    """
    return "\n".join(line for tree in trees for line in _lines(tree, show, "", ""))


def _lines(node: Node, show: Sequence[str], first: str, rest: str) -> Iterator[str]:
    said = [f"{key.rpartition('.')[2]}={node.attributes[key]}" for key in show if key in node.attributes]
    wrong = [f"{node.status}: {node.span.status_message}".rstrip(": ")] if node.status == "ERROR" else []
    yield first + "  ".join([node.name, *said, *wrong])
    for event in node.span.events:
        yield f"{rest}{'│  ' if node.children else '   '}· {event.name}"
    for child in node.children:
        last = child is node.children[-1]
        yield from _lines(child, show, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))
