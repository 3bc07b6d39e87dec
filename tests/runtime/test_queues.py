"""Stages that name a queue are executed by whoever serves it, in memory and on Postgres."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import pytest
from structlog.testing import LogCapture

from kernel import RetryPolicy, RunCancelled, RunFailed
from kernel.commands.reap_stale_leases import ReapStaleLeases
from kernel.commands.reap_stuck_runs import ReapStuckRuns
from runtime import App
from runtime.bootstrap import Storage
from tests.conftest import execute
from tests.runtime.queues import Gates, gated, plain, side_by_side
from tests.runtime.shared_store import BreakableStore, LateAnswers, SharedStore, in_memory, until

pytestmark = pytest.mark.anyio

GPU = {"queues": ("gpu",)}
LONG = timedelta(minutes=5)
QUICK: dict[str, Any] = {"lease": 1.0, "renew": 0.2, "poll_interval": 0.05}


async def kinds(run: Any) -> list[str]:
    return [event.type for event in await run.history()]


async def no_jobs(storage: Storage, run: Any) -> bool:
    return not await storage.jobs.jobs_of(run.id)


async def test_a_stage_of_a_queue_is_executed_by_whoever_serves_it(store: SharedStore) -> None:
    gates = Gates()
    gates.open("render")
    workflow = gated(gates)
    async with store.supervisor(workflow) as owner, store.supervisor(workflow, **GPU) as worker:
        run = await owner.start(workflow, 1)

        assert await run.result(timeout=20) == 25

        assert worker.stats().jobs_processed >= 1
        assert gates.stages() == ["render"]
        assert "stage.scheduled" in await kinds(run)


async def test_a_queue_that_nobody_serves_is_said_and_waited_for(store: SharedStore) -> None:
    gates = Gates()
    gates.open("render")
    workflow = gated(gates)
    async with store.supervisor(workflow, passivate_after=0.05) as owner:
        run = await owner.start(workflow, 1)
        waiting = await until_waiting(run, "queue")
        assert [stage.queue for stage in waiting.stages] == [None, "gpu", None]
        assert gates.stages() == []

        async with store.supervisor(workflow, **GPU):
            assert await run.result(timeout=20) == 25


async def test_a_process_that_drives_no_runs_executes_the_stages_of_its_queues_alone(store: SharedStore) -> None:
    gates = Gates()
    workflow = gated(gates)
    async with store.supervisor(workflow, max_runs=0, **GPU) as machine:
        run = await machine.start(workflow, 1)
        assert (await run.describe()).waiting_for == "claim"

        async with store.supervisor(workflow, passivate_after=0.05) as owner:
            await until(lambda: gates.entered)
            assert (machine.stats().bodies, owner.stats().bodies) == (1, 0)
            gates.open("render")
            assert await run.result(timeout=20) == 25

        assert machine.stats().claims == 0


async def until_waiting(run: Any, for_what: str) -> Any:
    async def told() -> Any:
        info = await run.describe()
        return info if info.waiting_for == for_what and info.owner is None else None

    return await until(told)


async def test_a_stage_that_names_the_default_queue_is_served_by_every_supervisor(store: SharedStore) -> None:
    gates = Gates()
    gates.open("render")
    workflow = gated(gates)
    async with store.supervisor(workflow, queues=("default", "gpu")) as supervisor:
        run = await supervisor.start(workflow, 2)

        assert await run.result(timeout=20) == 35


async def test_a_run_whose_owner_gave_it_back_wakes_when_its_job_ends(store: SharedStore) -> None:
    gates = Gates()
    workflow = gated(gates)
    async with store.supervisor(workflow, passivate_after=0.05) as owner, store.supervisor(workflow, **GPU):
        run = await owner.start(workflow, 1)
        await until(lambda: gates.entered)
        await until(lambda: owner.stats().actors == 0)

        gates.open("render")

        assert await run.result(timeout=20) == 25


async def test_cancelling_withdraws_a_queued_job_in_the_same_append(store: SharedStore) -> None:
    workflow = gated(Gates())
    async with store.supervisor(workflow) as owner:
        run = await owner.start(workflow, 1)
        await until_waiting(run, "queue")
        assert not await no_jobs(owner.storage, run)

        await run.cancel("enough")

        assert await no_jobs(owner.storage, run)


async def test_cancelling_interrupts_a_job_wherever_it_runs(store: SharedStore) -> None:
    gates = Gates()
    workflow = gated(gates)
    async with store.supervisor(workflow) as owner, store.supervisor(workflow, **GPU) as worker:
        run = await owner.start(workflow, 1)
        await until(lambda: gates.entered)

        await owner.run(run.id).cancel("enough")

        await until(lambda: gates.interrupted, within_s=5)
        await until(lambda: worker.stats().bodies == 0)
        with pytest.raises(RunCancelled):
            await run.result(timeout=20)
        assert (await kinds(run))[-2:] == ["stage.skipped", "run.cancelled"]


async def test_a_failed_run_leaves_no_running_or_queued_job_behind(store: SharedStore) -> None:
    gates = Gates()
    workflow = side_by_side(gates, on_failure="cancel")
    async with store.supervisor(workflow) as owner, store.supervisor(workflow, **GPU) as worker:
        run = await owner.start(workflow, -1)
        await until(lambda: sorted(gates.stages()) == ["left", "right"])

        gates.open("right")

        with pytest.raises(RunFailed):
            await run.result(timeout=20)
        assert await no_jobs(owner.storage, run)
        await until(lambda: gates.interrupted == [(run.id, "left")], within_s=5)
        await until(lambda: worker.stats().bodies == 0)


async def test_siblings_in_a_queue_and_at_home_complete_together(store: SharedStore) -> None:
    gates = Gates()
    gates.open("left", "right")
    workflow = side_by_side(gates)
    async with store.supervisor(workflow) as owner, store.supervisor(workflow, **GPU):
        runs = [await owner.start(workflow, number) for number in range(10)]

        results = [await run.result(timeout=20) for run in runs]

    assert results == [{"left": number + 1, "right": number + 2} for number in range(10)]
    assert len(gates.entered) == 20


async def test_a_job_that_failed_is_queued_again_after_its_delay(store: SharedStore) -> None:
    tries: list[int] = []

    class Unsteady(Gates):
        async def pass_through(self, ctx: Any) -> None:
            tries.append(ctx.attempt)
            if len(tries) < 3:
                raise ValueError("not yet")

    workflow = gated(Unsteady(), retry=RetryPolicy(initial_interval=timedelta(milliseconds=20), jitter=False))
    async with store.supervisor(workflow) as owner, store.supervisor(workflow, **GPU):
        run = await owner.start(workflow, 1)

        assert await run.result(timeout=20) == 25

        assert tries == [1, 2, 3]
        assert (await run.describe()).error is None


async def test_a_drain_hands_a_job_back_without_counting_it(store: SharedStore) -> None:
    gates = Gates()
    workflow = gated(gates)
    async with store.supervisor(workflow) as owner:
        async with store.supervisor(workflow, drain_grace=0.0, **GPU):
            run = await owner.start(workflow, 1)
            await until(lambda: gates.entered)
        gates.open("render")
        async with store.supervisor(workflow, **GPU):
            assert await run.result(timeout=20) == 25

        causes = [event.cause for event in await run.history() if event.type == "stage.retrying"]
        assert causes == ["drained"]
        assert [attempt for _, _, attempt in gates.entered] == [1, 1]


async def test_the_job_of_a_process_that_died_is_lost_and_repeated(store: SharedStore) -> None:
    gates = Gates()
    workflow = gated(gates)
    async with store.supervisor(workflow, **QUICK) as owner:
        run = await owner.start(workflow, 1)
        await until_waiting(run, "queue")
        # A process takes the job, begins, and is never heard of again.
        storage = owner.storage
        (job,) = await storage.jobs.dequeue(["gpu"], [(workflow.id, "1")], ["dead-worker"], holder=LONG)
        await begin(owner, job)
        expire_jobs(store, storage)
        gates.open("render")

        async with store.supervisor(workflow, **GPU, **QUICK):
            assert await run.result(timeout=20) == 25

        causes = [event.cause for event in await run.history() if event.type == "stage.retrying"]
        assert causes == ["lost"]


async def begin(supervisor: Any, job: Any) -> None:
    """Start the attempt of a job, whose body nobody executes."""
    from kernel.commands.execute_job import ExecuteJob, decide_start

    command = ExecuteJob(run_id=job.lease.run_id, stage_id=job.lease.stage_id, token=job.lease.token)
    await supervisor.kernel.ports.journals.record(
        job.lease.run_id, lambda state, moment: decide_start(state, command, moment)
    )


async def test_a_poison_body_in_a_queue_stops_after_max_lost(store: SharedStore) -> None:
    workflow = gated(Gates(), retry=RetryPolicy(max_lost=2, initial_interval=timedelta(milliseconds=1)))
    async with store.supervisor(App(workflows=[workflow, plain()]), **QUICK) as owner:
        run, neighbour = await owner.start(workflow, 1), await owner.start("plain", 4)
        await until_waiting(run, "queue")
        storage = owner.storage
        for number in range(3):
            job = await until(partial(take_one, storage, workflow.id, f"poison-{number}"))
            await begin(owner, job)

        with pytest.raises(RunFailed) as failed:
            await run.result(timeout=20)

        assert (failed.value.error.type, failed.value.stage_id) == ("AttemptLost", "render")
        assert await no_jobs(storage, run)
        assert await neighbour.result(timeout=20) == 16


async def take_one(
    storage: Storage, workflow_id: str, token: str, held_for: timedelta = timedelta(microseconds=1)
) -> Any:
    """A job; unless something else is said it is held for so short a time that it is over at once."""
    taken = await storage.jobs.dequeue(["gpu"], [(workflow_id, "1")], [token], holder=held_for)
    return taken[0] if taken else None


async def test_a_zombie_worker_s_result_is_discarded(store: SharedStore) -> None:
    gates = Gates()
    workflow = gated(gates)
    async with store.supervisor(workflow, **QUICK) as owner:
        run = await owner.start(workflow, 1)
        await until_waiting(run, "queue")
        async with store.supervisor(workflow, **GPU) as paused:
            await until(lambda: gates.entered)
            # Its lease ends behind its back, as that of a process that was paused for too long.
            (held,) = await paused.storage.jobs.held_by(paused.stats().session_id or "")
            await lose(store, owner, held)
            gates.open("render")
            assert await run.result(timeout=20) == 25
            await until(lambda: paused.stats().bodies == 0)

        history = await run.history()
        assert [event.type for event in history].count("stage.completed") == 3
        assert [event.cause for event in history if event.type == "stage.retrying"] == ["lost"]


async def test_a_job_that_has_ended_is_not_withdrawn_while_the_answer_is_on_its_way(log: LogCapture) -> None:
    gates = Gates()
    workflow = gated(gates)
    store = LateAnswers()
    async with in_memory(store).supervisor(workflow, queues=("default", "gpu")) as supervisor:
        run = await supervisor.start(workflow, 1)
        await until(lambda: gates.entered)
        store.late = True
        gates.open("render")
        await store.stored.wait()
        # It looks which of its jobs are still leased to it, as after any hint.
        worker = supervisor._jobs_here
        looked_at = worker._looked_at
        worker.hinted()
        await until(lambda: worker._looked_at > looked_at)
        store.answer.set()
        assert await run.result(timeout=20) == 25
        await until(lambda: not worker.running)
        assert worker.processed == 1

    assert not [entry for entry in log.entries if entry["event"] == "job.withdrawn"]


async def lose(store: SharedStore, owner: Any, held: Any) -> None:
    from kernel.commands.reap_stale_leases import settle_job

    await settle_job(held.lease, owner.storage.jobs, owner.kernel.ports)


async def test_sweeping_by_command_counts_the_jobs_it_gave_up(store: SharedStore) -> None:
    workflow = gated(Gates())
    async with store.supervisor(workflow) as owner:
        run_id = (await owner.start(workflow, 1)).id
        await until_waiting(owner.run(run_id), "queue")
    # Not beside a supervisor, which sweeps by itself.
    async with store.host(workflow) as host:
        job = await until(lambda: take_one(host.storage, workflow.id, "gone"))
        await begin(host, job)

        async def swept() -> int:
            return (await host.kernel.dispatch(ReapStaleLeases())).released

        assert await until(swept) == 1
        assert (await kinds(host.run(run_id)))[-1] == "stage.retrying"


async def test_a_store_that_is_away_loses_no_result_of_a_job() -> None:
    from adapters.memory import MemoryPersistence
    from adapters.system import SystemClock

    gates = Gates()
    workflow = gated(gates)
    breakable = BreakableStore(MemoryPersistence(SystemClock()))
    store = in_memory(breakable)
    async with store.supervisor(workflow, queues=("gpu",), lease=30.0) as supervisor:
        run = await supervisor.start(workflow, 1)
        await until(lambda: gates.entered)
        breakable.down = True
        gates.open("render")
        await until(lambda: breakable.refused["load"])

        breakable.down = False

        assert await run.result(timeout=20) == 25
        assert len(gates.entered) == 1


async def test_a_lost_answer_of_taking_a_job_loses_no_job() -> None:
    from adapters.memory import MemoryPersistence
    from adapters.system import SystemClock

    gates = Gates()
    gates.open("render")
    workflow = gated(gates)
    breakable = AnswersLost(MemoryPersistence(SystemClock()))
    store = in_memory(breakable)
    async with store.supervisor(workflow, queues=("gpu",)) as supervisor:
        run = await supervisor.start(workflow, 1)

        assert await run.result(timeout=20) == 25
        assert breakable.lost == 1


class AnswersLost(BreakableStore):
    """Takes jobs and does not say so, the first time that there are any."""

    lost = 0

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        return _Forgetful(self, found) if name == "jobs" else found


class _Forgetful:
    def __init__(self, store: AnswersLost, jobs: Any) -> None:
        self._store = store
        self._jobs = jobs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jobs, name)

    async def dequeue(self, *args: Any, **named: Any) -> Any:
        from kernel import Unavailable

        taken = await self._jobs.dequeue(*args, **named)
        if taken and not self._store.lost:
            self._store.lost = 1
            raise Unavailable("The answer is lost.")
        return taken


async def test_a_process_takes_no_more_jobs_than_it_can_execute(store: SharedStore) -> None:
    gates = Gates()
    workflow = gated(gates)
    async with (
        store.supervisor(workflow) as owner,
        store.supervisor(workflow, max_bodies=2, **GPU) as one,
        store.supervisor(workflow, max_bodies=3, **GPU) as other,
    ):
        runs = [await owner.start(workflow, number) for number in range(12)]
        await until(lambda: len(gates.entered) == 5)
        assert (one.stats().bodies, other.stats().bodies) == (2, 3)

        gates.open("render")

        with anyio.fail_after(20):
            assert [await run.result() for run in runs] == [(number + 1) * 10 + 5 for number in range(12)]
    assert len(gates.entered) == 12


async def test_a_process_that_knows_no_queue_asks_for_no_job(memory: SharedStore) -> None:
    from adapters.memory import MemoryPersistence
    from adapters.system import SystemClock
    from tests.runtime.queues import plain

    asked: list[Any] = []

    class Counting(MemoryPersistence):
        def __init__(self) -> None:
            super().__init__(SystemClock())
            dequeue = self.jobs.dequeue

            async def counted(*args: Any, **named: Any) -> Any:
                asked.append(args)
                return await dequeue(*args, **named)

            self.jobs.dequeue = counted  # type: ignore[method-assign]

    workflow = plain()
    async with in_memory(Counting()).supervisor(workflow) as supervisor:
        runs = [await supervisor.start(workflow, number) for number in range(20)]
        for run in runs:
            await run.result(timeout=20)

    assert asked == []


@pytest.mark.parametrize("begun", [False, True], ids=["waits", "runs"])
async def test_a_job_that_somebody_has_deleted_is_queued_again(store: SharedStore, *, begun: bool) -> None:
    gates = Gates()
    gates.open("render")
    workflow = gated(gates)
    async with store.supervisor(workflow, passivate_after=0.0, **QUICK) as owner:
        run = await owner.start(workflow, 1)
        await until_waiting(run, "queue")
        if begun:
            await begin(owner, await until(partial(take_one, owner.storage, workflow.id, "nobody", LONG)))
        await until(lambda: owner.stats().actors == 0)
        delete_jobs(store, owner.storage)

        assert (await owner.kernel.dispatch(ReapStuckRuns())).healed == 1

        async with store.supervisor(workflow, **GPU):
            assert await run.result(timeout=20) == 25
        assert [event.cause for event in await run.history() if event.type == "stage.retrying"] == ["lost"] * begun


def expire_jobs(store: SharedStore, storage: Storage) -> None:
    if store.url is not None:
        execute(store.url, "UPDATE leasehold.jobs SET lease_until = clock_timestamp() - interval '1 microsecond'")
    else:
        persistence: Any = storage.persistence
        for job in persistence._tables.jobs.values():
            job.lease_until = datetime.now(UTC) - timedelta(microseconds=1)


def delete_jobs(store: SharedStore, storage: Storage) -> None:
    if store.url is not None:
        execute(store.url, "DELETE FROM leasehold.jobs")
    else:
        persistence: Any = storage.persistence
        persistence._tables.jobs.clear()
