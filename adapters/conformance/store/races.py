"""Many writers at once: in any interleaving one history per run, and everything that was acknowledged is in it."""

from collections.abc import Sequence

import pytest
from anyio import CancelScope, create_task_group
from anyio.abc import TaskStatus
from anyio.lowlevel import checkpoint

from adapters.conformance.store.builders import (
    KnownRun,
    annotating,
    cancelling,
    completing,
    noting,
    starting,
    state_after,
)
from adapters.conformance.store.worlds import World, outcome_of
from kernel.errors import Conflict, StaleVersion
from kernel.model.machine import Status
from kernel.ports.persistence import Append, Persistence

pytestmark: pytest.MarkDecorator = pytest.mark.anyio


async def race(appends: Sequence[tuple[Persistence, Append]]) -> list[Conflict | None]:
    """Send all at once; the outcomes in the order of the appends."""
    outcomes: dict[int, Conflict | None] = {}

    async def send(number: int, store: Persistence, append: Append) -> None:
        outcomes[number] = await outcome_of(store, append)

    async with create_task_group() as group:
        for number, (store, append) in enumerate(appends):
            group.start_soon(send, number, store, append)
    return [outcomes[number] for number in range(len(appends))]


async def test_of_two_appends_on_the_same_state_exactly_one_lands(world: World) -> None:
    run = await world.create()
    for _ in range(20):
        rivals = [run.foreign(annotating), run.foreign(annotating)]

        outcomes = await race([(world.store, rivals[0]), (world.other, rivals[1])])

        lost = [outcome for outcome in outcomes if outcome is not None]
        assert len(lost) == 1
        assert isinstance(lost[0], StaleVersion)
        run.state = await world.stored_state(run)
    assert run.state.seq == 21


async def test_of_many_appends_of_one_process_on_the_same_state_exactly_one_lands(world: World) -> None:
    owner = await world.session()
    run = await world.started(owner)
    rivals = [run.owned(annotating) for _ in range(10)] + [run.foreign(annotating) for _ in range(10)]

    outcomes = await race([(world.store, rival) for rival in rivals])

    (winner,) = [rival for rival, outcome in zip(rivals, outcomes, strict=True) if outcome is None]
    rows = (await world.store.load(run.id)).rows
    assert [row.append_id for row in rows[1:]] == [winner.append_id]


async def test_appends_of_many_runs_all_land(world: World) -> None:
    owner = await world.session()
    creations = [world.creation(owner=owner, change=starting) for _ in range(150)]
    runs = [KnownRun.of(creation, world.now) for creation in creations]

    assert await race([(world.store, creation) for creation in creations]) == [None] * 150
    for _ in range(2):
        async with create_task_group() as group:
            for run in runs:
                group.start_soon(run.land, world.store, run.owned(completing))

    heads = await world.other.heads([run.id for run in runs])
    assert {head.head.status for head in heads.values()} == {Status.COMPLETED}
    for run in runs[::30]:
        assert await world.stored_state(run) == run.state


async def test_a_burst_of_creations_larger_than_any_batch_lands(world: World) -> None:
    creations = [world.creation() for _ in range(450)]

    assert await race([(world.store, creation) for creation in creations]) == [None] * 450

    assert len(await world.other.heads([creation.run_id for creation in creations])) == 450


async def test_a_successor_sent_before_its_predecessor_has_landed_keeps_the_history_whole(world: World) -> None:
    for _ in range(10):
        run = await world.create()
        first = run.foreign(annotating)
        run.state = state_after(first, run.state)
        second = run.foreign(annotating)

        outcomes = await race([(world.store, first), (world.store, second)])

        assert outcomes[0] is None
        assert outcomes[1] is None or isinstance(outcomes[1], StaleVersion)
        landed = [append.append_id for append, lost in zip([first, second], outcomes, strict=True) if lost is None]
        stored = await world.store.load(run.id)
        assert [row.append_id for row in stored.rows[1:]] == landed
        assert [row.first_seq for row in stored.rows] == list(range(1, len(landed) + 2))


async def test_refused_appends_do_not_hold_up_those_beside_them(world: World) -> None:
    owner = await world.session()
    runs = [await world.started(owner) for _ in range(30)]
    stale = [run.owned(annotating) for run in runs[::3]]
    for run in runs[::3]:
        await world.adds(run, annotating)
    fresh = [run.owned(annotating) for run in runs]

    outcomes = await race([(world.store, append) for append in [*stale, *fresh]])

    assert all(isinstance(outcome, StaleVersion) for outcome in outcomes[:10])
    assert outcomes[10:] == [None] * 30


async def test_an_append_sent_several_times_at_once_lands_once(world: World) -> None:
    run = await world.create()
    append = run.foreign(annotating)

    outcomes = await race([(store, append) for store in (world.store, world.other) * 5])

    assert outcomes == [None] * 10
    assert [row.append_id for row in (await world.store.load(run.id)).rows[1:]] == [append.append_id]


async def test_a_creation_sent_several_times_at_once_is_one_run(world: World) -> None:
    creation = world.creation()

    outcomes = await race([(store, creation) for store in (world.store, world.other) * 5])

    assert outcomes == [None] * 10
    assert len((await world.store.load(creation.run_id)).rows) == 1


