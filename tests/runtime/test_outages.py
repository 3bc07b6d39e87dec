"""The store goes away under a supervisor, and comes back."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from adapters.memory import MemoryPersistence
from adapters.system import SystemClock
from kernel import Unavailable, Workflow
from runtime import App, RunHandle, Settings
from runtime.bootstrap import Storage
from tests.conftest import execute
from tests.runtime.gates import Doc, Gate, echo, three_stages
from tests.runtime.shared_store import BreakableStore, SharedStore, in_memory, until

pytestmark = pytest.mark.anyio

ECHO = echo()


async def test_an_outage_in_memory_loses_nothing_and_cancels_nobody():
    broken = BreakableStore(MemoryPersistence(SystemClock()))
    place, gate, log = in_memory(broken), Gate(), list[tuple[str, str]]()
    before, after = gate.workflow(), three_stages(log)
    async with place.supervisor(App(workflows=[before, after])) as supervisor:
        run = await supervisor.start(before, Doc(text="x"))
        await until(lambda: gate.entered)
        broken.down = True
        gate.open()
        await until(lambda: broken.refused["append"] and broken.refused["beat"])
        broken.down = False
        assert await run.result() == Doc(text="x")
        assert await (await supervisor.start(after, Doc(text="y"))).result() == Doc(text="y")
    assert len(gate.entered) == 1


async def test_an_outage_longer_than_the_lease_interrupts_bodies_and_the_run_completes_afterwards():
    broken = BreakableStore(MemoryPersistence(SystemClock()))
    place, gate = in_memory(broken), Gate()
    workflow = gate.workflow()
    async with place.supervisor(workflow, lease=0.6, renew=0.2) as supervisor:
        run = await supervisor.start(workflow, Doc(text="x"))
        await until(lambda: gate.entered)
        broken.down = True
        await until(lambda: gate.interrupted)
        assert supervisor.stats().degraded == "lease lost"
        broken.down = False
        gate.open()
        assert await run.result() == Doc(text="x")
        assert supervisor.stats().degraded is None


async def test_lost_connections_to_postgres_lose_nothing_and_cancel_nobody(postgres: SharedStore):
    log: list[tuple[str, str]] = []
    workflow = three_stages(log)
    assert postgres.url is not None
    async with postgres.supervisor(workflow) as supervisor:
        runs = await supervisor.start_many(workflow, [Doc(text=str(n)) for n in range(20)])
        for n in range(20, 24):
            cut_all_connections(postgres.url)
            runs.append(await started(supervisor, workflow, n))
        assert [(await run.result()).text for run in runs] == [str(n) for n in range(24)]
        for run in runs:
            assert [event.type for event in await run.history()].count("stage.completed") == 3


async def started(supervisor: Any, workflow: Workflow[Doc, Doc], number: int) -> RunHandle[Doc]:
    return await supervisor.start(workflow, Doc(text=str(number)), idempotency_key=str(number))


def cut_all_connections(url: str) -> None:
    mine = "datname = current_database() AND pid <> pg_backend_pid()"
    execute(url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}")


async def test_a_store_that_is_away_is_an_error_and_never_an_empty_answer(store: SharedStore):
    breakable, broken = that_breaks(store)
    async with store.client(ECHO) as client, breakable.host(ECHO) as host:
        run = host.run((await client.start(ECHO, Doc(text="x"))).id, ECHO)
        broken[0].down = True
        for ask in (host.list_runs, run.describe, host.run_maintenance_tick, host.process_available_jobs):
            with pytest.raises(Unavailable):
                await ask()
        broken[0].down = False
        assert len((await host.list_runs()).items) == 1


async def test_a_takeover_that_meets_an_outage_goes_on_after_it(store: SharedStore):
    gate, (breakable, broken) = Gate(), that_breaks(store)
    workflow = gate.workflow()
    quick: dict[str, Any] = {"lease": 1.0, "renew": 0.2, "poll_interval": 0.05, "drain_grace": 0.0}
    async with breakable.supervisor(workflow, **quick) as dying, breakable.supervisor(workflow, **quick) as heir:
        run = await dying.start(workflow, Doc(text="x"))
        await until(lambda: gate.entered)
        broken[1].fail_next["claim"] = 2
        broken[0].down = True

        await until(lambda: len(gate.entered) == 2)
        assert broken[1].fail_next["claim"] == 0
        broken[0].down = False
        gate.open()
        assert await heir.run(run.id, workflow).result(timeout=10) == Doc(text="x")


async def test_a_supervisor_takes_no_more_runs_of_a_dead_one_than_it_has_room_for(store: SharedStore):
    gate, (breakable, broken) = Gate(), that_breaks(store)
    workflow = gate.workflow()
    quick: dict[str, Any] = {"lease": 1.0, "renew": 0.2, "poll_interval": 0.05, "drain_grace": 0.0}
    async with breakable.supervisor(workflow, **quick) as dying:
        await dying.start_many(workflow, [Doc(text=str(n)) for n in range(6)])
        await until(lambda: len(gate.entered) == 6)
        async with store.supervisor(workflow, max_runs=2, **quick) as small:
            broken[0].down = True
            await until(lambda: len(gate.entered) >= 8)
            async with store.supervisor(workflow, **quick) as large:
                await until(lambda: len(gate.entered) >= 12)
                assert (small.stats().actors, large.stats().actors) == (2, 4)
                gate.open()
                await until(lambda: len(gate.passed) == 6)
        broken[0].down = False


def that_breaks(store: SharedStore) -> tuple[SharedStore, list[BreakableStore]]:
    """The same store, reached by a way that can be cut: processes on it, and the cuts in the order of their opening."""
    broken: list[BreakableStore] = []

    @asynccontextmanager
    async def opener(_: Settings) -> AsyncGenerator[Storage]:
        async with store.opened() as storage:
            broken.append(BreakableStore(storage.persistence))
            persistence: Any = broken[-1]
            yield replace(storage, persistence=persistence, jobs=persistence.jobs)

    return SharedStore(opener, store.url), broken
