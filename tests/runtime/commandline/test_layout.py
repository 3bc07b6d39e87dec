"""Lines and tables."""

from __future__ import annotations

import pytest

from runtime.commandline.layout import Column, Span, bar, cut, fields, fold, line, printable, table, text_of, width_of

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


def test_a_flexible_column_that_is_wrapped_goes_on_below_itself() -> None:
    shown = table(COLUMNS, [("a", "1", "a long remark about it"), ("b", "2", "")], width=25, wrap=True)

    assert texts(shown) == ["NAME  N  NOTE", "a     1  a long remark", "         about it", "b     2"]


def test_a_line_is_folded_at_blanks_and_keeps_its_styles_and_every_character() -> None:
    shown = fold(line(Span("one two", "red"), "three-and-four 日本"), 6)

    assert texts(shown) == ["one", "twothr", "ee-and", "-four", "日本"]
    assert shown[1] == (Span("two", "red"), Span("thr"))


def test_columns_leave_a_narrow_terminal_in_their_order_and_the_rest_is_cut() -> None:
    columns = (Column("ID"), Column("WHEN", leaves=1), Column("KEY", leaves=2), Column("NOTE", flexible=True))
    rows = [("12345678", "just now", "a-key-of-it", "a long remark about it")]

    def shown(width: int) -> list[str]:
        return texts(table(columns, rows, width=width))

    assert shown(49) == ["ID        WHEN      KEY          NOTE", "12345678  just now  a-key-of-it  a long remark a…"]
    assert shown(48) == ["ID        WHEN      NOTE", "12345678  just now  a long remark about it"]
    assert shown(26) == ["ID        NOTE", "12345678  a long remark a…"]
    assert shown(12) == ["ID     NOTE", "1234…  a lo…"]


def test_a_column_is_never_wider_than_its_most_even_in_a_file() -> None:
    shown = table((Column("KEY", most=6), Column("N")), [("a-long-key", "1"), ("b", "2")])

    assert texts(shown) == ["KEY     N", "a-lon…  1", "b       2"]


@pytest.mark.parametrize("share,shown", [(0.0, "····"), (0.5, "━━··"), (1.0, "━━━━"), (7.0, "━━━━")])
def test_how_far_something_is_can_be_seen_without_colour(share: float, shown: str) -> None:
    assert text_of(bar(share, 4, "green")) == shown


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
