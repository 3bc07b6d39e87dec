"""Every statement reaches what it needs by an index, whatever the server knows of the tables.

The plans are generic ones, as on our connections. They are looked at twice: made while the tables are empty, since such
a plan is kept until somebody analyzes them, and made for many rows by a server that has statistics. What a claim costs
`test_claiming` tells, and how rows are locked `test_append_plans`.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import asyncpg
import pytest

from adapters.postgres import migrate
from adapters.postgres.connections import Target, connect
from adapters.postgres.statements import checked_schema, qualify, statement

pytestmark = pytest.mark.anyio

RUNS = 15_000
WORKFLOWS = 20

BY_ID = {"runs_pkey"}
WHOLE_RUN = {"runs_pkey", "history_pkey"}

# The indexes by which each statement reaches runs, history, keys, logs and blobs.
REACHED_BY: dict[str, set[str]] = {
    "append_create": BY_ID,
    "append_owned": BY_ID,
    "append_foreign": BY_ID,
    "append_refused": {*WHOLE_RUN, "idempotency_keys_pkey"},
    "claim": {"runs_claim", "runs_owner", "runs_pkey"},
    "hold_suspended": {"runs_claim", "runs_owner", "runs_pkey"},
    "heartbeat": {"runs_claim", "runs_owner", "scheduled_commands_due"},
    "load_runs": WHOLE_RUN,
    "load_run": WHOLE_RUN,
    "heads": BY_ID,
    "backlog": {"runs_claim", "runs_owner", "runs_publish", "deliveries_due", "dead_letters_pkey"},
    "list_active": {"runs_claim", "runs_owner", "runs_parked", "runs_pkey"},
    "list_failed": {"runs_failed"},
    "list_cancelled": {"runs_cancelled"},
    "list_newest": BY_ID,
    "list_of_workflow": {"runs_workflow"},
    "find_runs": {"runs_short_id"},
    "unpark_workflows": {"runs_parked"},
    "find_stuck": {"runs_idle", "runs_owner"},
    "find_unknown": {"runs_claim", "runs_owner"},
    "heal_run": BY_ID,
    "find_key": {"idempotency_keys_pkey"},
    "delete_expired_keys": {"idempotency_keys_pkey"},
    "read_logs": {"logs_run"},
    "read_progress": {"logs_progress"},
    "read_notes": {"history_pkey"},
    "command_take": {"scheduled_commands_due", "scheduled_commands_pkey"},
    "command_cancel": {"scheduled_commands_pkey"},
    "command_postpone": {"scheduled_commands_pkey"},
    "command_settle": {"scheduled_commands_pkey"},
    "command_forget": {"scheduled_commands_failed", "scheduled_commands_pkey"},
    "blob_get": {"blobs_pkey"},
    "blob_list": {"blobs_pkey"},
    "spread": {"runs_publish", "runs_pkey"},
    "claim_deliveries": {"deliveries_due", "deliveries_pkey", "history_pkey"},
    "settle_deliveries": {"deliveries_pkey"},
    "replay_dead_letters": {"dead_letters_pkey"},
    "list_dead_letters": {"dead_letters_pkey"},
    "list_sinks": {"deliveries_due"},
    "forget_sink": {"deliveries_due", "dead_letters_sink_run_id_seq_key"},
    "diagnose_backlog": {"runs_claim", "runs_owner"},
    "diagnose_outbox": {"runs_publish", "deliveries_due", "dead_letters_sink_run_id_seq_key"},
    "diagnose_parked": {"runs_parked"},
    "list_sessions": {"runs_owner"},
    "sink_debts": {"deliveries_pkey", "dead_letters_sink_run_id_seq_key"},
}

# With a null for the run's id no partition would be left to look at.
VALUES = {
    "load_run": "('019a0000-0000-7000-8000-000000000000', 0, true)",
    "read_notes": "('019a0000-0000-7000-8000-000000000000', 0, 500)",
}

LARGE = re.compile(r"runs|history_\w+|idempotency_keys|logs|blobs|scheduled_commands|deliveries|dead_letters")

Plan = dict[str, Any]


@pytest.fixture(scope="module")
def empty_schema(adapter_url: str) -> str:
    name = f"test_{secrets.token_hex(5)}"
    in_thread(adapter_url, name)
    return name


@pytest.fixture(scope="module")
def full_schema(adapter_url: str) -> str:
    """With many runs that have ended, and some that sleep, are due, owned, parked or failed, of several workflows."""
    name = f"test_{secrets.token_hex(5)}"
    in_thread(adapter_url, name, MANY)
    return name


@pytest.fixture
async def ours(adapter_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection with the adapter's own settings."""
    connection = await connect(Target(url=adapter_url, purpose="plans"))
    yield connection
    await connection.close(timeout=10)


