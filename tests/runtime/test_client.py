"""Starting, finding and listing runs from a process that executes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import anyio
import pytest

from adapters.memory import MemoryPersistence
from adapters.system import SystemClock
from kernel import (
    ExecuteJob,
    IdempotencyKeyReused,
    InvalidCommand,
    InvalidConfig,
    InvalidInput,
    NoDatabase,
    RunNotFound,
    TransitionRun,
    Unavailable,
    WorkflowNotFound,
)
from runtime import App, Client
from tests.runtime.gates import Doc, Gate, Shout, echo, failing
from tests.runtime.shared_store import BreakableStore, SharedStore, in_memory, until

pytestmark = pytest.mark.anyio

ECHO = echo()


# -- starting ----------------------------------------------------------------------------------------------------------


async def test_a_client_executes_nothing(memory: SharedStore):
    async with memory.client(ECHO) as client:
        run = await client.start(ECHO, Doc(text="x"))
        assert (await run.describe()).status == "PENDING"
        await client.kernel.dispatch(TransitionRun(run_id=run.id))
        with pytest.raises(InvalidCommand, match="Client does not execute"):
            await client.kernel.dispatch(ExecuteJob(run_id=run.id, stage_id="repeat"))


async def test_what_a_client_starts_any_supervisor_completes(store: SharedStore):
    async with store.client(ECHO) as client:
        run = await client.start(ECHO, Doc(text="x"))
        async with store.supervisor(ECHO):
            assert await run.result() == Doc(text="x")


async def test_configuration_given_by_stage_id_or_mapping_is_merged_over_the_defaults(memory: SharedStore):
    async with memory.supervisor(ECHO) as supervisor:
        by_stage = await supervisor.start(ECHO, Doc(text="ab"), config={ECHO.stages[0]: Shout(times=2)})
        by_id = await supervisor.start("echo", Doc(text="ab"), config={"repeat": {"times": 3}})
        assert [(await run.result()).text for run in (by_stage, by_id)] == ["abab", "ababab"]


async def test_priority_metadata_and_key_are_kept_with_the_run(memory: SharedStore):
    async with memory.client(ECHO) as client:
        run = await client.start(ECHO, {"text": "x"}, priority=9, metadata={"who": ["Ada"]}, idempotency_key="k")
        info = await run.describe()
    assert (info.priority, info.metadata, info.idempotency_key) == (9, {"who": ["Ada"]}, "k")
    assert (info.input, info.workflow_id, info.workflow_version) == ({"text": "x"}, "echo", "1")


async def test_more_urgent_runs_go_first(memory: SharedStore):
    gate = Gate()
    workflow = gate.workflow()
    async with memory.client(workflow) as client:
        ids = {priority: (await client.start(workflow, Doc(text=""), priority=priority)).id for priority in (2, 9, 5)}
        async with memory.supervisor(workflow, max_runs=1):
            gate.open()
            await until(lambda: len(gate.passed) == 3)
    assert [visit.run_id for visit in gate.passed] == [ids[9], ids[5], ids[2]]


async def test_nothing_runs_before_its_time_and_then_it_does(memory: SharedStore):
    async with memory.supervisor(ECHO) as supervisor:
        at = datetime.now(UTC) + timedelta(seconds=0.5)
        run = await supervisor.start(ECHO, Doc(text="x"), run_at=at)
        info = await run.describe()
        assert (info.status, info.waiting_for, info.run_at) == ("PENDING", "delayed_until", at)
        assert await run.result() == Doc(text="x")
        started_at = (await run.describe()).started_at
        assert started_at is not None
        assert started_at >= at


@pytest.mark.parametrize(
    "given, error, field",
    [
        ({"workflow": "nope"}, WorkflowNotFound, "workflow_id"),
        ({"input": {"txet": "x"}}, InvalidInput, "input"),
        ({"config": {"repeat": {"times": "many"}}}, InvalidConfig, "config"),
        ({"config": {"other": {}}}, InvalidConfig, "config"),
        ({"priority": 10}, InvalidCommand, "priority"),
        ({"run_at": datetime(2030, 1, 1)}, InvalidCommand, "run_at"),  # noqa: DTZ001 - that is the mistake
        ({"idempotency_key": " "}, InvalidCommand, "idempotency_key"),
    ],
)
async def test_a_refused_start_names_the_field_and_creates_nothing(
    memory: SharedStore, given: dict[str, Any], error: type[InvalidCommand], field: str
):
    async with memory.client(ECHO) as client:
        call: dict[str, Any] = {"workflow": "echo", "input": {"text": "x"}, **given}
        with pytest.raises(error) as refused:
            await client.start(call.pop("workflow"), call.pop("input"), **call)
        assert refused.value.field == field
        assert (await client.list_runs()).items == []


async def test_an_invalid_input_tells_where_and_what_in_pydantics_words(memory: SharedStore):
    async with memory.client(ECHO) as client:
        with pytest.raises(InvalidInput) as refused:
            await client.start("echo", {"text": 3})
    assert [(finding["loc"], finding["type"]) for finding in refused.value.errors] == [(("text",), "string_type")]


# -- keys --------------------------------------------------------------------------------------------------------------


async def test_the_same_key_answers_with_the_same_run_from_any_process(store: SharedStore):
    async with store.client(ECHO) as one, store.supervisor(ECHO) as other:
        first = await one.start(ECHO, Doc(text="x"), idempotency_key="k")
        again = await other.start("echo", {"text": "x"}, idempotency_key="k", priority=1)
        assert again.id == first.id
        assert len((await one.list_runs()).items) == 1


async def test_a_key_with_another_payload_is_refused_with_the_run_and_the_difference(memory: SharedStore):
    async with memory.client(ECHO) as client:
        first = await client.start(ECHO, Doc(text="x"), idempotency_key="k")
        with pytest.raises(IdempotencyKeyReused) as refused:
            await client.start(ECHO, Doc(text="y"), idempotency_key="k")
    assert (refused.value.key, refused.value.run_id, refused.value.paths) == ("k", first.id, ("input.text",))


async def test_twenty_starts_at_once_with_one_key_make_one_run(store: SharedStore):
    found: set[str] = set()

    async def begin(client: Client) -> None:
        found.add((await client.start(ECHO, Doc(text="x"), idempotency_key="k")).id)

    async with store.supervisor(ECHO) as supervisor, store.client(ECHO) as client:
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(begin, (supervisor, client)[number % 2])
        assert len(found) == 1
        assert len((await client.list_runs()).items) == 1


async def test_a_run_is_found_by_its_key_and_no_other(memory: SharedStore):
    async with memory.supervisor(App(workflows=[ECHO, failing(ValueError)])) as supervisor:
        run = await supervisor.start(ECHO, Doc(text="x"), idempotency_key="k")
        found = await supervisor.find(ECHO, "k")
        assert found is not None
        assert found.id == run.id
        assert await found.result() == Doc(text="x")
        assert await supervisor.find("echo", "other") is None
        assert await supervisor.find("failing", "k") is None
        assert await supervisor.find("nobody-knows", "k") is None


@pytest.mark.parametrize("key", ["", "never used", "no\0such", "\ud800", "k" * 2000])
async def test_a_key_that_no_run_can_have_finds_none(store: SharedStore, key: str):
    async with store.client(ECHO) as client:
        assert await client.find(ECHO, key) is None


# -- many at once ------------------------------------------------------------------------------------------------------


async def test_starting_many_returns_their_handles_in_order(store: SharedStore):
    async with store.supervisor(ECHO) as supervisor:
        runs = await supervisor.start_many(ECHO, (Doc(text=str(n)) for n in range(100)))
        assert [(await run.result()).text for run in runs] == [str(n) for n in range(100)]


class SlowStore(MemoryPersistence):
    """Lets a creation through only when it is told to."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.arrived = 0
        self.let_through = anyio.Event()

    async def append(self, append: Any, /) -> bool:
        self.arrived += 1
        await self.let_through.wait()
        return await super().append(append)


