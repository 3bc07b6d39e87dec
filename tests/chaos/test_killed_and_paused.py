"""Processes that die or fall asleep, on a real Postgres; a checker reads only the database and the effects."""

from __future__ import annotations

import signal
import time
from typing import Any

import anyio
import asyncpg
import pytest

from runtime import Client
from tests.chaos.conftest import World, until
from tests.chaos.worker import app, poison, steps, waiting

pytestmark = [pytest.mark.anyio, pytest.mark.processes, pytest.mark.timeout(120)]

RUNS = 500
LEASE_S = 2.0
SETTINGS = {"lease_s": str(LEASE_S), "renew_s": "0.5"}


async def events_of(connection: asyncpg.Connection[Any]) -> list[asyncpg.Record]:
    """Every stored event in order: its run, its position, who appended it, and what it says."""
    return await connection.fetch(
        """
        SELECT h.run_id::text AS run, h.first_seq + e.place - 1 AS seq, h.session::text AS session, h.at,
               e.event ->> 'type' AS type, e.event ->> 'stage_id' AS stage, e.event ->> 'cause' AS cause
        FROM leasehold.history h CROSS JOIN LATERAL json_array_elements(h.events) WITH ORDINALITY AS e(event, place)
        ORDER BY h.run_id, h.first_seq, e.place
        """
    )


def check_histories(events: list[asyncpg.Record]) -> None:
    """No gap, no repeat, no stage result twice, and no word of an owner after its successor's first."""
    seqs: dict[str, int] = {}
    completed: set[tuple[str, str]] = set()
    retired: dict[str, set[str]] = {}
    owner: dict[str, str] = {}
    for event in events:
        run = event["run"]
        assert event["seq"] == seqs.get(run, 0) + 1, f"{run} jumps to {event['seq']}"
        seqs[run] = event["seq"]
        session = event["session"]
        if session is not None and owner.get(run) != session:
            retired.setdefault(run, set()).add(owner.get(run, ""))
            assert session not in retired[run], f"{session} appended to {run} after it had been replaced"
            owner[run] = session
        if event["type"] == "stage.completed":
            assert (run, event["stage"]) not in completed, f"{run} {event['stage']} was recorded twice"
            completed.add((run, event["stage"]))


async def test_a_killed_process_loses_nothing_and_repeats_only_what_was_in_flight(world: World):
    survivor, victim = world.start(**SETTINGS), world.start(**SETTINGS)
    await world.ready(survivor, victim)

    async with Client(app(), database=world.url) as client:
        runs = await client.start_many(steps, range(RUNS))
        await until(lambda: len(world.effects()) > RUNS * 3, within_s=60)
        await until(lambda: world.killed_in_a_body(victim), within_s=60)
        killed_at = time.time()
        results = [await run.result(timeout=60) for run in runs]

    assert results == list(range(RUNS))
    connection = await asyncpg.connect(world.url)
    events = await events_of(connection)
    await connection.close()
    check_histories(events)
    lost = {(e["run"], e["stage"]) for e in events if e["type"] == "stage.retrying"}
    repeated = {place for place, count in world.starts().items() if count > 1}
    assert repeated <= lost
    assert all(e["cause"] == "lost" for e in events if e["type"] == "stage.retrying")
    assert lost
    takeover_s = min(e["at"].timestamp() for e in events if e["type"] == "run.owner_changed") - killed_at
    assert takeover_s < LEASE_S + 1


async def test_what_a_paused_process_computed_is_not_committed(world: World):
    survivor, sleeper = world.start(**SETTINGS), world.start(**SETTINGS)
    await world.ready(survivor, sleeper)

    async with Client(app(), database=world.url) as client:
        runs = await client.start_many(steps, range(RUNS))
        await until(lambda: len(world.effects()) > RUNS * 2, within_s=60)
        await until(lambda: world.paused_in_a_body(sleeper), within_s=60)
        paused_at = time.time()
        results = [await run.result(timeout=60) for run in runs]
        await until(lambda: time.time() > paused_at + 3 * LEASE_S)
        sleeper.process.send_signal(signal.SIGCONT)
        await until(lambda: sleeper.events("lease.lost"))
        # It has come back as somebody new, and can work again.
        await until(lambda: len(sleeper.events("session.opened")) > 1)

    assert results == list(range(RUNS))
    connection = await asyncpg.connect(world.url)
    events = await events_of(connection)
    await connection.close()
    check_histories(events)
    assert any(e["type"] == "run.owner_changed" for e in events)


async def test_a_body_that_kills_its_process_fails_alone(world: World):
    settings = {"lease_s": "1", "renew_s": "0.3"}
    await world.ready(world.start(**settings))

    async with Client(app(), database=world.url) as client:
        bystander = await client.start(waiting, 1.0)
        killer = await client.start(poison, None)
        while not (info := await killer.describe()).ended:
            if world.workers[-1].process.poll() is not None:
                world.start(**settings)
            await anyio.sleep(0.05)

        assert info.error is not None
        assert info.error.type == "AttemptLost"
        assert await bystander.result(timeout=30) == "waited"
