"""What a run of three stages costs, in figures that are the same on every machine: who adds one has to say so here.

The figures are what the engine does now, as maxima; less is welcome, and then they come down. Next to them stand the
budgets: what must never be exceeded, and what is worth aiming at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import asyncpg
import pytest
import trio

from kernel import Workflow
from runtime import Client
from runtime.mailbox import Mailbox
from tests.conftest import execute
from tests.runtime.counted_wire import CountedWire
from tests.runtime.gates import Doc, three_stages
from tests.runtime.shared_store import SharedStore, on_postgres

IN_A_ROW = 10
TOGETHER = 50
LED_TO_BY_HINTS = {"claim", "load_ended", "heartbeat", "NOTIFY"}
LEFT_BEHIND = 2
"""How many of these may be due to hints that were under way already when counting began."""

# Nothing happens by the clock: what is counted, runs have caused.
STILL = {"lease": 60.0, "renew": 20.0, "poll_interval": 30.0}

# Rows written, by table. Budget of a run that is created in the worker: 5 appends and 12 rows, worth aiming at 4 and 8;
# of a client's run: 6 appends, a claim and 14 rows, worth aiming at 5 appends, a claim and 11 rows.
ROWS_OWNED = {"runs INSERT": 1, "history INSERT": 4, "runs UPDATE": 3}
ROWS_CLIENT = {"runs INSERT": 1, "history INSERT": 5, "runs UPDATE": 5}
ROWS_KEYED = ROWS_CLIENT | {"idempotency_keys INSERT": 1}

# Statements sent by the process that does the work. Each is one round trip. What it has done itself is no news to it; a
# hint of somebody else may lead to a claim, and to a heartbeat while there are actors.
SENT_OWNED = {"append_create": 1, "append_owned": 3, "NOTIFY": 1}
SENT_FOR_CLIENT = {"claim": 1, "load_runs": 1, "append_owned": 4, "NOTIFY": 1, "heartbeat": 1}
# And by the client, which looks when it begins to wait, and after every hint: its own at the creation, and that of the
# end. Mostly two of these fall together.
SENT_BY_CLIENT = {"append_create": 1, "NOTIFY": 1, "load_ended": 3}

# Tasks: one per run, and one per body. Steps: how often the event loop comes to a task; every call of the memory store
# is one.
TASKS = {"Supervisor._drive": 1, "RunActor._attempt": 3}
STEPS_OWNED = {"Supervisor._drive": 11, "RunActor._attempt": 6}
STEPS_CLIENT = {"Supervisor._drive": 13, "RunActor._attempt": 6}
# A body that has ended rings, and an append's answer does not.
WAKE_UPS = 3


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The driver's own loop: another one adds a thread between, and sends the same."""
    return "asyncio"


# -- rows --------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("together", [1, TOGETHER])
@pytest.mark.parametrize(
    "creator, keyed, expected",
    [("worker", "", ROWS_OWNED), ("client", "", ROWS_CLIENT), ("client", "keyed", ROWS_KEYED)],
    ids=["by the worker", "by a client", "by a client with a key"],
)
async def test_a_run_writes_no_more_rows_than_it_does_now(
    noted_url: str, creator: str, keyed: str, expected: Mapping[str, int], together: int
) -> None:
    async with at_work(noted_url) as work:
        ids = await work.runs(creator, together=together, keyed=bool(keyed))

    written = await rows_written(noted_url)
    assert len(ids) == together
    for run_id in ids:
        assert written[run_id] <= Counter(expected)


# -- statements --------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_worker_sends_no_more_statements_for_its_own_run_than_it_does_now(migrated_url: str) -> None:
    async with at_work(migrated_url) as work:
        await work.runs("worker", in_a_row=IN_A_ROW)

        assert beyond(work.worker_wire.sent, SENT_OWNED, IN_A_ROW) == {}
        assert work.client_wire.sent == Counter()
        assert work.worker_wire.round_trips["append"] == IN_A_ROW * 4


@pytest.mark.anyio
async def test_client_and_worker_send_no_more_statements_for_a_client_s_run_than_they_do_now(migrated_url: str) -> None:
    async with at_work(migrated_url) as work:
        await work.runs("client", in_a_row=IN_A_ROW)

        assert beyond(work.worker_wire.sent, SENT_FOR_CLIENT, IN_A_ROW) == {}
        assert beyond(work.client_wire.sent, SENT_BY_CLIENT, IN_A_ROW) == {}
        assert work.worker_wire.round_trips["append"] + work.client_wire.round_trips["append"] == IN_A_ROW * 5


@pytest.mark.anyio
@pytest.mark.parametrize("creator", ["worker", "client"])
async def test_a_statement_is_one_round_trip(migrated_url: str, creator: str) -> None:
    async with at_work(migrated_url) as work:
        await work.runs(creator, in_a_row=IN_A_ROW)

        for wire in (work.worker_wire, work.client_wire):
            assert wire.round_trips.total() == wire.sent.total()


@pytest.mark.anyio
@pytest.mark.parametrize("creator", ["worker", "client"])
async def test_runs_that_run_together_share_their_statements(migrated_url: str, creator: str) -> None:
    async with at_work(migrated_url) as work:
        await work.runs(creator, together=TOGETHER)

        sent = work.worker_wire.sent + work.client_wire.sent
        appends = sent["append_create"] + sent["append_owned"]
        # At best one for every stage of all; the first to come must not wait for the others, though.
        assert appends <= TOGETHER
        assert sent.total() <= 2 * TOGETHER


# -- tasks -------------------------------------------------------------------------------------------------------------


