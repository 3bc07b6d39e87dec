"""Hints: whoever waits hears early of what may concern it. One may get lost, but not on a quiet day."""

from collections.abc import Awaitable, Callable

import pytest
from anyio import create_task_group, fail_after, move_on_after
from anyio.lowlevel import checkpoint

from adapters.conformance.store.builders import annotating, cancelling, completing
from adapters.conformance.store.worlds import World
from kernel.ports.persistence import Persistence

pytestmark: pytest.MarkDecorator = pytest.mark.anyio


async def quiet(store: Persistence) -> None:
    """Hear out everything that was said before."""
    heard = True
    while heard:
        heard = False
        with move_on_after(0.1):
            await store.next_hint()
            heard = True


async def hears(store: Persistence, deed: Callable[[], Awaitable[object]]) -> None:
    """Fail unless somebody who waits already hears of the deed."""
    await quiet(store)
    with fail_after(10):
        async with create_task_group() as group:
            group.start_soon(store.next_hint)
            await checkpoint()
            await deed()


async def test_a_new_run_is_heard_of(world: World) -> None:
    await world.session()

    await hears(world.other, world.create)


async def test_a_foreign_append_is_heard_of(world: World) -> None:
    run = await world.started(await world.session())

    await hears(world.store, lambda: world.adds(run, annotating))


async def test_a_release_that_is_due_is_heard_of(world: World) -> None:
    run = await world.started(await world.session())

    await hears(world.other, lambda: world.store.append(run.release()))


async def test_an_unpark_is_heard_of(world: World) -> None:
    parked = await world.parked()

    await hears(world.other, lambda: world.store.append(parked.unpark()))


async def test_the_end_of_a_run_is_heard_of(world: World) -> None:
    run = await world.started(await world.session())
    await run.land(world.store, run.owned(completing))

    await hears(world.other, lambda: run.land(world.store, run.owned(completing)))


async def test_a_cancelled_run_is_heard_of(world: World) -> None:
    run = await world.started(await world.session())

    await hears(world.store, lambda: world.adds(run, cancelling))


async def test_the_last_of_many_changes_is_heard_of(world: World) -> None:
    runs = await world.create_many(30)
    await quiet(world.other)
    seen = 0

    async def follow() -> None:
        nonlocal seen
        while seen < 30:
            await world.other.next_hint()
            heads = await world.other.heads([run.id for run in runs])
            seen = sum(head.head.completed_at is not None for head in heads.values())

    with fail_after(20):
        async with create_task_group() as group:
            group.start_soon(follow)
            for run in runs:
                group.start_soon(world.adds, run, cancelling)


async def test_a_hint_that_comes_while_nobody_waits_is_kept(world: World) -> None:
    await quiet(world.other)
    await world.create()

    # On a network it may still be on its way; either way it arrives without another change.
    with fail_after(10):
        await world.other.next_hint()


async def test_hints_that_come_while_nobody_waits_are_kept_as_one(world: World) -> None:
    await quiet(world.other)
    for run in await world.create_many(5):
        await world.adds(run, annotating)
    with fail_after(10):
        await world.other.next_hint()
    await quiet(world.other)

    await hears(world.other, world.create)


async def test_giving_up_waiting_loses_no_later_hint(world: World) -> None:
    await quiet(world.other)
    for _ in range(3):
        with move_on_after(0.02):
            await world.other.next_hint()

    await hears(world.other, world.create)


async def test_a_refused_append_harms_no_hint(world: World) -> None:
    run = await world.create()
    stale = run.foreign(cancelling)
    await world.adds(run, annotating)

    async def refused_then_created() -> None:
        with pytest.raises(Exception, match="sequence"):
            await world.store.append(stale)
        await world.create()

    await hears(world.other, refused_then_created)
