"""Reading runs: what was appended, in order, in one snapshot, and no more than was asked for."""

import pytest
from anyio import create_task_group

from adapters.conformance.store.builders import KnownRun, annotating, cancelling, completing, plain
from adapters.conformance.store.worlds import World
from kernel.errors import RunNotFound
from kernel.journal import fold_stored

pytestmark: pytest.MarkDecorator = pytest.mark.anyio

NO_RUNS = ["01900000-0000-7000-8000-000000000000", "no-run", "", "01900000-0000-7000-8000-00000000000\0", "\ud800"]


async def five_rows(world: World) -> KnownRun:
    """A run with rows that end at 3, 5, 6, 7 and 8."""
    run = await world.started(await world.session())
    await run.land(world.store, run.owned(completing))
    for _ in range(3):
        await world.adds(run, annotating)
    return run


async def test_rows_come_in_order_without_gaps(world: World) -> None:
    run = await five_rows(world)

    rows = (await world.store.load(run.id)).rows

    assert [(row.first_seq, row.seq) for row in rows] == [(1, 3), (4, 5), (6, 6), (7, 7), (8, 8)]


@pytest.mark.parametrize(
    "after, seqs",
    [(0, [3, 5, 6, 7, 8]), (1, [3, 5, 6, 7, 8]), (3, [5, 6, 7, 8]), (4, [5, 6, 7, 8]), (5, [6, 7, 8]), (8, [])],
)
async def test_rows_after_a_sequence_number_are_those_that_end_later(world: World, after: int, seqs: list[int]) -> None:
    run = await five_rows(world)

    stored = await world.other.load(run.id, after=after)

    assert [row.seq for row in stored.rows] == seqs
    assert stored.head.seq == 8


async def test_a_state_is_brought_up_to_date_by_the_rows_after_it(world: World) -> None:
    run = await world.started(await world.session())
    early = run.state
    await run.land(world.store, run.owned(completing))

    stored = await world.store.load(run.id, after=early.seq)

    assert fold_stored(stored, early) == run.state


async def test_bodies_are_left_out_when_not_asked_for(world: World) -> None:
    run = await five_rows(world)

    slim, full = await world.store.load(run.id, bodies=False), await world.store.load(run.id)

    assert [dict(row.bodies) for row in slim.rows] == [{}] * 5
    assert [plain(row.bodies) for row in full.rows] == [
        {"1": {"path": "a.txt"}},
        {"4": {"words": 3}},
        {"6": "seen"},
        {"7": "seen"},
        {"8": "seen"},
    ]
    assert [plain(row.events) for row in slim.rows] == [plain(row.events) for row in full.rows]


async def test_loading_does_not_drop_the_bodies_for_the_next_reader(world: World) -> None:
    run = await world.create()
    await world.store.load(run.id, bodies=False)

    (row,) = (await world.store.load(run.id)).rows

    assert plain(row.bodies) == {"1": {"path": "a.txt"}}


@pytest.mark.parametrize("run_id", NO_RUNS)
async def test_a_run_that_does_not_exist_is_not_found(world: World, run_id: str) -> None:
    with pytest.raises(RunNotFound) as missing:
        await world.store.load(run_id)

    assert missing.value.run_id == run_id


async def test_heads_are_those_of_the_runs_that_exist(world: World) -> None:
    runs = await world.create_many(3)

    heads = await world.other.heads([runs[0].id, *NO_RUNS, runs[2].id])

    assert set(heads) == {runs[0].id, runs[2].id}
    assert heads[runs[0].id] == (await world.store.load(runs[0].id)).head


async def test_the_heads_of_no_runs_are_none(world: World) -> None:
    assert await world.store.heads([]) == {}


async def test_a_reader_never_sees_a_head_without_its_rows(world: World) -> None:
    run = await world.create()
    seen: list[tuple[int, int]] = []

    async def read() -> None:
        while not seen or seen[-1][0] < 40:
            stored = await world.other.load(run.id)
            seen.append((stored.head.seq, stored.rows[-1].seq))

    async with create_task_group() as group:
        group.start_soon(read)
        for _ in range(40):
            await run.land(world.store, run.foreign(annotating))

    assert all(head == last for head, last in seen)


async def test_runs_that_have_ended_are_told_whole_and_those_that_go_on_are_not(world: World) -> None:
    session = await world.session()
    going_on, ended = await world.started(session), await world.started(session)
    await ended.land(world.store, ended.owned(cancelling))

    found = await world.other.endings([going_on.id, ended.id], limit=10)

    assert list(found) == [ended.id]
    whole = found[ended.id]
    assert whole is not None
    assert fold_stored(whole) == ended.state


async def test_a_run_that_does_not_exist_is_told_apart_from_one_that_goes_on(world: World) -> None:
    run = await world.started(await world.session())

    assert await world.store.endings([run.id, *NO_RUNS], limit=10) == dict.fromkeys(NO_RUNS)


async def test_no_more_ended_runs_than_asked_for_are_told_at_once(world: World) -> None:
    session = await world.session()
    runs = [await world.started(session) for _ in range(3)]
    for run in runs:
        await run.land(world.store, run.owned(cancelling))
    ids = {run.id for run in runs}

    first = await world.store.endings(sorted(ids), limit=2)
    second = await world.store.endings(sorted(ids - set(first)), limit=2)

    assert len(first) == 2
    assert set(first) | set(second) == ids