@pytest.mark.parametrize("first", ["cancel", "complete"])
async def test_cancel_and_completion_have_one_winner(world: World, first: str) -> None:
    owner = await world.session()
    for _ in range(15):
        run = await world.started(owner)
        await run.land(world.store, run.owned(completing))
        complete, cancel = run.owned(completing), run.foreign(cancelling)
        pair = [(world.store, complete), (world.other, cancel)]

        completed, cancelled = await _in_order(pair, reverse=first == "cancel", pauses=world.chance.randrange(4))

        assert (completed is None) != (cancelled is None)
        status = Status.COMPLETED if completed is None else Status.CANCELLED
        stored = await world.store.load(run.id)
        # Who was interrupted by a cancellation gives the run back itself.
        assert (stored.head.head.status, stored.head.owner) == (status, None if completed is None else owner)
        assert (await world.stored_state(run)).status is status


async def _in_order(pair: Sequence[tuple[Persistence, Append]], *, reverse: bool, pauses: int) -> list[Conflict | None]:
    """Both at once, the second one a few steps later; outcomes in the order of the pair."""
    outcomes: dict[int, Conflict | None] = {}

    async def send(number: int) -> None:
        outcomes[number] = await outcome_of(*pair[number])

    async with create_task_group() as group:
        group.start_soon(send, int(reverse))
        for _ in range(pauses):
            await checkpoint()
        group.start_soon(send, int(not reverse))
    return [outcomes[0], outcomes[1]]


async def test_a_release_and_a_foreign_append_never_lose_each_other(world: World) -> None:
    owner = await world.session()
    for pauses in range(8):
        run = await world.started(owner)
        pair = [(world.store, run.release()), (world.other, run.foreign(annotating))]

        released, added = await _in_order(pair, reverse=bool(pauses % 2), pauses=pauses)

        head = (await world.store.load(run.id)).head
        assert added is None
        assert (head.owner, head.attention) == ((None, False) if released is None else (owner, True))
        assert (head.head.wake_at is not None) == (released is None)


async def test_a_claim_and_a_foreign_append_never_lose_each_other(world: World) -> None:
    session = await world.session()
    for _ in range(8):
        run = await world.create()
        add = run.foreign(annotating)
        claimed: list[str] = []

        async def claim(into: list[str] = claimed) -> None:
            into.extend(await world.claims(session, 1))

        async with create_task_group() as group:
            group.start_soon(outcome_of, world.other, add)
            group.start_soon(claim)

        if not claimed:  # somebody held the run at that moment; nothing is lost
            claimed.extend(await world.until(lambda: world.claims(session, 1)))
        assert claimed == [run.id]
        assert (await world.store.load(run.id)).head.seq == 2


async def test_cancelling_who_waits_for_an_append_does_not_cancel_the_append(world: World) -> None:
    creation = world.creation()

    async def impatient(*, task_status: TaskStatus[CancelScope]) -> None:
        with CancelScope() as scope:
            task_status.started(scope)
            await world.store.append(creation)

    async with create_task_group() as group:
        scope: CancelScope = await group.start(impatient)
        scope.cancel()

    assert await world.until(lambda: world.store.heads([creation.run_id]))


async def test_cancelling_one_waiter_does_not_harm_the_others(world: World) -> None:
    runs = [await world.create() for _ in range(20)]
    appends = [run.foreign(annotating) for run in runs]

    async with create_task_group() as others, create_task_group() as doomed:
        for append in appends[::2]:
            doomed.start_soon(world.store.append, append)
        for append in appends[1::2]:
            others.start_soon(world.store.append, append)
        for _ in range(2):  # after the second one every task has begun, whatever the order
            await checkpoint()
        doomed.cancel_scope.cancel()

    async def all_landed() -> bool:
        heads = await world.store.heads([run.id for run in runs])
        return all(head.seq == 2 for head in heads.values())

    await world.until(all_landed)


async def test_many_writers_of_one_run_get_through_one_after_the_other(world: World) -> None:
    run = await world.create()

    async def add_patiently(store: Persistence) -> None:
        mine = KnownRun(run.state, world.now)
        while await outcome_of(store, mine.foreign(annotating)) is not None:
            mine.state = await world.stored_state(mine)

    async with create_task_group() as group:
        for number in range(20):
            group.start_soon(add_patiently, (world.store, world.other)[number % 2])

    stored = await world.store.load(run.id)
    assert [row.seq for row in stored.rows] == list(range(1, 22))


async def test_large_bodies_in_one_burst_all_land(world: World) -> None:
    runs = [await world.create() for _ in range(40)]
    body = b'"' + b"x" * 16_000 + b'"'
    appends = [run.foreign(noting(body)) for run in runs]

    assert await race([(world.store, append) for append in appends]) == [None] * 40

    (_, row) = (await world.store.load(runs[7].id)).rows
    assert row.bodies == {"2": body}


async def test_one_body_of_some_megabytes_lands(world: World) -> None:
    run = await world.create()
    body = b'"' + b"y" * 4_000_000 + b'"'

    await run.land(world.store, run.foreign(noting(body)))

    (_, row) = (await world.store.load(run.id)).rows
    assert row.bodies == {"2": body}
