"""The tree by which other tests judge a trace: it hides no span, and says what is missing."""

from __future__ import annotations

import pytest

from tests.otlp_records import Span, SpanEvent
from tests.span_tree import as_text, outside_of, tree_of, trees_of


def span(id: str, parent: str | None = None, *, start: int = 0, end: int = 9, trace: str = "t", **more: object) -> Span:
    usual = {"kind": "INTERNAL", "attributes": {}, "status": "UNSET", "status_message": "", "events": (), "links": ()}
    fields = {**usual, "resource": {}, "scope": "tests", **more}
    return Span(trace_id=trace, span_id=id, parent_id=parent, name=id, start=start, end=end, **fields)


def test_children_stand_below_their_parent_in_the_order_in_which_they_began() -> None:
    root = tree_of(
        [span("late", "root", start=5), span("deep", "early", start=2), span("early", "root", start=1), span("root")]
    )

    assert [node.name for node in root.walk()] == ["root", "early", "deep", "late"]
    assert [child.name for child in root.find("early").children] == ["deep"]


def test_children_may_be_told_another_order() -> None:
    spans = [span("root"), span("b", "root", start=1), span("a", "root", start=2)]

    assert [child.name for child in tree_of(spans, lambda span: span.name).children] == ["a", "b"]


@pytest.mark.parametrize(
    "spans",
    [
        [],
        [span("a"), span("b")],
        [span("a"), span("b", "gone")],
        [span("only", "gone")],
        [span("a"), span("b", "a", trace="other")],
    ],
    ids=["nothing", "two roots", "a lost parent", "a lost root", "two traces"],
)
def test_what_is_not_one_complete_tree_is_refused(spans: list[Span]) -> None:
    with pytest.raises(AssertionError):
        tree_of(spans)


def test_an_orphan_is_a_tree_of_its_own() -> None:
    assert [tree.name for tree in trees_of([span("a"), span("b", "gone", start=1)])] == ["a", "b"]


def test_who_is_outside_of_the_root_is_named() -> None:
    root = tree_of(
        [
            span("root", start=1),
            span("before", "root"),
            span("after", "root", start=2, end=10),
            span("in", "root", start=3),
        ]
    )

    assert outside_of(root) == ["before", "after"]


def test_the_text_has_a_line_for_each_span_and_event() -> None:
    noticed = SpanEvent(name="noticed", at=1, attributes={})
    trees = trees_of(
        [
            span("root", attributes={"a.n": 1, "a.other": 2}, events=(noticed,)),
            span("first", "root", start=1),
            span("inner", "first", start=2, status="ERROR", status_message="broken", events=(noticed,)),
            span("last", "root", start=3, status="ERROR"),
        ]
    )

    assert as_text(trees, show=["a.n"]).splitlines() == [
        "root  n=1",
        "│  · noticed",
        "├─ first",
        "│  └─ inner  ERROR: broken",
        "│        · noticed",
        "└─ last  ERROR",
    ]
