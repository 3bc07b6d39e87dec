"""Creating runs: once, as decided, and only where it is allowed."""

from dataclasses import replace
from datetime import timedelta

import pytest
from anyio import create_task_group

from adapters.conformance.store.builders import IDS, KnownRun, annotating, plain, starting, state_after
from adapters.conformance.store.worlds import World
from kernel.errors import InvalidCommand, LeaseLost, RunNotFound, StaleVersion, WorkflowNotFound

pytestmark: pytest.MarkDecorator = pytest.mark.anyio


async def test_a_created_run_is_stored_as_it_was_decided(world: World) -> None:
    creation = world.creation()

    await world.store.append(creation)

    stored = await world.other.load(creation.run_id)
    (row,) = stored.rows
    assert (row.first_seq, row.seq, row.append_id, row.session_id) == (1, 1, creation.append_id, None)
    assert row.at == creation.at
    assert creation.events is not None
    assert plain(row.events) == plain(creation.events)
    assert plain(row.bodies) == {"1": {"path": "a.txt"}}
    assert await world.stored_state(KnownRun.of(creation, world.now)) == state_after(creation, None)


async def test_the_head_of_a_new_run_says_what_was_given(world: World) -> None:
    run_at = world.now() + timedelta(hours=1)
    carrier = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    run = await world.create(
        priority=7,
        run_at=run_at,
        idempotency_key="a.txt",
        metadata={"tenant": {"id": 7}, "tags": ["x"]},
        root_span_id="b7ad6b7169203331",
        trace_context=carrier,
    )

    head = (await world.other.heads([run.id]))[run.id]

    assert (head.run_id, head.workflow_id, head.workflow_version) == (run.id, world.workflow, "1")
    assert (head.fingerprint, head.format, head.seq, head.priority) == ("print-of-1", 1, 1, 7)
    assert (head.owner, head.owner_live, head.claim, head.attention) == (None, False, 0, False)
    assert (head.run_at, head.head.wake_at, head.head.phase) == (run_at, run_at, "delayed")
    assert (head.idempotency_key, head.root_span_id, head.trace_context) == ("a.txt", "b7ad6b7169203331", carrier)
    assert head.metadata == {"tenant": {"id": 7}, "tags": ["x"]}
    assert (head.parked_reason, head.parked_at) == (None, None)
    assert head.created_at == run.state.created_at


async def test_the_same_creation_sent_twice_is_one_run(world: World) -> None:
    creation = world.creation()
    await world.store.append(creation)

    await world.other.append(creation)

    assert len((await world.store.load(creation.run_id)).rows) == 1


async def test_a_creation_sent_again_after_the_run_moved_on_changes_nothing(world: World) -> None:
    creation = world.creation()
    await world.store.append(creation)
    await world.adds(KnownRun.of(creation, world.now), annotating)
    before = await world.store.load(creation.run_id)

    await world.store.append(creation)

    assert await world.store.load(creation.run_id) == before


async def test_another_creation_under_the_same_id_is_refused(world: World) -> None:
    first = world.creation()
    await world.store.append(first)
    second = KnownRun.of(first, world.now)
    before = await world.store.load(second.id)

    with pytest.raises(StaleVersion) as refused:
        await world.other.append(replace(first, append_id=IDS.append_id()))

    assert (refused.value.run_id, refused.value.expected, refused.value.actual) == (second.id, 0, 1)
    assert await world.store.load(second.id) == before


async def test_a_run_created_by_a_session_belongs_to_it(world: World) -> None:
    owner = await world.session()

    run = await world.started(owner)

    head = (await world.store.load(run.id)).head
    assert (head.owner, head.owner_live, head.claim) == (owner, True, 1)
    assert (head.head.wake_at, head.attention) == (None, False)
    assert await world.claims(owner) == []


