"""A supervisor inside somebody else's program: what it leaves alone, and how it comes and goes."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest
import structlog

from adapters.postgres import migrate
from kernel import InvalidCommand, InvalidWorkflow
from runtime import App, Client, RunHandle, ServerlessHost, Supervisor
from runtime.bootstrap import open_storage
from tests.conftest import execute
from tests.runtime.gates import Doc, Gate, echo
from tests.runtime.shared_store import SharedStore, in_memory, until

pytestmark = pytest.mark.anyio


class OwnersError(Exception):
    pass


@pytest.mark.parametrize("kind", [Client, Supervisor])
async def test_what_the_body_raises_comes_out_as_it_is(kind: type[Client]):
    raised = OwnersError("mine")
    with pytest.raises(OwnersError) as caught:
        async with kind(App(workflows=[echo()]), database="memory://"):
            raise raised
    assert caught.value is raised


async def test_what_the_body_raises_comes_out_as_it_is_while_runs_are_interrupted(store: SharedStore):
    gate = Gate()
    with pytest.raises(OwnersError):
        async with store.supervisor(gate.workflow(), drain_grace=0.0) as supervisor:
            await supervisor.start("gated", Doc(text="x"))
            await until(lambda: gate.entered)
            raise OwnersError
    assert len(gate.interrupted) == 1


async def test_cancelled_from_outside_it_hands_back_its_runs_and_passes_the_cancellation_on(memory: SharedStore):
    gate = Gate()
    workflow = gate.workflow()
    run_ids: list[str] = []
    outcome: list[str] = []

    async def embedding() -> None:
        try:
            async with memory.supervisor(workflow, drain_grace=0.0) as supervisor:
                run_ids.append((await supervisor.start(workflow, Doc(text="x"))).id)
                await anyio.sleep_forever()
        except BaseException as error:
            outcome.append("cancelled" if isinstance(error, anyio.get_cancelled_exc_class()) else repr(error))
            raise

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(embedding)
        await until(lambda: gate.entered)
        tasks.cancel_scope.cancel()

    assert outcome == ["cancelled"]
    assert len(gate.interrupted) == 1
    async with memory.client(workflow) as client:
        run = await client.run(run_ids[0]).describe()
    assert (run.status, run.owner) == ("RUNNING", None)


async def test_a_deadline_of_the_embedding_program_ends_it(memory: SharedStore):
    with pytest.raises(TimeoutError), anyio.fail_after(0.05):
        async with memory.supervisor(echo()):
            await anyio.sleep_forever()


async def test_tasks_of_the_embedding_program_are_never_cancelled_by_it(memory: SharedStore):
    async with anyio.create_task_group() as tasks, memory.supervisor(echo()) as supervisor:
        for number in range(3):
            run = await supervisor.start("echo", Doc(text=str(number)))
            assert await run.result() == Doc(text=str(number))
        assert not tasks.cancel_scope.cancel_called


async def test_it_touches_no_signal_handler_and_no_configuration_of_logging(store: SharedStore):
    def settings_of_the_process() -> object:
        handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        root = logging.getLogger()
        return handlers, root.level, tuple(root.handlers), structlog.is_configured(), sys.excepthook, sys.unraisablehook

    before = settings_of_the_process()
    async with store.supervisor(echo()) as supervisor:
        await (await supervisor.start("echo", Doc(text="x"))).result()
        assert settings_of_the_process() == before
    assert settings_of_the_process() == before


async def test_it_touches_no_configuration_of_opentelemetry(memory: SharedStore):
    trace = pytest.importorskip("opentelemetry.trace")
    metrics = pytest.importorskip("opentelemetry.metrics")
    before = (trace.get_tracer_provider(), metrics.get_meter_provider())
    async with memory.supervisor(echo()) as supervisor:
        await (await supervisor.start("echo", Doc(text="x"))).result()
    assert (trace.get_tracer_provider(), metrics.get_meter_provider()) == before


async def test_it_leaves_no_thread_of_its_own_behind(memory: SharedStore):
    async with memory.supervisor(echo()):
        await until(lambda: [t for t in threading.enumerate() if t.name == "leasehold-renewal"])
    assert not [thread for thread in threading.enumerate() if thread.name == "leasehold-renewal"]


@pytest.fixture
async def neighbour(store: SharedStore, anyio_backend: object) -> SharedStore:
    """Another store: in memory, or in a schema of its own in the same database."""
    if store.url is None:
        return in_memory()
    execute(store.url, "DROP SCHEMA IF EXISTS neighbour CASCADE")
    await migrate(store.url, schema="neighbour")
    return SharedStore(partial(open_storage, schema="neighbour"), store.url)


async def test_two_engines_in_one_process_share_no_state(store: SharedStore, neighbour: SharedStore):
    async with store.supervisor(echo()) as one, neighbour.supervisor(echo()) as other:
        run = await one.start("echo", Doc(text="one"), idempotency_key="key")
        same_key = await other.start("echo", Doc(text="other"), idempotency_key="key")
        assert (await run.result(), await same_key.result()) == (Doc(text="one"), Doc(text="other"))
        assert [info.id for info in (await one.list_runs()).items] == [run.id]
        assert [info.id for info in (await other.list_runs()).items] == [same_key.id]
        assert one.stats().jobs_processed == other.stats().jobs_processed == 1


async def test_it_works_inside_another_supervisor_of_the_same_app(store: SharedStore):
    workflow = echo()
    async with store.supervisor(workflow) as outer:
        async with store.supervisor(workflow) as inner:
            assert await (await inner.start(workflow, Doc(text="in"))).result() == Doc(text="in")
        assert await (await outer.start(workflow, Doc(text="out"))).result() == Doc(text="out")


async def test_one_that_cannot_open_its_store_closes_what_it_has_opened():
    log: list[str] = []

    @asynccontextmanager
    async def service():
        log.append("entered")
        try:
            yield "service"
        finally:
            log.append("closed")

    @asynccontextmanager
    async def broken_storage():
        raise OwnersError("no store today")
        yield

    app = App(workflows=[echo()], services={"http": service})
    with pytest.raises(OwnersError):
        async with Supervisor(app, database="memory://", storage=broken_storage()):
            pytest.fail("it has no store")
    assert log == ["entered", "closed"]


@pytest.mark.parametrize("kind", [Client, Supervisor, ServerlessHost])
async def test_one_that_is_open_is_not_opened_again_and_goes_on(kind: type[Client]):
    async with kind(App(workflows=[echo()]), database="memory://") as client:
        with pytest.raises(InvalidCommand, match=r"opened before.*Make another"):
            await client.__aenter__()
        run = await client.start("echo", Doc(text="x"))
        assert [info.id for info in (await client.list_runs()).items] == [run.id]
    with pytest.raises(InvalidCommand, match="opened before"):
        async with client:
            pass


def test_an_app_refuses_a_workflow_that_is_listed_twice():
    with pytest.raises(InvalidWorkflow, match='version "1" is listed twice, at positions 1 and 3'):
        App(workflows=[echo(), echo("other"), echo()])


async def test_outside_of_its_block_it_says_that_it_is_not_open(memory: SharedStore):
    supervisor = memory.supervisor(echo())
    with pytest.raises(InvalidCommand, match="async with"):
        await supervisor.start("echo", Doc(text="x"))
    async with supervisor:
        pass
    with pytest.raises(InvalidCommand, match="async with"):
        await supervisor.start("echo", Doc(text="x"))


@pytest.mark.parametrize("kind", ["supervisor", "client"])
async def test_who_still_waits_for_a_run_when_it_leaves_is_told_so(memory: SharedStore, kind: str):
    gate, told = Gate(), list[str]()

    async def wait(run: RunHandle[Doc]) -> None:
        try:
            await run.result()
        except InvalidCommand as error:
            told.append(str(error))

    async def follow(run: RunHandle[Doc]) -> None:
        try:
            async for _ in run.events():
                pass
        except InvalidCommand as error:
            told.append(str(error))

    workflow = gate.workflow()
    async with (
        anyio.create_task_group() as tasks,
        memory.supervisor(workflow, drain_grace=0.0) as supervisor,
        memory.client(workflow) as client,
    ):
        run_id = (await supervisor.start(workflow, Doc(text="x"))).id
        await until(lambda: gate.entered)
        run = (supervisor if kind == "supervisor" else client).run(run_id, workflow)
        tasks.start_soon(wait, run)
        tasks.start_soon(follow, run)
        await anyio.wait_all_tasks_blocked()
    assert len(told) == 2
    assert all('"async with"' in message for message in told)


async def test_a_start_that_is_cancelled_after_it_was_sent_leaves_a_run_that_is_driven(memory: SharedStore):
    workflow = echo()
    async with memory.supervisor(workflow) as supervisor:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await supervisor.start(workflow, Doc(text="x"), idempotency_key="k")
        run = await supervisor.find(workflow, "k")
        assert run is not None
        assert await run.result(timeout=5) == Doc(text="x")
        assert [event.type for event in await run.history()].count("stage.started") == 1
        await until(lambda: supervisor.stats().bodies == 0)
