"""Finding out whether a transaction pooler stands between us and the server.

Such a pooler gives a connection of ours another server process for every transaction, so nothing that belongs to a
session can be relied on: settings, LISTEN, advisory locks, prepared statements. Two connections that each keep their
process through transactions that overlap, in either order, are not pooled: a pooler that hands out the process that
was given back last fails the one order, a pooler that hands out the one that has rested longest fails the other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import asyncpg

from adapters.postgres.connections import SettingsRefused, Target, connect
from adapters.postgres.failures import mapped

if TYPE_CHECKING:
    from asyncpg import Connection, Record

__all__ = ["connect_two"]


async def connect_two(target: Target) -> tuple[Target, list[Connection[Record]]]:
    """Two connections, and the target with what they have shown of the way there.

    Raises: NoDatabase, Unavailable.
    """
    try:
        made = await _two(target)
    except SettingsRefused:
        # Who does not take settings is a pooler, and about its prepared statements the probe will tell.
        target = replace(target, pooled=True)
        made = await _two(target)
    try:
        with mapped("tell whether a pooler stands before it"):
            found = await _probed(target, *made)
    except BaseException:
        _end(made)
        raise
    if found == target:
        return target, made
    # The settings that they were opened with are not those of the others.
    _end(made)
    return found, await _two(found)


async def _two(target: Target) -> list[Connection[Record]]:
    first = await connect(target)
    try:
        return [first, await connect(target)]
    except BaseException:
        first.terminate()
        raise


def _end(connections: list[Connection[Record]]) -> None:
    for connection in connections:
        connection.terminate()


async def _probed(target: Target, first: Connection[Record], second: Connection[Record]) -> Target:
    seen: dict[int, set[int]] = {0: set(), 1: set()}
    connections = (first, second)
    try:
        for order in ((0, 1), (0, 1), (1, 0)):
            for which in order:
                await connections[which].execute("BEGIN")
                seen[which].add(await connections[which].fetchval("SELECT pg_backend_pid()"))
            await first.execute("COMMIT")
            await second.execute("COMMIT")
    except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError):
        return replace(target, pooled=True, prepared=False)
    if all(len(processes) == 1 for processes in seen.values()):
        return target
    return replace(target, pooled=True)
