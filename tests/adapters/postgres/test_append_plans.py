"""How appends and claims find and lock their rows does not depend on what the planner believes of the tables.

A generic plan is made once and kept until somebody analyzes a table. So each statement is planned here for tables that
are empty, for tables that were analyzed with a handful of rows, and for full ones, and must be good for all of them:
a plan that joins by hash locks rows in any order, and one that compares each row with each is endless for a full batch.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from adapters.postgres import migrate, open_postgres
from adapters.postgres.statements import Schema, statement

pytestmark = pytest.mark.anyio

APPENDS = ["append_create", "append_owned", "append_foreign"]
LOCKING = ["append_owned", "append_foreign", "claim"]

FILL = """
INSERT INTO {schema}.runs (id, owner, claim, wake_at, created_at, updated_at, workflow_key, seq, format, priority,
                           status, phase, fingerprint)
SELECT {schema}.mint_run_id(), CASE WHEN n % 4 = 0 THEN '00000000-0000-4000-8000-000000000001'::uuid END, 0,
       CASE WHEN n % 4 = 1 THEN clock_timestamp() END, clock_timestamp(), clock_timestamp(), 1, 1, 1, 5,
       'RUNNING', 'running', 'f'
FROM generate_series(1, $1) AS n
"""

Plan = dict[str, Any]


class Planner:
    """A connection of ours, with the settings that all of them have."""

    def __init__(self, connection: asyncpg.Connection, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    async def plan(self, name: str) -> Plan:
        sql = statement(name, Schema(self._schema))
        count = len((await self._connection.prepare(sql)).get_parameters())
        await self._connection.execute(f"PREPARE planned AS {sql}")
        try:
            nulls = ", ".join(["NULL"] * count)
            explained = await self._connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE planned({nulls})")
        finally:
            await self._connection.execute("DEALLOCATE planned")
        return json.loads(explained)[0]["Plan"]


def nodes(plan: Plan) -> Iterator[Plan]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def types(plan: Plan) -> set[str]:
    return {node["Node Type"] for node in nodes(plan)}


def indexes(plan: Plan) -> set[str]:
    return {node["Index Name"] for node in nodes(plan) if "Index Name" in node}


@pytest.fixture(scope="module", params=[0, 5, 3000], ids=["empty", "a handful", "full"])
async def planner(request: pytest.FixtureRequest, adapter_url: str) -> AsyncIterator[Planner]:
    schema = f"test_{secrets.token_hex(5)}"
    await migrate(adapter_url, schema=schema)
    async with open_postgres(adapter_url, schema=schema) as store:
        connection = await store._store.committer.lines[0].connection()
        if request.param:
            await connection.execute(FILL.format(schema=schema).replace("$1", str(request.param)))
            for table in ("runs", "history", "sessions", "workflows", "idempotency_keys"):
                await connection.execute(f"ANALYZE {schema}.{table}")
        yield Planner(connection, schema)


async def test_appends_join_by_looking_up_and_by_place_only(planner: Planner) -> None:
    for name in APPENDS:
        plan = await planner.plan(name)

        assert not types(plan) & {"Hash Join", "Merge Join", "Bitmap Heap Scan"}, name
        assert indexes(plan) <= {"runs_pkey", "sessions_pkey", "sinks_pkey"}, name
        assert name == "append_create" or "Tid Scan" in types(plan), name


async def test_rows_are_locked_one_by_one_in_the_order_of_their_ids(planner: Planner) -> None:
    for name in LOCKING:
        plan = await planner.plan(name)

        (loop,) = [node for node in nodes(plan) if node.get("Subplan Name") == "CTE locked"]
        outer, inner = loop["Plans"][-2:]
        assert (loop["Node Type"], outer["Node Type"]) == ("Nested Loop", "Sort"), name
        assert outer["Sort Key"][0].rpartition(".")[2] in {"run_id", "id"}, name
        assert "LockRows" in types(inner), name
        assert "runs_pkey" in indexes(inner), name


async def test_a_claim_walks_the_indexes_made_for_it(planner: Planner) -> None:
    plan = await planner.plan("claim")

    assert {"runs_claim", "runs_owner", "runs_pkey"} <= indexes(plan)
    (walk,) = [node for node in nodes(plan) if node.get("Index Name") == "runs_claim"]
    assert all(column in walk["Index Cond"] for column in ("workflow_key", "priority", "wake_at"))


async def test_a_refused_append_is_looked_up_in_its_own_partition_s_index(planner: Planner) -> None:
    plan = await planner.plan("append_refused")

    read_through = {node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"}
    assert not {table for table in read_through if table.startswith(("history", "runs"))}