async def test_the_facts_of_an_owned_creation_name_its_session(world: World) -> None:
    owner = await world.session()

    run = await world.started(owner)

    (row,) = (await world.store.load(run.id)).rows
    assert (row.session_id, row.first_seq, row.seq) == (owner, 1, 3)
    assert (await world.stored_state(run)).owner == owner


@pytest.mark.parametrize("end", ["closed", "expired"])
async def test_a_session_whose_lease_has_ended_creates_nothing(world: World, end: str) -> None:
    owner = await world.session()
    if end == "closed":
        await world.store.close_session(owner)
    else:
        world.backdoor.expire(owner)
    creation = world.creation(owner=owner, change=starting)

    with pytest.raises(LeaseLost) as refused:
        await world.store.append(creation)

    assert refused.value.session_id == owner
    with pytest.raises(RunNotFound):
        await world.store.load(creation.run_id)


@pytest.mark.parametrize("off", [timedelta(minutes=-65), timedelta(minutes=65)], ids=["too old", "in the future"])
async def test_an_id_minted_more_than_an_hour_away_is_refused(world: World, off: timedelta) -> None:
    creation = world.creation(minted=world.now() + off)

    with pytest.raises(InvalidCommand) as refused:
        await world.store.append(creation)

    assert refused.value.field == "run_id"
    assert await world.store.heads([creation.run_id]) == {}


@pytest.mark.parametrize("off", [timedelta(minutes=-55), timedelta(minutes=55)], ids=["older", "in the future"])
async def test_an_id_minted_within_the_hour_is_accepted(world: World, off: timedelta) -> None:
    run = await world.create(minted=world.now() + off)

    assert run.id in await world.store.heads([run.id])


async def test_one_bad_id_does_not_harm_the_creations_beside_it(world: World) -> None:
    bad = world.creation(minted=world.now() - timedelta(days=1))
    good = [world.creation() for _ in range(20)]
    refused: list[InvalidCommand] = []

    async def create_bad() -> None:
        with pytest.raises(InvalidCommand) as error:
            await world.store.append(bad)
        refused.append(error.value)

    async with create_task_group() as group:
        for creation in good[:10]:
            group.start_soon(world.store.append, creation)
        group.start_soon(create_bad)
        for creation in good[10:]:
            group.start_soon(world.store.append, creation)

    assert len(refused) == 1
    assert set(await world.store.heads([creation.run_id for creation in [bad, *good]])) == {c.run_id for c in good}


async def test_a_run_of_a_workflow_that_nobody_registered_is_refused(world: World) -> None:
    creation = world.creation(workflow="nobody-knows-this")

    with pytest.raises(WorkflowNotFound) as refused:
        await world.store.append(creation)

    assert refused.value.workflow_id == "nobody-knows-this"
    assert await world.store.heads([creation.run_id]) == {}


@pytest.mark.parametrize("priority", [-1, 10])
async def test_a_priority_that_no_claim_would_find_is_refused(world: World, priority: int) -> None:
    creation = world.creation(priority=priority)

    with pytest.raises(InvalidCommand):
        await world.store.append(creation)

    assert await world.store.heads([creation.run_id]) == {}


async def test_a_moment_in_the_past_is_stored_as_the_present(world: World) -> None:
    before = await world.time()

    run = await world.create(now=world.now() - timedelta(minutes=30))

    wake_at = (await world.store.load(run.id)).head.head.wake_at
    assert wake_at is not None
    assert before <= wake_at <= await world.time()


async def test_metadata_that_its_giver_changes_afterwards_is_stored_as_given(world: World) -> None:
    tags = ["x"]
    run = await world.create(metadata={"tags": tags})
    tags.append("y")

    seen = (await world.store.load(run.id)).head.metadata

    assert seen == {"tags": ["x"]}


async def test_a_reader_cannot_change_what_is_stored(world: World) -> None:
    run = await world.create(metadata={"tags": ["x"]})
    seen = (await world.store.load(run.id)).head.metadata
    assert seen is not None

    seen["tags"].append("y")

    assert (await world.store.load(run.id)).head.metadata == {"tags": ["x"]}
