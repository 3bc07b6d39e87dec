"""What a statement touches does not grow with what is stored, whatever the server knew of the tables when it planned.

Every statement stands in one of the two tables below. The hot ones are prepared while the tables are empty, as by a
process that opens a new schema, and then executed among 100,000 runs that have ended: with the plans made for nothing,
with plans made for full tables of which the server has no statistics, and with statistics. `test_plans` tells which
plans are made, this what they read.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

import adapters.postgres
from adapters.conformance.store.builders import a_creation, a_key, annotating, completing
from adapters.postgres import migrate, open_postgres
from adapters.postgres.batches import item_of, key_columns, parameters
from adapters.postgres.claims import LONG_AGO
from adapters.postgres.connections import Target, connect
from adapters.postgres.listings import HIGHEST, LOWEST
from adapters.postgres.outbox import ROWS_MAX, settled_columns
from adapters.postgres.refusals import questions
from adapters.postgres.sessions import DUE_MAX, beat_parameters
from adapters.postgres.statements import Schema, qualify, statement
from kernel.model.facts import FORMAT
from kernel.model.jobs import JobChanges, QueuedJob
from kernel.ports.outbox import Delivery, Refused, Settlement
from kernel.ports.persistence import Append, Lease
from tests.adapters.postgres.crowd import (
    DUE,
    ENDED,
    JOBS,
    LONG,
    ORPHANS,
    OWNED,
    PARKED,
    SCHEDULE_ID,
    SINK,
    SLEEPING,
    WAITING,
    WORKFLOWS,
    Crowd,
    gather,
    utc_now,
)
from tests.adapters.postgres.explained import (
    Plan,
    explained,
    indexes_of,
    pages_touched,
    rows_touched,
    scans_of_whole_tables,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

BATCH = 50
CLAIMED = 100
COMMANDS = 32
PAGE = 51
"""What a page of fifty asks for: one more tells whether there is another page."""

TABLES = ["runs", "history", "sessions", "workflows", "idempotency_keys", "logs", "blobs", "jobs", "scheduled_commands"]
TABLES += ["deliveries", "dead_letters", "sinks"]
PATIENT = {"statement_timeout": "60s", "synchronous_commit": "off"}


@dataclass(frozen=True, kw_only=True)
class Hot:
    """A statement, when it is sent, and for these values: by which indexes of tables that grow it reaches what it
    needs, and how many rows and pages it may look at for that."""

    sent: str
    values: Callable[[Crowd], Sequence[object]]
    indexes: set[str]
    rows: int
    pages: int


def appended(*make: Callable[[Crowd, int], Append]) -> Callable[[Crowd], Sequence[object]]:
    """Parameters of a full batch, as the committer writes them; the modes take turns."""

    def values(crowd: Crowd) -> Sequence[object]:
        loop = asyncio.get_running_loop()
        items = [item_of(make[n % len(make)](crowd, n), loop.create_future(), 0.0) for n in range(BATCH)]
        for item in items:
            item.workflow_key = 1
        items.sort(key=lambda item: item.append.run_id)
        return parameters(items[0].kind, items)

    return values


ENQUEUES = JobChanges(put=(QueuedJob(stage_id="extract", queue="gpu"),))
WITHDRAWS = JobChanges(drop=("extract",))
KEYS = range(1, len(WORKFLOWS) + 1)


def tokens(count: int) -> list[str]:
    return [f"new-{n}" for n in range(count)]


def created(crowd: Crowd, n: int, *, owned: bool = False, keyed: bool = False) -> Append:
    lease = Lease(session_id=crowd.session, claim=1) if owned else None
    key = a_key(f"new-{n}", scope=WORKFLOWS[0]) if keyed else None
    return a_creation(WORKFLOWS[0], utc_now(), lease=lease, key=key)


def settlement(crowd: Crowd, n: int) -> Settlement:
    delivery = Delivery(
        run_id=crowd.runs["completed"][-1 - 2 * n],
        sink=SINK,
        replayed=0,
        token=crowd.token,
        next_seq=2,
        last_seq=4,
        tries=0,
    )
    dead = [Refused(seq=2, tries=3, error="ValueError: no")] if n % 10 == 0 else []
    return Settlement(delivery=delivery, next_seq=3 + n % 3, dead=dead)


def refused(crowd: Crowd) -> Sequence[object]:
    loop = asyncio.get_running_loop()
    appends = [crowd.owned[n].owned(completing) for n in range(BATCH // 2)]
    appends += [created(crowd, n, keyed=True) for n in range(BATCH // 2)]
    return questions([item_of(append, loop.create_future(), 0.0) for append in appends])


def key_of(crowd: Crowd, run_id: str) -> tuple[object, ...]:
    return key_columns(a_key(run_id, scope=WORKFLOWS[0]))[:3]


def a_page(status: str | None, *workflow: str | None) -> Callable[[Crowd], Sequence[object]]:
    return lambda _crowd: (HIGHEST, LOWEST, status, None, PAGE, *workflow)


ACTIVE = SLEEPING + WAITING + DUE + OWNED + ORPHANS + PARKED + 10
FAILED = ENDED // 100 + 1
CANCELLED = ENDED // 200 + 1

# One row per statement that is sent for every run, batch, beat or look; several where it does different things.
# Rows: per element of a batch its head, its session, its definition. Pages: the descent of each index for each element,
# and the entries in all indexes of what is written. Bounds leave room for a server's choice of the outer table, not for
# a second look at anything. Where one names ACTIVE or FAILED the statement does grow, with these and nothing else.
HOT: dict[str, Hot] = {
    "append_create": Hot(
        sent="per batch of new runs",
        values=appended(created),
        indexes={"runs_pkey"},
        rows=BATCH,
        pages=30 * BATCH,
    ),
    "append_create owned": Hot(
        sent="per batch of new runs of a worker",
        values=appended(lambda crowd, n: created(crowd, n, owned=True)),
        indexes={"runs_pkey"},
        rows=BATCH,
        pages=30 * BATCH,
    ),
    "append_create keyed": Hot(
        sent="per batch of new runs with idempotency keys",
        values=appended(lambda crowd, n: created(crowd, n, keyed=True)),
        indexes={"runs_pkey"},
        rows=BATCH,
        pages=45 * BATCH,
    ),
    "append_owned": Hot(
        sent="per batch of what actors record",
        values=appended(lambda crowd, n: crowd.owned[n].owned(annotating)),
        indexes={"runs_pkey"},
        rows=3 * BATCH,
        pages=25 * BATCH,
    ),
    "append_owned ends": Hot(
        sent="per batch of what actors end, release and park",
        values=appended(
            lambda crowd, n: crowd.owned[n].owned(completing),
            lambda crowd, n: crowd.owned[n].release(),
            lambda crowd, n: crowd.owned[n].park("corrupt_history"),
        ),
        indexes={"runs_pkey"},
        rows=3 * BATCH,
        pages=35 * BATCH,
    ),
    "append_foreign": Hot(
        sent="per batch of cancels, reruns, annotations",
        values=appended(lambda crowd, n: crowd.free[n].foreign(annotating)),
        indexes={"runs_pkey"},
        rows=3 * BATCH,
        pages=45 * BATCH,
    ),
    "append_refused": Hot(
        sent="per batch of which a part was refused",
        values=refused,
        indexes={"runs_pkey", "history_pkey", "idempotency_keys_pkey", "jobs_pkey"},
        rows=4 * BATCH,
        pages=20 * BATCH,
    ),
    "append_create_jobs": Hot(
        sent="per batch of new runs that begin in a queue",
        values=appended(lambda crowd, n: replace(created(crowd, n), jobs=ENQUEUES)),
        indexes={"runs_pkey", "jobs_pkey"},
        rows=3 * BATCH,
        pages=45 * BATCH,
    ),
    "append_owned_jobs": Hot(
        sent="per batch of what actors record of runs with queues",
        values=appended(lambda crowd, n: replace(crowd.owned[n].owned(annotating), jobs=ENQUEUES)),
        indexes={"runs_pkey", "jobs_pkey"},
        rows=5 * BATCH,
        pages=45 * BATCH,
    ),
    "append_foreign_jobs": Hot(
        sent="per batch of starts and ends of jobs, and of what withdraws them",
        values=appended(lambda crowd, n: replace(crowd.free[n].foreign(annotating), jobs=WITHDRAWS)),
        indexes={"runs_pkey", "jobs_pkey"},
        rows=6 * BATCH,
        pages=60 * BATCH,
    ),
    "dequeue": Hot(
        sent="per job that is taken, and per hint while jobs are about",
        values=lambda crowd: (tokens(CLAIMED), crowd.session, None, ["gpu", "cpu"], list(KEYS), FORMAT, CLAIMED),
        indexes={"jobs_due", "jobs_pkey", "runs_pkey"},
        rows=2 * JOBS + 3 * CLAIMED,
        pages=4 * JOBS + 30 * CLAIMED,
    ),
    "take_job": Hot(
        sent="per message to a serverless host",
        values=lambda crowd: (crowd.runs["sleeping"][5], "extract", "token", crowd.session, None, FORMAT),
        indexes={"jobs_pkey", "runs_pkey"},
        rows=6,
        pages=40,
    ),
    "leased_job": Hot(
        sent="per message to a serverless host that names the token of a lease",
        values=lambda crowd: (crowd.runs["waiting"][5], "extract", "token-7", FORMAT),
        indexes={"jobs_pkey", "runs_pkey"},
        rows=3,
        pages=20,
    ),
    "prolong_jobs": Hot(
        sent="per job that a serverless host executes, three times per lease",
        values=lambda crowd: (crowd.runs["waiting"][:50], ["extract"] * 50, ["token-7"] * 50, LONG),
        indexes={"jobs_pkey"},
        rows=100,
        pages=50 * 12,
    ),
    "held_jobs": Hot(
        sent="per hint and beat while a supervisor executes jobs",
        values=lambda crowd: (crowd.session,),
        indexes={"jobs_session"},
        rows=210,
        pages=210,
    ),
    "release_job": Hot(
        sent="per job that is given back",
        values=lambda crowd: (crowd.runs["waiting"][5], "extract", "token-7", None),
        indexes={"jobs_pkey"},
        rows=2,
        pages=20,
    ),
    "discard_job": Hot(
        sent="per job that its run knows nothing of",
        values=lambda crowd: (crowd.runs["waiting"][5], "extract", "token-7"),
        indexes={"jobs_pkey"},
        rows=2,
        pages=20,
    ),
    "run_jobs": Hot(
        sent="per look at the jobs of a run, or of a page of runs",
        values=lambda crowd: (crowd.runs["waiting"][5:6],),
        indexes={"jobs_pkey"},
        rows=2 + 8,
        pages=10,
    ),
    "expired_jobs": Hot(
        sent="by whoever sweeps",
        values=lambda crowd: (tokens(CLAIMED), list(KEYS), LONG),
        indexes={"jobs_leased", "jobs_session", "jobs_pkey"},
        rows=8 * CLAIMED,
        pages=60 * CLAIMED,
    ),
    "due_runs": Hot(
        sent="per maintenance tick of a serverless host",
        values=lambda _crowd: (list(KEYS), CLAIMED, FORMAT),
        indexes={"runs_claim", "runs_owner"},
        rows=min(DUE, 10 * len(WORKFLOWS) * CLAIMED) + 3 * CLAIMED,
        pages=2 * DUE + 40 * CLAIMED,
    ),
    "claim": Hot(
        sent="per hundred due runs, and per hint",
        values=lambda crowd: (crowd.newcomer, CLAIMED, LONG_AGO, FORMAT),
        indexes={"runs_claim", "runs_owner", "runs_pkey"},
        # Of each workflow and priority the oldest are looked at, as many as are wanted in all.
        rows=min(DUE, 10 * len(WORKFLOWS) * CLAIMED) + 4 * CLAIMED,
        pages=2 * DUE + 40 * CLAIMED,
    ),
    "claim of a dead process's": Hot(
        sent="per hundred runs to take over",
        values=lambda crowd: (crowd.session, CLAIMED, LONG_AGO, FORMAT),
        indexes={"runs_claim", "runs_owner", "runs_pkey"},
        rows=min(DUE, 10 * len(WORKFLOWS) * CLAIMED) + 5 * CLAIMED,
        pages=2 * DUE + 40 * CLAIMED,
    ),
    "hold_suspended": Hot(
        sent="per tick of a host without sessions",
        values=lambda _crowd: (WORKFLOWS, ["1"] * len(WORKFLOWS), CLAIMED, timedelta(minutes=5), FORMAT),
        indexes={"runs_claim", "runs_owner", "runs_pkey"},
        # All that is due without being suspended is passed over, and all that is owned is asked for attention.
        rows=DUE + OWNED + ORPHANS + 4 * CLAIMED,
        pages=2 * DUE + OWNED + ORPHANS + 40 * CLAIMED,
    ),
    "load_runs": Hot(
        sent="per claim",
        values=lambda crowd: (crowd.runs["due"][:CLAIMED],),
        indexes={"runs_pkey", "history_pkey"},
        rows=5 * CLAIMED,
        pages=16 * CLAIMED,
    ),
    "load_ended": Hot(
        sent="per hint while somebody waits for runs of others",
        # Of all that are waited for most have not ended.
        values=lambda crowd: ([*crowd.runs["completed"][::985], *crowd.runs["sleeping"][:200]], CLAIMED),
        indexes={"runs_pkey", "history_pkey"},
        rows=3 * CLAIMED + 6 * CLAIMED,
        pages=3 * 5 * CLAIMED + 25 * CLAIMED,
    ),
    "load_run": Hot(
        sent="when somebody else appended, and per look at a run",
        values=lambda crowd: (crowd.runs["completed"][50_000], 0, True),
        indexes={"runs_pkey", "history_pkey"},
        rows=12,
        pages=30,
    ),
    "heads": Hot(
        sent="per hint while somebody follows runs of others",
        values=lambda crowd: (crowd.runs["completed"][::985],),
        indexes={"runs_pkey"},
        rows=3 * CLAIMED,
        pages=10 * CLAIMED,
    ),
    "heartbeat": Hot(
        sent="every second or three per process",
        values=lambda crowd: beat_parameters(crowd.session, adrift=True, lower=LONG_AGO, locked=True),
        indexes={
            *("runs_claim", "runs_owner", "scheduled_commands_due"),
            *("jobs_due", "jobs_leased", "jobs_session"),
        },
        rows=3 * OWNED + 2 * DUE_MAX + 300,
        pages=1500,
    ),
    "condemn_expired": Hot(
        sent="by whoever sweeps",
        values=lambda crowd: (100,),
        indexes=set(),
        rows=10,
        pages=20,
    ),
    "condemn_absent": Hot(
        sent="after a process has died",
        values=lambda crowd: (crowd.session, utc_now()),
        indexes=set(),
        rows=10,
        pages=20,
    ),
    "forget_sessions": Hot(
        sent="per session that is opened",
        values=lambda crowd: (),
        indexes={"runs_owner", "jobs_session"},
        rows=10,
        pages=20,
    ),
    "find_key": Hot(
        sent="per start with a key that has been used",
        values=lambda crowd: key_of(crowd, crowd.runs["completed"][50_000]),
        indexes={"idempotency_keys_pkey"},
        rows=1,
        pages=6,
    ),
    "delete_expired_keys": Hot(
        sent="per batch that met keys of long ago",
        values=lambda crowd: tuple(zip(*(key_of(crowd, id) for id in crowd.runs["completed"][::2000]), strict=True)),
        indexes={"idempotency_keys_pkey"},
        rows=BATCH,
        pages=8 * BATCH,
    ),
    "unpark_workflows": Hot(
        sent="per session that is opened",
        values=lambda crowd: ([WORKFLOWS[0]], ["1"], ["print-of-1"]),
        indexes={"runs_parked"},
        rows=PARKED + 1,
        pages=PARKED,
    ),
    "find_stuck": Hot(
        sent="per minute, by one process",
        values=lambda crowd: (None, 1000, 10_000),
        indexes={"runs_idle", "runs_owner", "jobs_pkey"},
        rows=30,
        # Ten by itself; the entries that other tests' rolled-back claims left in the index are looked up too.
        pages=300,
    ),
    "find_unknown": Hot(
        sent="per minute, by one process, where a grace is set",
        # Nobody has known anything for no time at all: all workflows are looked for, and what is due of them.
        values=lambda crowd: ("-01:00", CLAIMED),
        indexes={"runs_claim", "runs_owner"},
        rows=DUE + ORPHANS + SLEEPING + WAITING + 100,
        pages=DUE + ORPHANS + SLEEPING + WAITING + 500,
    ),
    "heal_run": Hot(
        sent="per run that is stuck",
        values=lambda crowd: (
            *(crowd.free[0].id, crowd.free[0].state.seq, crowd.free[0].state.seq, utc_now(), "RUNNING", "running"),
            *(utc_now(), None, "0", 0, None),
        ),
        indexes={"runs_pkey"},
        rows=2,
        pages=30,
    ),
    "take_chore": Hot(
        sent="per minute, by every process",
        values=lambda crowd: ("run.reapStuck", crowd.session, "00:01"),
        indexes=set(),
        rows=1,
        pages=10,
    ),
    "list_newest": Hot(
        sent="per page of runs",
        values=a_page(None),
        indexes={"runs_pkey"},
        rows=5 * PAGE,
        pages=6 * PAGE,
    ),
    # No index leads to a status that is neither active nor FAILED: all heads from the newest on are passed over.
    "list_newest completed": Hot(
        sent="per page of completed runs",
        values=a_page("COMPLETED"),
        indexes={"runs_pkey"},
        rows=ACTIVE + 5 * PAGE,
        pages=ACTIVE,
    ),
    "list_newest cancelled": Hot(
        sent="per page of cancelled runs, of which the crowd has one in two hundred",
        values=a_page("CANCELLED"),
        indexes={"runs_pkey"},
        rows=ACTIVE + 210 * PAGE,
        pages=ACTIVE,
    ),
    "list_of_workflow": Hot(
        sent="per page of runs of a workflow",
        values=a_page(None, WORKFLOWS[1]),
        indexes={"runs_workflow"},
        rows=3 * PAGE,
        pages=3 * PAGE,
    ),
    "list_failed": Hot(
        sent="per page of failed runs",
        values=a_page("FAILED", None),
        indexes={"runs_failed"},
        rows=5 * PAGE,
        pages=6 * PAGE,
    ),
    "list_failed of a workflow": Hot(
        sent="per page of failed runs of a workflow",
        values=a_page("FAILED", WORKFLOWS[1]),
        indexes={"runs_failed"},
        rows=8 * FAILED,
        pages=5 * FAILED,
    ),
    "list_cancelled": Hot(
        sent="per page of cancelled runs",
        values=a_page("CANCELLED", None),
        indexes={"runs_cancelled"},
        rows=6 * PAGE,
        pages=6 * PAGE,
    ),
    "list_cancelled of a workflow": Hot(
        sent="per page of cancelled runs of a workflow",
        values=a_page("CANCELLED", WORKFLOWS[1]),
        indexes={"runs_cancelled"},
        rows=8 * CANCELLED,
        pages=5 * CANCELLED,
    ),
    "list_active": Hot(
        sent="per page of runs that have not ended",
        values=a_page("SUSPENDED", None),
        indexes={"runs_owner", "runs_claim", "runs_parked", "runs_pkey", "jobs_pkey"},
        rows=3 * ACTIVE + JOBS + WAITING,
        pages=8 * ACTIVE,
    ),
    "find_runs": Hot(
        sent="per command that names a run by the end of its id",
        values=lambda crowd: (crowd.runs["completed"][50_000][-8:],),
        indexes={"runs_short_id"},
        rows=3,
        pages=10,
    ),
    "live_workflows": Hot(
        sent="per look at a run",
        values=lambda crowd: (),
        indexes=set(),
        rows=20,
        pages=30,
    ),
    "read_progress": Hot(
        sent="per look at a run",
        values=lambda crowd: (crowd.runs["completed"][10],),
        indexes={"logs_progress"},
        rows=20,
        pages=10,
    ),
    "read_logs": Hot(
        sent="per look at a run's log",
        values=lambda crowd: (crowd.runs["completed"][10], 0, 1000),
        indexes={"logs_run"},
        rows=20,
        pages=40,
    ),
    "read_notes": Hot(
        sent="per look at a run's annotations",
        values=lambda crowd: (crowd.runs["completed"][10], 0, 500),
        indexes={"history_pkey"},
        # The run's own appends, and the events in them.
        rows=5,
        pages=15,
    ),
    "write_logs": Hot(
        sent="per 1000 log lines or second",
        values=lambda crowd: tuple(
            [value] * BATCH for value in (str(uuid4()), "extract", 1, 1, utc_now().isoformat(), "INFO", "said", None)
        ),
        indexes=set(),
        rows=0,
        pages=12 * BATCH,
    ),
    "command_schedule": Hot(
        sent="per command that is scheduled",
        values=lambda crowd: ("new", str(uuid4()), utc_now(), WORKFLOWS[0], "{}"),
        indexes=set(),
        rows=0,
        pages=12,
    ),
    "command_schedule again": Hot(
        sent="per command that replaces another",
        values=lambda crowd: ("command 2000", str(uuid4()), utc_now(), WORKFLOWS[0], "{}"),
        indexes=set(),
        rows=1,
        pages=16,
    ),
    "command_cancel": Hot(
        sent="per command that is cancelled",
        values=lambda crowd: ("command 2000",),
        indexes={"scheduled_commands_pkey"},
        rows=1,
        pages=6,
    ),
    "command_take": Hot(
        sent="per 32 commands that are due",
        values=lambda crowd: (WORKFLOWS, COMMANDS, "10 s"),
        indexes={"scheduled_commands_due", "scheduled_commands_pkey"},
        rows=5 * COMMANDS,
        pages=30 * COMMANDS,
    ),
    "command_postpone": Hot(
        sent="per command that is tried again, or lasts",
        values=lambda crowd: ("command 2000", SCHEDULE_ID, 0, "1 s", None),
        indexes={"scheduled_commands_pkey"},
        rows=1,
        pages=10,
    ),
    "command_settle": Hot(
        sent="per command that was dispatched",
        values=lambda crowd: ("command 2000", SCHEDULE_ID, 0, None),
        indexes={"scheduled_commands_pkey"},
        rows=2,
        pages=10,
    ),
    "command_forget": Hot(
        sent="per command that fails",
        values=lambda crowd: ("-1 day", 10),
        indexes={"scheduled_commands_failed", "scheduled_commands_pkey"},
        rows=50,
        pages=100,
    ),
    "blob_put": Hot(
        sent="per large payload",
        values=lambda crowd: (f"runs/{uuid4()}/output", "\\x00"),
        indexes=set(),
        rows=0,
        pages=16,
    ),
    "blob_get": Hot(
        sent="per large payload",
        values=lambda crowd: (f"runs/{crowd.runs['completed'][500]}/output",),
        indexes={"blobs_pkey"},
        rows=1,
        pages=5,
    ),
    "blob_has": Hot(
        sent="per look at a blob",
        values=lambda crowd: (f"runs/{crowd.runs['completed'][500]}/output",),
        indexes={"blobs_pkey"},
        rows=1,
        pages=5,
    ),
    "blob_list": Hot(
        sent="per run that is deleted",
        values=lambda crowd: tuple(f"runs/{crowd.runs['completed'][500]}{end}" for end in "/0"),
        indexes={"blobs_pkey"},
        rows=1,
        pages=5,
    ),
    "blob_delete": Hot(
        sent="per blob that is deleted",
        values=lambda crowd: (f"runs/{crowd.runs['completed'][500]}/output",),
        indexes={"blobs_pkey"},
        rows=1,
        pages=10,
    ),
    "spread": Hot(
        sent="per hint or second, by every process that has sinks",
        values=lambda crowd: (BATCH, LONG_AGO),
        indexes={"runs_publish", "runs_pkey"},
        rows=3 * BATCH,
        pages=35 * BATCH,
    ),
    "claim_deliveries": Hot(
        sent="per hint or second, for each sink of a process",
        values=lambda crowd: (SINK, BATCH, "00:00:30", str(uuid4()), ROWS_MAX, LONG_AGO),
        indexes={"deliveries_due", "deliveries_pkey", "history_pkey"},
        # A run of the crowd has five appends, of which four are wanted.
        rows=3 * BATCH + 6 * BATCH,
        pages=25 * BATCH,
    ),
    "settle_deliveries": Hot(
        sent="per claim of deliveries",
        values=lambda crowd: settled_columns([settlement(crowd, n) for n in range(BATCH)]),
        indexes={"deliveries_pkey"},
        rows=4 * BATCH,
        pages=25 * BATCH,
    ),
    "replay_dead_letters": Hot(
        sent="per replay",
        values=lambda crowd: (BATCH,),
        indexes={"dead_letters_pkey"},
        rows=3 * BATCH,
        pages=20 * BATCH,
    ),
    "list_dead_letters": Hot(
        sent="per page of dead letters",
        values=lambda crowd: (0, PAGE),
        indexes={"dead_letters_pkey"},
        rows=PAGE,
        pages=10,
    ),
}

# The forms of statements that also change jobs.
WITH_JOBS = {f"{name}_jobs": name for name in ("append_create", "append_owned", "append_foreign")}

# Once per process or per day, on tables that stay small; what metrics ask for four times a minute, counting no further
# than they say; when somebody asks what is wrong; and what the benchmark compares us with.
COLD = {
    "backlog",
    "bare_append",
    "bare_create",
    "close_session",
    "diagnose_backlog",
    "diagnose_commands",
    "diagnose_jobs",
    "diagnose_outbox",
    "diagnose_parked",
    "diagnose_privileges",
    "diagnose_server",
    "diagnose_tables",
    "diagnose_transactions",
    "find_workflow",
    "forget_sink",
    "history_partitions",
    "list_sessions",
    "list_sinks",
    "lock_session",
    "open_session",
    "register_sinks",
    "register_workflows",
    "same_database",
    "sink_debts",
    "waiting_jobs",
    "workflow_keys",
}


async def test_every_statement_is_known_to_be_hot_or_cold() -> None:
    files = {file.stem for file in (Path(adapters.postgres.__file__).parent / "sql").glob("*.sql")}

    hot = {name.partition(" ")[0] for name in HOT} - WITH_JOBS.keys()
    assert hot & COLD == set()
    assert files - {"head.fragment", "page_of_heads.fragment", "jobs.fragment"} == hot | COLD


@pytest.mark.parametrize("name", HOT)
async def test_a_hot_statement_reaches_a_bounded_number_of_rows_by_its_indexes(planned: Place, name: str) -> None:
    plan = await planned.execute(name)

    assert excess(plan, HOT[name]) == []
    assert indexes_of(plan) == HOT[name].indexes


@pytest.mark.parametrize("name, index", [(name, index) for name, hot in HOT.items() for index in sorted(hot.indexes)])
async def test_a_statement_that_lacks_an_index_is_found_out(place: Place, name: str, index: str) -> None:
    async with place.without(index):
        try:
            plan = await place.execute(name)
        except (asyncpg.QueryCanceledError, asyncpg.InvalidColumnReferenceError):
            return  # it takes too long to be measured, or cannot be executed at all

    assert excess(plan, HOT[name]) != []


def excess(plan: Plan, hot: Hot) -> list[str]:
    found = [f"reads {table} from end to end" for table in scans_of_whole_tables(plan)]
    if (rows := rows_touched(plan)) > hot.rows:
        found.append(f"touches {rows:.0f} rows")
    if (pages := pages_touched(plan)) > hot.pages:
        found.append(f"touches {pages} pages")
    return found


# -- a connection among the crowd --------------------------------------------------------------------------------------


class Place:
    """One of our connections, on which every hot statement is prepared, and the crowd around it."""

    def __init__(self, connection: asyncpg.Connection, schema: Schema) -> None:
        self.connection = connection
        self.crowd: Crowd
        self._schema = schema

    async def do(self, sql: str) -> None:
        await self.connection.execute(qualify(sql, self._schema))

    async def make_quiet(self) -> None:
        """Nobody else comes by and looks at the tables; and what is in them need not outlive the server."""
        tables = await self.connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = $1 AND tablename <> 'history'", self._schema
        )
        for (table,) in tables:
            await self.do(f"ALTER TABLE leasehold.{table} SET (autovacuum_enabled = off)")
            await self.do(f"ALTER TABLE leasehold.{table} SET UNLOGGED")

    async def prepare(self) -> None:
        for name in sorted({name.partition(" ")[0] for name in HOT}):
            sql = statement(WITH_JOBS.get(name, name), self._schema, jobs=name in WITH_JOBS)
            await self.connection.execute(f"PREPARE {name} AS {sql}")

    async def costs(self) -> Mapping[str, float]:
        """What the server thinks of the plan of each statement, made now or kept; another cost is another plan."""
        costs: dict[str, float] = {}
        ours = "NOT starts_with(name, '__asyncpg')"
        for name, count in await self.connection.fetch(
            f"SELECT name, cardinality(parameter_types) FROM pg_prepared_statements WHERE {ours}"
        ):
            nulls = f"({', '.join(['NULL'] * count)})" if count else ""
            text = await self.connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE {name}{nulls}")
            costs[name] = json.loads(text)[0]["Plan"]["Total Cost"]
        return costs

    async def execute(self, name: str) -> Plan:
        """Execute a row of the table, without consequences."""
        return await explained(self.connection, name.partition(" ")[0], HOT[name].values(self.crowd))

    @asynccontextmanager
    async def without(self, index: str) -> AsyncIterator[None]:
        """As if nobody had made this index; impatient, for what happens without may take long."""
        transaction = self.connection.transaction()
        await transaction.start()
        try:
            await self.do("SET LOCAL statement_timeout = '250ms'")
            table, key, _ = index.partition("_pkey")
            await self.do(
                f"ALTER TABLE leasehold.{table} DROP CONSTRAINT {index}" if key else f"DROP INDEX leasehold.{index}"
            )
            yield
        finally:
            await transaction.rollback()


@pytest.fixture(scope="module")
async def place(adapter_url: str) -> AsyncIterator[Place]:
    schema = Schema(f"test_{secrets.token_hex(5)}")
    await migrate(adapter_url, schema=schema)
    async with (
        connected(Target(url=adapter_url, purpose="plans")) as ours,
        connected(Target(url=adapter_url, purpose="fill", settings=PATIENT)) as theirs,
        open_postgres(adapter_url, schema=schema) as store,
    ):
        place = Place(ours, schema)
        await place.make_quiet()
        # The first one makes a schema, and whenever a schema is made the server forgets all plans.
        await theirs.execute("CREATE TEMPORARY TABLE first ()")
        await place.prepare()
        costs = await place.costs()
        place.crowd = await gather(store, theirs, schema)
        assert await place.costs() == costs, "the plans for empty tables have been kept"
        yield place


@asynccontextmanager
async def connected(target: Target) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(target)
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


@pytest.fixture(
    params=["planned for empty tables", "planned without statistics", "planned with statistics"], scope="module"
)
async def planned(request: pytest.FixtureRequest, place: Place) -> Place:
    """What the server knew when it made the plans that are executed. The later ones come after the first."""
    if request.param == "planned without statistics":
        await place.do("DISCARD PLANS")
    elif request.param == "planned with statistics":
        for table in TABLES:
            await place.do(f"ANALYZE leasehold.{table}")
    return place
