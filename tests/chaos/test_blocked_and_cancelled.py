"""A blocked event loop, a cancel from another process, and a rolling deploy."""

from __future__ import annotations

import os
import signal
import time

import pytest

from kernel import RunCancelled
from runtime import Client
from tests.chaos.conftest import World, until
from tests.chaos.worker import app, blocking, versioned, waiting

pytestmark = [pytest.mark.anyio, pytest.mark.processes, pytest.mark.timeout(120)]

LEASE_S = 2.0
SETTINGS = {"lease_s": str(LEASE_S), "renew_s": "0.5"}
BLOCKED_S = float(os.environ.get("LEASEHOLD_TEST_BLOCKED_S", 4 * LEASE_S))
"""Four leases; LEASEHOLD_TEST_BLOCKED_S=30 makes it half a minute."""


async def test_a_stage_that_blocks_the_event_loop_keeps_its_lease_and_is_named(world: World):
    blocked, neighbour = world.start(**SETTINGS), world.start(**SETTINGS)
    await world.ready(blocked, neighbour)

    async with Client(app(), database=world.url) as client:
        run = await client.start(blocking, BLOCKED_S)
        assert await run.result(timeout=BLOCKED_S + 30) == "blocked"
        history = await run.history()

    assert [event.type for event in history].count("stage.started") == 1
    assert not any(event.type == "run.owner_changed" for event in history)
    [report, *_] = [event for worker in world.workers for event in worker.events("loop.blocked")]
    assert report["stage_id"] == "block"
    assert report["run_id"] == run.id
    assert "time.sleep(ctx.input)" in report["stack"]
    assert "in call_body" in report["stack"].splitlines()[0], "frames of the engine say nothing to whoever reads this"
    assert not [event for worker in world.workers for event in worker.events("lease.lost")]


async def test_a_cancel_from_another_process_interrupts_the_body_within_a_second(world: World):
    await world.ready(world.start(**SETTINGS))

    async with Client(app(), database=world.url) as client:
        run = await client.start(waiting, 3600.0)
        await until(world.starts)
        cancelled_at = time.time()
        assert await run.cancel("changed my mind")
        await until(lambda: [e for e in world.effects() if e["what"] == "finally"])
        with pytest.raises(RunCancelled, match="changed my mind"):
            await run.result(timeout=10)

    [end] = [e for e in world.effects() if e["what"] == "finally"]
    assert end["at"] - cancelled_at < 1.0


async def test_in_a_rolling_deploy_runs_of_the_old_version_wait_and_complete_when_it_returns(world: World):
    old = world.start("1", **SETTINGS)
    await world.ready(old)
    async with Client(app("1"), database=world.url) as client:
        assert await (await client.start(versioned("1"), 1)).result(timeout=30) == 1
        old.process.send_signal(signal.SIGTERM)
        assert old.process.wait(20) == 0
        new = world.start("2", **SETTINGS)
        await world.ready(new)

        left_behind = await client.start(versioned("1"), 7)
        async with Client(app("2"), database=world.url) as newer:
            assert await (await newer.start(versioned("2"), 2)).result(timeout=30) == 2
        info = await left_behind.describe()
        assert (info.status, info.waiting_for) == ("PENDING", "unknown_workflow")

        await world.ready(world.start("1", **SETTINGS))
        assert await left_behind.result(timeout=30) == 7
