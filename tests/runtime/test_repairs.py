"""Runs whose heads were damaged: a supervisor mends them and goes on with them; healthy ones it leaves alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import LogCapture

from kernel import (
    CheckContext,
    NotReady,
    Ready,
    ReapStuckRuns,
    RetryAfter,
    RetryPolicy,
    RunFailed,
    StageContext,
    Suspend,
    Workflow,
    WorkflowBuilder,
    batch_stage,
    stage,
)
from kernel.journal import append_of, fold_stored
from kernel.model.draft import Draft, Moment
from kernel.model.facts import RunStarted, StageCompleted, StageStarted
from kernel.ports.persistence import HeadRow
from runtime import Client, RunHandle
from runtime.supervisor import Supervisor
from tests.conftest import execute
from tests.runtime.counted_wire import CountedWire
from tests.runtime.gates import Doc, Gate, echo, three_stages
from tests.runtime.shared_store import SharedStore, on_postgres, until

pytestmark = pytest.mark.anyio

NOBODY = "11111111-1111-4111-8111-111111111111"
HOUR = timedelta(hours=1)

DAMAGE = {
    "never due": "wake_at = NULL",
    "owned by a session that does not exist": f"wake_at = NULL, owner = '{NOBODY}', attention = true",
    "never due, and of another status": "wake_at = NULL, status = 'PENDING', phase = 'pending', total_tokens = 99",
}


def damage(store: SharedStore, run_id: str, change: str) -> None:
    assert store.url is not None
    execute(store.url, f"UPDATE leasehold.runs SET {change} WHERE id = '{run_id}'")


async def head_of(store: Supervisor | Any, run: RunHandle[Any]) -> HeadRow:
    return (await store.storage.persistence.heads([run.id]))[run.id]


# -- healed ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE.keys())
async def test_a_run_with_a_damaged_head_is_healed_and_completed(postgres: SharedStore, log: LogCapture, change: str):
    workflow = echo()
    async with postgres.client(workflow) as client:
        run = await client.start(workflow, Doc(text="x"))
        damage(postgres, run.id, change)
        async with postgres.supervisor(workflow):
            assert await run.result(timeout=10) == Doc(text="x")
        assert (await head_of(client, run)).head.total_tokens == 0
    assert [entry["healed"] for entry in log.entries if entry["event"] == "runs.repaired"] == [1]


async def test_a_run_that_was_damaged_in_the_middle_goes_on_from_there(postgres: SharedStore):
    gate, seen = Gate(), list[str]()

    @stage("first")
    async def first(ctx: StageContext[Doc]) -> Doc:
        seen.append("first")
        return ctx.input

    workflow = WorkflowBuilder("w", input=Doc, output=Doc).pipe(first).pipe(gate.stage()).build()
    async with postgres.supervisor(workflow, drain_grace=0.0) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: gate.entered)
    damage(postgres, run.id, DAMAGE["never due"])
    execute(postgres.url or "", "DELETE FROM leasehold.maintenance")
    gate.open()
    async with postgres.supervisor(workflow) as supervisor:
        assert await supervisor.run(run.id).result(timeout=10) == Doc(text="x")
    assert seen == ["first"]


async def test_a_healed_run_that_sleeps_sleeps_on(postgres: SharedStore):
    workflow = sleeping()
    async with postgres.supervisor(workflow, passivate_after=0.0) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: is_asleep(supervisor, run))
        before = await head_of(supervisor, run)
        damage(postgres, run.id, DAMAGE["never due"])

        assert (await supervisor.kernel.dispatch(ReapStuckRuns())).healed == 1

        after = await head_of(supervisor, run)
        assert (after.head, after.seq) == (before.head, before.seq)


async def test_a_history_that_cannot_be_read_is_parked_with_its_reason(postgres: SharedStore):
    workflow = echo()
    async with postgres.client(workflow) as client:
        run = await client.start(workflow, Doc(text="x"))
        damage(postgres, run.id, DAMAGE["never due"])
        execute(postgres.url or "", f"UPDATE leasehold.history SET events = '[{{}}]' WHERE run_id = '{run.id}'")
        async with postgres.supervisor(workflow):
            await until(lambda: is_parked(client, run))


async def test_a_completion_whose_process_died_before_it_advanced_the_run_is_advanced_by_the_next_owner(
    store: SharedStore,
):
    log: list[tuple[str, str]] = []
    workflow = three_stages(log)
    async with store.client(workflow) as client:
        run = await client.start(workflow, Doc(text="x"))
        await complete_without_consequences(client, run, "a")
        async with store.supervisor(workflow):
            assert await run.result(timeout=10) == Doc(text="x")
    assert log == [(run.id, "b"), (run.id, "c")]


async def complete_without_consequences(client: Client, run: RunHandle[Any], stage_id: str) -> None:
    """What an engine leaves behind that records an end and its consequences in two steps, and died in between."""
    storage = client.storage
    moment = Moment(now=storage.clock.now(), append_id=storage.ids.append_id())
    draft = Draft(fold_stored(await storage.persistence.load(run.id)), moment)
    expected = draft.state.seq
    draft.add(RunStarted())
    draft.add(StageStarted(stage_id=stage_id, execution=1, attempt=1, token="t"))
    draft.add(StageCompleted(stage_id=stage_id, execution=1, attempt=1, duration_s=0.0), b'{"text":"x"}')
    await storage.persistence.append(append_of(draft.decided(None), moment, mode="foreign", expected=expected))


# -- left alone --------------------------------------------------------------------------------------------------------


def sleeping() -> Workflow[Doc, Doc]:
    """Suspended, and polled every hour."""

    @batch_stage("wait")
    async def wait(ctx: StageContext[Doc]) -> Suspend[Doc] | Doc:
        return Suspend(state=ctx.input, poll_interval=HOUR)

    @wait.check
    async def ready(state: Doc, ctx: CheckContext) -> Ready[Doc] | NotReady:
        return NotReady()

    return WorkflowBuilder("sleeping", input=Doc, output=Doc).pipe(wait).build()


def backing_off() -> Workflow[Doc, Doc]:
    @stage("later", retry=RetryPolicy(max_attempts=3))
    async def later(ctx: StageContext[Doc]) -> Doc:
        raise RetryAfter(HOUR, "later")

    return WorkflowBuilder("later", input=Doc, output=Doc).pipe(later).build()


async def is_asleep(supervisor: Supervisor, run: RunHandle[Any]) -> bool:
    head = await head_of(supervisor, run)
    return head.owner is None and head.head.phase in {"suspended", "retrying"}


async def is_parked(client: Any, run: RunHandle[Any]) -> bool:
    return (await head_of(client, run)).parked_reason is not None


@pytest.mark.parametrize("workflow", [sleeping(), backing_off()], ids=["suspended for an hour", "retried in an hour"])
async def test_a_run_that_sleeps_is_not_reaped_as_stuck(store: SharedStore, workflow: Workflow[Doc, Doc]):
    async with store.supervisor(workflow, passivate_after=0.0) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: is_asleep(supervisor, run))
        before = await head_of(supervisor, run)

        result = await supervisor.kernel.dispatch(ReapStuckRuns())

        assert (result.healed, result.failed) == (0, 0)
        assert await head_of(supervisor, run) == before


async def test_runs_that_wait_in_a_long_queue_for_room_are_not_reaped(store: SharedStore):
    gate = Gate()
    workflow = gate.workflow()
    async with store.supervisor(workflow, max_bodies=1) as supervisor, store.client(workflow) as client:
        runs = await client.start_many(workflow, [Doc(text=str(n)) for n in range(10)])
        await until(lambda: gate.entered)

        result = await client.kernel.dispatch(ReapStuckRuns())

        assert (result.healed, result.failed) == (0, 0)
        gate.open()
        assert [(await run.result(timeout=15)).text for run in runs] == [str(n) for n in range(10)]
        assert supervisor.stats().bodies == 0


async def test_a_stage_that_outlasts_its_lease_many_times_under_a_live_session_runs_once(store: SharedStore):
    gate = Gate()
    workflow = gate.workflow()
    brief = {"lease": 0.6, "renew": 0.1}
    async with store.supervisor(workflow, **brief) as first, store.supervisor(workflow, **brief) as second:
        run = await first.start(workflow, Doc(text="x"))
        await until(lambda: gate.entered)
        for _ in range(2):
            since = (await head_of(first, run)).updated_at
            now = first.storage.clock.now()
            await until(lambda now=now: first.storage.clock.now() - now > timedelta(seconds=0.6))
            result = await second.kernel.dispatch(ReapStuckRuns())
            assert (result.healed, result.failed) == (0, 0)
            assert (await head_of(first, run)).updated_at == since
        gate.open()
        assert await run.result(timeout=10) == Doc(text="x")
    assert len(gate.entered) == 1


# -- ended -------------------------------------------------------------------------------------------------------------


async def test_a_run_whose_history_grows_too_long_is_failed_by_whoever_drives_it(store: SharedStore):
    workflow = restless()
    async with store.supervisor(workflow, history_events_max=100) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        with pytest.raises(RunFailed) as failed:
            await run.result(timeout=20)
        assert failed.value.error.type == "HistoryTooLong"
        assert 100 < (await head_of(supervisor, run)).seq < 110


def restless() -> Workflow[Doc, Doc]:
    @stage("again", retry=RetryPolicy(max_attempts=10_000, initial_interval=timedelta(0), jitter=False))
    async def again(ctx: StageContext[Doc]) -> Doc:
        raise OSError("again")

    return WorkflowBuilder("restless", input=Doc, output=Doc).pipe(again).build()


async def test_a_run_whose_workflow_nobody_knows_fails_only_where_a_grace_is_set(postgres: SharedStore):
    ours, theirs = echo(), echo("theirs")
    async with postgres.client(theirs) as client:
        run = await client.start(theirs, Doc(text="x"))
        damage(postgres, run.id, "wake_at = wake_at - interval '2 days'")
        async with postgres.supervisor(ours) as supervisor:
            assert (await supervisor.kernel.dispatch(ReapStuckRuns())).failed == 0
        execute(postgres.url or "", "DELETE FROM leasehold.maintenance")
        async with postgres.supervisor(ours, unknown_workflow_grace=86_400.0):
            with pytest.raises(RunFailed, match="unknown_workflow_grace"):
                await run.result(timeout=10)


# -- what it costs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_looking_costs_every_process_one_statement_a_minute_and_one_of_them_another(migrated_url: str):
    execute(migrated_url, "DELETE FROM leasehold.maintenance")
    workflow = echo()
    with CountedWire(migrated_url) as wire:
        place = on_postgres(wire.url)
        async with place.supervisor(workflow), place.supervisor(workflow), place.supervisor(workflow):
            await until(lambda: wire.sent["take_chore"] == 3)
            await until(lambda: wire.sent["find_stuck"] == 1)
    assert (wire.sent["take_chore"], wire.sent["find_stuck"]) == (3, 1)
