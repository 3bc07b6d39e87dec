"""What people read and write in SQL is what programs are told and tell: the views and `create_run`, with a supervisor.

How `create_run` treats its arguments, `test_create_run` tells.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from pydantic import BaseModel

from adapters.conformance.store.builders import looking, suspending
from adapters.postgres import PostgresPersistence
from adapters.system import RandomIds
from kernel import Actor, RetryPolicy, RunFailed, StageContext, Trigger, Workflow, WorkflowBuilder, stage
from kernel.events import event_json
from runtime import App, RunHandle, Settings, Supervisor
from runtime.bootstrap import Storage
from tests.adapters.postgres.crowd import utc_now
from tests.adapters.postgres.stores import Home

pytestmark = pytest.mark.anyio

COMMON = {"run_id", "seq", "at", "type", "stage_id", "execution", "attempt"}


class Text(BaseModel):
    text: str


@stage("unsteady", retry=RetryPolicy(max_attempts=2, initial_interval=timedelta(milliseconds=1)))
async def unsteady(ctx: StageContext[Text]) -> Text:
    if ctx.attempt == 1:
        raise ConnectionError("not yet")
    return ctx.input


@stage("louder", retry=RetryPolicy(max_attempts=1))
async def louder(ctx: StageContext[Text]) -> Text:
    if ctx.input.text == "bad":
        raise ValueError("too bad")
    return Text(text=ctx.input.text.upper())


@stage("last")
async def last(ctx: StageContext[Text]) -> str:
    return ctx.input.text


@pytest.fixture
def workflow() -> Workflow[Text, str]:
    """Its first stage needs two attempts; its second one fails for "bad"."""
    id = f"shout-{uuid4().hex[:8]}"
    return WorkflowBuilder(id, input=Text, output=str).pipe(unsteady).pipe(louder).pipe(last).build()


@pytest.fixture
async def supervisor(
    store: PostgresPersistence, adapter_url: str, workflow: Workflow[Text, str]
) -> AsyncIterator[Supervisor]:
    @asynccontextmanager
    async def storage() -> AsyncGenerator[Storage]:
        yield Storage(
            persistence=store,
            jobs=store.jobs,
            blobs=store.blobs,
            clock=store.clock,
            ids=RandomIds(),
            database="the test's schema",
        )

    settings = Settings(database_url=adapter_url)
    async with Supervisor(App(workflows=[workflow]), settings=settings, storage=storage()) as supervisor:
        yield supervisor


# -- views -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["good", "bad"])
async def test_the_view_of_events_shows_what_a_run_s_history_shows(
    supervisor: Supervisor, workflow: Workflow[Text, str], admin: asyncpg.Connection, schema: str, text: str
) -> None:
    run = await ended(await supervisor.start(workflow, Text(text=text)))

    rows = await admin.fetch(f"SELECT * FROM {schema}.events WHERE run_id = $1 ORDER BY seq", run.id)

    history = [json.loads(event_json(event)) for event in await run.history()]
    assert len(history) > 6
    for row, event in zip(rows, history, strict=True):
        told = {name: event[name] for name in COMMON & event.keys()} | {"at": datetime.fromisoformat(event["at"])}
        assert {name: str(row[name]) if name == "run_id" else row[name] for name in told} == told
    outputs = {event["seq"]: event["output"] for event in history if event["type"] == "stage.completed"}
    assert {row["seq"]: json.loads(row["body"]) for row in rows if row["type"] == "stage.completed"} == outputs


async def test_the_view_of_annotations_shows_what_a_run_s_list_shows(
    supervisor: Supervisor, workflow: Workflow[Text, str], admin: asyncpg.Connection, schema: str
) -> None:
    run = await ended(await supervisor.start(workflow, Text(text="good"), annotations={Trigger.source: "api"}))
    await run.annotate("review.score", 4.5, stage=louder, actor=Actor(kind="user", id="ada"), payload={"a": None})
    await run.annotate("review.page", {"n": 1}, scope="page", scope_id="7", idempotency_key="k")

    rows = await admin.fetch(f"SELECT * FROM {schema}.annotations WHERE run_id = $1 ORDER BY seq", run.id)

    listed = await run.annotations()
    assert len(listed) == 3
    for row, told in zip(rows, listed, strict=True):
        for name in ("seq", "at", "key", "scope", "scope_id", "stage_id", "execution", "attempt", "idempotency_key"):
            assert row[name] == getattr(told, name)
        assert json.loads(row["value"]) == told.value
        assert row["actor"] == (None if told.actor is None else str(told.actor))
        assert (row["payload"] and json.loads(row["payload"])) == told.payload


async def test_the_view_of_events_leaves_out_what_only_the_engine_needs(
    supervisor: Supervisor, workflow: Workflow[Text, str], admin: asyncpg.Connection, schema: str
) -> None:
    run = await ended(await supervisor.start(workflow, Text(text="good")))

    shown = await admin.fetch(f"SELECT type, data FROM {schema}.events WHERE run_id = $1", run.id)

    stored = await admin.fetchval(
        f"SELECT string_agg(events::text, '') FROM {schema}.history WHERE run_id = $1", run.id
    )
    for engines_own in ("token", "fingerprint", "plan"):
        assert f'"{engines_own}"' in stored
        assert all(engines_own not in json.loads(row["data"]) for row in shown)


@pytest.mark.parametrize("text", ["good", "bad"])
async def test_the_view_of_stages_shows_what_a_run_s_description_shows(
    supervisor: Supervisor, workflow: Workflow[Text, str], admin: asyncpg.Connection, schema: str, text: str
) -> None:
    run = await ended(await supervisor.start(workflow, Text(text=text)))

    rows = await admin.fetch(f"SELECT * FROM {schema}.stages WHERE run_id = $1", run.id)

    described = (await run.describe()).stages
    assert described is not None
    assert {row["stage_id"]: stage_part(row) for row in rows} == {
        found.id: (
            *(found.status, found.execution, found.attempt, found.completed_at),
            found.error and (found.error.type, found.error.message),
        )
        for found in described
    }


async def test_the_view_of_stages_knows_of_looks_that_are_no_events(
    store: PostgresPersistence, admin: asyncpg.Connection, schema: str
) -> None:
    home = Home(store, utc_now)
    await home.open()
    run = await home.started(await home.session())
    await run.land(store, run.owned(suspending))

    await run.land(store, run.poll(looking, lease=run.lease))

    shown = await admin.fetchval(
        f"SELECT next_poll_at FROM {schema}.stages WHERE run_id = $1 AND stage_id = 'extract'", run.id
    )
    assert shown == run.state.stages["extract"].poll_at


async def test_a_person_can_list_what_failed_and_why(
    supervisor: Supervisor, workflow: Workflow[Text, str], admin: asyncpg.Connection, schema: str
) -> None:
    run = await ended(await supervisor.start(workflow, Text(text="bad")))

    (row,) = await admin.fetch(
        f"SELECT s.stage_id, s.error ->> 'message' AS message FROM {schema}.runs AS r"
        f" JOIN {schema}.stages AS s ON s.run_id = r.id"
        " WHERE r.id = $1 AND s.status = 'FAILED'",
        run.id,
    )

    assert tuple(row) == ("louder", "too bad")


# -- create_run --------------------------------------------------------------------------------------------------------


async def test_a_run_that_sql_created_is_executed(
    supervisor: Supervisor, workflow: Workflow[Text, str], admin: asyncpg.Connection, schema: str
) -> None:
    run = await created_by_sql(supervisor, workflow, admin, schema, {"text": "good"})

    assert await run.result() == "GOOD"


async def test_input_that_does_not_fit_fails_the_run_before_anything_is_executed(
    supervisor: Supervisor, workflow: Workflow[Text, str], admin: asyncpg.Connection, schema: str
) -> None:
    run = await created_by_sql(supervisor, workflow, admin, schema, {"txet": "good"})

    with pytest.raises(RunFailed) as failed:
        await run.result()

    assert failed.value.error.type == "InvalidInput"
    assert await is_failed_by_the_first_append_of_its_owner(supervisor, run)


async def test_configuration_of_a_stage_that_does_not_exist_fails_the_run(
    supervisor: Supervisor, workflow: Workflow[Text, str], admin: asyncpg.Connection, schema: str
) -> None:
    run = await created_by_sql(supervisor, workflow, admin, schema, {"text": "good"}, config={"nobody": {"times": 3}})

    with pytest.raises(RunFailed, match="nobody"):
        await run.result()

    assert await is_failed_by_the_first_append_of_its_owner(supervisor, run)


# -- reading -----------------------------------------------------------------------------------------------------------


async def ended(run: RunHandle[str]) -> RunHandle[str]:
    try:
        await run.result()
    except RunFailed:
        pass
    return run


async def created_by_sql(
    supervisor: Supervisor,
    workflow: Workflow[Text, str],
    admin: asyncpg.Connection,
    schema: str,
    input: Any,
    config: Any = None,
) -> RunHandle[str]:
    run_id: UUID = await admin.fetchval(
        f"SELECT {schema}.create_run($1, $2, $3)", workflow.id, json.dumps(input), config and json.dumps(config)
    )
    return supervisor.run(str(run_id), workflow)


async def is_failed_by_the_first_append_of_its_owner(supervisor: Supervisor, run: RunHandle[str]) -> bool:
    types = {event.type for event in await run.history()}
    rows = (await supervisor.storage.persistence.load(run.id)).rows
    return types == {"run.created", "stage.skipped", "run.failed"} and len(rows) == 2


def stage_part(row: asyncpg.Record) -> tuple[Any, ...]:
    error = row["error"] and json.loads(row["error"])
    shown = (row["status"], row["execution"], row["attempt"], row["completed_at"])
    return (*shown, error and (error["type"], error["message"]))