async def test_starting_many_consumes_its_inputs_no_faster_than_runs_are_committed():
    slow, consumed = SlowStore(), 0

    def inputs() -> Iterator[Doc]:
        nonlocal consumed
        for number in range(500):
            consumed += 1
            yield Doc(text=str(number))

    async with in_memory(slow).client(ECHO) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.start_many, ECHO, inputs())
        await until(lambda: slow.arrived == 64)
        await anyio.wait_all_tasks_blocked()
        assert consumed == 64
        slow.let_through.set()
    assert consumed == 500


async def test_the_key_of_start_many_is_a_function_of_an_input_and_no_text(memory: SharedStore):
    async with memory.client(ECHO) as client:
        with pytest.raises(InvalidCommand, match="must be a function of an input, not str") as refused:
            await client.start_many(ECHO, [Doc(text="x")], idempotency_key=cast("Any", "k"))
        assert refused.value.field == "idempotency_key"


async def test_starting_many_raises_the_first_refusal_as_it_is_and_can_be_repeated(memory: SharedStore):
    texts: list[Any] = [str(n) for n in range(200)]
    texts[70] = 7
    async with memory.client(ECHO) as client:
        with pytest.raises(InvalidInput) as refused:
            await client.start_many("echo", ({"text": t} for t in texts), idempotency_key=lambda i: str(i["text"]))
        assert refused.value.__notes__ == ["It is about inputs[70] of start_many."]
        # Those before it were started, and none that was not yet on its way.
        assert 70 <= len((await client.list_runs(limit=1000)).items) < 70 + 64
        texts[70] = "70"
        runs = await client.start_many("echo", ({"text": t} for t in texts), idempotency_key=lambda i: str(i["text"]))
        assert len({run.id for run in runs}) == 200
        page = await client.list_runs(limit=1000)
        assert len(page.items) == 200


