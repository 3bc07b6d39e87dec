"""Large payloads in a table of the same database: one store to run and to back up, at the price of its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adapters.blob_keys import checked_key
from adapters.postgres.connections import Line, Statements, Target
from adapters.postgres.failures import mapped
from adapters.postgres.payloads import is_storable
from adapters.postgres.statements import Schema, statement
from kernel.errors import BlobNotFound

__all__ = ["Blobs", "blob_line"]


def blob_line(target: Target) -> Line:
    """A connection for blobs alone, made when first used: a large value takes its time."""
    deadline_s = target.deadlines.blob_s
    patient = replace(target.deadlines, statement_s=deadline_s, server_statement_s=deadline_s)
    return Line(replace(target.to("blobs"), deadlines=patient))


class Blobs:
    """`kernel.ports.blobs.BlobStore`."""

    def __init__(self, line: Statements, schema: Schema) -> None:
        self._line = line
        self._sql = {name: statement(f"blob_{name}", schema) for name in ("put", "get", "has", "delete", "list")}

    async def put(self, key: str, data: bytes) -> None:
        with mapped("store a blob"):
            await self._line.fetch("store a blob", self._sql["put"], checked_key(key), bytes(data))

    async def get(self, key: str) -> bytes:
        if not is_storable(key):
            raise BlobNotFound(key)
        with mapped("read a blob"):
            rows = await self._line.fetch("read a blob", self._sql["get"], key)
        if not rows:
            raise BlobNotFound(key)
        data: bytes = rows[0][0]
        return data

    async def has(self, key: str) -> bool:
        if not is_storable(key):
            return False
        with mapped("look for a blob"):
            rows = await self._line.fetch("look for a blob", self._sql["has"], key)
        return bool(rows[0][0])

    async def delete(self, key: str) -> None:
        if not is_storable(key):
            return
        with mapped("delete a blob"):
            await self._line.fetch("delete a blob", self._sql["delete"], key)

    async def list(self, prefix: str) -> Sequence[str]:
        if not is_storable(prefix):
            return ()
        with mapped("list blobs"):
            rows = await self._line.fetch("list blobs", self._sql["list"], prefix, prefix + "\U0010ffff")
        return [row[0] for row in rows]
