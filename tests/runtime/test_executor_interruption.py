"""Bodies that take too long, are not wanted any more, or cannot be interrupted."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import anyio
import pytest
from anyio import to_thread

from kernel import StageContext, stage
from kernel.authoring.context import BodyCancelled
from kernel.ports.executor import BodyCompleted
from tests.runtime.executing import Bench, until

pytestmark = pytest.mark.anyio

SOON = timedelta(milliseconds=20)


class Stuck:
    """A `def` body that waits until it is released, and tells when it has begun."""

    def __init__(self, *, timeout: timedelta | None = None) -> None:
        self.begun = threading.Semaphore(0)
        self.released = threading.Event()

        @stage("stuck", timeout=timeout)
        def stuck(ctx: StageContext[None]) -> None:
            self.begun.release()
            assert self.released.wait(30)

        self.stage = stuck

    async def has_begun(self) -> None:
        assert await to_thread.run_sync(self.begun.acquire, True, 10)


async def test_a_timeout_interrupts_an_async_body_where_it_waits() -> None:
    cleaned = []

    @stage("waiting", timeout=SOON)
    async def waiting(ctx: StageContext[None]) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.append(ctx.cancelled)

    outcome = await Bench().run(waiting)

    assert (outcome.cause, outcome.error.type, outcome.error.retryable) == ("timeout", "TimeoutError", True)
    assert outcome.error.message == 'stage "waiting" (timeout 0:00:00.020000) did not end within its timeout'
    assert "await anyio.sleep_forever()" in outcome.error.traceback
    assert cleaned == [True]


async def test_a_timeout_abandons_a_thread_until_it_ends() -> None:
    bench, stuck = Bench(), Stuck(timeout=SOON)

    outcome = await bench.run(stuck.stage)

    assert (outcome.cause, outcome.error.type) == ("timeout", "TimeoutError")
    assert "self.released.wait(30)" in outcome.error.traceback
    assert bench.executor.abandoned_threads == 1
    stuck.released.set()
    await until(lambda: bench.executor.abandoned_threads == 0)


async def test_a_body_that_raises_while_it_is_interrupted_has_still_run_out_of_time() -> None:
    @stage("waiting", timeout=SOON)
    async def waiting(ctx: StageContext[None]) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("cleaning failed")

    outcome = await Bench().run(waiting)

    assert (outcome.cause, outcome.error.type) == ("timeout", "TimeoutError")
    assert "ValueError: cleaning failed" in outcome.error.message


async def test_a_task_group_that_is_interrupted_and_fails_has_still_run_out_of_time() -> None:
    @stage("waiting", timeout=SOON)
    async def waiting(ctx: StageContext[None]) -> None:
        async def fails_when_cancelled() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError("cleaning failed")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fails_when_cancelled)
            await anyio.sleep_forever()

    outcome = await Bench().run(waiting)

    assert (outcome.cause, outcome.error.type) == ("timeout", "TimeoutError")


async def test_a_result_that_is_there_in_spite_of_the_timeout_is_kept() -> None:
    @stage("late", timeout=SOON)
    async def late(ctx: StageContext[None]) -> int:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.05)
        return 7

    outcome = await Bench().run(late)

    assert isinstance(outcome, BodyCompleted)
    assert outcome.output == b"7"


async def test_a_body_that_computes_past_its_deadline_can_notice() -> None:
    @stage("computing", timeout=SOON)
    async def computing(ctx: StageContext[None]) -> None:
        give_up = time.monotonic() + 10
        while time.monotonic() < give_up:
            ctx.raise_if_cancelled()

    outcome = await Bench().run(computing)

    assert outcome.cause == "timeout"


async def test_a_body_that_stops_itself_while_it_is_wanted_has_failed() -> None:
    @stage("quitting")
    async def quitting(ctx: StageContext[None]) -> None:
        raise BodyCancelled

    outcome = await Bench().run(quitting)

    assert (outcome.cause, outcome.error.type) == ("raised", "BodyCancelled")
    assert "still wanted" in outcome.error.message


async def test_cancelling_the_caller_runs_the_finally_of_an_async_body() -> None:
    seen = []
    begun = anyio.Event()

    @stage("waiting")
    async def waiting(ctx: StageContext[None]) -> None:
        try:
            begun.set()
            await anyio.sleep_forever()
        finally:
            seen.append("cleaned up")

    async def call() -> None:
        await Bench().run(waiting)
        seen.append("returned")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await begun.wait()
        tasks.cancel_scope.cancel()

    assert seen == ["cleaned up"]


async def test_what_a_body_raises_while_its_caller_is_cancelled_is_logged() -> None:
    bench = Bench()
    begun = anyio.Event()

    @stage("waiting")
    async def waiting(ctx: StageContext[None]) -> None:
        try:
            begun.set()
            await anyio.sleep_forever()
        finally:
            raise ValueError("cleaning failed")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.run, waiting)
        await begun.wait()
        tasks.cancel_scope.cancel()

    (line,) = await bench.written()
    assert line.level == "ERROR"
    assert "ValueError: cleaning failed" in line.message


async def test_cancelling_the_caller_returns_at_once_from_a_thread() -> None:
    bench, stuck = Bench(), Stuck()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bench.run, stuck.stage)
            await stuck.has_begun()
            tasks.cancel_scope.cancel()

    assert bench.executor.abandoned_threads == 1
    stuck.released.set()
    await until(lambda: bench.executor.abandoned_threads == 0)


async def test_a_thread_is_told_that_nobody_waits_for_it() -> None:
    bench = Bench()
    begun, seen = threading.Event(), []

    @stage("asking")
    def asking(ctx: StageContext[None]) -> None:
        begun.set()
        try:
            while True:
                ctx.raise_if_cancelled()
                time.sleep(0.001)
        finally:
            seen.append(ctx.cancelled)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.run, asking)
        await to_thread.run_sync(begun.wait, 10)
        tasks.cancel_scope.cancel()

    await until(lambda: bench.executor.abandoned_threads == 0)
    assert seen == [True]


async def test_an_abandoned_thread_reaches_nothing_any_more() -> None:
    bench = Bench()
    begun, go_on, seen = threading.Event(), threading.Event(), []

    @stage("late")
    def late(ctx: StageContext[None]) -> None:
        begun.set()
        go_on.wait(10)
        try:
            ctx.storage.blocking.put("key", "value")
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.run, late)
        await to_thread.run_sync(begun.wait, 10)
        tasks.cancel_scope.cancel()
    go_on.set()

    await until(lambda: bench.executor.abandoned_threads == 0)
    assert seen == ["BodyCancelled"]


async def test_an_abandoned_thread_leaves_its_place_to_the_next_body() -> None:
    bench, stuck = Bench(threads=1), Stuck(timeout=SOON)

    await bench.run(stuck.stage)
    outcome = await bench.run(stage("next")(quick))

    assert outcome.output == b"1"
    stuck.released.set()
    await until(lambda: bench.executor.abandoned_threads == 0)


async def test_there_are_never_more_than_twice_as_many_threads() -> None:
    bench, stuck = Bench(threads=1), Stuck(timeout=SOON)

    # One whose time is over before its thread has begun is not abandoned, but never called.
    while bench.executor.abandoned_threads < 2:
        await bench.run(stuck.stage)
    with anyio.move_on_after(0.05) as waited:
        await bench.run(stage("next")(quick))

    assert waited.cancelled_caught
    assert bench.executor.abandoned_threads == 2
    stuck.released.set()
    with anyio.fail_after(10):
        outcome = await bench.run(stage("next")(quick))
    assert outcome.output == b"1"


def quick(ctx: StageContext[None]) -> int:
    return 1


async def test_waiting_for_a_thread_does_not_count_as_time_of_the_body() -> None:
    bench, first = Bench(threads=1), Stuck()
    outcomes = []

    async def run_second() -> None:
        outcomes.append(await bench.run(stage("second", timeout=timedelta(seconds=5))(quick)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.run, first.stage)
        await first.has_begun()
        tasks.start_soon(run_second)
        await anyio.wait_all_tasks_blocked()
        assert outcomes == []
        first.released.set()

    assert outcomes[0].output == b"1"


async def test_storage_works_from_both_kinds_of_body() -> None:
    @stage("storing")
    async def storing(ctx: StageContext[None]) -> None:
        await ctx.storage.shared.put("greeting", {"hello": "world"})

    @stage("reading")
    def reading(ctx: StageContext[None]) -> str:
        stored = ctx.storage.shared.blocking
        found = stored.get("greeting")["hello"]
        stored.delete("greeting")
        return f"{found} {stored.has('greeting')} {stored.list()}"

    bench = Bench()
    await bench.run(storing)
    outcome = await bench.run(reading)

    assert outcome.output == b'"world False []"'


async def test_a_thread_of_the_bodys_own_may_use_the_storage() -> None:
    @stage("storing")
    def storing(ctx: StageContext[None]) -> int:
        thread = threading.Thread(target=ctx.storage.blocking.put, args=("key", 5))
        thread.start()
        thread.join()
        return ctx.storage.blocking.get("key")

    outcome = await Bench().run(storing)

    assert outcome.output == b"5"


async def test_an_async_body_is_told_not_to_wait_for_the_loop_that_it_blocks() -> None:
    @stage("mistaken")
    async def mistaken(ctx: StageContext[None]) -> None:
        ctx.storage.blocking.put("key", 1)

    outcome = await Bench().run(mistaken)

    assert (outcome.error.type, outcome.error.retryable) == ("InvalidStage", False)
    assert "Await ctx.storage" in outcome.error.message


async def test_steps_are_recorded_from_a_thread() -> None:
    @stage("stepwise")
    def stepwise(ctx: StageContext[None]) -> int:
        return ctx.step.blocking("count", lambda: 3)

    bench = Bench()
    outcome = await bench.run(stepwise)

    assert outcome.output == b"3"
    assert bench.steps.recorded == [(0, "count", b"3")]
