"""Looking at runs and acting on them, by the command line, against a real Postgres."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import asyncpg
import pytest
from pydantic import BaseModel

from kernel import (
    CheckContext,
    NonRetryable,
    NotReady,
    Ready,
    StageContext,
    StageResult,
    Suspend,
    WorkflowBuilder,
    batch_stage,
    stage,
)
from runtime import App, RunFailed, Supervisor
from runtime.bootstrap import migrate_database
from runtime.commandline.entry import run
from runtime.config import Settings


class Person(BaseModel):
    name: str


@stage("greet")
async def greet(ctx: StageContext[Person]) -> StageResult[str]:
    ctx.log("info", "greeting", who=ctx.input.name)
    ctx.log("warning", "line\x1b[2J two")
    if ctx.input.name == "Nobody":
        raise NonRetryable("there is nobody")
    return StageResult(
        f"Hello, {ctx.input.name}!", artifacts={"card.txt": b"Dear Ada", "raw/photo": b"\xff\0", "n": [1]}
    )


hello = WorkflowBuilder("hello", input=Person, output=str).pipe(greet).build()


class Batch(BaseModel):
    id: int


@batch_stage("embed")
async def embed(_ctx: StageContext[Person]) -> Suspend[Batch] | str:
    return Suspend(state=Batch(id=7), poll_interval=timedelta(hours=1))


@embed.check
async def embedded(_state: Batch, _ctx: CheckContext) -> Ready[str] | NotReady:
    return NotReady()


waiting = WorkflowBuilder("waiting", input=Person, output=str).pipe(embed).build()
other = WorkflowBuilder("other", input=Person, output=str, version="7").pipe(greet).build()


@dataclass
class World:
    """A database with a few runs in it, by what happened to them."""

    url: str
    completed: str
    failed: str
    delayed: str
    pending: str
    suspended: str


@pytest.fixture(scope="module")
def world(postgres_url: str) -> Iterator[World]:
    name = f"leasehold_test_{secrets.token_hex(6)}"
    parts = urlsplit(postgres_url)
    url = f"{parts.scheme}://{parts.netloc}/{name}" + (f"?{parts.query}" if parts.query else "")

    async def execute(statement: str) -> None:
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(statement)
        await connection.close()

    async def fill() -> World:
        settings = Settings(database_url=url)
        await migrate_database(settings)
        async with Supervisor(App(workflows=[hello, other, waiting]), settings=settings) as supervisor:
            suspended = await supervisor.start(waiting, Person(name="Ada"))
            while (await suspended.describe()).status != "SUSPENDED":  # noqa: ASYNC110
                await anyio.sleep(0.01)
            completed = await supervisor.start(
                hello, Person(name="Ada"), idempotency_key="ada", metadata={"by": "test"}
            )
            await completed.result()
            failed = await supervisor.start(hello, Person(name="Nobody"))
            with pytest.raises(RunFailed):
                await failed.result()
            delayed = await supervisor.start(other, Person(name="Later"), run_at=datetime.now(UTC) + timedelta(hours=1))
            while len(await completed.logs()) < 2:  # noqa: ASYNC110 - lines are written a little later, without a word
                await anyio.sleep(0.05)
        from runtime import Client

        async with Client(App(workflows=[hello]), settings=settings) as client:
            pending = await client.start(hello, Person(name="Soon"))
        return World(url, completed.id, failed.id, delayed.id, pending.id, suspended.id)

    anyio.run(execute, f"CREATE DATABASE {name}")
    yield anyio.run(fill)
    anyio.run(execute, f"DROP DATABASE {name} WITH (FORCE)")


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    """Run a command line in a folder without an app; its exit code, results and remarks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEASEHOLD_DATABASE_URL", world.url)
    # A runner of tests may say how wide its own terminal is.
    monkeypatch.delenv("COLUMNS", raising=False)

    def execute(*words: str) -> tuple[int, str, str]:
        code = run(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return execute


def test_runs_are_listed_newest_first(world: World, command: Command) -> None:
    code, out, err = command("runs")

    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].split()[:3] == ["RUN", "WORKFLOW", "STATUS"]
    assert [line.split()[0] for line in lines[1:]] == [
        run_id[-8:] for run_id in (world.pending, world.delayed, world.failed, world.completed, world.suspended)
    ]
    assert "its time, in 59 min" in lines[2]
    assert "NonRetryable: there is nobody" in lines[3]
    assert "ada" in lines[4]


