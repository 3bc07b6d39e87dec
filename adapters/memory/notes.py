"""The annotations of a run, read from its history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from pydantic_core import from_json, to_json

from adapters.memory.tables import Tables
from kernel.ports.persistence import StoredNote

__all__ = ["notes_of"]


def notes_of(tables: Tables, run_id: str, *, after: int, limit: int) -> Sequence[StoredNote]:
    """The run's next annotations after this sequence number."""
    run = tables.runs.get(run_id)
    if run is None:
        return ()

    def found() -> Iterator[StoredNote]:
        for row in run.rows:
            if row.seq <= after:
                continue
            for seq, fact in enumerate(from_json(row.events), start=row.first_seq):
                if seq > after and fact["type"] == "annotation.created":
                    value = row.bodies.get(str(seq), b"null")
                    yield StoredNote(seq=seq, at=row.at, fact=to_json(fact), value=value)

    return tuple(islice(found(), limit))
