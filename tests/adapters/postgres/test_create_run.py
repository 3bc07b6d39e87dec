"""`leasehold.create_run`: a run made by SQL, in somebody else's transaction, is a run like any other."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from adapters.conformance.store.builders import PLAN, KnownRun, a_key, annotating, completing, rerunning
from kernel.journal import fold_stored
from kernel.model.ids import is_run_id, minted_at
from kernel.model.machine import Status
from tests.adapters.postgres.stores import Home

pytestmark = pytest.mark.anyio


async def created(admin: asyncpg.Connection, schema: str, workflow: str, **arguments: Any) -> str:
    names = ", ".join(f"{name} => ${place}" for place, name in enumerate(arguments, start=2))
    sql = f"SELECT {schema}.create_run($1{', ' if names else ''}{names})"
    run_id: UUID = await admin.fetchval(sql, workflow, *arguments.values())
    return str(run_id)


async def test_the_run_is_claimed_and_folds_like_any_other(home: Home, admin: asyncpg.Connection, schema: str) -> None:
    run_id = await created(
        admin, schema, home.workflow, input='{"path": "a.txt"}', config='{"extract": {"max": null}}', priority=7
    )

    (claimed,) = await home.store.claim(await home.session(), 10)

    state = fold_stored(claimed.history)
    assert (state.run_id, state.status, state.priority, state.checked) == (run_id, Status.PENDING, 7, False)
    assert (state.plan, state.config) == (PLAN, {"extract": {"max": None}})
    assert [json.loads(body) for row in claimed.history.rows for body in row.bodies.values()] == [{"path": "a.txt"}]


async def test_its_owner_carries_on_from_there(home: Home, admin: asyncpg.Connection, schema: str) -> None:
    await created(admin, schema, home.workflow)
    (claimed,) = await home.store.claim(await home.session(), 10)
    run = KnownRun(fold_stored(claimed.history), home.now, claimed.lease)

    await run.land(home.store, run.owned(annotating))

    assert (await home.store.heads([run.id]))[run.id].seq == 2


async def test_its_id_is_of_the_database_s_clock_and_of_shard_0(
    home: Home, admin: asyncpg.Connection, schema: str
) -> None:
    before = await admin.fetchval("SELECT date_trunc('milliseconds', clock_timestamp())")

    ids = [await created(admin, schema, home.workflow) for _ in range(20)]

    after = await admin.fetchval("SELECT clock_timestamp()")
    assert all(is_run_id(run_id) and UUID(run_id).bytes[7] == 0 for run_id in ids)
    assert all(before <= minted_at(run_id) <= after for run_id in ids)
    assert len(set(ids)) == 20


async def test_it_exists_when_the_caller_s_transaction_commits(
    home: Home, admin: asyncpg.Connection, schema: str
) -> None:
    transaction = admin.transaction()
    await transaction.start()
    run_id = await created(admin, schema, home.workflow)
    assert await home.store.heads([run_id]) == {}

    await transaction.commit()

    assert list(await home.store.heads([run_id])) == [run_id]


async def test_it_never_was_when_the_caller_s_transaction_is_rolled_back(
    home: Home, admin: asyncpg.Connection, schema: str
) -> None:
    transaction = admin.transaction()
    await transaction.start()
    run_id = await created(admin, schema, home.workflow, idempotency_key="order-1")

    await transaction.rollback()

    assert await home.store.heads([run_id]) == {}
    assert await home.store.find_key("run.create", home.workflow, "order-1") is None


async def test_an_unknown_workflow_is_refused(admin: asyncpg.Connection, schema: str) -> None:
    with pytest.raises(asyncpg.NoDataFoundError, match='"nobody-knows" is not registered'):
        await created(admin, schema, "nobody-knows")


async def test_an_unknown_version_is_refused(home: Home, admin: asyncpg.Connection, schema: str) -> None:
    with pytest.raises(asyncpg.NoDataFoundError, match='version "9"'):
        await created(admin, schema, home.workflow, workflow_version="9")


async def test_a_key_answers_with_the_run_that_has_it(home: Home, admin: asyncpg.Connection, schema: str) -> None:
    first = await created(admin, schema, home.workflow, input='{"a": 1, "b": 2}', idempotency_key="k")

    again = await created(admin, schema, home.workflow, input='{"b": 2, "a": 1}', idempotency_key="k")

    assert again == first
    assert await home.store.find_key("run.create", home.workflow, "k") == first


async def test_a_key_with_another_payload_is_refused(home: Home, admin: asyncpg.Connection, schema: str) -> None:
    first = await created(admin, schema, home.workflow, input='{"a": 1}', idempotency_key="k")

    with pytest.raises(asyncpg.UniqueViolationError, match=first):
        await created(admin, schema, home.workflow, input='{"a": 2}', idempotency_key="k")


async def test_a_key_of_python_answers_with_its_run(home: Home, admin: asyncpg.Connection, schema: str) -> None:
    run = await home.create(key=a_key("k", scope=home.workflow))

    assert await created(admin, schema, home.workflow, idempotency_key="k") == run.id


async def test_a_key_that_has_expired_is_free(home: Home, admin: asyncpg.Connection, schema: str) -> None:
    first = await created(admin, schema, home.workflow, idempotency_key="k")
    await admin.execute(
        f"UPDATE {schema}.idempotency_keys SET expires_at = clock_timestamp() - interval '1 s' WHERE run_id = $1", first
    )

    assert await created(admin, schema, home.workflow, idempotency_key="k") != first


@pytest.mark.parametrize("key", ["k" * 1001, "\u00e9" * 501, " "])
async def test_a_key_that_is_blank_or_too_long_is_refused(
    home: Home, admin: asyncpg.Connection, schema: str, key: str
) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match="idempotency_key"):
        await created(admin, schema, home.workflow, idempotency_key=key)


async def test_a_run_for_later_is_not_claimed_before(home: Home, admin: asyncpg.Connection, schema: str) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    run_id = await created(admin, schema, home.workflow, run_at=later)

    assert list(await home.store.claim(await home.session(), 10)) == []
    head = (await home.store.heads([run_id]))[run_id]
    assert (head.run_at, head.head.wake_at, head.head.phase) == (later, later, "delayed")


async def test_a_priority_that_nobody_would_claim_is_refused(
    home: Home, admin: asyncpg.Connection, schema: str
) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match="priority"):
        await created(admin, schema, home.workflow, priority=10)


async def test_it_is_marked_for_publishing_when_there_are_sinks(
    home: Home, admin: asyncpg.Connection, schema: str
) -> None:
    marked = f"SELECT publish_at IS NOT NULL FROM {schema}.runs WHERE id = $1"
    before = await created(admin, schema, home.workflow)
    await admin.execute(f"INSERT INTO {schema}.sinks (name) VALUES ('audit')")
    try:
        after = await created(admin, schema, home.workflow)
    finally:
        await admin.execute(f"DELETE FROM {schema}.sinks")

    assert not await admin.fetchval(marked, before)
    assert await admin.fetchval(marked, after)


async def test_the_views_tell_what_happened(home: Home, admin: asyncpg.Connection, schema: str) -> None:
    run = await home.started(await home.session())
    await run.land(home.store, run.owned(completing))

    events = await admin.fetch(f"SELECT * FROM {schema}.events WHERE run_id = $1 ORDER BY seq", run.id)
    stages = await admin.fetch(f"SELECT * FROM {schema}.stages WHERE run_id = $1 ORDER BY stage_id", run.id)

    assert [event["type"] for event in events] == [
        *("run.created", "run.started", "stage.started"),
        *("stage.completed", "stage.started"),
    ]
    assert [event["seq"] for event in events] == [1, 2, 3, 4, 5]
    assert not any("token" in event["data"] or "plan" in event["data"] for event in events)
    assert json.loads(events[3]["body"]) == {"words": 3}
    assert [(stage["stage_id"], stage["status"], stage["execution"]) for stage in stages] == [
        ("extract", "COMPLETED", 1),
        ("report", "RUNNING", 1),
    ]


async def test_the_stages_of_a_rerun_begin_again(home: Home, admin: asyncpg.Connection, schema: str) -> None:
    run = await home.started(await home.session())
    for _ in range(2):
        await run.land(home.store, run.owned(completing))
    await run.land(home.store, run.foreign(rerunning))

    stages = await admin.fetch(f"SELECT * FROM {schema}.stages WHERE run_id = $1 ORDER BY stage_id", run.id)

    assert [(stage["stage_id"], stage["status"], stage["execution"]) for stage in stages] == [
        ("extract", "PENDING", 2),
        ("report", "PENDING", 2),
    ]