@pytest.mark.parametrize("name", REACHED_BY)
async def test_a_plan_that_was_made_while_the_tables_were_empty_will_do_when_they_are_full(
    ours: asyncpg.Connection, empty_schema: str, name: str
) -> None:
    plan = await generic_plan(ours, empty_schema, name, VALUES.get(name, ""))

    assert scans_of_whole_tables(plan) == []
    assert joins_over_runs(plan) == []
    assert indexes_of(plan) == REACHED_BY[name]


@pytest.mark.parametrize("name", REACHED_BY)
async def test_statistics_do_not_lead_a_statement_away_from_its_indexes(
    ours: asyncpg.Connection, full_schema: str, name: str
) -> None:
    plan = await generic_plan(ours, full_schema, name, VALUES.get(name, ""))

    assert scans_of_whole_tables(plan) == []
    assert joins_over_runs(plan) == []
    assert indexes_of(plan) == REACHED_BY[name]


@pytest.mark.parametrize("name", ["append_create", "append_owned", "append_foreign", "claim", "heads", "load_run"])
async def test_behind_a_pooler_the_server_s_own_settings_do_as_well_once_it_has_statistics(
    admin: asyncpg.Connection, full_schema: str, name: str
) -> None:
    # What the printed schema asks to be set for the role; the rest of our settings a pooler does not let through.
    await admin.execute("SET plan_cache_mode = force_generic_plan")

    plan = await generic_plan(admin, full_schema, name)

    assert [scan for scan in scans_of_whole_tables(plan) if scan != "workflows"] == []
    assert joins_over_runs(plan) == []


async def test_a_page_of_heads_is_read_no_further_than_it_needs(ours: asyncpg.Connection, full_schema: str) -> None:
    highest = "ffffffff-ffff-ffff-ffff-ffffffffffff"
    lowest = "00000000-0000-0000-0000-000000000000"

    plan = await generic_plan(
        ours, full_schema, "list_newest", f"('{highest}', '{lowest}', NULL, NULL, 20)", execute=True
    )

    assert sum(node["Actual Rows"] for node in nodes(plan) if node.get("Relation Name") == "runs") <= 21


async def test_a_page_of_a_workflow_with_few_runs_reads_no_others(ours: asyncpg.Connection, full_schema: str) -> None:
    highest = "ffffffff-ffff-ffff-ffff-ffffffffffff"
    lowest = "00000000-0000-0000-0000-000000000000"

    values = f"('{highest}', '{lowest}', NULL, NULL, 20, 'rare')"
    plan = await generic_plan(ours, full_schema, "list_of_workflow", values, execute=True)

    scanned = [node for node in nodes(plan) if node.get("Relation Name") == "runs"]
    assert sum(node["Actual Rows"] for node in scanned) == 10
    assert sum(node.get("Rows Removed by Filter", 0) for node in scanned) == 0


async def test_one_run_is_read_from_one_partition(ours: asyncpg.Connection, full_schema: str) -> None:
    run_id = await ours.fetchval(f'SELECT id FROM "{full_schema}".runs LIMIT 1')

    plan = await generic_plan(ours, full_schema, "load_run", f"('{run_id}', 0, true)", execute=True)

    parts = [node for node in nodes(plan) if str(node.get("Relation Name")).startswith("history_")]
    assert len([part for part in parts if part["Actual Loops"] > 0]) == 1


# -- plans -------------------------------------------------------------------------------------------------------------