def test_runs_as_json_come_in_pages(world: World, command: Command) -> None:
    _, first, _ = command("runs", "--json", "--limit", "3")
    page = json.loads(first)
    _, second, _ = command("runs", "--json", "--limit", "3", "--after", page["next"])
    rest = json.loads(second)

    assert [run["id"] for run in page["runs"] + rest["runs"]] == [
        world.pending,
        world.delayed,
        world.failed,
        world.completed,
        world.suspended,
    ]
    assert rest["next"] is None
    assert not {"input", "output", "stages"} & page["runs"][0].keys()


def test_runs_in_full_have_payloads_and_stages(command: Command) -> None:
    _, out, _ = command("runs", "--json", "--full", "--status", "completed")

    [found] = json.loads(out)["runs"]
    assert (found["input"], found["output"], len(found["stages"])) == ({"name": "Ada"}, "Hello, Ada!", 1)


def test_runs_can_be_chosen_by_status_and_workflow(world: World, command: Command) -> None:
    _, failed, _ = command("runs", "--json", "--status", "failed")
    _, of_other, _ = command("runs", "--json", "--workflow", "other")
    _, none, remark = command("runs", "--workflow", "nothing")

    assert [run["id"] for run in json.loads(failed)["runs"]] == [world.failed]
    assert [run["id"] for run in json.loads(of_other)["runs"]] == [world.delayed]
    assert (none, remark) == ("", 'No runs of workflow "nothing".\n')
    assert command("runs", "--workflow", "")[2] == 'No runs of workflow "".\n'


def test_a_run_is_shown_by_the_end_of_its_id(world: World, command: Command) -> None:
    code, out, _ = command("show", world.completed[-8:])

    assert code == 0
    assert world.completed in out
    assert '{"name": "Ada"}' in out
    assert '"Hello, Ada!"' in out
    assert "✓ greet" in out


def test_a_run_is_shown_by_its_key(world: World, command: Command) -> None:
    _, out, _ = command("show", "--json", "--key", "hello", "ada")

    shown = json.loads(out)
    assert (shown["id"], shown["idempotency_key"], shown["metadata"]) == (world.completed, "ada", {"by": "test"})
    assert shown["waiting_for"] is None


def test_a_failed_run_shows_its_error_and_the_traceback_on_request(world: World, command: Command) -> None:
    _, short, _ = command("show", world.failed)
    _, full, _ = command("show", world.failed, "--full")
    _, machine, _ = command("show", world.failed, "--full", "--json")

    assert "NonRetryable: there is nobody" in short
    assert "in greet" not in short
    assert "in greet" in full
    assert "there is nobody" in json.loads(machine)["error"]["traceback"]


def test_a_waiting_run_shows_what_it_waits_for(world: World, command: Command) -> None:
    _, pending, _ = command("show", world.pending, "--json")
    _, delayed, _ = command("show", world.delayed, "--json")
    _, for_people, _ = command("show", world.pending)

    assert json.loads(pending)["waiting_for"] == "claim"
    assert json.loads(delayed)["waiting_for"] == "delayed_until"
    assert "leasehold up" in for_people


def test_a_run_is_explained_by_the_end_of_its_id_and_by_its_key(world: World, command: Command) -> None:
    code, out, err = command("explain", world.suspended[-8:])
    _, machine, _ = command("explain", "--json", "--key", "hello", "ada")

    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "waiting version 1  SUSPENDED  poll"
    assert f"→ To have it looked at now: leasehold poll {world.suspended[-8:]}" in out
    explained = json.loads(machine)
    assert (explained["id"], explained["status"], explained["reason"]) == (world.completed, "COMPLETED", "finished")
    assert explained["because"][0].startswith("It completed at ")
    assert command("explain", "00000000")[0] == 2


