"""The small parts of the benchmark that can be looked at without a database."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import anyio
import anyio.lowlevel
import psutil
import pytest

from adapters.postgres.workbench import Work, process_cpu_s
from kernel.errors import InvalidCommand
from runtime.bench.command import chosen_groups
from runtime.bench.measures import GROUPS
from runtime.bench.messages import decoded, encoded, settings_from, settings_message
from runtime.bench.own_process import LoopLag, cpu_s, memory_bytes
from runtime.bench.takeover import executions
from runtime.bench.workflows import EFFECT_BYTES, effect_line
from runtime.config import Settings

KILLED_AT_S = 1000.0


def effects(*noted: tuple[str, str, float]) -> str:
    return "".join(effect_line(what, run, 1, at_s) for what, run, at_s in noted)


def test_a_body_that_was_in_flight_may_run_again_and_one_that_had_ended_may_not() -> None:
    victim = effects(("b", "ended", 998.0), ("b", "killed", 999.9), ("e", "ended", 999.0))
    survivor = effects(("b", "killed", 1001.0), ("b", "ended", 1001.0), ("b", "own", 999.0))

    found = executions(survivor, victim, KILLED_AT_S)

    assert (found.in_flight, found.ran_again, found.ran_again_needlessly) == (1, 2, 1)


def test_a_body_whose_end_could_not_be_committed_any_more_was_in_flight() -> None:
    victim = effects(("b", "run", 999.8), ("e", "run", 999.999))

    found = executions(effects(("b", "run", 1001.0)), victim, KILLED_AT_S)

    assert (found.in_flight, found.ran_again_needlessly) == (1, 0)


def test_what_runs_a_third_time_was_once_too_often() -> None:
    victim = effects(("b", "run", 999.9))
    survivor = effects(("b", "run", 1001.0), ("b", "run", 1002.0))

    assert executions(survivor, victim, KILLED_AT_S).ran_again_needlessly == 1


def test_every_line_of_effects_has_the_same_length() -> None:
    run_id = "01890000-0000-7000-8000-000000000000"

    assert {len(effect_line(what, run_id, 3, 1.7e9)) for what in "be"} == {EFFECT_BYTES}


def test_settings_survive_the_pipe_with_their_password() -> None:
    settings = Settings(
        database_url="postgresql://ada:secret@host/db", lease=timedelta(seconds=4), renew=timedelta(seconds=1)
    )

    message = decoded(encoded({"settings": settings_message(settings, max_runs=7)}))
    found = settings_from(message["settings"])

    assert found.database_url == "postgresql://ada:secret@host/db"
    assert (found.lease, found.max_runs, found.queues) == (timedelta(seconds=4), 7, settings.queues)


def test_the_processor_time_of_this_process_grows_with_what_it_does() -> None:
    before = cpu_s()

    while cpu_s() < before + 0.05:
        sum(range(10_000))

    assert cpu_s() - before < 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_what_the_operating_system_says() -> None:
    found = memory_bytes()

    assert found is not None
    assert 0.5 < found / psutil.Process().memory_info().rss < 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_processor_time_of_another_process_is_read_by_its_id() -> None:
    program = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        spent_s = process_cpu_s(process.pid)
        process.communicate("\n", timeout=10)

    assert spent_s is not None
    assert 0.15 < spent_s < 5
    assert process_cpu_s(process.pid) is None


def test_the_work_of_a_process_that_appeared_meanwhile_counts_whole() -> None:
    before = Work(moment_s=0, transactions=0, wal_bytes=None, cpu_s_by_process={1: 5.0, 2: 1.0})
    after = Work(moment_s=1, transactions=9, wal_bytes=7, cpu_s_by_process={1: 5.5, 3: 0.25})

    assert after.cpu_s_since(before) == 0.75
    assert after.wal_bytes_since(before) is None


def test_the_work_of_a_server_elsewhere_is_not_known() -> None:
    work = Work(moment_s=0, transactions=0, wal_bytes=1, cpu_s_by_process=None)

    assert work.cpu_s_since(work) is None


@pytest.mark.anyio
async def test_the_lag_of_a_blocked_loop_is_seen() -> None:
    lag = LoopLag()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lag.run)
        while not lag.values:
            await anyio.lowlevel.checkpoint()
        lag.values.clear()
        before = cpu_s()
        while cpu_s() < before + 0.1:
            pass
        while not lag.values:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()

    assert lag.values[0] > 0.05


def test_measures_are_chosen_by_name_in_their_own_order() -> None:
    assert chosen_groups(None) == GROUPS
    assert chosen_groups("latency, pipeline") == ["pipeline", "latency"]


@pytest.mark.parametrize("words", ["latncy", "", ","])
def test_a_measure_that_there_is_not_is_refused_with_those_that_there_are(words: str) -> None:
    with pytest.raises(InvalidCommand) as refused:
        chosen_groups(words)

    assert refused.value.field == "only"
    assert all(group in str(refused.value.hint) for group in GROUPS)
