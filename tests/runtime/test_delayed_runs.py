"""Runs that are started for later: visible, cancellable, and never early by the store's clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kernel import ExecuteJob, RunCancelled, TransitionRun
from tests.runtime.gates import Doc, Gate, echo, three_stages
from tests.runtime.shared_store import SharedStore, until

pytestmark = pytest.mark.anyio

ECHO = echo()
QUICK = {"renew": 0.05}


def later(seconds: float = 3600.0) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


@pytest.mark.parametrize("creator", ["client", "supervisor"])
async def test_a_run_for_later_begins_then_and_not_before(store: SharedStore, creator: str):
    async with store.supervisor(ECHO, **QUICK) as supervisor, store.client(ECHO) as client:
        at = later(0.4)
        run = await {"client": client, "supervisor": supervisor}[creator].start(ECHO, Doc(text="x"), run_at=at)
        info = await run.describe()
        assert (info.status, info.waiting_for, info.run_at, info.owner) == ("PENDING", "delayed_until", at, None)

        assert await run.result(timeout=20) == Doc(text="x")

        started_at = (await run.describe()).started_at
        assert started_at is not None
        assert started_at >= at


async def test_a_time_that_has_passed_is_now(store: SharedStore):
    async with store.supervisor(ECHO, **QUICK) as supervisor:
        run = await supervisor.start(ECHO, Doc(text="x"), run_at=later(-3600))

        assert await run.result(timeout=20) == Doc(text="x")


async def test_nothing_that_is_asked_of_it_makes_a_delayed_run_begin(store: SharedStore):
    entered: list[tuple[str, str]] = []
    flow = three_stages(entered)
    async with store.supervisor(flow, **QUICK) as supervisor:
        run = await supervisor.start(flow, Doc(text="x"), run_at=later())

        transition = await supervisor.kernel.dispatch(TransitionRun(run_id=run.id))
        executed = await supervisor.kernel.dispatch(ExecuteJob(run_id=run.id, stage_id="a"))

        assert (transition.action, executed.ghost) == ("noop", True)
        assert (await run.describe()).status == "PENDING"
        assert entered == []


async def test_a_delayed_run_that_is_cancelled_never_begins(store: SharedStore):
    gate = Gate(opened=True)
    flow = gate.workflow()
    async with store.supervisor(flow, **QUICK) as supervisor:
        run = await supervisor.start(flow, Doc(text="not this"), run_at=later(0.3))
        other = await supervisor.start(flow, Doc(text="but this"), run_at=later(0.4))

        assert await run.cancel("not needed")

        await other.result(timeout=20)
        with pytest.raises(RunCancelled, match="not needed"):
            await run.result(timeout=20)
        assert {visit.run_id for visit in gate.entered} == {other.id}
        info = await run.describe()
        assert (info.status, info.waiting_for, info.started_at) == ("CANCELLED", None, None)
        assert not await run.cancel()


async def test_delayed_runs_are_listed_among_the_pending_with_what_they_wait_for(store: SharedStore):
    async with store.client(ECHO) as client:
        delayed = await client.start(ECHO, Doc(text="x"), run_at=later())
        due = await client.start(ECHO, Doc(text="x"))

        listed = (await client.list_runs(status="PENDING")).items

        assert {info.id: info.waiting_for for info in listed} == {delayed.id: "delayed_until", due.id: "claim"}


async def test_a_delayed_run_survives_its_creator_and_a_restart(store: SharedStore):
    async with store.supervisor(ECHO, **QUICK) as supervisor:
        at = later(0.3)
        run_id = (await supervisor.start(ECHO, Doc(text="x"), run_at=at)).id

    async with store.supervisor(ECHO, **QUICK) as another:
        run = another.run(run_id, ECHO)
        assert await run.result(timeout=20) == Doc(text="x")


async def test_a_delayed_run_whose_time_has_come_waits_for_room_and_says_so(memory: SharedStore):
    gate = Gate()
    flow = gate.workflow()
    async with memory.supervisor(flow, max_bodies=1, **QUICK) as supervisor:
        await supervisor.start(flow, Doc(text="first"))
        run = await supervisor.start(flow, Doc(text="second"), run_at=later(0.1))

        async def reason() -> bool:
            return (await run.describe()).waiting_for == "capacity"

        await until(reason)
        gate.open()
        assert await run.result(timeout=20) == Doc(text="second")


async def test_the_same_key_answers_with_the_delayed_run_whatever_time_is_said(store: SharedStore):
    async with store.client(ECHO) as client:
        first = await client.start(ECHO, Doc(text="x"), idempotency_key="k", run_at=later())
        again = await client.start(ECHO, Doc(text="x"), idempotency_key="k")

        assert again.id == first.id
        assert (await again.describe()).run_at is not None
