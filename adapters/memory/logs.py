"""What stage bodies log, per run and in order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic_core import from_json, to_json

from adapters.memory.tables import Tables
from kernel.ports.persistence import LogLine

__all__ = ["keep", "lines_of", "progress_of"]


def keep(tables: Tables, lines: Sequence[LogLine]) -> None:
    """Number the lines and keep them, their fields as JSON, so that no reader can change them."""
    for line in lines:
        tables.log_count += 1
        stored = replace(line, fields={}, id=tables.log_count)
        tables.logs.setdefault(line.run_id, []).append((stored, to_json(line.fields)))


def lines_of(tables: Tables, run_id: str, *, after: int, limit: int) -> Sequence[LogLine]:
    """The run's next lines after this id."""
    lines = tables.logs.get(run_id, [])
    start = bisect_right(lines, after, key=lambda stored: stored[0].id)
    return tuple(replace(line, fields=from_json(fields)) for line, fields in lines[start : start + limit])


def progress_of(tables: Tables, run_id: str) -> Mapping[str, LogLine]:
    """The last report of progress of each stage."""
    return {
        line.stage_id: replace(line, fields=from_json(fields))
        for line, fields in tables.logs.get(run_id, [])
        if line.level == "PROGRESS" and line.stage_id is not None
    }
