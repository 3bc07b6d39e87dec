"""Commands that were scheduled are dispatched when they are due, whatever becomes of who dispatches them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import anyio
import pytest
from structlog.testing import LogCapture

import runtime.scheduled_commands
from adapters.memory import MemoryPersistence, MemoryScheduler
from kernel import CancelRun, CreateRun, ExecuteJob, Kernel, RunCancelled
from kernel.ports.scheduler import ScheduledCommand
from runtime import App, Client
from runtime.client import workflow_record
from runtime.scheduled_commands import AT_ONCE, LEASE, ScheduledCommands, dispatch_due
from runtime.testing import FakeClock, NoopScheduler, memory_kernel
from tests.runtime.counted_wire import CountedWire
from tests.runtime.gates import Doc, Gate, echo
from tests.runtime.shared_store import BreakableStore, SharedStore, on_postgres, until

pytestmark = pytest.mark.anyio

ECHO = echo()
QUICK = {"renew": 0.05}


def now() -> datetime:
    return datetime.now(UTC)


def creation(text: str = "x", **given: Any) -> CreateRun:
    return CreateRun(workflow_id="echo", input=Doc(text=text), **given)


async def run_ids(client: Client) -> list[str]:
    return [run.id for run in (await client.list_runs()).items]


# -- in a supervisor ---------------------------------------------------------------------------------------------------


async def test_a_scheduled_creation_becomes_a_run_and_not_before_its_time(store: SharedStore):
    async with store.client(ECHO) as client, store.supervisor(ECHO, **QUICK):
        at = now() + timedelta(seconds=0.3)
        await client.kernel.schedule(creation(), at=at)

        (run_id,) = await until(lambda: run_ids(client))

        run = client.run(run_id, ECHO)
        assert await run.result() == Doc(text="x")
        assert (await run.describe()).created_at >= at


async def test_a_scheduled_cancellation_ends_a_run(store: SharedStore):
    gate = Gate()
    workflow = gate.workflow()
    async with store.supervisor(workflow, **QUICK) as supervisor:
        run = await supervisor.start(workflow, Doc(text=""))
        await supervisor.kernel.schedule(CancelRun(run_id=run.id, reason="too late"), at=now())

        with pytest.raises(RunCancelled, match="too late"):
            await run.result(timeout=20)


async def test_what_was_scheduled_survives_until_a_supervisor_comes(store: SharedStore):
    async with store.client(ECHO) as client:
        await client.kernel.schedule(creation(), at=now() - timedelta(days=1))

    async with store.supervisor(ECHO, **QUICK) as supervisor:
        (run_id,) = await until(lambda: run_ids(supervisor))
        assert await supervisor.run(run_id, ECHO).result() == Doc(text="x")


async def test_of_two_supervisors_one_dispatches_a_command(store: SharedStore):
    async with store.supervisor(ECHO, **QUICK) as one, store.supervisor(ECHO, **QUICK):
        for n in range(10):
            await one.kernel.schedule(creation(str(n)), at=now())

        await until(lambda: has_started(one, 10))

    async with store.client(ECHO) as client:
        assert len(await run_ids(client)) == 10


async def has_started(client: Client, count: int) -> bool:
    return len(await run_ids(client)) >= count


async def test_a_cancelled_command_does_not_happen(store: SharedStore):
    async with store.client(ECHO) as client, store.supervisor(ECHO, **QUICK):
        key = await client.kernel.schedule(creation("not this"), at=now() + timedelta(seconds=0.4))
        assert await client.kernel.cancel_scheduled(key)
        await client.kernel.schedule(creation("but this"), at=now() + timedelta(seconds=0.5))

        await until(lambda: run_ids(client))

        (run_id,) = await run_ids(client)
        assert (await client.run(run_id).describe()).input == {"text": "but this"}


async def test_what_an_app_does_not_know_waits_for_one_that_does(store: SharedStore):
    other = echo("other")
    async with store.client(App(workflows=[ECHO, other])) as client, store.supervisor(ECHO, **QUICK):
        await client.kernel.schedule(CreateRun(workflow_id="other", input=Doc(text="y")), at=now())
        await client.kernel.schedule(creation("x"), at=now())
        await until(lambda: run_ids(client))
        assert len(await run_ids(client)) == 1

        async with store.supervisor(other, **QUICK):
            await until(lambda: has_started(client, 2))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_commands_that_are_not_due_cost_a_supervisor_no_statement(postgres: SharedStore):
    assert postgres.url is not None
    with CountedWire(postgres.url) as wire:
        store = on_postgres(wire.url)
        async with store.supervisor(ECHO, **QUICK) as supervisor:
            await supervisor.kernel.schedule(creation(), at=now() + timedelta(hours=1), key="far away")
            # What a process does when it opens has been done by then.
            await until(lambda: wire.sent["heartbeat"] >= 5)
            wire.begin()

            await until(lambda: wire.sent["heartbeat"] >= 5)

            assert set(wire.sent) == {"heartbeat"}
            await supervisor.kernel.cancel_scheduled("far away")


# -- when it breaks ----------------------------------------------------------------------------------------------------


class Bench:
    """A kernel and a store whose time a test moves; `broken` is the way by which the kernel reaches the store."""

    def __init__(self, *workflows: Any) -> None:
        self.clock = FakeClock()
        self.kernel = memory_kernel(workflows, clock=self.clock)
        self.store: Any = self.kernel.ports.store
        self.schedule: MemoryScheduler = self.store.scheduler

    def at_broken_store(self) -> tuple[Kernel, BreakableStore]:
        ports, broken = self.kernel.ports, BreakableStore(self.store)
        kernel = Kernel(
            persistence=broken,  # type: ignore[arg-type]  # passes every call on
            blob_store=ports.blobs,
            clock=self.clock,
            ids=ports.ids,
            registry=ports.registry,
            executor=ports.executor,
            scheduler=self.schedule,
        )
        return kernel, broken

    async def due(self, command: Any, **given: Any) -> str:
        return await self.kernel.schedule(command, at=self.clock.now(), **given)

    def state(self, key: str) -> str | None:
        waiting = self.store._tables.scheduled.get(key)
        return None if waiting is None else waiting.state

    def error(self, key: str) -> str:
        return self.store._tables.scheduled[key].error

    def runs(self) -> int:
        return len(self.store._tables.runs)

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Callable[[], None]]:
        """With what a supervisor hosts; calling tells it that something is due."""
        commands = ScheduledCommands(self.kernel, self.schedule)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(commands.run)
            yield lambda: commands.expect(self.clock.now())
            tasks.cancel_scope.cancel()


@pytest.fixture
def bench() -> Bench:
    return Bench(ECHO)


async def test_a_command_whose_dispatcher_has_died_is_dispatched_by_the_next(bench: Bench):
    await bench.due(creation())
    (_taken,) = await bench.schedule.take_due(["echo"], 10, lease=LEASE)
    assert await dispatch_due(bench.kernel, bench.schedule, limit=10) == 0

    bench.clock.advance(LEASE)

    assert await dispatch_due(bench.kernel, bench.schedule, limit=10) == 1
    assert bench.runs() == 1


async def test_a_dispatcher_that_dies_between_effect_and_report_makes_no_second_run(bench: Bench):
    await bench.due(creation())
    await dispatch_due(bench.kernel, ReportsNothing(bench.schedule), limit=10)
    assert bench.runs() == 1
    bench.clock.advance(LEASE)

    assert await dispatch_due(bench.kernel, bench.schedule, limit=10) == 1

    assert bench.runs() == 1


class ReportsNothing:
    """As if the process had died before it could say what became of a command."""

    def __init__(self, schedule: MemoryScheduler) -> None:
        self.take_due = schedule.take_due

    async def postpone(self, *_: Any, **__: Any) -> bool:
        return True

    async def settle(self, *_: Any, **__: Any) -> None:
        pass


async def test_a_command_that_is_refused_is_kept_with_its_error_and_holds_up_no_other(bench: Bench, log: LogCapture):
    wrong = await bench.due(CancelRun(run_id="01912d68-783e-7000-8000-5d0a4f5a7b11"))
    await bench.due(creation())

    assert await dispatch_due(bench.kernel, bench.schedule, limit=10) == 2

    assert (bench.state(wrong), bench.runs()) == ("failed", 1)
    assert bench.error(wrong).startswith('RunNotFound: Run "01912d68-783e-7000-8000-5d0a4f5a7b11" does not exist')
    (said,) = [entry for entry in log.entries if entry["event"] == "command.failed"]
    assert (said["key"], said["error"], said["log_level"]) == (wrong, "RunNotFound", "error")
    assert (said["command"], said["run_id"]) == ("run.cancel", "01912d68-783e-7000-8000-5d0a4f5a7b11")
    bench.clock.advance(timedelta(days=1))
    assert await dispatch_due(bench.kernel, bench.schedule, limit=10) == 0


async def test_a_command_is_tried_again_while_the_store_is_away_and_less_and_less_often(bench: Bench):
    kernel, broken = bench.at_broken_store()
    key = await bench.due(creation())
    broken.fail_next["append"] = 3

    for delay_s in (1, 2, 4):
        assert await dispatch_due(kernel, bench.schedule, limit=10) == 1
        assert bench.state(key) == "waiting"
        bench.clock.advance(delay_s - 0.1)
        assert await dispatch_due(kernel, bench.schedule, limit=10) == 0
        bench.clock.advance(0.1)

    assert await dispatch_due(kernel, bench.schedule, limit=10) == 1
    assert (bench.state(key), bench.runs()) == (None, 1)


@pytest.mark.parametrize(
    "command", [b'{"type":"run.pause"}', b'{"type":"run.cancel","run_id":"r","by":"a newer release"}']
)
async def test_a_command_of_a_newer_release_waits_for_it(bench: Bench, command: bytes):
    newer = ScheduledCommand(key="newer", schedule_id=str(uuid4()), due_at=bench.clock.now(), command=command)
    await bench.schedule.schedule(newer)

    await dispatch_due(bench.kernel, bench.schedule, limit=10)

    assert bench.state("newer") == "waiting"


async def test_a_version_that_this_process_does_not_know_waits_for_another_process(bench: Bench):
    both = Bench(ECHO, echo(version="2"))
    both.schedule = bench.schedule
    kernel, _ = both.at_broken_store()
    key = await kernel.schedule(creation(workflow_version="2"), at=bench.clock.now())

    await dispatch_due(bench.kernel, bench.schedule, limit=10)

    assert bench.state(key) == "waiting"


async def test_a_long_command_keeps_its_lease_and_holds_up_no_other(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runtime.scheduled_commands, "PROLONG_S", 0.001)
    gate = Gate()
    bench = Bench(ECHO, gate.workflow())
    run = await bench.kernel.dispatch(CreateRun(workflow_id="gated", input=Doc(text="")))
    slow = await bench.due(ExecuteJob(run_id=run.run_id, stage_id="hold"))
    async with bench.served() as tell:
        tell()
        await until(lambda: gate.entered)
        await bench.due(creation())
        tell()
        await until(lambda: bench.runs() == 2)

        for _ in range(5):
            bench.clock.advance(LEASE * 0.9)
            await until(lambda: bench.store._tables.scheduled[slow].due_at == bench.clock.now() + LEASE)

        gate.open()
        await until(lambda: bench.state(slow) is None)
    assert len(gate.entered) == 1


async def test_a_command_that_is_interrupted_by_leaving_is_due_at_once(bench: Bench):
    gate = Gate()
    bench = Bench(gate.workflow())
    run = await bench.kernel.dispatch(CreateRun(workflow_id="gated", input=Doc(text="")))
    key = await bench.due(ExecuteJob(run_id=run.run_id, stage_id="hold"))
    async with bench.served() as tell:
        tell()
        await until(lambda: gate.entered)

    assert [taken.key for taken in await bench.schedule.take_due(["gated"], 10, lease=LEASE)] == [key]


async def test_more_commands_than_are_dispatched_at_a_time_are_all_dispatched(bench: Bench):
    for n in range(3 * AT_ONCE):
        await bench.due(creation(str(n)))

    async with bench.served() as tell:
        tell()
        await until(lambda: bench.runs() == 3 * AT_ONCE)


async def test_a_store_that_is_away_when_something_falls_due_is_asked_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runtime.scheduled_commands, "STORE_RETRY_S", 0.001)
    broken: Any = BreakableStore(bench.schedule)
    broken.fail_next["take_due"] = 2
    await bench.due(creation())
    commands = ScheduledCommands(bench.kernel, broken)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(commands.run)
        commands.expect(bench.clock.now())
        await until(lambda: bench.runs() == 1)
        tasks.cancel_scope.cancel()


# -- for tests ---------------------------------------------------------------------------------------------------------


async def test_the_scheduler_for_tests_remembers_what_it_was_given_and_does_nothing():
    clock, scheduler = FakeClock(), NoopScheduler()
    ports = memory_kernel([ECHO], clock=clock).ports
    kernel = Kernel(
        persistence=MemoryPersistence(clock, workflows=[workflow_record(ECHO)]),
        blob_store=ports.blobs,
        clock=clock,
        ids=ports.ids,
        registry=ports.registry,
        executor=ports.executor,
        scheduler=scheduler,
    )

    key = await kernel.schedule(creation(), at=clock.now(), key="k")

    assert [command.key for command in scheduler.scheduled] == [key] == ["k"]
    assert not await kernel.cancel_scheduled("k")
    scheduler.clear()
    assert scheduler.scheduled == []
