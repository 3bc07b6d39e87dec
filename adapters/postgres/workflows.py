"""Definitions: registering them, and the short keys by which heads name them.

A key never changes and is never reused, so what has been read once is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from adapters.postgres.connections import Line
from adapters.postgres.failures import mapped
from adapters.postgres.payloads import is_storable, json_text, plain_text
from adapters.postgres.statements import Schema, statement
from kernel.errors import WorkflowNotFound
from kernel.ports.persistence import WorkflowRecord

__all__ = ["WorkflowKeys", "Workflows"]


class WorkflowKeys:
    """The short keys of (workflow id, version), read on demand."""

    def __init__(self, line: Line, schema: Schema) -> None:
        self._line = line
        self._sql = statement("workflow_keys", schema)
        self._keys: dict[tuple[str, str], int] = {}

    def known(self, workflow_id: str, version: str) -> int | None:
        """The key of one definition, when it has been read before."""
        return self._keys.get((workflow_id, version))

    async def key_of(self, workflow_id: str, version: str) -> int:
        """The key of one definition. Raises: WorkflowNotFound, Unavailable."""
        return (await self.keys_of([(workflow_id, version)]))[0]

    async def keys_of(self, definitions: Sequence[tuple[str, str]]) -> Sequence[int]:
        """The keys of several definitions, in their order. Raises: WorkflowNotFound, Unavailable."""
        unknown = sorted({pair for pair in definitions if pair not in self._keys and all(map(is_storable, pair))})
        if unknown:
            ids, versions = zip(*unknown, strict=True)
            with mapped("look up workflows"):
                rows = await self._line.fetch("look up workflows", self._sql, ids, versions)
            self._keys.update({(row["id"], row["version"]): row["workflow_key"] for row in rows})
        for workflow_id, version in definitions:
            if (workflow_id, version) not in self._keys:
                raise WorkflowNotFound(workflow_id, version=version, known=(known for known, _ in self._keys))
        return [self._keys[definition] for definition in definitions]


class Workflows:
    """`kernel.ports.persistence.Workflows`."""

    def __init__(self, line: Line, schema: Schema) -> None:
        self._line = line
        self._sql_register = statement("register_workflows", schema)
        self._sql_find = statement("find_workflow", schema)
        self._sql_unpark = statement("unpark_workflows", schema)

    async def register_workflows(self, records: Sequence[WorkflowRecord]) -> None:
        if not records:
            return
        latest = {(record.workflow_id, record.version): record for record in records}
        rows = [
            (
                plain_text(record.workflow_id, "workflow_id"),
                plain_text(record.version, "workflow_version"),
                plain_text(record.fingerprint, "fingerprint"),
                json_text(record.plan, "Plan", "plan"),
                json_text(record.description, "Description", "description"),
            )
            for _, record in sorted(latest.items())
        ]
        with mapped("register workflows"):
            await self._line.fetch("register workflows", self._sql_register, *zip(*rows, strict=True))

    async def find_workflow(self, workflow_id: str, version: str) -> WorkflowRecord | None:
        if not (is_storable(workflow_id) and is_storable(version)):
            return None
        with mapped("find a workflow"):
            rows = await self._line.fetch("find a workflow", self._sql_find, workflow_id, version)
        if not rows:
            return None
        row = rows[0]
        return WorkflowRecord(
            workflow_id=workflow_id,
            version=version,
            fingerprint=row["fingerprint"],
            plan=row["plan"].encode(),
            description=row["description"].encode(),
        )

    async def unpark_workflows(self, definitions: Sequence[tuple[str, str, str | None]]) -> int:
        if not definitions:
            return 0
        ids, versions, fingerprints = zip(*definitions, strict=True)
        with mapped("unpark runs"):
            rows = await self._line.fetch("unpark runs", self._sql_unpark, ids, versions, fingerprints)
        returned: int = rows[0]["returned"]
        return returned