async def test_an_error_of_the_inputs_themselves_comes_out_as_it_is(memory: SharedStore):
    def inputs() -> Iterator[Doc]:
        yield Doc(text="1")
        raise LookupError("no more")

    async with memory.client(ECHO) as client:
        with pytest.raises(LookupError, match="no more") as raised:
            await client.start_many(ECHO, inputs())
    assert raised.value.__notes__ == ["It is about inputs[1] of start_many."]


async def test_an_error_of_the_keys_comes_out_with_the_position_of_its_input(memory: SharedStore):
    def key(doc: Doc) -> str:
        if doc.text == "7":
            raise LookupError("no key")
        return doc.text

    async with memory.client(ECHO) as client:
        with pytest.raises(LookupError, match="no key") as raised:
            await client.start_many(ECHO, [Doc(text=str(n)) for n in range(10)], idempotency_key=key)
    assert raised.value.__notes__ == ["It is about inputs[7] of start_many."]


async def test_no_inputs_are_no_runs(memory: SharedStore):
    async with memory.client(ECHO) as client:
        assert await client.start_many(ECHO, []) == []


async def test_inputs_of_one_key_are_one_run(store: SharedStore):
    async with store.client(ECHO) as client:
        runs = await client.start_many(ECHO, [Doc(text="x")] * 100, idempotency_key=lambda doc: doc.text)

        assert len({run.id for run in runs}) == 1
        assert len(runs) == 100


# -- listing -----------------------------------------------------------------------------------------------------------


async def test_runs_are_listed_newest_first_page_by_page(store: SharedStore):
    async with store.client(ECHO) as client:
        ids = [(await client.start(ECHO, Doc(text=str(n)))).id for n in range(7)]
        seen: list[str] = []
        after: str | None = None
        for size in (3, 3, 1):
            page = await client.list_runs(limit=3, after=after)
            assert len(page.items) == size
            seen += [info.id for info in page.items]
            after = page.next
    assert after is None
    assert seen == sorted(ids, reverse=True)  # ids of one millisecond have no other order


async def test_runs_are_filtered_by_status_workflow_and_time(memory: SharedStore):
    broken = failing(ValueError, retry=None)
    async with memory.client(App(workflows=[ECHO, broken])) as client:
        async with memory.supervisor(ECHO):
            done = await client.start(ECHO, Doc(text="x"))
            await done.result()
        waiting = await client.start(broken, Doc(text="x"))
        created_at = (await waiting.describe()).created_at

        async def listed(**filters: Any) -> list[str]:
            return [info.id for info in (await client.list_runs(**filters)).items]

        assert await listed(status="COMPLETED") == [done.id]
        assert await listed(status="PENDING") == [waiting.id]
        assert await listed(workflow=ECHO) == await listed(workflow="echo") == [done.id]
        assert await listed(since=created_at) == [waiting.id]
        assert await listed(since=created_at + timedelta(seconds=1)) == []


