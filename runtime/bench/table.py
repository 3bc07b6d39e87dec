"""The figures for a person: a table no wider than a hundred cells, the same on a terminal and in a file; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.bench.milestones import ROWS, Found, Row, find, verdict
from runtime.commandline.layout import Cell, Column, Line, Span, line, table

__all__ = ["WIDTH", "figures_table", "heading", "number"]

WIDTH = 100

_COLUMNS = (
    Column("MEASURE", flexible=True),
    Column("NOW", right=True),
    Column("MIN – MAX", right=True),
    Column("FIRST MILESTONE", right=True),
    Column("GOAL", right=True),
    Column("VERDICT"),
)
_STYLES = {"goal": "bold green", "milestone": "green", "missed": "bold red", "": ""}


def figures_table(measures: Mapping[str, Any]) -> Sequence[Line]:
    """A line per figure that was taken, and one per measure that failed."""
    rows: list[Sequence[Cell]] = []
    for row in ROWS:
        found = find(row, measures)
        if found is not None:
            rows.append(_row(row, found))
    failures = [
        line(Span(f"{name} was not measured: ", "bold red"), str(measure["error"]))
        for name, measure in measures.items()
        if "error" in measure
    ]
    return [*(table(_COLUMNS, rows, width=WIDTH) if rows else []), *failures]


def _row(row: Row, found: Found) -> Sequence[Cell]:
    reached = verdict(row, found.value)
    sign = "≥ " if row.higher else "≤ "
    return (
        row.label,
        Span(number(found.value), "bold"),
        "" if found.low == found.high else f"{number(found.low)} – {number(found.high)}",
        "" if row.milestone is None else sign + number(row.milestone),
        "" if row.goal is None else sign + number(row.goal),
        Span(reached, _STYLES[reached]),
    )


def number(value: float) -> str:
    """A figure with three digits that mean something, never in powers of ten."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def heading(machine: Mapping[str, Any]) -> Sequence[Line]:
    """What it was measured on."""
    server = machine["server"]
    return [
        line(
            Span("leasehold bench", "bold"),
            f"  {machine['cpus']} × {machine['cpu']}, Python {machine['python']}, {machine['event_loop']}",
        ),
        line(
            Span(
                f"PostgreSQL {server['server_version']}, fsync {server['fsync']}, "
                f"synchronous_commit {server['synchronous_commit']}"
                f"{'' if machine['server_is_local'] else ', on another machine: its CPU is not seen'}",
                "dim",
            )
        ),
    ]
