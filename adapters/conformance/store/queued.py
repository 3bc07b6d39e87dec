"""Jobs in a world: runs with queued stages, and who takes what."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

from adapters.conformance.store.builders import QUEUED, KnownRun, scheduling
from adapters.conformance.store.worlds import World
from kernel.ports.jobs import Holder, JobInfo, JobTransport, LeasedJob

MINUTE = timedelta(minutes=1)


def tokens(count: int) -> list[str]:
    return [uuid4().hex[:24] for _ in range(count)]


async def a_queued_run(world: World, **fields: Any) -> KnownRun:
    """A run that nobody owns, with two jobs in queue "gpu"."""
    run = await world.create(plan=QUEUED, **fields)
    await world.adds(run, scheduling)
    return run


def transport(world: World, *, other: bool = False) -> JobTransport:
    return (world.other if other else world.store).jobs


async def take(
    world: World, count: int = 1, *, queue: str = "gpu", holder: Holder = MINUTE, other: bool = False
) -> list[LeasedJob]:
    """What a process gets that knows the world's workflow and serves the queue."""
    jobs = transport(world, other=other)
    return list(await jobs.dequeue([queue], [(world.workflow, "1")], tokens(count), holder=holder))


async def jobs_of(world: World, run: KnownRun) -> dict[str, JobInfo]:
    return {job.stage_id: job for job in await transport(world).jobs_of(run.id)}


async def sweep(world: World, count: int = 10) -> list[Any]:
    return list(
        await transport(world).take_expired([(world.workflow, "1")], tokens(count), lease=timedelta(seconds=30))
    )
