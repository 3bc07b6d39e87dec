"""Bodies in child interpreters: what crosses, what does not, and what happens when a child dies."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import anyio
import psutil
import pytest

from kernel.ports.executor import BodyCompleted
from runtime.frames import Frame, FrameReader, NotAFrame
from tests.runtime import isolated_stages as stages
from tests.runtime.executing import NOW, Bench, until

pytestmark = [pytest.mark.anyio, pytest.mark.processes]


@pytest.fixture(scope="module")
async def shared_bench(anyio_backend) -> AsyncIterator[Bench]:
    """One pool for all tests of an event loop, as starting an interpreter takes long."""
    bench = Bench()
    async with bench.serving():
        yield bench


@pytest.fixture
async def bench(shared_bench) -> Bench:
    await shared_bench.logs.flush()
    shared_bench.store.lines.clear()
    return shared_bench


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def has_noted(notes: Path) -> list[str]:
    with anyio.fail_after(20):
        while not (notes.exists() and notes.read_text().endswith("\n")):  # noqa: ASYNC110 - another process writes it
            await anyio.sleep(0.005)
    return notes.read_text().splitlines()


@asynccontextmanager
async def in_background(bench: Bench, stage, input: object) -> AsyncIterator[anyio.CancelScope]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.run, stage, input)
        yield tasks.cancel_scope


async def test_a_body_runs_in_another_process(bench) -> None:
    outcome = await bench.run(stages.isolated, {"path": "a"}, config={"isolated": {"loud": True}})

    text = stages.Text.model_validate_json(outcome.output)
    assert text.text == "A"
    assert text.pid != os.getpid()


async def test_an_async_body_has_the_event_loop_of_its_parent(bench, anyio_backend_name) -> None:
    outcome = await bench.run(stages.isolated_async, {"path": "a"})

    assert stages.Text.model_validate_json(outcome.output).text.startswith(anyio_backend_name)


async def test_an_interpreter_is_used_again(bench) -> None:
    first = await bench.run(stages.isolated, {"path": "a"})
    second = await bench.run(stages.isolated, {"path": "a"})

    assert first.output == second.output


async def test_outputs_of_earlier_stages_are_typed_there_too(bench) -> None:
    outcome = await bench.run(stages.joined, after=(stages.earlier,), outputs={"earlier": {"text": "t", "pid": 0}})

    assert outcome.output == b'"Text Text t"'


async def test_metrics_and_artifacts_come_back(bench) -> None:
    outcome = await bench.run(stages.measured)

    assert (outcome.metrics, outcome.artifacts) == ({"pages": 3.0}, {"raw": b"\x00\xff", "table": b"[1]"})


async def test_a_large_payload_crosses_in_both_directions(bench) -> None:
    path = "ab\n\u00e9" * 500_000

    outcome = await bench.run(stages.large, {"path": path})

    assert stages.Text.model_validate_json(outcome.output).text == path[::-1]


async def test_the_body_knows_who_it_is_and_how_long_it_has_by_the_parents_clock(bench) -> None:
    outcome = await bench.run(stages.identity)

    found = json.loads(outcome.output)
    assert (found["run"], found["stage"], found["attempt"]) == ("run-1", "identity", 1)
    late = datetime.fromisoformat(found["deadline"]) - (NOW + timedelta(minutes=5))
    assert timedelta(0) <= late < timedelta(seconds=20)


async def test_log_lines_and_progress_reach_the_parent(bench) -> None:
    outcome = await bench.run(stages.talking)

    assert isinstance(outcome, BodyCompleted), outcome
    line, progress = await bench.written()
    assert (line.level, line.message, line.fields) == ("INFO", "begun", {"odd": "<class 'object'>", "pages": 3})
    assert (progress.level, progress.fields) == ("PROGRESS", {"progress": 0.25, "details": {"of": "all"}})


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_standard_output_is_the_bodys(capfd) -> None:
    bench = Bench()
    async with bench.serving():
        await bench.run(stages.talking)

    assert capfd.readouterr().out == "standard output is the body's\n"


async def test_every_log_line_arrives_in_order(bench) -> None:
    await bench.run(stages.talkative)

    assert [line.message for line in await bench.written()] == [f"line {number}" for number in range(5_000)]


@pytest.mark.parametrize(
    "how, type, message, retryable, delay",
    [
        ("plain", "ValueError", "plain", True, None),
        ("odd", "Odd", "odd one \ufffd", False, None),
        ("final", "NonRetryable", "no", False, None),
        ("later", "RetryAfter", "later", True, timedelta(seconds=8)),
        ("exit", "SystemExit", "5", True, None),
    ],
)
async def test_what_the_body_raises_comes_back(bench, how, type, message, retryable, delay) -> None:
    outcome = await bench.run(stages.raising, how)

    assert (outcome.error.type, outcome.error.message) == (type, message)
    assert (outcome.error.retryable, outcome.retry_after) == (retryable, delay)
    assert "isolated_stages.py" in outcome.error.traceback


@pytest.mark.parametrize(
    "stage, given, error", [(stages.wrong, None, "InvalidOutput"), (stages.isolated, {"file": 1}, "InvalidInput")]
)
async def test_what_the_schemas_refuse_is_never_retried(bench, stage, given, error) -> None:
    outcome = await bench.run(stage, given)

    assert (outcome.error.type, outcome.error.retryable) == (error, False)


@pytest.mark.parametrize("how, says", [("exit", "exit code 3"), ("segfault", "signal SIGSEGV")])
async def test_a_child_that_dies_is_the_outcome_of_its_attempt(bench, how, says) -> None:
    outcome = await bench.run(stages.dying, how)

    assert (outcome.cause, outcome.error.type, outcome.error.retryable) == ("raised", "ProcessDied", True)
    assert says in outcome.error.message
    assert "while it executed the body" in outcome.error.message


async def test_an_interpreter_that_died_while_idle_is_replaced_unseen(bench) -> None:
    first = stages.Text.model_validate_json((await bench.run(stages.isolated, {"path": "a"})).output)
    os.kill(first.pid, signal.SIGKILL)
    outcome = await bench.run(stages.isolated, {"path": "a"})

    assert stages.Text.model_validate_json(outcome.output).pid != first.pid


async def test_a_dying_child_is_noticed_although_what_it_forked_lives_on(bench) -> None:
    with anyio.fail_after(20):
        outcome = await bench.run(stages.forking_and_dying)

    assert outcome.error.type == "ProcessDied"


@pytest.mark.parametrize("what", ["storage", "step", "annotate", "service", "services"])
async def test_what_does_not_work_in_a_child_says_so(bench, what) -> None:
    outcome = await bench.run(stages.reaching, what)

    assert (outcome.error.type, outcome.error.retryable) == ("InvalidStage", False)
    assert 'isolation="process"' in outcome.error.message


async def test_a_timeout_kills_the_child_and_what_it_started(bench, notes) -> None:
    outcome = await bench.run(stages.stuck, str(notes))

    assert (outcome.cause, outcome.error.type) == ("timeout", "TimeoutError")
    pids = [int(pid) for pid in notes.read_text().split()]
    await until(lambda: all(is_gone(pid) for pid in pids))


async def test_cancelling_the_caller_kills_the_child(bench, notes) -> None:
    async with in_background(bench, stages.waiting, str(notes)) as scope:
        (pid,) = await has_noted(notes)
        began = anyio.current_time()
        scope.cancel()

    assert anyio.current_time() - began < 5
    await until(lambda: is_gone(int(pid)))


@pytest.mark.parametrize("stage", [stages.polite, stages.polite_async], ids=["def", "async"])
async def test_a_polite_body_leaves_by_itself_and_its_interpreter_is_used_again(bench, notes, stage) -> None:
    async with in_background(bench, stage, str(notes)) as scope:
        (pid,) = await has_noted(notes)
        scope.cancel()
    outcome = await bench.run(stages.isolated, {"path": "a"})

    assert notes.read_text().splitlines() == [pid, "cleaned up"]
    assert stages.Text.model_validate_json(outcome.output).pid == int(pid)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_interpreter_with_leftovers_is_not_used_again() -> None:
    bench = Bench()
    async with bench.serving():
        outcomes = [await bench.run(stages.untidy, what) for what in ("thread", "child", "environment", "nothing")]

    pids = [int(outcome.output) for outcome in outcomes]
    assert len(set(pids)) == len(pids)
    assert all(is_gone(pid) for pid in pids)


async def test_signals_to_the_whole_service_do_not_end_a_body(bench) -> None:
    outcome = await bench.run(stages.signalled)

    assert outcome.output == b"true"


async def test_a_child_sees_modules_where_its_parent_does(bench) -> None:
    outcome = await bench.run(stages.paths)

    assert json.loads(outcome.output) == [*sys.path, os.environ.get("PYTHONPATH", "(none)")]


async def test_no_more_children_than_allowed(notes) -> None:
    bench = Bench(processes=1)
    async with bench.serving(), in_background(bench, stages.waiting, str(notes)) as scope:
        await has_noted(notes)
        with anyio.move_on_after(0.1) as waited:
            await bench.run(stages.isolated, {"path": "a"})
        scope.cancel()

    assert waited.cancelled_caught


async def test_idle_interpreters_end_with_the_executor() -> None:
    bench = Bench()
    async with bench.serving():
        outcome = await bench.run(stages.isolated, {"path": "a"})

    assert is_gone(stages.Text.model_validate_json(outcome.output).pid)


async def test_a_stage_that_cannot_be_imported_is_a_failed_attempt(bench, monkeypatch) -> None:
    monkeypatch.setattr(stages.isolated.body, "__module__", "no.such.module")
    monkeypatch.setattr(type(stages.isolated), "check_runnable", lambda self: None)

    outcome = await bench.run(stages.isolated, {"path": "a"})

    assert outcome.error.type == "ModuleNotFoundError"


PARENT = """
import sys, anyio
from tests.runtime import isolated_stages as stages
from tests.runtime.executing import Bench

