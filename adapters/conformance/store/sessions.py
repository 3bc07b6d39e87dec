"""Leases: a session lives while it is renewed in time, ends once, and never comes back."""

from datetime import timedelta
from uuid import UUID

import pytest
from anyio import create_task_group, to_thread

from adapters.conformance.store.builders import completing
from adapters.conformance.store.worlds import LONG, SHORT, World
from kernel.errors import WorkflowNotFound
from kernel.ports.persistence import Beat, Persistence

pytestmark: pytest.MarkDecorator = pytest.mark.anyio


async def test_every_session_has_an_id_of_its_own(world: World) -> None:
    first = await world.session(name="worker")
    second = await world.session(name="worker", at=world.other)

    assert first != second
    assert UUID(first).version == UUID(second).version == 4


async def test_two_sessions_of_one_name_do_not_share_their_runs(world: World) -> None:
    first = await world.session(name="worker")
    run = await world.started(first)
    second = await world.session(name="worker")

    await world.store.close_session(second)

    await run.land(world.store, run.owned(completing))
    assert (await world.store.load(run.id)).head.owner == first


async def test_a_renewed_session_is_alive_and_told_the_time(world: World) -> None:
    session = await world.session()

    beat = await world.store.renew(session)

    assert beat.alive
    assert beat.now.utcoffset() == timedelta(0)
    assert abs(beat.now - world.now()) < timedelta(minutes=1)


async def test_a_session_that_is_renewed_outlives_its_lease(world: World) -> None:
    lease = timedelta(seconds=1.5)
    session = await world.session(lease=lease)
    opened = await world.time()

    async def past_its_lease() -> bool:
        beat = await world.store.renew(session)
        assert beat.alive
        return beat.now > opened + lease * 1.2

    await world.until(past_its_lease)


async def test_a_session_that_is_not_renewed_is_condemned(world: World) -> None:
    session = await world.session(lease=SHORT)

    async def condemned() -> bool:
        return session in await world.other.condemn_expired(1000)

    await world.until(condemned)

    assert not (await world.store.renew(session)).alive


async def test_an_expired_session_cannot_renew_even_before_it_is_condemned(world: World) -> None:
    session = await world.session()
    world.backdoor.expire(session)

    beats = [await world.store.renew(session) for _ in range(3)]

    assert [beat.alive for beat in beats] == [False, False, False]


async def test_a_refused_renewal_does_not_revive_the_runs_of_the_session(world: World) -> None:
    session = await world.session()
    run = await world.started(session)
    world.backdoor.expire(session)

    await world.store.renew(session)

    assert not (await world.store.load(run.id)).head.owner_live


async def test_a_condemned_session_cannot_renew(world: World) -> None:
    session = await world.session()
    world.backdoor.expire(session)
    await world.other.condemn_expired(1000)

    assert not (await world.store.renew(session)).alive
    assert not (await world.store.renew(session)).alive


async def test_a_session_that_nobody_opened_cannot_renew(world: World) -> None:
    beat = await world.store.renew("00000000-0000-4000-8000-000000000000")

    assert not beat.alive


async def test_a_session_is_condemned_once(world: World) -> None:
    session = await world.session()
    world.backdoor.expire(session)
    found: list[str] = []

    async def condemn(store: Persistence) -> None:
        found.extend(await store.condemn_expired(1000))

    async with create_task_group() as group:
        for store in (world.store, world.other) * 3:
            group.start_soon(condemn, store)

    assert found.count(session) == 1
    assert session not in await world.store.condemn_expired(1000)


async def test_a_live_session_is_not_condemned(world: World) -> None:
    session = await world.session()

    assert session not in await world.other.condemn_expired(1000)

    assert (await world.store.renew(session)).alive


async def test_no_more_sessions_are_condemned_than_asked_for(world: World) -> None:
    sessions = {await world.session() for _ in range(3)}
    for session in sessions:
        world.backdoor.expire(session)

    first = await world.store.condemn_expired(2)

    assert len(first) == 2
    assert sessions <= {*first, *await world.store.condemn_expired(1000)}


async def test_a_heartbeat_condemns_the_others_that_have_expired(world: World) -> None:
    dead = await world.session()
    run = await world.started(dead)
    world.backdoor.expire(dead)
    session = await world.session(at=world.other)

    await _beat(world.other, session)

    assert await world.claims(session) == [run.id]


async def _beat(store: Persistence, session: str, *, adrift: bool = False) -> Beat:
    heartbeat = store.heartbeat(session)
    try:
        return await to_thread.run_sync(lambda: heartbeat.beat(adrift=adrift))
    finally:
        await to_thread.run_sync(heartbeat.close)


async def test_a_heartbeat_does_not_condemn_its_own_session_nor_live_ones(world: World) -> None:
    first, second = await world.session(), await world.session(at=world.other)

    beats = [await _beat(world.store, first), await _beat(world.other, second), await _beat(world.store, first)]

    assert [beat.alive for beat in beats] == [True, True, True]


async def test_a_closed_session_ends_at_once(world: World) -> None:
    session = await world.session()

    await world.store.close_session(session)

    assert not (await world.store.renew(session)).alive


async def test_the_runs_of_a_closed_session_are_taken_at_once(world: World) -> None:
    session = await world.session()
    run = await world.started(session)

    await world.store.close_session(session)

    (claimed,) = await world.other.claim(await world.session(at=world.other), 10)
    assert (claimed.history.head.run_id, claimed.previous_owner) == (run.id, session)


async def test_a_session_may_be_closed_twice(world: World) -> None:
    session = await world.session()
    await world.store.close_session(session)

    await world.store.close_session(session)

    assert not (await world.store.renew(session)).alive


async def test_a_session_closed_with_its_runs_is_not_reported_as_condemned(world: World) -> None:
    session = await world.session()
    await world.started(session)
    await world.store.close_session(session)

    assert session not in await world.other.condemn_expired(1000)


async def test_a_session_for_a_workflow_that_nobody_registered_is_refused(world: World) -> None:
    with pytest.raises(WorkflowNotFound) as refused:
        await world.store.open_session(world.info(), [("nobody-knows-this", "1")], lease=LONG)

    assert refused.value.workflow_id == "nobody-knows-this"


async def test_live_workflows_are_those_of_sessions_that_live(world: World) -> None:
    await world.define(world.workflow, "2")
    first = await world.session((world.workflow, "1"))
    await world.session((world.workflow, "2"))
    assert {(world.workflow, "1"), (world.workflow, "2")} <= set(await world.other.live_workflows())

    await world.store.close_session(first)

    live = await world.other.live_workflows()
    assert (world.workflow, "2") in live
    assert (world.workflow, "1") not in live


async def test_the_workflows_of_an_expired_session_are_not_live(world: World) -> None:
    session = await world.session()

    world.backdoor.expire(session)

    assert (world.workflow, "1") not in await world.store.live_workflows()
