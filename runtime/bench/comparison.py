"""What moved between two results: ratios, and whether they are more than noise; pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from kernel.errors import InvalidCommand
from runtime.bench.milestones import ROWS, Row, find
from runtime.bench.table import WIDTH, number
from runtime.commandline.layout import Cell, Column, Line, Span, table

__all__ = ["Moved", "compared", "comparison_json", "comparison_table", "read_result"]

Movement = Literal["better", "worse", "noise", "same"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """One figure, before and now. `ratio` is now / before; None where it was nothing before."""

    row: Row
    before: float
    now: float
    ratio: float | None
    movement: Movement


def read_result(path: Path) -> Mapping[str, Any]:
    """A result that `bench --json` wrote. Raises: InvalidCommand, naming what is wrong with the file."""
    try:
        found: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InvalidCommand(f"{path} cannot be read: {why}.", field="compare", hint=_HINT) from None
    measures = cast("Mapping[str, Any]", found).get("measures") if isinstance(found, dict) else None
    if not isinstance(measures, dict):
        raise InvalidCommand(f"{path} is no result of a benchmark: it has no measures.", field="compare", hint=_HINT)
    return cast("Mapping[str, Any]", found)


_HINT = 'Write one with "leasehold bench --json > old.json".'


def compared(before: Mapping[str, Any], now: Mapping[str, Any]) -> Sequence[Moved]:
    """Every figure that both results have."""
    moved: list[Moved] = []
    for row in ROWS:
        old, new = find(row, before["measures"]), find(row, now["measures"])
        if old is not None and new is not None:
            moved.append(_moved(row, old.value, new.value))
    return moved


def _moved(row: Row, before: float, now: float) -> Moved:
    if before == now:
        return Moved(row=row, before=before, now=now, ratio=1.0, movement="same")
    ratio = now / before if before else None
    if ratio is not None and 1 / row.noise < ratio < row.noise:
        return Moved(row=row, before=before, now=now, ratio=ratio, movement="noise")
    better = (now > before) == row.higher
    return Moved(row=row, before=before, now=now, ratio=ratio, movement="better" if better else "worse")


_COLUMNS = (
    Column("MEASURE", flexible=True),
    Column("BEFORE", right=True),
    Column("NOW", right=True),
    Column("RATIO", right=True),
    Column(""),
)
_STYLES: Mapping[Movement, str] = {"better": "bold green", "worse": "bold red", "noise": "dim", "same": "dim"}


def comparison_table(moved: Sequence[Moved]) -> Sequence[Line]:
    """A line per figure that both have."""
    rows: list[Sequence[Cell]] = [
        (
            each.row.label,
            number(each.before),
            number(each.now),
            "" if each.ratio is None else f"{each.ratio:.2f} ×",
            Span(each.movement, _STYLES[each.movement]),
        )
        for each in moved
    ]
    return table(_COLUMNS, rows, width=WIDTH) if rows else []


def comparison_json(moved: Sequence[Moved]) -> Sequence[Mapping[str, Any]]:
    """The same for machines."""
    return [
        {
            "measure": each.row.measure,
            "figure": each.row.path,
            "before": each.before,
            "now": each.now,
            "ratio": each.ratio,
            "movement": each.movement,
        }
        for each in moved
    ]