async def main():
    bench = Bench()
    async with bench.serving():
        await bench.run(stages.waiting, sys.argv[1])

anyio.run(main)
"""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_child_does_not_outlive_its_parent(notes) -> None:
    parent = await anyio.open_process(
        [sys.executable, "-c", PARENT, str(notes)], stdin=subprocess.DEVNULL, cwd=Path(__file__).parents[2]
    )
    async with parent:
        (pid,) = await has_noted(notes)
        parent.kill()

    await until(lambda: is_gone(int(pid)))


def test_frames_come_out_as_they_went_in_however_they_are_cut() -> None:
    frames = [Frame("log", {"message": "\ud800 text"}), Frame("run", {"n": 1}, (b"", b"\x00\xff", b"[]"))]
    data = b"".join(frame.encode() for frame in frames)

    for size in (1, 3, 1_000):
        reader = FrameReader()
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        found = [frame for piece in pieces for frame in reader.feed(piece)]
        assert [(f.kind, f.header, list(f.parts)) for f in found] == [(f.kind, f.header, list(f.parts)) for f in frames]


@pytest.mark.parametrize(
    "data", [b"Traceback (most", b"\x00\x00\x00\x02[]", b'\x00\x00\x00\x0c{"parts": 1}', b"\x00\x00\x00\x02{x"]
)
def test_other_bytes_are_not_taken_for_frames(data) -> None:
    with pytest.raises(NotAFrame):
        list(FrameReader().feed(data))


def test_a_frame_is_json_and_nothing_else() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Frame("log", {"value": math.nan}).encode()
