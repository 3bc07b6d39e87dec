"""What a heartbeat tells, besides keeping the lease, and that a blocked event loop does not stop it."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from anyio import to_thread

from adapters.conformance.store.builders import annotating, cancelling, completing, suspending
from adapters.conformance.store.worlds import World
from kernel.ports.persistence import Beat, Persistence

pytestmark: pytest.MarkDecorator = pytest.mark.anyio


async def beat(store: Persistence, session: str, *, adrift: bool = False) -> Beat:
    heartbeat = store.heartbeat(session)
    try:
        return await to_thread.run_sync(lambda: heartbeat.beat(adrift=adrift))
    finally:
        await to_thread.run_sync(heartbeat.close)


async def test_a_heartbeat_renews_while_the_event_loop_is_blocked(world: World) -> None:
    session = await world.session()
    run = await world.started(session)
    heartbeat = world.store.heartbeat(session)

    with ThreadPoolExecutor(max_workers=1) as thread:
        # Waiting for the thread like this holds the event loop, as a stage that computes does.
        beats = [thread.submit(heartbeat.beat).result(timeout=20) for _ in range(3)]
        thread.submit(heartbeat.close).result(timeout=20)

    assert [b.alive for b in beats] == [True, True, True]
    assert (await world.store.load(run.id)).head.owner_live


async def test_a_heartbeat_may_be_closed_twice(world: World) -> None:
    heartbeat = world.store.heartbeat(await world.session())
    await to_thread.run_sync(heartbeat.beat)

    await to_thread.run_sync(heartbeat.close)
    await to_thread.run_sync(heartbeat.close)


async def test_a_heartbeat_of_an_ended_session_says_so(world: World) -> None:
    session = await world.session()
    await world.other.close_session(session)

    assert not (await beat(world.store, session)).alive


async def test_a_foreign_append_is_reported_until_the_owner_has_appended(world: World) -> None:
    session = await world.session()
    run, quiet = await world.started(session), await world.started(session)
    await world.adds(run, annotating)

    first, second = await beat(world.store, session), await beat(world.store, session)
    await run.land(world.store, run.owned(completing))
    third = await beat(world.store, session)

    assert [list(b.attention) for b in (first, second, third)] == [[run.id], [run.id], []]
    assert quiet.id not in first.attention


async def test_a_run_that_somebody_else_ended_is_reported_until_it_is_given_back(world: World) -> None:
    session = await world.session()
    run = await world.started(session)
    await world.adds(run, cancelling)

    first = await beat(world.store, session, adrift=True)
    await world.store.append(run.release())
    second = await beat(world.store, session, adrift=True)

    assert (list(first.attention), list(first.adrift)) == ([run.id], [(run.id, 1)])
    assert (list(second.attention), list(second.adrift)) == ([], [])


async def test_only_the_owner_is_told_of_a_foreign_append(world: World) -> None:
    run = await world.started(await world.session())
    await world.adds(run, annotating)

    assert list((await beat(world.store, await world.session())).attention) == []


async def test_renewing_from_the_event_loop_tells_the_same(world: World) -> None:
    session = await world.session()
    run = await world.started(session)
    await world.adds(run, annotating)
    waiting = await world.create()

    told = await world.store.renew(session)

    assert (told.alive, list(told.attention), told.due) == (True, [run.id], 1)
    assert waiting.id not in told.attention


async def test_the_runs_that_a_session_owns_are_listed_when_asked_for(world: World) -> None:
    session = await world.session()
    created = await world.started(session)
    waiting = await world.create()
    await world.store.claim(session, 1)
    released = await world.started(session)
    await world.store.append(released.release())
    ended = await world.started(session)
    await ended.land(world.store, ended.owned(cancelling))

    asked, unasked = await beat(world.store, session, adrift=True), await beat(world.store, session)

    assert sorted(asked.adrift) == sorted([(created.id, 1), (waiting.id, 1)])
    assert list(unasked.adrift) == []


async def test_due_runs_are_counted(world: World) -> None:
    session = await world.session()
    assert (await beat(world.store, session)).due == 0
    await world.create_many(3)

    counted = (await beat(world.other, session)).due

    assert counted == 3
    await world.store.claim(session, 2)
    assert (await beat(world.store, session)).due == 1


async def test_runs_that_the_session_could_not_take_are_not_counted(world: World) -> None:
    await world.define(world.workflow + "-b")
    await world.create(workflow=world.workflow + "-b")
    await world.create(run_at=world.now() + timedelta(hours=1))
    await world.parked()
    await world.started(await world.session())

    assert (await beat(world.store, await world.session())).due == 0


async def test_orphans_are_counted_as_due(world: World) -> None:
    await world.orphan()

    assert (await beat(world.store, await world.session())).due == 1


async def test_the_next_run_to_fall_due_is_announced(world: World) -> None:
    session = await world.session()
    assert (await beat(world.store, session)).next_due_at is None
    soon = world.now() + timedelta(minutes=30)
    for run_at in (soon + timedelta(minutes=5), soon, soon + timedelta(hours=1)):
        await world.create(run_at=run_at)

    assert (await beat(world.store, session)).next_due_at == soon


async def test_the_poll_of_a_released_run_is_announced(world: World) -> None:
    session = await world.session()
    run = await world.started(session)
    await run.land(world.store, run.owned(suspending))
    await world.store.append(run.release())

    told = await beat(world.store, session)

    stage = run.state.stages["extract"]
    assert stage.suspension is not None
    assert (told.due, told.next_due_at) == (0, stage.suspension.next_poll_at)


async def test_other_live_sessions_are_counted(world: World) -> None:
    session = await world.session()
    assert (await beat(world.store, session)).others == 0  # every test closes its sessions

    second, third = await world.session(), await world.session(at=world.other)
    assert (await beat(world.store, session)).others == 2

    await world.store.close_session(second)
    world.backdoor.expire(third)
    assert (await beat(world.store, session)).others == 0