def test_artifacts_are_listed_with_their_sizes(world: World, command: Command) -> None:
    _, out, _ = command("artifacts", world.completed)
    _, machine, _ = command("artifacts", world.completed, "greet", "--json")
    _, shown, _ = command("show", world.completed)

    assert [line.split()[:3] for line in out.splitlines()] == [
        ["STAGE", "ARTIFACT", "BYTES"],
        ["greet", "card.txt", "8"],
        ["greet", "raw/photo", "2"],
        ["greet", "n", "3"],
    ]
    digest = hashlib.sha256(b"Dear Ada").hexdigest()
    first = {"stage_id": "greet", "name": "card.txt", "size_bytes": 8, "sha256": digest}
    assert json.loads(machine)["artifacts"][0] == first
    assert "artifacts  greet: card.txt, raw/photo, n" in shown


def test_a_run_without_artifacts_says_so(world: World, command: Command) -> None:
    assert command("artifacts", world.failed) == (0, "", "No artifacts.\n")
    assert command("artifacts", world.failed, "--json")[1] == '{"artifacts": []}\n'


def test_an_artifact_comes_out_as_it_went_in(world: World, command: Command, tmp_path: Path) -> None:
    _, text, _ = command("artifacts", world.completed, "greet", "card.txt")
    _, as_json, _ = command("artifacts", world.completed, "greet", "n")
    code, out, remark = command("artifacts", world.completed, "greet", "raw/photo", "--output", "photo")

    assert (text, as_json) == ("Dear Ada", "[1]")
    assert (code, out, remark) == (0, "", "2 bytes written to photo\n")
    assert (tmp_path / "photo").read_bytes() == b"\xff\0"


