"""A session that ends, or seems to, while its runs are in the middle of something."""

from __future__ import annotations

import threading

import anyio
import pytest

from kernel.ports.persistence import Beat, Heartbeat
from runtime import RunHandle
from tests.runtime.gates import Doc, Gate
from tests.runtime.held_store import HeldStore, Which, completes_a_stage, creates, starts_a_body
from tests.runtime.shared_store import in_memory, until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("which", [starts_a_body, completes_a_stage])
async def test_a_session_lost_during_an_append_leaves_the_count_of_bodies_right(which: Which):
    held, gate = HeldStore(), Gate(opened=True)
    place, workflow = in_memory(held), gate.workflow()
    async with place.client(workflow) as client, place.supervisor(workflow) as supervisor:
        held.before = which
        run = await client.start(workflow, Doc(text="x"))
        await until(lambda: held.held)
        held.hold_nothing_new()
        lost = supervisor.stats().session_id
        assert lost is not None
        await held.close_session(lost)
        assert await run.result() == Doc(text="x")
        await until(lambda: supervisor.stats().actors == 0)
        assert supervisor.stats().session_id != lost
        assert supervisor.stats().bodies == 0


async def test_a_beat_that_tells_of_a_run_before_its_creation_is_answered_does_not_execute_it_twice():
    held, gate, runs = HeldStore(), Gate(), list[RunHandle[Doc]]()
    workflow = gate.workflow()

    async def create() -> None:
        runs.append(await supervisor.start(workflow, Doc(text="x")))

    async with in_memory(held).supervisor(workflow) as supervisor, anyio.create_task_group() as tasks:
        held.after = creates
        tasks.start_soon(create)
        await until(lambda: held.held)
        for told in (1, 2):
            assert supervisor._session is not None
            supervisor._session.reread()  # as after a claim or a beat that failed
            await until(lambda told=told: held.full_beats >= told)
        await anyio.wait_all_tasks_blocked()
        held.let_go()
        await until(lambda: runs and gate.entered)
        gate.open()
        assert await runs[0].result() == Doc(text="x")
        events = [event.type for event in await runs[0].history()]
    assert (len(gate.entered), events.count("stage.retrying")) == (1, 0)


async def test_bodies_are_interrupted_when_the_lease_ends_and_not_when_a_hanging_beat_does(
    monkeypatch: pytest.MonkeyPatch,
):
    # Longer than the test waits: so the interruption cannot have come after it.
    monkeypatch.setattr("runtime.session.THREAD_END_S", 20.0)
    hanging, gate = HangingBeats(), Gate()
    workflow = gate.workflow()
    async with in_memory(hanging).supervisor(workflow, lease=1.5, renew=0.2, drain_grace=0.0) as supervisor:
        try:
            await supervisor.start(workflow, Doc(text="x"))
            await until(lambda: gate.entered)
            hanging.hangs = True
            await until(lambda: hanging.caught)
            await until(lambda: gate.interrupted, within_s=8)
            assert supervisor.stats().degraded == "lease lost"
        finally:
            hanging.release.set()


class HangingBeats(HeldStore):
    """Its beats do not return while it `hangs`, until their `release`."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = False
        self.caught = False
        self.release = threading.Event()

    def heartbeat(self, session_id: str) -> Heartbeat:
        return _HangingHeartbeat(self, self.store.heartbeat(session_id))


class _HangingHeartbeat:
    def __init__(self, store: HangingBeats, heartbeat: Heartbeat) -> None:
        self._store = store
        self._heartbeat = heartbeat

    def beat(self, *, adrift: bool = False) -> Beat:
        if self._store.hangs:
            self._store.caught = True
            self._store.release.wait(20)
        return self._heartbeat.beat(adrift=adrift)

    def close(self) -> None:
        self._heartbeat.close()
