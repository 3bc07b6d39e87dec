"""Looking at many runs: newest first, page by page, and only those that were asked for."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from adapters.conformance.store.builders import (
    KnownRun,
    annotating,
    cancelling,
    completing,
    failing,
    suspending,
)
from adapters.conformance.store.worlds import World
from kernel.errors import InvalidCommand
from kernel.model.consequences import advance_run
from kernel.model.draft import Draft
from kernel.model.facts import StageCompleted
from kernel.ports.persistence import Append, RunQuery

pytestmark: pytest.MarkDecorator = pytest.mark.anyio


async def listed(world: World, **query: Any) -> list[str]:
    page = await world.other.list_runs(replace(RunQuery(workflow_id=world.workflow), **query))
    return [head.run_id for head in page.heads]


def newest_first(runs: list[KnownRun]) -> list[str]:
    return [run.id for run in reversed(runs)]


async def test_runs_are_listed_newest_first(world: World) -> None:
    runs = await world.create_many(5)

    assert await listed(world) == newest_first(runs)


async def test_a_page_holds_heads_as_loading_does(world: World) -> None:
    run = await world.create(metadata={"tenant": 7}, priority=2)

    page = await world.store.list_runs(RunQuery(workflow_id=world.workflow))

    assert list(page.heads) == [(await world.store.load(run.id)).head]
    assert page.next is None


async def test_a_cursor_leads_through_all_pages(world: World) -> None:
    runs = await world.create_many(7)
    found: list[str] = []
    sizes: list[int] = []
    cursor = None

    while not sizes or cursor is not None:
        page = await world.store.list_runs(RunQuery(workflow_id=world.workflow, limit=3, after=cursor))
        found += [head.run_id for head in page.heads]
        sizes.append(len(page.heads))
        cursor = page.next

    assert found == newest_first(runs)
    assert sizes == [3, 3, 1]


async def test_the_last_page_says_that_it_is_the_last(world: World) -> None:
    await world.create_many(4)

    first = await world.store.list_runs(RunQuery(workflow_id=world.workflow, limit=2))
    assert first.next is not None
    second = await world.store.list_runs(RunQuery(workflow_id=world.workflow, limit=2, after=first.next))

    assert (len(second.heads), second.next) == (2, None)


async def test_runs_created_meanwhile_do_not_shift_the_pages(world: World) -> None:
    runs = await world.create_many(4)
    first = await world.store.list_runs(RunQuery(workflow_id=world.workflow, limit=2))

    await world.create(minted=world.now() + timedelta(seconds=1))

    rest = await listed(world, limit=2, after=first.next)
    assert rest == newest_first(runs)[2:]


async def test_runs_of_other_workflows_are_left_out(world: World) -> None:
    await world.define(world.workflow + "-b")
    await world.define(world.workflow, "2")
    await world.create(workflow=world.workflow + "-b")
    mine = await world.create_many(1)
    newer_version = await world.create(version="2", minted=world.now() + timedelta(seconds=1))

    assert await listed(world) == [newer_version.id, *newest_first(mine)]


async def test_without_a_workflow_all_runs_are_listed(world: World) -> None:
    await world.define(world.workflow + "-b")
    moment = world.now() + timedelta(minutes=30)  # newer than those of any other test
    first = await world.create(minted=moment)
    second = await world.create(workflow=world.workflow + "-b", minted=moment + timedelta(milliseconds=1))

    page = await world.store.list_runs(RunQuery(limit=500))

    ids = [head.run_id for head in page.heads]
    assert ids.index(second.id) + 1 == ids.index(first.id)


async def test_an_unknown_workflow_has_no_runs(world: World) -> None:
    assert await listed(world, workflow_id="nobody-knows-this") == []
    assert await listed(world, workflow_id="no\0such") == []


async def one_of_each(world: World) -> dict[str, str]:
    """A run in every status, by its status."""
    owner = await world.session()
    ids = {"PENDING": (await world.create()).id}
    for status, change in {
        "RUNNING": annotating,
        "SUSPENDED": suspending,
        "FAILED": failing,
        "CANCELLED": cancelling,
    }.items():
        run = await world.started(owner)
        await run.land(world.store, run.owned(change))
        ids[status] = run.id
    done = await world.started(owner)
    await done.land(world.store, done.owned(completing))
    await done.land(world.store, done.owned(completing))
    return {**ids, "COMPLETED": done.id}


async def test_every_status_finds_its_runs_and_no_others(world: World) -> None:
    ids = await one_of_each(world)

    found = {status: await listed(world, status=status) for status in ids}

    assert found == {status: [run_id] for status, run_id in ids.items()}


async def test_a_suspended_run_is_listed_as_running_once_it_runs_again(world: World) -> None:
    owner = await world.session()
    run = await world.started(owner)
    await run.land(world.store, run.owned(suspending))
    assert await listed(world, status="RUNNING") == []

    await world.adds(run, _polled_ready)

    assert await listed(world, status="RUNNING") == [run.id]
    assert await listed(world, status="SUSPENDED") == []


def _polled_ready(draft: Draft) -> None:
    draft.add(StageCompleted(stage_id="extract", execution=1, attempt=1, duration_s=1.0), b"{}")
    advance_run(draft)


async def test_a_status_that_no_run_has_finds_nothing(world: World) -> None:
    await one_of_each(world)

    assert await listed(world, status="SKIPPED") == []


async def test_filters_and_pages_work_together(world: World) -> None:
    runs = await world.create_many(6)
    for run in runs[::2]:
        await world.adds(run, cancelling)

    first = await world.store.list_runs(RunQuery(workflow_id=world.workflow, status="CANCELLED", limit=2))
    rest = await listed(world, status="CANCELLED", limit=2, after=first.next)

    assert [head.run_id for head in first.heads] + rest == newest_first(runs[::2])


async def test_since_leaves_out_what_was_created_before(world: World) -> None:
    old = await world.create(now=world.now() - timedelta(minutes=20))
    new = await world.create()

    assert await listed(world, since=world.now() - timedelta(minutes=10)) == [new.id]
    assert set(await listed(world, since=world.now() - timedelta(minutes=30))) == {old.id, new.id}


async def test_since_may_be_any_moment(world: World) -> None:
    run = await world.create()

    assert await listed(world, since=datetime(1960, 1, 1, tzinfo=UTC)) == [run.id]
    assert await listed(world, since=datetime(9999, 1, 1, tzinfo=UTC)) == []


async def test_what_is_no_cursor_is_refused(world: World) -> None:
    with pytest.raises(InvalidCommand) as refused:
        await listed(world, after="no cursor")

    assert refused.value.field == "after"


@pytest.mark.parametrize("length", [8, 12, 36])
async def test_a_run_is_found_by_the_end_of_its_id(world: World, length: int) -> None:
    run = await world.create()

    assert list(await world.other.find_runs(run.id[-length:])) == [run.id]


async def test_an_end_that_no_run_has_finds_nothing(world: World) -> None:
    run = await world.create()
    other_end = "0" if run.id[-1] != "0" else "1"

    assert list(await world.store.find_runs(run.id[-8:-1] + other_end)) == []
    assert list(await world.store.find_runs(run.id[:8])) == []
    assert list(await world.store.find_runs("x" + run.id)) == []


@pytest.mark.parametrize(
    "pattern", ["%%%%%%%%", "________", "%_______", "\\%\\%\\%\\%", "'; --'; --", "\0\0\0\0\0\0\0\0"]
)
async def test_an_end_is_text_and_no_pattern(world: World, pattern: str) -> None:
    await world.create()

    assert list(await world.store.find_runs(pattern)) == []


async def test_at_most_ten_runs_are_found_newest_first(world: World) -> None:
    tail = world.workflow[-8:]
    creations = [world.creation(minted=world.now() + timedelta(milliseconds=n)) for n in range(12)]
    runs = [_ending_with(creation, tail) for creation in creations]
    for creation in runs:
        await world.store.append(creation)

    assert list(await world.store.find_runs(tail)) == [creation.run_id for creation in reversed(runs)][:10]


def _ending_with(creation: Append, tail: str) -> Append:
    return replace(creation, run_id=creation.run_id[: -len(tail)] + tail)