@pytest.mark.parametrize(
    "given, field",
    [
        ({"status": "DONE"}, "status"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"after": "no cursor"}, "after"),
        ({"since": datetime(2030, 1, 1)}, "since"),  # noqa: DTZ001 - that is the mistake
    ],
)
async def test_a_listing_that_makes_no_sense_is_refused(store: SharedStore, given: dict[str, Any], field: str):
    async with store.client(ECHO) as client:
        with pytest.raises(InvalidCommand) as refused:
            await client.list_runs(**given)
    assert refused.value.field == field


# -- trouble -----------------------------------------------------------------------------------------------------------


async def test_a_database_that_is_away_is_an_error_and_never_an_empty_answer():
    broken = BreakableStore(MemoryPersistence(SystemClock()))
    async with in_memory(broken).client(ECHO) as client:
        run = await client.start(ECHO, Doc(text="x"))
        broken.down = True
        for ask in (client.list_runs, run.describe, run.history, run.cancel):
            with pytest.raises(Unavailable):
                await ask()
        with pytest.raises(Unavailable):
            await client.start(ECHO, Doc(text="y"))
        broken.down = False
        assert len((await client.list_runs()).items) == 1


async def test_a_run_that_does_not_exist_is_refused_everywhere(memory: SharedStore):
    async with memory.client(ECHO) as client:
        run = client.run("01941f29-7c00-7300-9ef5-df2085261bd7")
        for ask in (run.describe, run.result, run.history, run.logs, run.cancel, run.unpark):
            with pytest.raises(RunNotFound):
                await ask()
        with pytest.raises(RunNotFound):
            await anext(aiter(run.events()))


async def test_a_run_has_a_handle_by_its_id_as_a_uuid_too(store: SharedStore):
    async with store.supervisor(ECHO) as supervisor, store.client(ECHO) as client:
        started = await supervisor.start(ECHO, Doc(text="x"))
        run = client.run(UUID(started.id), ECHO)
        assert run.id == started.id
        assert await run.result(timeout=20) == Doc(text="x")
        with pytest.raises(RunNotFound):
            await client.run(UUID("01941f29-7c00-7300-9ef5-df2085261bd7")).result(timeout=20)


@pytest.mark.parametrize("value", ["garbage", "", "01941F29-7C00-7300-9EF5-DF2085261BD7", UUID(int=4)])
async def test_a_text_that_no_run_could_have_as_its_id_is_not_found(store: SharedStore, value: str):
    async with store.client(ECHO) as client:
        for ask in (client.run(value).result, client.run(value).describe, client.run(value).history):
            with anyio.fail_after(20), pytest.raises(RunNotFound):
                await ask()


@pytest.mark.parametrize("value", [5, None, b"01941f29-7c00-7300-9ef5-df2085261bd7"])
async def test_what_is_no_runs_id_is_refused_before_anything_is_asked(memory: SharedStore, value: Any):
    async with memory.client(ECHO) as client:
        with pytest.raises(InvalidCommand, match="run_id is no id of a run") as refused:
            client.run(value)
    assert (refused.value.field, type(refused.value)) == ("run_id", InvalidCommand)


async def test_who_waits_for_what_is_no_id_disturbs_nobody_else(store: SharedStore):
    async with store.supervisor(ECHO) as supervisor, store.client(ECHO) as client:
        run = await supervisor.start(ECHO, Doc(text="x"))

        async def wait_for(value: Any) -> None:
            with anyio.fail_after(10), pytest.raises(RunNotFound):
                await client.watch.ended(value)

        async with anyio.create_task_group() as tasks:
            for value in (UUID(run.id), "garbage", "\0", "\ud800", 5):
                tasks.start_soon(wait_for, value)
            assert await client.run(run.id, ECHO).result(timeout=10) == Doc(text="x")


async def test_without_any_database_in_production_the_error_names_the_way_that_is_open(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LEASEHOLD_ENV", "production")
    monkeypatch.delenv("LEASEHOLD_DATABASE_URL", raising=False)
    with pytest.raises(NoDatabase, match="LEASEHOLD_DATABASE_URL") as refused:
        async with Client(App(workflows=[ECHO])):
            pytest.fail("there is no database")
    assert "install" not in str(refused.value)