@pytest.mark.trio
@pytest.mark.parametrize("in_a_row, together", [(1, 1), (IN_A_ROW, 1), (1, TOGETHER)])
@pytest.mark.parametrize(
    "creator, steps", [("worker", STEPS_OWNED), ("client", STEPS_CLIENT)], ids=["worker", "client"]
)
async def test_a_run_takes_no_more_tasks_and_steps_than_it_does_now(
    memory: SharedStore, creator: str, steps: Mapping[str, int], in_a_row: int, together: int
) -> None:
    seen = Tasks()
    flow = three_stages([])
    async with memory.supervisor(flow, **STILL, wait=seen.wait) as worker, memory.client(flow, **STILL) as client:
        starter = {"worker": worker, "client": client}[creator]
        with seen:
            await finish_runs(starter, flow, in_a_row=in_a_row, together=together)

    runs = in_a_row * together
    assert beyond(seen.spawned, TASKS, runs) == {}
    assert beyond(seen.steps, steps, runs) == {}
    assert seen.wake_ups <= WAKE_UPS * runs


class Tasks(trio.abc.Instrument):
    """Counts tasks, their steps, and how often an actor wakes up; the engine's services, which serve all runs, not."""

    def __init__(self) -> None:
        self.spawned: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.wake_ups = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self._count(task, self.spawned)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._count(task, self.steps)

    def _count(self, task: trio.lowlevel.Task, counts: Counter[str]) -> None:
        if task.name.startswith("runtime.") and not task.name.endswith("._serve"):
            counts[".".join(task.name.split(".")[-2:])] += 1

    async def wait(self, mailbox: Mailbox, seconds: float | None) -> None:
        """How actors wait."""
        await mailbox.wait(seconds)
        self.wake_ups += 1

    def __enter__(self) -> None:
        trio.lowlevel.add_instrument(self)

    def __exit__(self, *_: object) -> None:
        trio.lowlevel.remove_instrument(self)


# -- a worker and a client ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Work:
    """Two processes as the database sees them, each with its own wire."""

    flow: Workflow[Doc, Doc]
    engines: Mapping[str, Client]
    worker_wire: CountedWire
    client_wire: CountedWire

    async def runs(self, creator: str, *, in_a_row: int = 1, together: int = 1, keyed: bool = False) -> list[str]:
        """Count from here on, and finish some runs; returns their ids."""
        self.worker_wire.begin()
        self.client_wire.begin()
        return await finish_runs(self.engines[creator], self.flow, in_a_row=in_a_row, together=together, keyed=keyed)


@asynccontextmanager
async def at_work(url: str) -> AsyncIterator[Work]:
    flow = three_stages([])
    with CountedWire(url) as worker_wire, CountedWire(url) as client_wire:
        worker, client = on_postgres(worker_wire.url), on_postgres(client_wire.url)
        async with worker.supervisor(flow, **STILL) as supervisor, client.client(flow, **STILL) as outside:
            for engine in (supervisor, outside):
                # The first run of a process prepares its statements.
                await finish_runs(engine, flow)
            engines = {"worker": supervisor, "client": outside}
            yield Work(flow=flow, engines=engines, worker_wire=worker_wire, client_wire=client_wire)


async def finish_runs(
    engine: Client, flow: Workflow[Doc, Doc], *, in_a_row: int = 1, together: int = 1, keyed: bool = False
) -> list[str]:
    ids: list[str] = []

    async def finish_one(n: int) -> None:
        key: dict[str, Any] = {"idempotency_key": f"key {n}"} if keyed else {}
        run = await engine.start(flow, Doc(text="once"), **key)
        await run.result(timeout=20)
        ids.append(run.id)

    for _ in range(in_a_row):
        async with anyio.create_task_group() as group:
            for n in range(together):
                group.start_soon(finish_one, n + together)
    return ids


def beyond(counts: Counter[str], allowed: Mapping[str, int], runs: int) -> dict[str, int]:
    """What there was more of than so many runs are allowed."""
    bounds = {name: allowed.get(name, 0) * runs + (LEFT_BEHIND if name in LED_TO_BY_HINTS else 0) for name in counts}
    return {name: count for name, count in counts.items() if count > bounds[name]}


# -- what the database notes -------------------------------------------------------------------------------------------

NOTING = """
    CREATE TABLE public.written (run_id text, relation text, operation text);
    CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO public.written
        VALUES (coalesce(to_jsonb(NEW) ->> 'run_id', to_jsonb(NEW) ->> 'id'), TG_ARGV[0], TG_OP);
        RETURN NULL;
    END $$;
    DO $$
    DECLARE name text;
    BEGIN
        FOR name IN SELECT t.tablename FROM pg_tables AS t WHERE t.schemaname = 'leasehold'
        AND t.tablename NOT IN ('migrations', 'sessions') AND t.tablename NOT LIKE 'history\\_%' LOOP
            EXECUTE format('CREATE TRIGGER note AFTER INSERT OR UPDATE ON leasehold.%I FOR EACH ROW '
                           'EXECUTE FUNCTION public.note(%L)', name, name);
        END LOOP;
    END $$;
"""
SILENCE = "DROP FUNCTION public.note() CASCADE; DROP TABLE public.written"


@pytest.fixture
def noted_url(migrated_url: str):
    """A database that notes every row that is written for a run."""
    execute(migrated_url, NOTING)
    yield migrated_url
    execute(migrated_url, SILENCE)


async def rows_written(url: str) -> Mapping[str, Counter[str]]:
    """How many rows were written for each run, by table and operation."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        rows = await connection.fetch(
            "SELECT run_id, relation || ' ' || operation, count(*) FROM written GROUP BY 1, 2"
        )
    finally:
        await connection.close(timeout=10)
    written: dict[str, Counter[str]] = {}
    for run_id, what, count in rows:
        written.setdefault(run_id, Counter())[what] = count
    return written