def test_bytes_that_are_no_text_reach_a_pipe_as_they_are(
    world: World, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    code = run(["artifacts", world.completed, "greet", "raw/photo", "--database-url", world.url])

    assert (code, capfdbinary.readouterr().out) == (0, b"\xff\0")


@pytest.mark.parametrize(
    "words,said",
    [
        (["greet", "nothing"], "Its artifacts: card.txt, raw/photo, n."),
        (["nobody"], "Its stages: greet."),
        (["nobody", "n"], "Its stages: greet."),
        (["greet", "n", "-o", "not/there"], "not/there cannot be written: No such file or directory"),
    ],
)
def test_an_artifact_that_is_not_there_is_said_with_those_that_are(
    world: World, command: Command, words: list[str], said: str
) -> None:
    code, out, err = command("artifacts", world.completed, *words)

    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize("name", ["show", "history", "logs", "artifacts", "cancel", "poll", "unpark"])
def test_an_unknown_run_is_said(command: Command, name: str) -> None:
    code, out, err = command(name, "ffffffff")

    assert (code, out) == (2, "")
    assert '"ffffffff" does not exist' in err


def test_an_unknown_key_is_said(command: Command) -> None:
    assert command("show", "--key", "hello", "nobody")[0] == 2


def test_an_id_that_is_too_short_is_said(command: Command) -> None:
    code, _, err = command("show", "ffff")

    assert code == 2
    assert "last 8 characters" in err


def test_an_ambiguous_id_lists_the_matches(world: World, command: Command) -> None:
    twin = f"01a1fb81-0915-7f00-8a2b-2222{world.completed[-8:]}"
    copy = f"""
        DO $$
        DECLARE columns text := (
            SELECT string_agg(column_name, ', ') FROM information_schema.columns
            WHERE table_schema = 'leasehold' AND table_name = 'runs' AND is_generated = 'NEVER' AND column_name <> 'id'
        );
        BEGIN
            EXECUTE format('INSERT INTO leasehold.runs (id, %s) SELECT %L, %s FROM leasehold.runs WHERE id = %L',
                           columns, '{twin}', columns, '{world.completed}');
        END $$
    """

    async def execute(statement: str) -> None:
        connection = await asyncpg.connect(world.url)
        await connection.execute(statement)
        await connection.close()

    anyio.run(execute, copy)
    try:
        code, _, err = command("show", world.completed[-8:])
        _, _, machine = command("show", world.completed[-8:], "--json")
    finally:
        anyio.run(execute, f"DELETE FROM leasehold.runs WHERE id = '{twin}'")

    assert code == 2
    assert world.completed in err
    assert twin in err
    assert twin in json.loads(machine)["error"]["hint"]


def test_the_history_is_told_event_by_event(world: World, command: Command) -> None:
    _, out, _ = command("history", world.completed)
    _, machine, _ = command("history", world.completed, "--json")

    events = [json.loads(line) for line in machine.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "run.created"
    assert (events[-1]["type"], events[-1]["output"]) == ("run.completed", "Hello, Ada!")
    assert all(event["type"] in line for event, line in zip(events, out.splitlines()[1:], strict=True))


def test_the_log_is_told_line_by_line(world: World, command: Command) -> None:
    _, out, _ = command("logs", world.completed)
    _, machine, _ = command("logs", world.completed, "--json")

    assert [json.loads(line)["level"] for line in machine.splitlines()] == ["INFO", "WARN"]
    assert "INFO" in out.splitlines()[0]
    assert "who=Ada" in out.splitlines()[0]
    assert "\x1b" not in out


def test_following_the_log_of_a_run_that_has_ended_comes_to_an_end(world: World, command: Command) -> None:
    code, out, _ = command("logs", world.completed, "--follow", "--json")

    assert code == 0
    assert len(out.splitlines()) == 2


def test_a_run_without_log_says_so(world: World, command: Command) -> None:
    assert command("logs", world.pending) == (0, "", "Nothing was logged.\n")


def test_a_run_is_annotated_whether_it_goes_on_or_has_ended(world: World, command: Command) -> None:
    said = command("annotate", world.completed[-8:], "review.score", "4.5", "--actor", "user:ada", "--stage", "greet")
    again = [command("annotate", world.completed, "review.by", "Ada L.", "--once", "k", "--json") for _ in range(2)]
    code, shown, _ = command("annotations", world.completed)
    _, machine, _ = command("annotations", world.completed, "--json", "--prefix", "review.s")

    assert (code, said[0]) == (0, 0)
    assert "is annotated: review.score" in said[1]
    assert [json.loads(out)["added"] for _, out, _ in again] == [1, 0]
    assert [line.split()[2:] for line in shown.splitlines()[1:]] == [
        ["review.score", "stage", "greet", "user:ada", "4.5"],
        ["review.by", "run", '"Ada', 'L."'],
    ]
    told = json.loads(machine)
    assert (told["key"], told["value"], told["actor"], told["scope"]) == ("review.score", 4.5, "user:ada", "stage")


def test_what_cannot_be_annotated_is_said(world: World, command: Command) -> None:
    assert command("annotations", world.pending) == (0, "", "Nothing was annotated.\n")
    assert "Scope" in command("annotate", world.pending, "a.b", "1", "--scope", "A B")[2]
    code, _, err = command("annotate", world.pending, "No Key", "1")
    assert code == 2
    assert 'Annotation key "No Key"' in err or "Annotation key 'No Key'" in err


def test_a_history_is_wrapped_to_the_columns_that_were_asked_for(
    world: World, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, wide, _ = command("history", world.completed)
    monkeypatch.setenv("COLUMNS", "60")
    code, narrow, _ = command("history", world.completed)

    assert code == 0
    assert max(map(len, wide.splitlines())) > 60 >= max(map(len, narrow.splitlines()))
    [session] = re.findall(r"by session (\S+)", wide)
    assert session in re.sub(r"\s+", "", narrow)


def test_cancelling_a_run_twice_says_so_the_second_time(world: World, command: Command) -> None:
    first = command("cancel", world.delayed[-8:], "--reason", "not needed")
    second = command("cancel", world.delayed[-8:])
    _, shown, _ = command("history", world.delayed)

    assert first[0] == 0
    assert "is cancelled" in first[1]
    assert second[0] == 1
    assert "already ended, it is CANCELLED" in second[2]
    assert "not needed" in shown


def test_a_run_that_has_ended_is_rerun_and_one_that_is_active_is_not(world: World, command: Command) -> None:
    first = command("rerun", world.failed[-8:], "--from", "greet", "--key", "again")
    repeated = command("rerun", world.failed, "--from", "greet", "--key", "again", "--json")
    refused = command("rerun", world.failed, "--from", "greet")
    _, shown, _ = command("show", world.failed, "--json")

    assert first[0] == repeated[0] == 0
    assert "is to begin again: greet" in first[1]
    assert 'No process that knows "hello" version "1" is running' in first[2]
    answer = {"run_id": world.failed, "from_stage_id": "greet", "discarded": ["greet"], "status": "RUNNING"}
    assert json.loads(repeated[1]) == {**answer, "waiting_for": "claim"}
    assert refused[0] == 2
    assert "cannot be rerun: it is RUNNING" in refused[2]
    (stage,) = json.loads(shown)["stages"]
    assert (stage["execution"], stage["attempt"], stage["status"]) == (2, 0, "PENDING")


def test_a_rerun_from_a_stage_that_is_not_there_names_those_that_are(world: World, command: Command) -> None:
    code, _, err = command("rerun", world.completed, "--from", "great")

    assert code == 2
    assert 'no stage "great"' in err
    assert "greet" in err


def test_a_suspended_run_is_to_be_looked_at_when_somebody_comes_who_can(world: World, command: Command) -> None:
    code, out, err = command("poll", world.suspended[-8:])
    _, machine, _ = command("poll", world.suspended, "--json")
    _, shown, _ = command("history", world.suspended, "--json")

    assert code == 0
    assert "is to be looked at: embed" in out
    assert "Start one: leasehold up" in err
    answer = {"run_id": world.suspended, "polled": ["embed"], "status": "SUSPENDED", "waiting_for": "claim"}
    assert json.loads(machine) == answer
    kinds = [json.loads(line)["type"] for line in shown.splitlines()]
    assert kinds[-3:] == ["stage.started", "stage.suspended", "stage.suspended"]


def test_a_suspended_run_is_looked_at_when_somebody_asks_and_lives(world: World, command: Command) -> None:
    async def polled_beside_a_supervisor() -> tuple[int, str, str]:
        async with Supervisor(App(workflows=[waiting]), settings=Settings(database_url=world.url)):
            return await anyio.to_thread.run_sync(command, "poll", world.suspended)

    code, out, err = anyio.run(polled_beside_a_supervisor)

    assert (code, err) == (0, "")
    assert "is looked at now: embed" in out


def test_that_nothing_is_suspended_is_an_answer_and_no_error(world: World, command: Command) -> None:
    code, _, err = command("poll", world.completed)
    _, machine, _ = command("poll", world.completed, "--json")

    assert code == 0
    assert "no stage of run" in err
    answer = {"run_id": world.completed, "polled": [], "status": "COMPLETED", "waiting_for": None}
    assert json.loads(machine) == answer


def test_a_run_that_is_not_parked_cannot_be_unparked(world: World, command: Command) -> None:
    code, _, err = command("unpark", world.completed)
    _, machine, _ = command("unpark", world.completed, "--json")

    assert code == 1
    assert "not parked" in err
    assert json.loads(machine) == {"run_id": world.completed, "unparked": False}


def test_starting_a_run_without_waiting_shows_it(world: World, command: Command, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from kernel import *\nfrom pydantic import BaseModel\nfrom runtime import App\n"
        "class Person(BaseModel):\n    name: str\n"
        "@stage('greet')\nasync def greet(ctx: StageContext[Person]) -> str:\n    return 'x'\n"
        "app = App(workflows=[WorkflowBuilder('shop', input=Person, output=str).pipe(greet).build()])\n"
    )
    start = ("--app", "shop:app", "start", "shop", "--json")

    code, out, _ = command(*start, "--input", '{"name": "Ada"}', "--key", "one")
    _, again, _ = command(*start, "--input", '{"name": "Ada"}', "--key", "one")
    reused, _, reuse = command(*start, "--input", '{"name": "Bob"}', "--key", "one")
    refused, _, refusal = command(*start, "--input", '{"nam": 1}')
    unknown, _, unknown_said = command("--app", "shop:app", "start", "shap")
    late, shown, went_on = command(*start, "--input", '{"name": "Eve"}', "--wait", "--timeout", "0.2")

    assert code == 0
    assert json.loads(out)["id"] == json.loads(again)["id"]
    assert (reused, json.loads(reuse)["error"]["type"]) == (2, "IdempotencyKeyReused")
    assert (refused, json.loads(refusal)["error"]["field"]) == (2, "input")
    assert unknown == 2
    assert "Known workflows: shop" in unknown_said
    assert late == 4
    assert json.loads(shown)["status"] == "PENDING"
    assert "The run goes on" in went_on


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_a_run_continues_the_trace_that_it_is_started_with(world: World, command: Command, tmp_path: Path) -> None:
    (tmp_path / "store.py").write_text(
        "from kernel import *\nfrom runtime import App\n"
        "@stage('greet')\nasync def greet(ctx: StageContext[None]) -> str:\n    return 'x'\n"
        "app = App(workflows=[WorkflowBuilder('store', input=None, output=str).pipe(greet).build()])\n"
    )
    start = ("--app", "store:app", "start", "store")

    code, out, _ = command(*start, "--traceparent", f"00-{TRACE}-00f067aa0ba902b7-01", "--json")
    run_id = json.loads(out)["id"]
    _, machine, _ = command("show", run_id, "--json")
    _, shown, _ = command("show", run_id)

    assert code == 0
    assert json.loads(machine)["trace_id"] == TRACE
    assert re.search(rf"^trace +{TRACE}$", shown, re.MULTILINE)
    assert re.search(r"^trace +[0-9a-f]{32}$", command("show", world.completed)[1], re.MULTILINE)


@pytest.mark.parametrize(
    "text", ["", "yes", f"00-{TRACE}-0000000000000000-01", f"00-{TRACE.upper()}-00f067aa0ba902b7-01"]
)
def test_a_traceparent_that_is_none_is_refused_with_its_form(command: Command, text: str, tmp_path: Path) -> None:
    (tmp_path / "store2.py").write_text("from runtime import App\napp = App(workflows=[])\n")

    code, _, err = command("--app", "store2:app", "start", "store", "--traceparent", text, "--json")

    error = json.loads(err)["error"]
    assert (code, error["type"], error["field"]) == (2, "InvalidCommand", "traceparent")
    assert TRACE in error["hint"]


def test_a_database_that_does_not_answer_is_exit_code_three(command: Command) -> None:
    code, out, err = command("runs", "--database-url", "postgresql://u:hidden@127.0.0.1:1/d")

    assert (code, out) == (3, "")
    assert "127.0.0.1:1" in err
    assert "hidden" not in err
    assert "Traceback" not in err


def test_production_without_a_database_is_exit_code_two(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEASEHOLD_DATABASE_URL")
    monkeypatch.setenv("LEASEHOLD_ENV", "production")

    code, _, err = command("runs")

    assert code == 2
    assert "LEASEHOLD_DATABASE_URL" in err


def test_migrating_says_what_it_did(command: Command) -> None:
    code, out, _ = command("migrate")
    _, sql, _ = command("migrate", "--sql")

    assert code == 0
    assert "was up to date" in out
    assert sql.startswith("BEGIN;")


def test_the_configuration_is_shown_with_its_sources(command: Command) -> None:
    _, out, _ = command("config", "--data-dir", "state")
    _, machine, _ = command("config", "--json")

    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert "argument" in rows["data_dir"]
    assert "environment" in rows["database_url"]
    assert json.loads(machine)["lease_s"] == {"value": 10.0, "source": "default", "variable": "LEASEHOLD_LEASE_S"}


def test_a_misspelt_variable_is_warned_of(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEASEHOLD_MAX_RUN", "5")

    _, _, err = command("config", "--json")

    assert "Did you mean LEASEHOLD_MAX_RUNS?" in err
