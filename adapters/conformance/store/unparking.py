"""Runs that were parked because their definition had changed go back to processes that have it."""

import pytest

from adapters.conformance.store.worlds import World

pytestmark: pytest.MarkDecorator = pytest.mark.anyio


@pytest.mark.parametrize("named", [True, False])
async def test_a_run_whose_definition_is_back_can_be_claimed_again(world: World, *, named: bool) -> None:
    owner = await world.session()
    run = await world.started(owner)
    await world.store.append(run.park("definition_changed: it was another"))
    fingerprint = run.state.fingerprint if named else None

    assert await world.other.unpark_workflows([(world.workflow, "1", fingerprint)]) == 1

    assert (await world.store.load(run.id)).head.parked_reason is None
    (claimed,) = await world.store.claim(owner, 10)
    assert claimed.history.head.run_id == run.id


async def test_a_run_of_another_definition_stays_parked(world: World) -> None:
    owner = await world.session()
    run = await world.started(owner)
    await world.store.append(run.park("definition_changed: it was another"))

    assert await world.store.unpark_workflows([(world.workflow, "1", "another")]) == 0
    assert await world.store.unpark_workflows([(world.workflow, "2", None)]) == 0
    assert await world.claims(owner) == []


async def test_a_run_that_is_parked_for_another_reason_stays_parked(world: World) -> None:
    owner = await world.session()
    run = await world.started(owner)
    await world.store.append(run.park("undecidable: damaged"))

    assert await world.store.unpark_workflows([(world.workflow, "1", None)]) == 0
