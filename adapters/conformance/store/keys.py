"""Idempotency keys: admitted once, together with their run or not at all."""

from datetime import timedelta

import pytest
from anyio import create_task_group

from adapters.conformance.store.builders import KnownRun, a_key, annotating
from adapters.conformance.store.worlds import World
from kernel.errors import RunNotFound, WorkflowNotFound
from kernel.ports.persistence import KeyTaken, Persistence

pytestmark: pytest.MarkDecorator = pytest.mark.anyio


async def test_a_key_leads_to_its_run(world: World) -> None:
    run = await world.create(key=a_key("a.txt", scope=world.workflow))

    assert await world.other.find_key("run.create", world.workflow, "a.txt") == run.id


async def test_a_free_key_leads_nowhere(world: World) -> None:
    assert await world.store.find_key("run.create", world.workflow, "never used") is None


@pytest.mark.parametrize("digest", ["d1", "d2"], ids=["the same payload", "another payload"])
async def test_a_taken_key_names_the_run_and_the_payload_that_hold_it(world: World, digest: str) -> None:
    run = await world.create(key=a_key("a.txt", scope=world.workflow, digest="d1"))
    second = world.creation(key=a_key("a.txt", scope=world.workflow, digest=digest))

    with pytest.raises(KeyTaken) as taken:
        await world.other.append(second)

    assert (taken.value.run_id, taken.value.digest, taken.value.key.key) == (run.id, "d1", "a.txt")
    with pytest.raises(RunNotFound):
        await world.store.load(second.run_id)


async def test_a_creation_with_a_key_may_be_sent_again(world: World) -> None:
    creation = world.creation(key=a_key("a.txt", scope=world.workflow))
    await world.store.append(creation)

    await world.store.append(creation)
    await world.other.append(creation)

    assert await world.store.find_key("run.create", world.workflow, "a.txt") == creation.run_id


async def test_a_creation_with_a_key_is_recognised_after_its_run_moved_on(world: World) -> None:
    creation = world.creation(key=a_key("a.txt", scope=world.workflow))
    await world.store.append(creation)
    await world.adds(KnownRun.of(creation, world.now), annotating)

    await world.store.append(creation)

    assert (await world.store.load(creation.run_id)).head.seq == 2


async def test_a_refused_creation_leaves_no_key(world: World) -> None:
    refused = world.creation(workflow="nobody-knows-this", key=a_key("a.txt", scope=world.workflow))
    with pytest.raises(WorkflowNotFound):
        await world.store.append(refused)

    run = await world.create(key=a_key("a.txt", scope=world.workflow))

    assert await world.store.find_key("run.create", world.workflow, "a.txt") == run.id


async def test_keys_of_different_scopes_and_commands_do_not_meet(world: World) -> None:
    first = await world.create(key=a_key("a.txt", scope=world.workflow))
    second = await world.create(key=a_key("a.txt", scope=world.workflow + "-2"))

    assert await world.store.find_key("run.create", world.workflow, "a.txt") == first.id
    assert await world.store.find_key("run.create", world.workflow + "-2", "a.txt") == second.id
    assert await world.store.find_key("run.rerunFrom", world.workflow, "a.txt") is None


async def test_an_expired_key_is_free(world: World) -> None:
    soon = world.now() + timedelta(milliseconds=200)
    await world.create(key=a_key("a.txt", scope=world.workflow, expires_at=soon))

    async def free() -> bool:
        return await world.store.find_key("run.create", world.workflow, "a.txt") is None

    await world.until(free)
    second = await world.create(key=a_key("a.txt", scope=world.workflow, digest="d2"))
    assert await world.store.find_key("run.create", world.workflow, "a.txt") == second.id


async def test_a_key_is_kept_for_weeks_unless_said_otherwise(world: World) -> None:
    creation = world.creation(key=a_key("a.txt", scope=world.workflow))
    await world.store.append(creation)

    assert await world.store.find_key("run.create", world.workflow, "a.txt") == creation.run_id
    with pytest.raises(KeyTaken):
        await world.create(key=a_key("a.txt", scope=world.workflow))


async def create_at_once(world: World, keys: list[str], stores: list[Persistence]) -> tuple[set[str], set[str]]:
    """Create a run for each key in each store; the ids that were created, and those that the refusals named."""
    created: set[str] = set()
    named: set[str] = set()

    async def create(store: Persistence, key: str) -> None:
        creation = world.creation(key=a_key(key, scope=world.workflow))
        try:
            await store.append(creation)
            created.add(creation.run_id)
        except KeyTaken as taken:
            named.add(taken.run_id)

    async with create_task_group() as group:
        for key in keys:
            for store in stores:
                group.start_soon(create, store, key)
    return created, named


async def test_of_many_creations_with_one_key_exactly_one_lands(world: World) -> None:
    created, named = await create_at_once(world, ["a.txt"], [world.store, world.other] * 10)

    assert len(created) == 1
    assert named == created


async def test_creations_with_different_keys_do_not_hinder_each_other(world: World) -> None:
    keys = [f"{n}.txt" for n in range(25)]

    created, named = await create_at_once(world, keys, [world.store, world.other, world.store])

    assert len(created) == 25
    assert named == created
    for key in keys:
        assert await world.store.find_key("run.create", world.workflow, key) in created


async def test_an_expired_key_that_many_want_goes_to_one(world: World) -> None:
    soon = world.now() + timedelta(milliseconds=200)
    await world.create(key=a_key("a.txt", scope=world.workflow, expires_at=soon))

    async def free() -> bool:
        return await world.store.find_key("run.create", world.workflow, "a.txt") is None

    await world.until(free)
    created, named = await create_at_once(world, ["a.txt"], [world.store, world.other] * 5)

    assert len(created) == 1
    assert named == created
