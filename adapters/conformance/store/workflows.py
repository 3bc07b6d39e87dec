"""The definitions that processes know."""

from dataclasses import replace

import pytest

from adapters.conformance.store.builders import a_definition, plain
from adapters.conformance.store.worlds import World
from kernel.ports.persistence import WorkflowRecord

pytestmark: pytest.MarkDecorator = pytest.mark.anyio


def same(found: WorkflowRecord | None, record: WorkflowRecord) -> bool:
    """Whether it is the same definition, in whatever form its JSON is kept."""
    if found is None:
        return False
    names = (found.workflow_id, found.version, found.fingerprint)
    same_json = plain(found.plan) == plain(record.plan) and plain(found.description) == plain(record.description)
    return names == (record.workflow_id, record.version, record.fingerprint) and same_json


async def test_a_registered_definition_is_found_by_everybody(world: World) -> None:
    record = a_definition(world.workflow + "-b")

    await world.store.register_workflows([record])

    assert same(await world.store.find_workflow(record.workflow_id, "1"), record)
    assert same(await world.other.find_workflow(record.workflow_id, "1"), record)


async def test_a_definition_that_nobody_registered_is_not_found(world: World) -> None:
    assert await world.store.find_workflow(world.workflow, "2") is None
    assert await world.store.find_workflow("nobody-knows-this", "1") is None
    assert await world.store.find_workflow("no\0such", "1") is None


async def test_versions_are_kept_apart(world: World) -> None:
    first, second = a_definition(world.workflow + "-b", "1"), a_definition(world.workflow + "-b", "2")

    await world.store.register_workflows([first, second])

    assert same(await world.store.find_workflow(first.workflow_id, "1"), first)
    assert same(await world.store.find_workflow(first.workflow_id, "2"), second)


async def test_registering_again_replaces_the_definition(world: World) -> None:
    changed = replace(a_definition(world.workflow), fingerprint="changed", description=b'{"stages":["extract"]}')

    await world.other.register_workflows([changed])

    assert same(await world.store.find_workflow(world.workflow, "1"), changed)


async def test_registering_again_does_not_disturb_runs_and_sessions(world: World) -> None:
    session = await world.session()
    run = await world.create()

    await world.other.register_workflows([a_definition(world.workflow)])

    assert await world.claims(session) == [run.id]


async def test_a_run_keeps_the_fingerprint_that_it_was_created_with(world: World) -> None:
    run = await world.create()

    await world.store.register_workflows([replace(a_definition(world.workflow), fingerprint="changed")])

    assert (await world.store.load(run.id)).head.fingerprint == "print-of-1"


async def test_registering_nothing_is_allowed(world: World) -> None:
    await world.store.register_workflows([])

    assert await world.store.find_workflow(world.workflow, "1") is not None


async def test_the_same_definition_twice_in_one_call_is_one(world: World) -> None:
    record = a_definition(world.workflow + "-b")

    await world.store.register_workflows([record, record])

    assert same(await world.store.find_workflow(record.workflow_id, "1"), record)
