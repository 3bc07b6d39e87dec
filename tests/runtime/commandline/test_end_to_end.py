"""The command line as people use it: real processes, a real Postgres, real signals."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[3]

APP = """
import time
from pathlib import Path

import anyio
from pydantic import BaseModel

from kernel import StageContext, WorkflowBuilder, stage
from runtime import App


class Job(BaseModel):
    name: str
    seconds: float = 0.0


@stage("work")
async def work(ctx: StageContext[Job]) -> str:
    ctx.log("info", "working", name=ctx.input.name)
    Path(f"{ctx.input.name}.began").touch()
    await anyio.sleep(ctx.input.seconds)
    return f"did {ctx.input.name}"


@stage("block")
async def block(ctx: StageContext[Job]) -> str:
    Path(f"{ctx.input.name}.began").touch()
    time.sleep(ctx.input.seconds)
    return "blocked"


job = WorkflowBuilder("job", input=Job, output=str).pipe(work).build()
blocking = WorkflowBuilder("blocking", input=Job, output=str).pipe(block).build()
app = App(workflows=[job, blocking])
"""


class Terminal:
    """A folder with an app, in which commands are typed."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LEASEHOLD_")},
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LEASEHOLD_DATABASE_URL": database_url,
            "LEASEHOLD_LEASE_S": "4",
            "LEASEHOLD_RENEW_S": "1",
            "LEASEHOLD_APP": "app:app",
        }
        self.processes: list[subprocess.Popen[str]] = []
        (folder / "app.py").write_text(APP, encoding="utf-8")

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """A command that goes on while others are typed; its remarks are in the file that `said` reads."""
        errors = (self.folder / f"{len(self.processes)}.err").open("w")
        process = subprocess.Popen(
            [sys.executable, "-m", "runtime", *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        errors.close()
        self.processes.append(process)
        return process

    def said(self, process: subprocess.Popen[str]) -> str:
        return (self.folder / f"{self.processes.index(process)}.err").read_text()

    def type(self, *words: str, timeout_s: float = 40) -> tuple[int, str, str]:
        """A command from beginning to end."""
        process = self.begin(*words)
        out, _ = process.communicate(timeout=timeout_s)
        return process.returncode, out, self.said(process)

    def wait_until(self, fact: Callable[[], object], timeout_s: float = 40) -> None:
        """Look for a fact that other processes bring about."""
        deadline = time.monotonic() + timeout_s
        while not fact():
            assert time.monotonic() < deadline, [self.said(process) for process in self.processes]
            time.sleep(0.02)

    def up(self, *words: str) -> subprocess.Popen[str]:
        """A supervisor that is up."""
        process = self.begin("up", *words)
        self.wait_until(lambda: "leasehold is up" in self.said(process) or process.poll() is not None)
        assert process.poll() is None, self.said(process)
        return process

    def start(self, workflow: str, name: str, seconds: float) -> str:
        """A run that has begun to execute."""
        code, out, err = self.type(
            "start", workflow, "--input", json.dumps({"name": name, "seconds": seconds}), "--json"
        )
        assert code == 0, err
        self.wait_until((self.folder / f"{name}.began").exists)
        return str(json.loads(out)["id"])

    def status(self, run_id: str) -> str:
        return str(json.loads(self.type("show", run_id, "--json")[1])["status"])


@pytest.fixture
def terminal(migrated_database_url: str, tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path, migrated_database_url)
    yield terminal
    for process in terminal.processes:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.communicate()


def test_a_run_is_started_watched_and_looked_at_from_another_process(terminal: Terminal) -> None:
    supervisor = terminal.up()

    code, out, err = terminal.type("start", "job", "--input", '{"name": "a"}', "--wait", "--json")

    shown = json.loads(out)
    assert code == 0, err
    assert (shown["status"], shown["output"]) == ("COMPLETED", "did a")
    assert re.search(r"run\.created .*stage\.completed .*run\.completed", err, re.DOTALL)
    assert "leasehold start job --input" in terminal.said(supervisor)
    second = terminal.start("job", "b", 1.5)
    assert "working" in terminal.type("logs", second[-8:], "--follow")[1]
    assert terminal.status(second) == "COMPLETED"


def test_a_failing_run_is_exit_code_one(terminal: Terminal) -> None:
    (terminal.folder / "app.py").write_text(APP.replace('return f"did', 'raise OSError("no disk")\n    return f"did'))
    terminal.environment["LEASEHOLD_LOG_FORMAT"] = "json"
    supervisor = terminal.begin("up")
    terminal.wait_until(lambda: "supervisor.started" in terminal.said(supervisor))

    code, out, _ = terminal.type("start", "job", "--input", '{"name": "a"}', "--wait")

    assert code == 1
    assert "OSError: no disk" in out
    events = [json.loads(line) for line in terminal.said(supervisor).splitlines()]
    assert "supervisor.started" in [event["event"] for event in events]


@pytest.mark.parametrize("event_loop", ["asyncio", "trio"])
def test_the_first_signal_drains_and_says_what_is_waited_for(terminal: Terminal, event_loop: str) -> None:
    terminal.environment["LEASEHOLD_EVENT_LOOP"] = event_loop
    supervisor = terminal.up()
    run_id = terminal.start("job", "a", 2.0)

    supervisor.send_signal(signal.SIGTERM)

    assert supervisor.wait(30) == 0
    assert "Stopping (SIGTERM): waiting up to 30 s for 1 stage body to end" in terminal.said(supervisor)
    assert terminal.status(run_id) == "COMPLETED"


@pytest.mark.parametrize("workflow", ["job", "blocking"])
def test_a_second_signal_stops_at_once_even_when_the_loop_is_blocked(terminal: Terminal, workflow: str) -> None:
    supervisor = terminal.up()
    terminal.start(workflow, "a", 60.0)

    supervisor.send_signal(signal.SIGINT)
    if workflow == "job":
        terminal.wait_until(lambda: "Stopping (SIGINT)" in terminal.said(supervisor))
    else:
        time.sleep(0.3)  # a blocked loop cannot say that it has heard
    began = time.monotonic()
    supervisor.send_signal(signal.SIGINT)

    assert supervisor.wait(30) == 130
    assert time.monotonic() - began < 5
    assert "taken over within 4 s" in terminal.said(supervisor)


@pytest.mark.parametrize("ignored", [False, True], ids=["closed", "nohup"])
def test_a_closed_terminal_drains_unless_it_was_to_be_outlived(terminal: Terminal, *, ignored: bool) -> None:
    # A process inherits what its parent ignores, and the tests themselves may have been started with nohup.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        supervisor = terminal.up()
    finally:
        signal.signal(signal.SIGHUP, before)

    supervisor.send_signal(signal.SIGHUP)

    if ignored:
        assert terminal.type("start", "job", "--input", '{"name": "a"}', "--wait")[0] == 0
        supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(30) == 0
    assert f"Stopping ({'SIGTERM' if ignored else 'SIGHUP'})" in terminal.said(supervisor)


def test_an_interrupt_while_it_is_still_being_imported_is_an_answer_too(terminal: Terminal) -> None:
    # A package that comes up while Leasehold is imported, and takes its time.
    (terminal.folder / "pydantic.py").write_text("open('importing', 'w').close()\nimport time\ntime.sleep(60)\n")
    command = terminal.begin("runs")
    terminal.wait_until((terminal.folder / "importing").exists)

    command.send_signal(signal.SIGINT)

    assert command.wait(30) == 130
    assert terminal.said(command) == ""


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "workers"])
def test_a_supervisor_whose_data_were_deleted_says_so_and_ends(workers: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(prefix="leasehold-") as directory:
        folder = Path(directory)
        folder.chmod(0o755)
        terminal = Terminal(folder, "")
        del terminal.environment["LEASEHOLD_DATABASE_URL"]
        supervisor = terminal.begin("up", *workers)
        ups = "supervisor.started" if workers else "leasehold is up"
        terminal.wait_until(lambda: terminal.said(supervisor).count(ups) == max(len(workers), 1))

        shutil.rmtree(folder / ".leasehold")

        assert supervisor.wait(30) == 3, terminal.said(supervisor)
        said = terminal.said(supervisor)
        assert "is gone: it was deleted, moved or replaced" in said
        assert said.count("No database is configured") == 1
        assert not (folder / ".leasehold").exists()
        supervisor.communicate()


def test_a_signal_before_it_is_up_ends_it(terminal: Terminal) -> None:
    (terminal.folder / "app.py").write_text(
        APP.replace("app = App(workflows=[job, blocking])", "")
        + "async def never():\n    Path('waiting').touch()\n    await anyio.sleep(1000)\n"
        "app = App(workflows=[job], services={'never': never})\n"
    )
    supervisor = terminal.begin("up")
    terminal.wait_until((terminal.folder / "waiting").exists)

    supervisor.send_signal(signal.SIGINT)

    assert supervisor.wait(30) == 0, terminal.said(supervisor)


def test_ctrl_c_while_waiting_leaves_the_run_alone(terminal: Terminal) -> None:
    terminal.up()
    waiting = terminal.begin("start", "job", "--input", '{"name": "a", "seconds": 3}', "--wait")
    terminal.wait_until((terminal.folder / "a.began").exists)
    terminal.wait_until(lambda: "stage.started" in terminal.said(waiting))

    waiting.send_signal(signal.SIGINT)

    assert waiting.wait(30) == 130
    said = terminal.said(waiting)
    assert "Traceback" not in said
    found = re.search(r"The run goes on: leasehold show (\w{8})", said)
    assert found is not None, said
    terminal.type("logs", found[1], "--follow")  # to its end
    assert terminal.status(found[1]) == "COMPLETED"


def test_waiting_without_a_supervisor_says_that_nobody_is_there(terminal: Terminal) -> None:
    code, _, err = terminal.type("start", "job", "--input", '{"name": "a"}', "--wait", "--timeout", "4")

    assert code == 4
    assert "leasehold up" in err
    assert "The run goes on" in err


def test_workers_are_restarted_when_they_die_and_drain_together(terminal: Terminal) -> None:
    parent = terminal.begin("up", "--workers", "2")
    terminal.wait_until(lambda: terminal.said(parent).count("supervisor.started") == 2)
    [first, second] = psutil.Process(parent.pid).children()
    said = terminal.said(parent)
    assert re.search(
        r"leasehold starts 2 workers.*database +postgresql://.*workflows +job 1, blocking 1", said, re.DOTALL
    )
    assert said.count("leasehold start job --input") == 1

    first.kill()

    terminal.wait_until(lambda: terminal.said(parent).count("supervisor.started") == 3)
    assert "SIGKILL" in terminal.said(parent)
    assert second.is_running()
    assert (
        json.loads(terminal.type("start", "job", "--input", '{"name": "a"}', "--wait", "--json")[1])["output"]
        == "did a"
    )

    parent.send_signal(signal.SIGTERM)
    assert parent.wait(30) == 0, terminal.said(parent)
    assert terminal.said(parent).count("Stopped.") == 2


def test_workers_leave_with_their_parent_even_when_it_is_killed(terminal: Terminal) -> None:
    parent = terminal.begin("up", "--workers", "2")
    terminal.wait_until(lambda: terminal.said(parent).count("supervisor.started") == 2)
    workers = psutil.Process(parent.pid).children()

    parent.kill()

    assert psutil.wait_procs(workers, timeout=30)[1] == []


def test_workers_that_cannot_start_end_their_parent(terminal: Terminal) -> None:
    code, _, err = terminal.type("up", "--workers", "2", "--database-url", "postgresql://nobody@127.0.0.1:1/d")

    assert code == 3
    assert "127.0.0.1:1" in err
    assert "Traceback" not in err


def test_a_place_for_blobs_that_cannot_be_used_is_said_before_anything_is_executed(terminal: Terminal) -> None:
    in_the_way = terminal.folder / "blobs"
    in_the_way.write_text("a file, not a folder")
    terminal.environment["LEASEHOLD_BLOB_URL"] = in_the_way.as_uri()

    code, _, err = terminal.type("up")

    assert code == 3
    assert str(in_the_way) in err
    assert "LEASEHOLD_BLOB_URL" in err
    assert "is up" not in err
    assert terminal.type("runs")[0] == 0


def test_a_wrong_app_is_said_without_a_traceback(terminal: Terminal) -> None:
    code, out, err = terminal.type("up", "--app", "ap:app")

    assert (code, out) == (2, "")
    assert 'Did you mean "app"?' in err
    assert "Traceback" not in err


def test_the_demo_reports_on_real_files() -> None:
    with tempfile.TemporaryDirectory(prefix="leasehold-") as directory:
        # As root the embedded server runs as another user, who has to reach its data through this folder.
        Path(directory).chmod(0o755)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LEASEHOLD_")} | {
            "PYTHONPATH": str(ROOT)
        }
        answer = subprocess.run(
            [sys.executable, "-m", "runtime", "demo", "--limit", "30", "--data-dir", "state"],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    assert answer.returncode == 0, answer.stderr
    assert "30 of 30 runs completed" in answer.stdout
    assert re.search(r"extract +30 ", answer.stdout)
    assert re.search(r"(leasehold|-m runtime) init  ", answer.stdout)
    assert 'start documents --input \'{"path": ' in answer.stdout
    assert "Traceback" not in answer.stderr
