"""The outputs of earlier stages as a body sees them: typed, read from their stored JSON when asked for.

A body usually looks at one or two of many outputs, so each is validated on first use and kept for the rest of the
attempt. Live and recovered attempts read the same texts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from kernel.authoring.schema import Schema, Value
from kernel.errors import InvalidOutput, MissingOutput, OutputNotLoaded

__all__ = ["Outputs"]


class Outputs(Mapping[str, Any]):
    """Stage id to typed output, of the completed stages whose output is at hand.

    `raw` are their JSON texts, `schemas` explain them, `offloaded` are completed stages whose output was not loaded.
    Indexing raises MissingOutput for a stage without an output and OutputNotLoaded for one that was not loaded;
    iteration, `in` and `get` know only those at hand.
    """

    __slots__ = ("_asked_by", "_offloaded", "_raw", "_schemas", "_values")

    def __init__(
        self,
        raw: Mapping[str, bytes],
        *,
        schemas: Mapping[str, Schema],
        asked_by: str,
        offloaded: Collection[str] = (),
    ) -> None:
        self._raw = raw
        self._schemas = schemas
        self._asked_by = asked_by
        self._offloaded = offloaded
        self._values: dict[str, Any] = {}

    def __getitem__(self, stage_id: str) -> Value:
        if stage_id not in self._values:
            self._values[stage_id] = self.read(stage_id, self._schemas.get(stage_id))
        return self._values[stage_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def __contains__(self, stage_id: object) -> bool:
        return stage_id in self._raw

    def __repr__(self) -> str:
        # Without the values: they are payloads, and this may end up in a log.
        return f"Outputs({', '.join(self._raw)})"

    def get(self, key: str, default: Value = None, /) -> Value:
        """The output, or the default when it is not at hand."""
        return self[key] if key in self._raw else default

    def has(self, stage_id: str) -> bool:
        """Whether the stage has completed, be its output at hand or not."""
        return stage_id in self._raw or stage_id in self._offloaded

    def read(self, stage_id: str, schema: Schema | None) -> Value:
        """The output as read by this schema; a fresh value at every call."""
        text = self._raw.get(stage_id)
        if text is None:
            if stage_id in self._offloaded:
                raise OutputNotLoaded(stage_id, asked_by=self._asked_by)
            raise MissingOutput(stage_id, available=sorted({*self._raw, *self._offloaded}))
        where = f'stage "{stage_id}" (as stored)'
        return (schema or _ANY).decode(text, where=where, refuse=InvalidOutput)


_ANY = Schema(Any)