async def generic_plan(
    connection: asyncpg.Connection, schema: str, name: str, values: str = "", *, execute: bool = False
) -> Plan:
    """How the server would execute the statement, or has just done it, with these values or nulls."""
    sql = statement(name, checked_schema(schema))
    count = max((int(number) for number in re.findall(r"\$(\d+)", sql)), default=0)
    options = "ANALYZE, FORMAT JSON" if execute else "FORMAT JSON"
    await connection.execute(f"PREPARE planned AS {sql}")
    try:
        nulls = f"({', '.join(['NULL'] * count)})"
        explained = await connection.fetchval(f"EXPLAIN ({options}) EXECUTE planned {values or nulls}")
    finally:
        await connection.execute("DEALLOCATE planned")
    plan: Plan = json.loads(explained)[0]["Plan"]
    return plan


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


def joins_over_runs(plan: Plan) -> list[str]:
    """Joins that read one side whole, or lock it in the order of a hash table."""
    return [
        node["Node Type"]
        for node in nodes(plan)
        if node["Node Type"] in {"Hash Join", "Merge Join"}
        and any(child.get("Relation Name") == "runs" for child in nodes(node))
    ]


def indexes_of(plan: Plan) -> set[str]:
    """The indexes of tables that grow; a partition's is named after the partition."""
    found = {re.sub(r"^history_\w+_pkey$", "history_pkey", node.get("Index Name", "")) for node in nodes(plan)}
    return {index for index in found if index and LARGE.match(index)}


# -- many rows ---------------------------------------------------------------------------------------------------------

MANY = f"""
    INSERT INTO leasehold.workflows (id, version, fingerprint, plan, description)
    SELECT CASE n WHEN 1 THEN 'rare' ELSE 'workflow ' || n END, '1', 'f', '{{}}', '{{}}'
    FROM generate_series(1, {WORKFLOWS}) AS n;

    WITH made AS (
        INSERT INTO leasehold.runs (
            id, wake_at, owner, created_at, updated_at, workflow_key, seq, format, priority, status, phase, fingerprint,
            parked_reason, error
        )
        SELECT leasehold.mint_run_id(),
               CASE WHEN n % 50 BETWEEN 3 AND 9 THEN clock_timestamp() + (n - 1000) * interval '1 second' END,
               CASE WHEN n % 50 = 0 THEN '11111111-1111-4111-8111-111111111111'::uuid END,
               clock_timestamp(), clock_timestamp(),
               CASE WHEN n <= 10 THEN 1 ELSE 2 + n % ({WORKFLOWS} - 1) END, 1, 1, n % 10,
               CASE WHEN n % 50 = 1 THEN 'FAILED' WHEN n % 50 < 10 THEN 'RUNNING' ELSE 'COMPLETED' END,
               CASE WHEN n % 50 = 1 OR n % 50 >= 10 THEN 'ended' ELSE 'suspended' END,
               'f',
               CASE WHEN n % 50 = 2 THEN 'corrupt_history' END,
               CASE WHEN n % 50 = 1 THEN '{{}}'::json END
        FROM generate_series(1, {RUNS}) AS n
        RETURNING id
    )
    INSERT INTO leasehold.history (run_id, append_id, at, seq, first_seq, events)
    SELECT id, gen_random_uuid(), clock_timestamp(), 1, 1, '[]'
    FROM made;

    INSERT INTO leasehold.scheduled_commands (key, schedule_id, due_at, workflow_id, command)
    SELECT n::text, gen_random_uuid(), clock_timestamp(), '', '{{}}'
    FROM generate_series(1, {RUNS}) AS n;

    ANALYZE leasehold.runs;
    ANALYZE leasehold.history;
    ANALYZE leasehold.scheduled_commands;
"""


def in_thread(url: str, schema: str, filling: str = "") -> None:
    """Make a schema and fill it, also while the loop of a test runs in this thread."""

    async def make() -> None:
        await migrate(url, schema=schema)
        connection = await connect(Target(url=url, purpose="fill"))
        try:
            await connection.execute(qualify(filling, checked_schema(schema)) or "SELECT", timeout=60)
        finally:
            await connection.close(timeout=10)

    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, make()).result()
