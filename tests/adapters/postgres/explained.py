"""Plans as the server explains them, of statements prepared as the adapter's connections prepare them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import asyncpg

Plan = dict[str, Any]

LARGE = re.compile(r"runs|history_\w+|idempotency_keys|logs|blobs|jobs|scheduled_commands|deliveries|dead_letters")


async def explained(connection: asyncpg.Connection, name: str, values: Sequence[object]) -> Plan:
    """What executing a prepared statement with these values did; nothing of it remains."""
    given = f"({', '.join(map(literal, values))})" if values else ""
    transaction = connection.transaction()
    await transaction.start()
    try:
        options = "ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON"
        text = await connection.fetchval(f"EXPLAIN ({options}) EXECUTE {name}{given}")
    finally:
        await transaction.rollback()
    plan: Plan = json.loads(text)[0]["Plan"]
    return plan


def literal(value: object) -> str:
    """A value as it stands in SQL; the statement knows its type."""
    match value:
        case None:
            return "NULL"
        case bool() | int():
            return str(value)
        case str():
            return "'" + value.replace("'", "''") + "'"
        case datetime():
            return literal(value.isoformat())
        case timedelta():
            return literal(f"{value.total_seconds()} seconds")
        case _:
            assert isinstance(value, (list, tuple)), value
            return literal("{" + ",".join(map(element, value)) + "}")


def element(value: object) -> str:
    """A value as it stands within the text of an array."""
    if value is None:
        return "NULL"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def scans_of_whole_tables(plan: Plan) -> list[str]:
    """Tables that grow and are read from end to end."""
    return [
        node["Relation Name"]
        for node in nodes(plan)
        if node["Node Type"] == "Seq Scan" and LARGE.fullmatch(node["Relation Name"])
    ]


def indexes_of(plan: Plan) -> set[str]:
    """The indexes of tables that grow; a partition's is named after the partition."""
    found = {re.sub(r"^history_\w+_pkey$", "history_pkey", node.get("Index Name", "")) for node in nodes(plan)}
    return {index for index in found if index and LARGE.match(index)}


def rows_touched(plan: Plan) -> int:
    """Rows that were read from tables, those included that a filter then passed over."""
    return sum(
        (node["Actual Rows"] + sum(removed for key, removed in node.items() if key.startswith("Rows Removed by")))
        * node["Actual Loops"]
        for node in nodes(plan)
        if "Relation Name" in node and node["Node Type"] != "ModifyTable"
    )


def pages_touched(plan: Plan) -> int:
    """Pages of tables and indexes that were looked at or written, whether they were in memory or not.

    The sum of the whole statement lacks its parts that nobody reads from, such as an insert that returns nothing.
    """
    read = {node["CTE Name"] for node in nodes(plan) if "CTE Name" in node}
    parts = [node for node in nodes(plan) if node.get("Subplan Name", "").startswith("CTE ")]
    unread = [part for part in parts if part["Subplan Name"].removeprefix("CTE ") not in read]
    return sum(int(part["Shared Hit Blocks"] + part["Shared Read Blocks"]) for part in (plan, *unread))
