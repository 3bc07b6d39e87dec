"""Runs that nobody executes now, why, and what makes them go on: a deploy, a human, a date, or SQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from adapters.system import RandomIds
from kernel import RetryAfter, RunFailed, StageContext, Workflow, WorkflowBuilder, stage
from kernel.journal import append_of, fold_stored
from kernel.model.draft import Draft, Moment
from kernel.model.facts import FORMAT, AnnotationCreated, NewerHistory
from kernel.ports.persistence import HeadRow, Persistence
from runtime import App, RunHandle
from tests.runtime.gates import Doc, Gate, echo
from tests.runtime.shared_store import SharedStore, create_in_sql, until

pytestmark = pytest.mark.anyio


# -- definitions -------------------------------------------------------------------------------------------------------


async def test_a_rolling_deploy_leaves_the_runs_of_the_old_version_waiting_until_somebody_knows_it(
    store: SharedStore,
):
    old, new = echo(version="1"), echo(version="2")
    async with store.client(old) as client:
        waiting = await client.start(old, Doc(text="old"))
        async with store.supervisor(new) as deployed:
            assert await (await deployed.start(new, Doc(text="new"))).result() == Doc(text="new")
            info = await waiting.describe()
            assert (info.status, info.waiting_for) == ("PENDING", "unknown_workflow")
            async with store.supervisor(App(workflows=[new, old])):
                assert await waiting.result() == Doc(text="old")


async def test_a_run_whose_definition_changed_under_its_version_is_parked_with_the_difference(memory: SharedStore):
    gate = Gate()
    old, changed = gate.workflow("w"), gate.workflow("w", stage_id="renamed")
    run_id = await drained_run(memory, old, gate)
    async with memory.supervisor(changed) as supervisor:
        run = supervisor.run(run_id)
        await until(lambda: waits_for(run, "definition_changed"))
        assert 'Workflow "w" version "1"' in ((await run.describe()).waiting_detail or "")
        assert await run.unpark() is True
        await until(lambda: waits_for(run, "definition_changed"))
    assert len(gate.entered) == 1


async def test_a_parked_run_goes_on_when_its_definition_returns(store: SharedStore):
    gate = Gate()
    old, changed = gate.workflow("w"), gate.workflow("w", stage_id="renamed")
    run_id = await drained_run(store, old, gate)
    async with store.supervisor(changed) as supervisor:
        await until(lambda: waits_for(supervisor.run(run_id), "definition_changed"))
    gate.open()
    async with store.supervisor(old) as supervisor:
        assert await supervisor.run(run_id, old).result() == Doc(text="x")


async def test_a_run_that_a_newer_release_has_extended_is_given_back_to_it_and_not_parked(store: SharedStore):
    gate = Gate()
    async with store.supervisor(gate.workflow()) as supervisor, store.opened() as other:
        run = await supervisor.start("gated", Doc(text="x"))
        await until(lambda: gate.entered)
        await extended_by_a_newer_release(other.persistence, run.id)
        head = await until(lambda: given_back(other.persistence, run.id))
        assert (head.parked_reason, head.format) == (None, FORMAT + 1)
        assert head.head.wake_at is not None
        assert len(gate.interrupted) == 1
        with pytest.raises(NewerHistory):
            await run.cancel()


async def extended_by_a_newer_release(store: Persistence, run_id: str) -> None:
    state = fold_stored(await store.load(run_id))
    moment = Moment(now=datetime.now(UTC), append_id=RandomIds().append_id())
    draft = Draft(state, moment)
    draft.add(AnnotationCreated(key="note"))
    append = append_of(draft.decided(None), moment, mode="foreign", expected=state.seq)
    await store.append(replace(append, format=FORMAT + 1))


async def given_back(store: Persistence, run_id: str) -> HeadRow | None:
    head = (await store.load(run_id)).head
    return head if head.owner is None else None


async def drained_run(store: SharedStore, workflow: Workflow[Doc, Doc], gate: Gate) -> str:
    async with store.supervisor(workflow, drain_grace=0.0) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: gate.entered)
    return run.id


async def waits_for(run: RunHandle[Any], reason: str) -> bool:
    return (await run.describe()).waiting_for == reason


# -- runs that SQL creates -----------------------------------------------------------------------------------------


async def test_a_run_created_in_sql_executes_and_an_invalid_one_fails_with_what_is_wrong(postgres: SharedStore):
    workflow = echo()
    assert postgres.url is not None
    async with postgres.supervisor(workflow) as supervisor:
        good = await create_in_sql(postgres.url, "echo", {"text": "from SQL"})
        bad = await create_in_sql(postgres.url, "echo", {"txet": "oops"})
        assert await supervisor.run(good, workflow).result() == Doc(text="from SQL")
        with pytest.raises(RunFailed) as failed:
            await supervisor.run(bad, workflow).result()
    assert failed.value.error.type == "InvalidInput"
    assert "text: Field required" in failed.value.error.message
    assert failed.value.stage_id is None


# -- waiting -----------------------------------------------------------------------------------------------------------


async def test_a_run_that_waits_for_its_retry_costs_no_actor_and_comes_back_in_time(store: SharedStore):
    @stage("later")
    async def later(ctx: StageContext[Doc]) -> Doc:
        if ctx.attempt == 1:
            raise RetryAfter(0.5, "not yet")
        return ctx.input

    workflow = WorkflowBuilder("later", input=Doc, output=Doc).pipe(later).build()
    async with store.supervisor(workflow, passivate_after=0.0) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: waits_for(run, "retry"))
        await until(lambda: supervisor.stats().actors == 0)
        assert await run.result() == Doc(text="x")
        events = await run.history()
        [due_at] = [event.due_at for event in events if event.type == "stage.retrying"]
        [_, second] = [event.at for event in events if event.type == "stage.started"]
        assert second >= due_at
        assert "run.owner_changed" not in [event.type for event in events]
