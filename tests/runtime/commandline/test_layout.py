"""Lines and tables."""

from __future__ import annotations

import pytest

from runtime.commandline.layout import Column, Span, cut, fields, line, printable, table, text_of, width_of

COLUMNS = (Column("NAME"), Column("N", right=True), Column("NOTE", flexible=True))


def texts(lines):
    return [text_of(each) for each in lines]


def test_columns_are_aligned_two_blanks_apart_without_blanks_at_the_end() -> None:
    shown = table(COLUMNS, [("a", "1", "x"), ("longer", "100", "")])

    assert texts(shown) == ["NAME      N  NOTE", "a         1  x", "longer  100"]


def test_a_column_that_is_empty_everywhere_is_left_out() -> None:
    assert texts(table(COLUMNS, [("a", "", "x"), ("b", "", "y")])) == ["NAME  NOTE", "a     x", "b     y"]


def test_the_flexible_column_gives_way_on_a_narrow_terminal() -> None:
    shown = table(COLUMNS, [("a", "1", "a long remark about it")], width=25)

    assert texts(shown)[1] == "a     1  a long remark a…"
    assert all(width_of(text) <= 25 for text in texts(shown))


def test_nothing_is_cut_when_the_result_goes_to_a_file() -> None:
    assert texts(table(COLUMNS, [("a", "1", "x" * 500)]))[1].endswith("x" * 500)


def test_wide_characters_take_two_cells() -> None:
    shown = table((Column("A"), Column("B")), [("日本", "x"), ("abcd", "y")])

    assert texts(shown)[1:] == ["日本  x", "abcd  y"]


def test_styles_survive_cutting() -> None:
    shown = cut(line(Span("red", "red"), Span("green", "green")), 6)

    assert shown == (Span("red", "red"), Span("gr…", "green"))


def test_fields_without_a_value_are_left_out() -> None:
    assert texts(fields([("a", "1"), ("long", ""), ("bb", Span("2", "red"))])) == ["a   1", "bb  2"]


@pytest.mark.parametrize(
    "text,shown",
    [
        ("plain ünïcödé 日本", "plain ünïcödé 日本"),
        ("two\nlines\tand a tab", "two lines and a tab"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\rb", "a\\rb"),
        ("\u202egnp", "\\u202egnp"),
        ("\ud800", "\\ud800"),
    ],
)
def test_nobodys_text_moves_the_cursor(text: str, shown: str) -> None:
    assert printable(text) == shown
