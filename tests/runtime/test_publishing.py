"""Supervisors give plugins and sinks every event, in order, wherever runs are driven; and no run waits for that."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import anyio
import pytest
from structlog.testing import LogCapture

import kernel.publishing
from kernel import Event, InvalidCommand, Plugin, PluginRunner, Sink, Subscription, Workflow, plugin
from kernel.commands.flush_outbox import FlushOutbox
from kernel.commands.replay_dead_letters import ReplayDeadLetters
from runtime import App, Client
from tests.conftest import execute
from tests.runtime.gates import Doc, Gate, three_stages
from tests.runtime.shared_store import SharedStore, until
from tests.runtime.told import Told

pytestmark = pytest.mark.anyio

FLOW = three_stages([])


def an_app(*sinks: Sink | Subscription, plugins: Sequence[Plugin] | PluginRunner = ()) -> App:
    return App(workflows=[FLOW], sinks=sinks, plugins=plugins)


async def completed(engine: Client, flow: Workflow[Doc, Doc] = FLOW) -> str:
    run = await engine.start(flow, Doc(text="once"))
    await run.result(timeout=20)
    return run.id


async def all_of(engine: Client, run_id: str) -> list[int]:
    return [event.seq for event in await engine.run(run_id).history()]


async def test_a_plugin_has_been_told_of_every_event_that_it_wants_when_the_supervisor_leaves(
    store: SharedStore,
) -> None:
    told: list[Event] = []

    @plugin("audit", on=["run.created", "stage.completed", "run.completed"])
    async def audit(event: Event) -> None:
        told.append(event)

    async with store.supervisor(an_app(plugins=[audit])) as supervisor:
        run_id = await completed(supervisor)

    assert [event.type for event in told] == ["run.created", *["stage.completed"] * 3, "run.completed"]
    assert {event.run_id for event in told} == {run_id}


async def test_a_sink_is_given_all_events_in_order_and_once(store: SharedStore) -> None:
    told = Told()
    async with store.supervisor(an_app(told.sink())) as supervisor, store.client(FLOW) as client:
        ids = [await completed(supervisor), *[await completed(client) for _ in range(3)]]
        await until(lambda: all(told.types(run_id)[-1:] == ["run.completed"] for run_id in ids))

        for run_id in ids:
            assert told.seqs(run_id) == await all_of(supervisor, run_id)


async def test_several_processes_give_each_event_once(store: SharedStore) -> None:
    told = Told()
    app = an_app(told.sink(at_once=3))
    async with store.supervisor(app) as one, store.supervisor(app) as other:
        handles = [
            *await one.start_many(FLOW, [Doc(text="a")] * 10),
            *await other.start_many(FLOW, [Doc(text="b")] * 10),
        ]
        for handle in handles:
            await handle.result(timeout=20)
        await until(lambda: sum(event.type == "run.completed" for event in told.taken) == 20)

        for handle in handles:
            assert told.seqs(handle.id) == await all_of(one, handle.id)


async def test_events_of_a_run_that_goes_on_for_long_arrive_meanwhile(store: SharedStore) -> None:
    told, gate = Told(), Gate()
    flow = gate.workflow()
    app = App(workflows=[flow], sinks=[told.sink()])
    async with store.supervisor(app, poll_interval=0.1) as supervisor:
        run = await supervisor.start(flow, Doc(text="once"))
        await until(lambda: "stage.started" in told.types(run.id))

        assert (await run.describe()).status == "RUNNING"
        gate.open()
        await run.result(timeout=20)


async def test_events_arrive_when_they_are_heard_of_and_not_when_the_clock_says(store: SharedStore) -> None:
    told = Told()
    async with store.supervisor(an_app(told.sink()), poll_interval=60.0) as supervisor:
        # Whatever was to be looked for once at the beginning has been.
        await anyio.wait_all_tasks_blocked()
        for _ in range(3):
            run_id = await completed(supervisor)
            await until(lambda run_id=run_id: "run.completed" in told.types(run_id), within_s=10)


async def test_a_run_does_not_wait_for_a_sink_that_hangs(store: SharedStore) -> None:
    hangs, sound = Told(), Told()
    hangs.hold = anyio.Event()
    async with store.supervisor(an_app(hangs.sink("hangs"), sound.sink("sound"))) as supervisor:
        ids = [await completed(supervisor) for _ in range(5)]
        await until(lambda: sum(event.type == "run.completed" for event in sound.taken) == 5)

        assert hangs.taken == []
        hangs.hold.set()
    assert {event.run_id for event in hangs.taken} == set(ids)


async def test_a_sink_that_takes_too_long_has_refused(store: SharedStore) -> None:
    told = Told()
    told.hold = anyio.Event()
    sink = told.sink(timeout=timedelta(milliseconds=20), max_retries=2, events=frozenset({"run.completed"}))
    async with store.supervisor(an_app(sink), poll_interval=0.05) as supervisor:
        run_id = await completed(supervisor)

        letter = await until(lambda: one_dead_letter(supervisor))
        assert (letter.run_id, letter.tries, told.asked) == (run_id, 2, 2)
        assert letter.error == "TimeoutError: it took longer than 0.02 s"


async def one_dead_letter(engine: Client):
    letters = (await engine.storage.persistence.list_dead_letters()).letters
    return letters[0] if letters else None


async def test_a_failing_plugin_is_tried_again_and_given_up_and_the_others_see_nothing_of_it(
    store: SharedStore, log: LogCapture
) -> None:
    told: list[str] = []

    @plugin("sick", on=["run.completed"])
    async def sick(_event: Event) -> None:
        told.append("sick")
        raise ValueError("secret")

    @plugin("sound", on=["run.completed"])
    async def sound(_event: Event) -> None:
        told.append("sound")

    plugins = PluginRunner([sick, sound], max_retries=3, backoff=timedelta(milliseconds=10))
    async with store.supervisor(an_app(plugins=plugins), poll_interval=0.05) as supervisor:
        await completed(supervisor)
        letter = await until(lambda: one_dead_letter(supervisor))

    assert sorted(told) == ["sick", "sick", "sick", "sound"]
    assert (letter.sink, letter.tries, letter.error) == ("sick", 3, "ValueError: secret")
    said = [(entry["event"], entry.get("sink"), entry.get("error")) for entry in log.entries]
    assert ("sink.failed", "sick", "ValueError") in said
    assert ("events.given_up", "sick", "ValueError") in said


async def test_dead_letters_that_are_replayed_by_another_process_arrive(store: SharedStore) -> None:
    told = Told()
    told.refuse = lambda event: ValueError("no") if event.type == "run.completed" else None
    async with store.supervisor(an_app(told.sink(max_retries=1)), poll_interval=0.05) as supervisor:
        run_id = await completed(supervisor)
        await until(lambda: one_dead_letter(supervisor))
        told.refuse = lambda _event: None

        async with store.client(FLOW) as client:
            assert (await client.kernel.dispatch(ReplayDeadLetters())).replayed == 1

        await until(lambda: "run.completed" in told.types(run_id))
        assert told.seqs(run_id) == await all_of(supervisor, run_id)


async def test_a_sink_is_owed_what_happens_while_nobody_serves_it(store: SharedStore) -> None:
    told, other = Told(), Told()
    async with store.supervisor(an_app(told.sink())):
        pass
    async with store.supervisor(an_app(other.sink("other"))) as supervisor:
        run_id = await completed(supervisor)
    assert told.taken == []

    async with store.supervisor(an_app(told.sink())):
        pass

    assert told.seqs(run_id) == other.seqs(run_id) != []


async def test_what_a_process_had_claimed_when_it_died_is_published_by_another(
    store: SharedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel.publishing, "MARGIN", timedelta(milliseconds=100))
    told, alive = Told(), Told()
    told.hold = anyio.Event()
    short = timedelta(milliseconds=200)
    async with store.client(FLOW) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(until_cancelled, store, an_app(told.sink(timeout=timedelta(seconds=0.3))))
        await until(lambda: told.opened)
        run_id = await completed(client)
        await until(lambda: told.asked)
        tasks.cancel_scope.cancel()
    async with store.supervisor(an_app(alive.sink(timeout=short)), poll_interval=0.05) as supervisor:
        await until(lambda: "run.completed" in alive.types(run_id))

        assert alive.seqs(run_id) == await all_of(supervisor, run_id)


async def until_cancelled(store: SharedStore, app: App) -> None:
    async with store.supervisor(app):
        await anyio.sleep_forever()


async def test_as_many_runs_are_served_at_once_as_a_sink_wants(store: SharedStore) -> None:
    told = Told()
    told.hold = anyio.Event()
    async with store.supervisor(an_app(told.sink(at_once=3))) as supervisor:
        for handle in await supervisor.start_many(FLOW, [Doc(text="a")] * 30):
            await handle.result(timeout=20)
        await until(lambda: told.at_once == 3)
        told.hold.set()
    assert told.most_at_once == 3


async def test_sinks_are_opened_when_a_supervisor_starts_and_closed_when_it_leaves(memory: SharedStore) -> None:
    told = Told()
    app = an_app(told.sink())
    async with memory.client(app):
        assert told.opened == 0
    async with memory.supervisor(app), memory.supervisor(app):
        assert (told.opened, told.closed) == (2, 0)

    assert (told.opened, told.closed) == (2, 2)


async def test_a_sink_may_be_given_open(memory: SharedStore) -> None:
    told = Told()
    async with memory.supervisor(an_app(Subscription(name="mine", sink=told))) as supervisor:
        run_id = await completed(supervisor)

    assert told.types(run_id)[-1] == "run.completed"


async def test_a_supervisor_can_be_asked_to_flush(memory: SharedStore) -> None:
    told = Told()
    async with memory.supervisor(an_app(told.sink()), poll_interval=30.0) as supervisor:
        run_id = await completed(supervisor)
        await supervisor.kernel.dispatch(FlushOutbox())
        await until(lambda: "run.completed" in told.types(run_id))

        assert told.seqs(run_id) == await all_of(supervisor, run_id)


async def test_what_is_no_sink_is_refused_when_it_is_opened(memory: SharedStore) -> None:
    with pytest.raises(InvalidCommand, match='What sink "odd" opens is no event sink but dict'):
        async with memory.supervisor(an_app(Sink(name="odd", open=dict))):
            pass


def test_two_sinks_of_one_name_are_refused() -> None:
    @plugin("audit", on=["run.completed"])
    async def audit(_event: Event) -> None: ...

    with pytest.raises(InvalidCommand, match='"audit" is the name of a plugin and a sink at position 2'):
        an_app(Told().sink(), Told().sink("audit"), plugins=[audit])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_without_sinks_nothing_is_marked_and_nothing_owed(postgres: SharedStore) -> None:
    async with postgres.supervisor(FLOW) as supervisor:
        await completed(supervisor)

    assert postgres.url is not None
    marked = "SELECT FROM leasehold.runs WHERE publish_at IS NOT NULL OR published_seq <> 0"
    execute(postgres.url, f"DO $$ BEGIN ASSERT NOT EXISTS ({marked}), 'a head is marked'; END $$")
