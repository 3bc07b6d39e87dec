"""Runs that do not progress, for reasons made on purpose, and what is said of each; on a real Postgres."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from kernel import NonRetryable, RetryPolicy, RunFailed
from kernel.commands.execute_job import ExecuteJob, decide_start
from kernel.model.facts import CorruptHistory
from runtime import App
from runtime.commandline.diagnosing import case_of
from runtime.commandline.explanations import EXPLAINED, Explanation, explain
from runtime.commandline.explanations_json import explanation_json
from runtime.commandline.run_case import Case
from tests.architecture.operations import SECTIONS, waiting_words
from tests.conftest import execute
from tests.runtime.gates import Doc, Gate, echo, failing
from tests.runtime.queues import Gates, gated, polled
from tests.runtime.shared_store import SharedStore, until

pytestmark = pytest.mark.anyio

SOON = timedelta(milliseconds=1)
NOBODY = App(workflows=[])
PATIENT = RetryPolicy(
    max_attempts=5, initial_interval=timedelta(hours=1), max_interval=timedelta(hours=1), jitter=False
)


@pytest.fixture
def store(postgres: SharedStore) -> SharedStore:
    return postgres


async def told(store: SharedStore, run_id: str) -> tuple[Case, Explanation]:
    """What somebody is told who knows no app."""
    async with store.client(NOBODY) as client:
        case = await case_of(client, run_id)
        said = explain(case)
        with suppress(CorruptHistory):
            shown = await client.run(run_id).describe()
            assert said.reason == ("finished" if shown.ended else shown.waiting_for or "executing")
    return case, said


async def words(store: SharedStore, run_id: str) -> tuple[str, str, str]:
    """The reason, the sentences and the advice."""
    _, said = await told(store, run_id)
    return said.reason, " ".join(said.because), " ".join(said.advice)


async def waits(run: Any, word: str | None) -> None:
    async def so() -> bool:
        return (await run.describe()).waiting_for == word

    await until(so)


async def test_a_run_that_executes_is_held_by_a_process_until_its_lease_ends(store: SharedStore) -> None:
    gate = Gate()
    async with store.supervisor(gate.workflow(), name="north") as supervisor:
        run = await supervisor.start("gated", Doc(text="x"))
        await until(lambda: gate.entered)

        case, said = await told(store, run.id)
        gate.open()
        await run.result()

    assert said.reason == "executing"
    assert f'held by "north" (host {os.uname().nodename}, pid {os.getpid()}, session ' in said.because[0]
    assert "whose lease lasts until" in said.because[0]
    assert 'Stage "hold" executes: attempt 1, begun at' in said.because[1]
    holder = explanation_json(case, said)["holder"]
    assert (holder["state"], holder["name"], holder["pid"]) == ("live", "north", os.getpid())


async def test_a_run_that_is_tried_again_says_when_and_after_what(store: SharedStore) -> None:
    workflow = failing(ValueError, retry=PATIENT)
    async with store.supervisor(workflow) as supervisor:
        run = await supervisor.start("failing", Doc(text="out of order"))
        await waits(run, "retry")
        alive = await words(store, run.id)
    case, said = await told(store, run.id)

    assert alive[0] == said.reason == "retry"
    assert 'Stage "fail" is tried again at' in alive[1]
    assert "after attempt 1 failed (ValueError: out of order)" in alive[1]
    assert f"leasehold rerun {run.id[-8:]} --from fail" in alive[2]
    assert "No process lives" not in alive[1]
    assert "No process lives that could go on with it." in said.because
    assert said.advice[0] == "Start one: leasehold up"
    assert said.until is not None
    assert timedelta(minutes=50) < said.until - case.now < timedelta(minutes=61)


async def test_a_suspended_run_says_when_it_is_looked_at_again(store: SharedStore) -> None:
    async with store.supervisor(polled([], every=timedelta(hours=1))) as supervisor:
        run = await supervisor.start("polled", 3)
        await waits(run, "poll")

        reason, because, advice = await words(store, run.id)

    assert reason == "poll"
    assert 'Stage "order" waits for something outside and is looked at again at' in because
    assert f"leasehold poll {run.id[-8:]}" in advice


async def test_a_job_in_a_queue_says_whether_anybody_serves_it_and_who_executes_it(store: SharedStore) -> None:
    gates = Gates()
    workflow = gated(gates)
    async with store.supervisor(workflow, passivate_after=0.05) as owner:
        run = await owner.start(workflow, 1)
        await waits(run, "queue")
        unserved = await words(store, run.id)
        async with store.supervisor(workflow, queues=("gpu",), name="renderer", max_runs=1):
            await until(lambda: gates.entered)
            executing = await words(store, run.id)
            gates.open("render")
            await run.result(timeout=20)

    assert unserved[0] == "queue"
    assert 'No live process that knows its workflow serves "gpu".' in unserved[1]
    assert "leasehold up --queues gpu" in unserved[2]
    assert executing[0] == "executing"
    assert 'Its job in queue "gpu" was taken by "renderer"' in executing[1]


async def test_a_run_that_a_host_executes_does_not_wait_to_be_claimed(store: SharedStore) -> None:
    gate = Gate()
    async with store.host(gate.workflow()) as host:
        run = await host.start("gated", Doc(text="x"))
        await host.run_maintenance_tick()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host.process_available_jobs)
            await until(lambda: gate.entered)
            reason, because, _ = await words(store, run.id)
            waiting = (await run.describe()).waiting_for
            gate.open()

    assert (reason, waiting) == ("executing", None)
    assert "was taken by a call of a host, until" in because


async def test_a_job_whose_host_died_is_told_with_who_takes_note_of_it(store: SharedStore) -> None:
    async with store.host(Gate().workflow()) as host:
        run = await host.start("gated", Doc(text="x"))
        await host.run_maintenance_tick()
        job = await host.storage.jobs.take(run.id, "hold", "t", holder=timedelta(microseconds=1))
        command = ExecuteJob(run_id=run.id, stage_id="hold", token=job.lease.token)
        await host.kernel.ports.journals.record(run.id, lambda state, moment: decide_start(state, command, moment))

        reason, because, advice = await words(store, run.id)

    assert reason == "claim"
    assert 'Its job in queue "default" was taken by a call of a host, whose lease ended' in because
    assert "leasehold up --queues default; or have the ServerlessHost called." in advice


async def test_what_is_due_in_a_queue_that_nobody_serves_waits_for_that_queue(store: SharedStore) -> None:
    workflow = failing(ValueError, retry=replace(PATIENT, initial_interval=SOON, max_interval=SOON))
    async with store.host(workflow) as host:
        run = await host.start("failing", Doc(text="x"))
        await host.run_maintenance_tick()
        await host.process_available_jobs()
        await waits(run, "queue")

        reason, because, advice = await words(store, run.id)

    assert reason == "queue"
    assert 'No live process that knows its workflow serves "default".' in because
    assert "could be tried again since" in because
    assert "ValueError" in because
    assert "leasehold up --queues default" in advice


async def test_a_delayed_run_says_when_it_begins(store: SharedStore) -> None:
    at = datetime.now(UTC) + timedelta(hours=2)
    async with store.client(echo()) as client:
        run = await client.start("echo", Doc(text="x"), run_at=at)

    _, said = await told(store, run.id)

    assert (said.reason, said.until) == ("delayed_until", at)
    assert "(in 1 h)" in said.because[0]
    assert "No process lives that could go on with it." in said.because


async def test_a_run_that_nobody_takes_says_that_no_process_lives(store: SharedStore) -> None:
    async with store.client(echo()) as client:
        run = await client.start("echo", Doc(text="x"))

    reason, because, advice = await words(store, run.id)

    assert reason == "claim"
    assert "It could go on, and nobody has taken it: due since 20" in because
    assert "No process lives that could go on with it." in because
    assert advice == "Start one: leasehold up"


async def test_a_run_whose_process_died_says_who_held_it_and_what_was_interrupted(store: SharedStore) -> None:
    assert store.url is not None
    gate = Gate()
    async with store.supervisor(gate.workflow(), name="south", drain_grace=0.0) as supervisor:
        run = await supervisor.start("gated", Doc(text="x"))
        await until(lambda: gate.entered)
        # As after a kill: the head still names a session whose lease has ended.
        async with store.client(NOBODY) as client:
            execute(
                store.url, "UPDATE leasehold.sessions SET lease_expires_at = clock_timestamp() - interval '1 minute'"
            )
            case = await case_of(client, run.id)
        gate.open()

    said = explain(case)
    assert said.reason == "claim"
    assert 'It was held by "south"' in said.because[0]
    assert "whose lease ended at" in said.because[0]
    assert "Interrupted: hold." in said.because
    assert explanation_json(case, said)["holder"]["state"] == "dead"


async def test_a_run_of_another_version_says_which_one_is_known(store: SharedStore) -> None:
    async with store.client(echo(version="1")) as client:
        run = await client.start("echo", Doc(text="x"))
    async with store.supervisor(echo(version="2")):
        reason, because, advice = await words(store, run.id)

    assert reason == "unknown_workflow"
    assert 'it does not know workflow "echo" in version "1". They know it in version 2.' in because
    assert "App(workflows=[…])" in advice


async def test_a_run_whose_definition_changed_says_how_to_give_it_back(store: SharedStore) -> None:
    async with store.client(Gate().workflow()) as client:
        run = await client.start("gated", Doc(text="x"))
    async with store.supervisor(Gate().workflow(stage_id="renamed")) as supervisor:
        await waits(supervisor.run(run.id), "definition_changed")

        reason, because, advice = await words(store, run.id)

    assert reason == "definition_changed"
    assert "It was set aside at" in because
    assert "definition_changed:" in because
    assert f"leasehold unpark {run.id[-8:]}" in advice
    assert "leasehold up --accept-changes" in advice


async def test_a_run_whose_history_is_damaged_is_explained_from_its_head(store: SharedStore) -> None:
    assert store.url is not None
    async with store.client(echo()) as client:
        run = await client.start("echo", Doc(text="x"))
    execute(
        store.url, f"""UPDATE leasehold.history SET events = '[{{"type": "nonsense"}}]' WHERE run_id = '{run.id}'"""
    )
    execute(
        store.url,
        "UPDATE leasehold.runs SET wake_at = NULL, parked_at = now(), parked_reason = 'undecidable: it is damaged' "
        f"WHERE id = '{run.id}'",
    )

    reason, because, advice = await words(store, run.id)

    assert reason == "undecidable"
    assert "undecidable: it is damaged." in because
    assert "report it" in advice


async def test_a_run_of_a_newer_release_says_so(store: SharedStore) -> None:
    assert store.url is not None
    async with store.client(echo()) as client:
        run = await client.start("echo", Doc(text="x"))
    execute(store.url, f"UPDATE leasehold.runs SET format = 99 WHERE id = '{run.id}'")

    reason, because, _ = await words(store, run.id)

    assert (reason, "format 99" in because) == ("newer_release", True)


async def test_a_run_without_room_says_who_has_it(store: SharedStore) -> None:
    gate = Gate()
    async with store.supervisor(gate.workflow(), name="small", max_bodies=1) as supervisor:
        first = await supervisor.start("gated", Doc(text="x"))
        await until(lambda: gate.entered)
        second = await supervisor.start("gated", Doc(text="y"))
        await waits(second, "capacity")

        reason, because, advice = await words(store, second.id)
        gate.open()
        await first.result()

    assert reason == "capacity"
    assert 'held by "small"' in because
    assert "LEASEHOLD_MAX_BODIES" in because
    assert "start another process" in advice


async def test_a_run_that_its_process_has_not_begun_is_told_what_is_known_and_nothing_that_is_not(
    store: SharedStore,
) -> None:
    assert store.url is not None
    async with store.client(echo()) as client:
        run = await client.start("echo", Doc(text="x"))
    # As a process leaves it that dies when it has claimed the run: its session lives until the lease ends.
    execute(
        store.url,
        "WITH dead AS (INSERT INTO leasehold.sessions (id, lease, lease_expires_at, workflow_keys, info) "
        "VALUES (gen_random_uuid(), '1 min', clock_timestamp() + interval '1 min', '{}', "
        """'{"name": "gone", "hostname": "h", "pid": 1}') RETURNING id) """
        f"UPDATE leasehold.runs SET owner = (SELECT id FROM dead), wake_at = NULL WHERE id = '{run.id}'",
    )

    reason, because, advice = await words(store, run.id)

    assert reason == "capacity"
    assert 'held by "gone"' in because
    assert "Nothing of it has begun. Either that process took it a moment ago; or it has no room" in because
    assert "or it is gone, and its lease has not ended yet" in because
    assert f"Look again in a few seconds: leasehold explain {run.id[-8:]}" in advice


async def test_a_run_that_has_ended_says_how_and_what_its_sinks_refused(store: SharedStore) -> None:
    assert store.url is not None
    async with store.supervisor(App(workflows=[failing(NonRetryable), echo()])) as supervisor:
        failed = await supervisor.start("failing", Doc(text="no such page"))
        with pytest.raises(RunFailed):
            await failed.result()
        done = await supervisor.start("echo", Doc(text="x"))
        await done.result()
        cancelled = await supervisor.start("echo", Doc(text="x"), run_at=datetime.now(UTC) + timedelta(hours=1))
        await cancelled.cancel("not needed")
    execute(store.url, "INSERT INTO leasehold.sinks (name) VALUES ('audit')")
    execute(
        store.url,
        "INSERT INTO leasehold.dead_letters (run_id, seq, sink, error, tries) "
        f"VALUES ('{done.id}', 2, 'audit', 'ValueError: too long', 3)",
    )

    of_failed, of_done, of_cancelled = [await words(store, run.id) for run in (failed, done, cancelled)]

    assert {of_failed[0], of_done[0], of_cancelled[0]} == {"finished"}
    assert 'in stage "fail". NonRetryable: no such page' in of_failed[1]
    assert f"leasehold rerun {failed.id[-8:]} --from fail" in of_failed[2]
    assert "It completed at" in of_done[1]
    assert 'Sink "audit" refused 1 of its events for good: ValueError: too long' in of_done[1]
    assert "leasehold dlq replay" in of_done[2]
    assert "(just now): not needed." in of_cancelled[1]


def test_every_word_that_a_run_may_wait_for_is_explained_as_operations_does() -> None:
    assert set(EXPLAINED) == waiting_words() == SECTIONS
