"""Text in lines: spans with a style, and tables whose columns are aligned; pure, no stream and no terminal.

A style is a word of rich's vocabulary ("bold", "green", "dim"); whoever prints without colour ignores it. What comes
from users (names, messages, payloads) passes through `printable`, so that nobody's data can move the cursor.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TypeAlias

__all__ = [
    "Cell",
    "Column",
    "Line",
    "Span",
    "bar",
    "cut",
    "fields",
    "fold",
    "line",
    "printable",
    "table",
    "text_of",
    "width_of",
]

FLEXIBLE_MIN = 16
"""Cells that a flexible column keeps for as long as another one can be left out instead."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a line in one style."""

    text: str
    style: str = ""


Line: TypeAlias = tuple[Span, ...]
Cell: TypeAlias = "str | Span | Line"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, of at most `most` cells however wide the terminal is.

    When it is narrow, the `flexible` column gives way; then columns are left out, beginning with the highest number in
    `leaves` (0: never); then the widest are cut.
    """

    title: str
    right: bool = False
    flexible: bool = False
    leaves: int = 0
    most: int | None = None


def line(*parts: Cell) -> Line:
    """One line of these pieces."""
    spans: list[Span] = []
    for part in parts:
        match part:
            case str():
                spans.append(Span(part))
            case Span():
                spans.append(part)
            case _:
                spans.extend(part)
    return tuple(spans)


def text_of(spans: Line) -> str:
    """The line without styles."""
    return "".join(span.text for span in spans)


def printable(text: str) -> str:
    """The text on one line, with control characters visible instead of effective."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _visible(c) for c in text)


def _visible(character: str) -> str:
    # Lone surrogates and the like cannot be encoded either.
    return {"\n": " ", "\t": " "}.get(character) or character.encode("unicode_escape", "backslashreplace").decode(
        "ascii"
    )


def width_of(text: str) -> int:
    """How many cells of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in {"Cf", "Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def cut(spans: Line, width: int) -> Line:
    """The line in at most `width` cells; an ellipsis says that something is missing."""
    if width_of(text_of(spans)) <= width:
        return spans
    kept: list[Span] = []
    left = max(width - 1, 0)
    for span in spans:
        taken = ""
        for character in span.text:
            if (left := left - _cells(character)) < 0:
                return (*kept, Span(taken.rstrip() + "…", span.style))
            taken += character
        kept.append(span)
    return tuple(kept)


def fold(spans: Line, width: int) -> list[Line]:
    """The line as several of at most `width` cells, broken at blanks where there are any; nothing of it is lost."""
    left = [(character, span.style) for span in spans for character in span.text]
    folded: list[Line] = []
    while True:
        end = cells = 0
        while end < len(left) and (end == 0 or cells + _cells(left[end][0]) <= width):
            cells += _cells(left[end][0])
            end += 1
        if end < len(left):
            end = next((i for i in range(end, 0, -1) if left[i][0] == " "), end)
        styled = groupby(left[:end], key=itemgetter(1))
        folded.append(tuple(Span("".join(character for character, _ in some), style) for style, some in styled))
        while end < len(left) and left[end][0] == " ":
            end += 1
        left = left[end:]
        if not left:
            return folded


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], *, width: int | None = None, wrap: bool = False
) -> list[Line]:
    """A heading and a line per row, columns two blanks apart; within `width` cells when one is given.

    With `wrap` the flexible column goes on below itself instead of being cut. Columns that are empty in every row are
    left out.
    """
    cells = [[line(cell) for cell in row] for row in rows]
    used = [i for i, _ in enumerate(columns) if any(text_of(row[i]) for row in cells)]
    wide = {i: max(width_of(columns[i].title), *(width_of(text_of(row[i])) for row in cells)) for i in used}
    wide = {i: min(cells, columns[i].most or cells) for i, cells in wide.items()}
    if width is not None:
        _give_way(columns, wide, width)
    heading = [line(Span(column.title, "dim")) for column in columns]
    flexible = next((i for i in wide if columns[i].flexible), None) if wrap else None
    if flexible is not None:
        cells = [part for row in cells for part in _parts(row, flexible, wide[flexible])]
    return [_row(columns, row, wide) for row in (heading, *cells)] if used else []


def _parts(row: Sequence[Line], flexible: int, width: int) -> Iterator[list[Line]]:
    """The row, and one more for every further line of this column."""
    first, *more = fold(row[flexible], width)
    yield [first if i == flexible else cell for i, cell in enumerate(row)]
    for each in more:
        yield [each if i == flexible else () for i, _ in enumerate(row)]


def _give_way(columns: Sequence[Column], wide: dict[int, int], width: int) -> None:
    """Take cells from columns, or whole columns away, until the rest fits (or has one cell each)."""

    def over() -> int:
        return sum(wide.values()) + 2 * (len(wide) - 1) - width

    # The flexible column could still give so much.
    spare = {i: max(cells - FLEXIBLE_MIN, 0) for i, cells in wide.items() if columns[i].flexible}
    for i in sorted(wide, key=lambda i: columns[i].leaves, reverse=True):
        if columns[i].leaves and over() > sum(spare.values()):
            del wide[i]
            spare.pop(i, None)
    for i, cells in spare.items():
        wide[i] -= min(cells, max(over(), 0))
    while over() > 0 and wide[widest := max(wide, key=lambda i: wide[i])] > 1:
        wide[widest] -= 1


def _row(columns: Sequence[Column], row: Sequence[Line], wide: dict[int, int]) -> Line:
    spans: list[Span] = []
    last = max(wide)
    for i, cells in wide.items():
        shown = cut(row[i], cells)
        blank = " " * (cells - width_of(text_of(shown)))
        if columns[i].right:
            spans += [Span(blank), *shown]
        else:
            spans += [*shown, *([] if i == last else [Span(blank)])]
        if i != last:
            spans.append(Span("  "))
    while spans and not spans[-1].text.strip():
        spans.pop()
    return tuple(span for span in spans if span.text)


def bar(share: float, cells: int, style: str) -> Line:
    """How far something is; what is left differs by its sign too, because colour may be missing."""
    full = round(cells * min(max(share, 0.0), 1.0))
    return line(Span("━" * full, style), Span("·" * (cells - full), "dim"))


def fields(pairs: Sequence[tuple[str, Cell]]) -> list[Line]:
    """Labels and values under each other; a value that is empty is left out with its label."""
    filled = [(label, line(value)) for label, value in pairs]
    filled = [(label, value) for label, value in filled if text_of(value)]
    wide = max((width_of(label) for label, _ in filled), default=0)
    return [line(Span(label + " " * (wide - width_of(label)) + "  ", "dim"), value) for label, value in filled]
