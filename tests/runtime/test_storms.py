"""Everything that can go wrong beside a run, all at once and by chance: afterwards nothing is stuck, doubled or left.

A storm chooses by its seed what happens, though the loop has its say in when. LEASEHOLD_TEST_SEEDS says how many
storms of each kind there are, and LEASEHOLD_TEST_SEED with which they begin; the seed of a failure is in its name.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Collection
from datetime import timedelta
from typing import Any

import anyio
import pytest

from adapters.memory import MemoryPersistence
from adapters.system import SystemClock
from kernel import EngineError, RetryPolicy, StageContext, Unavailable, WorkflowBuilder, stage
from kernel.ports.persistence import StoredHistory
from runtime import App, Client, Supervisor
from tests.conftest import SEED
from tests.runtime.gates import Doc
from tests.runtime.shared_store import in_memory, until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

SEEDS = [SEED + n for n in range(int(os.environ.get("LEASEHOLD_TEST_SEEDS") or 2))]
STORMY = ("append", "claim", "heads", "load")
RETRY = RetryPolicy(initial_interval=timedelta(seconds=0.02), max_attempts=3, max_lost=50)
PROCESS = {"lease": 10.0, "renew": 0.1, "max_bodies": 4, "drain_grace": 0.05}


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_storm_of_lost_sessions_outages_and_cancels_leaves_every_run_ended_and_nothing_behind(seed: int):
    chance = random.Random(seed)
    store, work = StormyStore(chance), Work(chance)
    place = in_memory(store)
    async with (
        place.client(work.app) as client,
        place.supervisor(work.app, max_runs=6, **PROCESS) as one,
        place.supervisor(work.app, max_runs=6, **PROCESS) as two,
    ):
        async with anyio.create_task_group() as storm:
            for process in (client, one, two):
                storm.start_soon(work.start_some, process, 5)
            for _ in range(2):
                storm.start_soon(make_trouble, store, work, (one, two), client)
        store.calm = True
        await all_ended(store, client)
        await nothing_left(store, work, (one, two))


async def make_trouble(store: StormyStore, work: Work, supervisors: Collection[Supervisor], client: Client) -> None:
    for _ in range(8):
        await anyio.sleep(work.chance.random() * 0.15)
        supervisor = work.chance.choice([*supervisors])
        session_id = supervisor.stats().session_id
        match work.chance.choice(["lose", "reread", "cancel"]):
            case "lose" if session_id is not None:
                await store.memory.close_session(session_id)
            case "reread" if supervisor._session is not None:
                supervisor._session.reread()
            case "cancel" if work.runs:
                try:
                    await work.chance.choice([*supervisors, client]).run(work.chance.choice(work.runs)).cancel()
                except EngineError:
                    pass  # the store is away, or the session has just been lost: the caller is told so
            case _:
                pass


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_storm_of_processes_that_come_and_leave_ends_every_run_and_counts_no_attempt_as_lost(seed: int):
    chance = random.Random(seed)
    store, work = StormyStore(chance, refuses=0.0), Work(chance)
    place = in_memory(store)

    async def come_and_leave() -> None:
        for _ in range(3):
            with anyio.CancelScope() as program:
                async with place.supervisor(work.app, **PROCESS) as supervisor, anyio.create_task_group() as starters:
                    for _ in range(2):
                        starters.start_soon(work.start_some, supervisor, 4)
                    await anyio.sleep(chance.random() * 0.2)
                    chance.choice([program, starters.cancel_scope]).cancel()

    async with place.client(work.app) as client, place.supervisor(work.app, **PROCESS) as stays:
        async with anyio.create_task_group() as storm:
            storm.start_soon(work.start_some, client, 5)
            for _ in range(2):
                storm.start_soon(come_and_leave)
        store.calm = True
        await all_ended(store, client)
        await nothing_left(store, work, [stays])
    assert [run_id for run_id, run in store.runs.items() if any(b'"lost"' in row.events for row in run.rows)] == []


# -- what storms are made of, and what they may not leave --------------------------------------------------------------


class StormyStore:
    """A store that is slow, and away now and then, until it is `calm`."""

    def __init__(self, chance: random.Random, *, refuses: float = 0.03) -> None:
        self.memory = MemoryPersistence(SystemClock())
        self.calm = False
        self._chance = chance
        self._refuses = refuses

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.memory, name)
        if name not in STORMY:
            return method

        async def call(*args: Any, **named: Any) -> Any:
            if not self.calm:
                if self._chance.random() < self._refuses:
                    raise Unavailable("The store is away.")
                await anyio.sleep(self._chance.random() * self._chance.choice([0.01] * 9 + [0.1]))
            answer = await method(*args, **named)
            if not self.calm:
                await anyio.sleep(self._chance.random() * 0.02)
            return answer

        return call

    @property
    def runs(self) -> dict[str, Any]:
        return self.memory._tables.runs


class Work:
    """A group and a sequence whose bodies sometimes fail; `doubled` are attempts that executed beside themselves."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.runs: list[str] = []
        self.doubled: list[tuple[str, str, int]] = []
        self._executing: Counter[tuple[str, str, int]] = Counter()
        mode: Any = chance.choice(["finish", "cancel"])
        group = [self._stage(id) for id in ("a", "b", "c")]
        row = WorkflowBuilder("row", input=Doc, output=Doc).pipe(self._stage("p")).pipe(self._stage("q")).build()
        self.app = App(workflows=[WorkflowBuilder("group", input=Doc).parallel(group, on_failure=mode).build(), row])

    def _stage(self, id: str) -> Any:
        @stage(id, retry=RETRY)
        async def body(ctx: StageContext[Doc]) -> Doc:
            attempt = (ctx.run_id, ctx.stage_id, ctx.attempt)
            if self._executing[attempt]:
                self.doubled.append(attempt)
            self._executing[attempt] += 1
            try:
                await anyio.sleep(self.chance.random() * 0.05)
                if self.chance.random() < 0.1:
                    raise ValueError(ctx.input.text)
            finally:
                self._executing[attempt] -= 1
            return ctx.input

        return body

    async def start_some(self, client: Client, count: int) -> None:
        for _ in range(count):
            try:
                self.runs.append((await client.start(self.chance.choice(["group", "row"]), Doc(text="x"))).id)
            except Unavailable:
                pass  # the caller is told so, and it may exist all the same
            await anyio.sleep(self.chance.random() * 0.05)


async def all_ended(store: StormyStore, client: Client) -> None:
    for run_id in tuple(store.runs):
        with anyio.move_on_after(12) as patience:
            await client.ended(run_id)
        if patience.cancelled_caught:
            stuck: StoredHistory = await store.memory.load(run_id)
            pytest.fail(f"stuck: {stuck.head}")


async def nothing_left(store: StormyStore, work: Work, supervisors: Collection[Supervisor]) -> None:
    for supervisor in supervisors:
        await until(lambda supervisor=supervisor: supervisor.stats().actors == 0)
        stats = supervisor.stats()
        assert (stats.bodies, stats.bodies_waiting, supervisor._suspects.used) == (0, 0, 0)
    # What somebody cancelled while its owner was dead, or waited for the answer to its claim, is let go a moment later.
    await until(lambda: not any(run.owner for run in store.runs.values()))
    for run in store.runs.values():
        assert run.parked_reason is None
        assert [row.first_seq for row in run.rows] == [1, *(row.seq + 1 for row in run.rows[:-1])]
    assert work.doubled == []
