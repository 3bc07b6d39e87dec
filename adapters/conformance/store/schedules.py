"""Commands that wait: handed out when they are due, to one at a time, until somebody says that it is done."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from anyio import create_task_group

from adapters.conformance.store.worlds import Store, World
from kernel.errors import PayloadRefused
from kernel.ports.scheduler import FAILED_KEPT, CommandSchedule, ScheduledCommand, TakenCommand

pytestmark: pytest.MarkDecorator = pytest.mark.anyio

BRIEF = timedelta(milliseconds=300)
LONG = timedelta(minutes=5)
LATER = timedelta(hours=1)
COMMAND = b'{"type":"run.cancel","run_id":"r","reason":"late"}'


def of(store: Store) -> CommandSchedule:
    return store.scheduler


def due_command(world: World, key: str | None = None, *, ago: timedelta = timedelta(seconds=5)) -> ScheduledCommand:
    """One that only who knows the workflow of this world can dispatch, so that no other test takes it."""
    return ScheduledCommand(
        key=key or f"{world.workflow} {uuid4()}",
        schedule_id=str(uuid4()),
        due_at=world.now() - ago,
        command=COMMAND,
        workflow_id=world.workflow,
    )


async def scheduled(world: World, **given: Any) -> ScheduledCommand:
    command = replace(due_command(world), **given)
    await of(world.store).schedule(command)
    return command


async def take(
    world: World, *, limit: int = 10, lease: timedelta = LONG, at: Store | None = None
) -> list[TakenCommand]:
    return list(await of(at or world.other).take_due([world.workflow], limit, lease=lease))


def keys(taken: list[TakenCommand]) -> list[str]:
    return [command.key for command in taken]


# -- taking ------------------------------------------------------------------------------------------------------------


async def test_a_due_command_is_handed_out_as_it_was_scheduled(world: World) -> None:
    command = await scheduled(world)

    (taken,) = await take(world)

    assert (taken.key, taken.schedule_id, taken.tries) == (command.key, command.schedule_id, 1)
    assert taken.command == COMMAND


async def test_a_command_is_not_handed_out_early(world: World) -> None:
    soon = world.now() + BRIEF
    command = await scheduled(world, due_at=soon)
    assert await take(world) == []

    async def taken() -> list[TakenCommand]:
        return await take(world)

    assert keys(await world.until(taken)) == [command.key]
    assert await world.time() >= soon


async def test_what_is_taken_is_nobody_else_s(world: World) -> None:
    await scheduled(world)
    await take(world)

    assert await take(world) == []
    assert await take(world, at=world.store) == []


async def test_of_many_takers_each_command_has_one(world: World) -> None:
    wanted = {(await scheduled(world)).key for _ in range(20)}
    found: list[str] = []

    async def take_some(store: Store) -> None:
        found.extend(keys(await take(world, at=store, limit=3)))

    async with create_task_group() as group:
        for store in [world.store, world.other] * 10:
            group.start_soon(take_some, store)
    # Who met a row that somebody else was about to take has passed it over.
    found += keys(await take(world, limit=100))

    assert len(found) == 20
    assert set(found) == wanted


async def test_the_oldest_are_handed_out_first_and_no_more_than_wanted(world: World) -> None:
    ages = [timedelta(seconds=age) for age in (10, 30, 20)]
    commands = {age: await scheduled(world, due_at=world.now() - age) for age in ages}

    taken = await take(world, limit=2)

    assert set(keys(taken)) == {commands[ages[1]].key, commands[ages[2]].key}


async def test_what_needs_an_unknown_workflow_is_left_to_others(world: World) -> None:
    command = await scheduled(world)

    assert list(await of(world.store).take_due(["another"], 10, lease=LONG)) == []
    assert keys(await take(world)) == [command.key]


async def test_what_needs_no_workflow_is_anybody_s(world: World) -> None:
    command = await scheduled(world, workflow_id=None)

    taken = list(await of(world.other).take_due([], 100, lease=LONG))

    assert command.key in keys(taken)
    for mine in taken:
        await of(world.store).settle(mine)


# -- a lease ends ------------------------------------------------------------------------------------------------------


async def test_a_command_whose_taker_has_died_is_handed_out_again(world: World) -> None:
    command = await scheduled(world)
    await take(world, lease=BRIEF)

    async def retaken() -> list[TakenCommand]:
        return await take(world)

    (again,) = await world.until(retaken)
    assert (again.key, again.tries) == (command.key, 2)


async def test_a_lease_that_is_prolonged_goes_on(world: World) -> None:
    await scheduled(world)
    (taken,) = await take(world, lease=BRIEF)

    assert await of(world.other).postpone(taken, LONG)

    until = world.now() + 2 * BRIEF

    async def waited() -> bool:
        assert await take(world) == []
        return world.now() > until

    await world.until(waited)


async def test_who_has_lost_a_command_can_report_nothing_of_it(world: World) -> None:
    await scheduled(world)
    (lost,) = await take(world, lease=BRIEF)

    async def retaken() -> list[TakenCommand]:
        return await take(world, lease=BRIEF)

    (again,) = await world.until(retaken)
    assert not await of(world.store).postpone(lost, LONG)
    await of(world.store).settle(lost)
    await of(world.store).settle(lost, error="too late")
    assert await of(world.store).postpone(again, timedelta(0))


# -- what became of it -------------------------------------------------------------------------------------------------


async def test_what_was_dispatched_is_forgotten(world: World) -> None:
    command = await scheduled(world)
    (taken,) = await take(world)

    await of(world.other).settle(taken)

    assert not world.backdoor.is_kept(command.key)


async def test_what_is_to_be_tried_again_is_due_after_the_delay(world: World) -> None:
    await scheduled(world)
    (taken,) = await take(world)
    not_before = world.now() + BRIEF

    assert await of(world.other).postpone(taken, BRIEF, error="Unavailable: away")
    assert await take(world) == []

    async def retaken() -> list[TakenCommand]:
        return await take(world)

    (again,) = await world.until(retaken)
    assert again.tries == 2
    assert await world.time() >= not_before


async def test_what_has_failed_is_never_due_again_and_its_key_can_be_used_again(world: World) -> None:
    command = await scheduled(world)
    (taken,) = await take(world, lease=BRIEF)
    await of(world.other).settle(taken, error="InvalidCommand: no")

    until = world.now() + 2 * BRIEF

    async def waited() -> bool:
        assert await take(world) == []
        return world.now() > until

    await world.until(waited)
    await scheduled(world, key=command.key)
    assert keys(await take(world)) == [command.key]


async def test_what_failed_long_ago_is_forgotten_when_another_command_fails(world: World) -> None:
    old, young = [await scheduled(world) for _ in range(2)]
    for taken in await take(world):
        await of(world.other).settle(taken, error="InvalidCommand: no")
    next_one, late = [await scheduled(world) for _ in range(2)]
    for command, age in ((old, 2 * LONG), (young, -LONG), (next_one, 2 * LONG), (late, LONG)):
        world.backdoor.age_command(command.key, FAILED_KEPT + age)

    (taken,) = await take(world, limit=1)
    await of(world.other).settle(taken, error="InvalidCommand: no")

    kept = [world.backdoor.is_kept(command.key) for command in (old, young, next_one, late)]
    assert kept == [False, True, True, True]


# -- replacing and cancelling ----------------------------------------------------------------------------------------


async def test_the_same_key_replaces_what_waits_under_it(world: World) -> None:
    first = await scheduled(world)

    await scheduled(world, key=first.key, command=b'{"type":"other"}')

    (taken,) = await take(world)
    assert (taken.key, taken.command, taken.tries) == (first.key, b'{"type":"other"}', 1)


async def test_what_replaces_a_command_that_is_being_dispatched_is_not_settled_with_it(world: World) -> None:
    first = await scheduled(world)
    (old,) = await take(world)
    await scheduled(world, key=first.key)

    await of(world.other).settle(old)

    assert keys(await take(world)) == [first.key]


async def test_scheduling_may_be_sent_again_at_any_time(world: World) -> None:
    command = await scheduled(world)
    await of(world.other).schedule(command)
    await take(world)

    await of(world.store).schedule(command)

    assert await take(world) == []


async def test_a_cancelled_command_is_not_handed_out(world: World) -> None:
    command = await scheduled(world)

    assert await of(world.other).cancel(command.key)

    assert await take(world) == []
    assert not await of(world.store).cancel(command.key)


async def test_cancelling_what_is_being_dispatched_says_so_and_leaves_it_to_who_dispatches_it(world: World) -> None:
    command = await scheduled(world)
    (taken,) = await take(world)

    assert not await of(world.store).cancel(command.key)

    assert await of(world.other).postpone(taken, timedelta(0), error="Unavailable: again")
    (again,) = await take(world)
    assert (again.key, again.tries) == (command.key, 2)


async def test_what_waits_to_be_tried_again_can_be_cancelled(world: World) -> None:
    command = await scheduled(world)
    (taken,) = await take(world)
    await of(world.other).postpone(taken, timedelta(0), error="Unavailable: again")

    assert await of(world.store).cancel(command.key)

    assert await take(world) == []


async def test_cancelling_what_has_failed_keeps_it_with_its_error(world: World) -> None:
    command = await scheduled(world)
    (taken,) = await take(world)
    await of(world.other).settle(taken, error="InvalidCommand: no")

    assert not await of(world.store).cancel(command.key)

    assert world.backdoor.is_kept(command.key)
    assert await take(world) == []


async def test_cancelling_what_a_dead_process_had_taken_is_in_time(world: World) -> None:
    command = await scheduled(world)
    (taken,) = await take(world)
    assert await of(world.other).postpone(taken, -BRIEF)

    assert await of(world.store).cancel(command.key)


async def test_cancelling_what_was_never_scheduled_finds_nothing(world: World) -> None:
    assert not await of(world.store).cancel("never scheduled")
    assert not await of(world.store).cancel("no\0such")


@pytest.mark.parametrize("given", [{"key": "a\0b"}, {"command": b'"\\u0000"'}, {"workflow_id": "\ud800"}])
async def test_what_cannot_be_stored_is_refused(world: World, given: dict[str, object]) -> None:
    with pytest.raises(PayloadRefused):
        await scheduled(world, **given)


# -- the heartbeat -----------------------------------------------------------------------------------------------------


async def test_a_heartbeat_tells_when_the_next_command_is_due(world: World) -> None:
    session = await world.session()
    first = world.now() + LATER
    await scheduled(world, due_at=first + LATER)
    command = await scheduled(world, due_at=first)
    assert (await world.store.renew(session)).next_command_at == first

    await of(world.store).cancel(command.key)

    assert (await world.store.renew(session)).next_command_at == first + LATER


async def test_a_heartbeat_is_silent_of_commands_that_this_process_cannot_dispatch(world: World) -> None:
    await world.define(world.workflow + "-2")
    session = await world.session((world.workflow + "-2", "1"))
    await scheduled(world)

    assert (await world.store.renew(session)).next_command_at is None


async def test_a_heartbeat_is_silent_of_what_has_failed_and_tells_when_a_lease_ends(world: World) -> None:
    session = await world.session()
    await scheduled(world)
    (taken,) = await take(world, lease=LONG)
    ends = (await world.store.renew(session)).next_command_at
    assert ends is not None
    assert ends > world.now() + LONG / 2

    await of(world.other).settle(taken, error="InvalidCommand: no")

    assert (await world.store.renew(session)).next_command_at is None
