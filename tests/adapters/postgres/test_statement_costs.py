"""Statements are known by name in the server's own account of them, in which constants are missing."""

from __future__ import annotations

import re

import asyncpg
import pytest

from adapters.postgres import migrate
from adapters.postgres.statement_costs import _skeleton, name_statements, open_statement_costs
from adapters.postgres.statements import Schema, statement

pytestmark = pytest.mark.anyio

HERE = Schema("somewhere")


def test_every_statement_has_a_text_of_its_own() -> None:
    names = list(name_statements(HERE).values())

    assert len(names) == len(set(names))
    assert {"append_owned", "claim", "heartbeat", "NOTIFY"} <= set(names)


@pytest.mark.parametrize(
    "name", ["append_create", "append_owned", "append_foreign", "claim", "heartbeat", "list_newest"]
)
@pytest.mark.parametrize("release", [15, 18])
def test_a_statement_without_its_constants_is_recognized(name: str, release: int) -> None:
    told = re.sub(r"'[^']*'|\b\d+\b(?<!\$\d)(?<!\$\d\d)|\b(?:true|false)\b", "$99", statement(name, HERE))
    if release >= 18:
        told = re.sub(r"IN \(\$99(?:, \$99)+\)", "IN ($99 /*, ... */)", told)

    assert told != statement(name, HERE)
    assert name_statements(HERE)[_skeleton(told)] == name


async def test_costs_are_told_by_name_or_it_is_said_why_not(
    adapter_url: str, new_schema: str, admin: asyncpg.Connection
) -> None:
    await migrate(adapter_url, schema=new_schema)

    async with open_statement_costs(adapter_url, new_schema) as costs:
        await costs.begin()
        await admin.fetch(statement("live_workflows", Schema(new_schema)))
        found = await costs.since()

    if await admin.fetchval("SELECT current_setting('shared_preload_libraries', true) LIKE '%pg_stat_statements%'"):
        assert costs.missing is None
        assert {"live_workflows": 1}.items() <= {cost.name: cost.calls for cost in found}.items()
    else:
        assert found == []
        assert "shared_preload_libraries" in (costs.missing or "")
    # An extension that was made for this goes with the schema.
    await admin.execute(f'DROP SCHEMA "{new_schema}" CASCADE')
    assert await admin.fetchval("SELECT count(*) FROM pg_extension WHERE extname = 'pg_stat_statements'") == 0
