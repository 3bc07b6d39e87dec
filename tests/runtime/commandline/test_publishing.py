"""Dead letters and sinks by the command line, against a real Postgres."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import asyncpg
import pytest

from kernel import Event, PluginRunner, plugin
from kernel.commands.flush_outbox import FlushOutbox
from runtime import App, Supervisor
from runtime.bootstrap import migrate_database
from runtime.commandline.entry import run
from runtime.config import Settings
from tests.conftest import with_database
from tests.runtime.gates import Doc, echo

FLOW = echo()


@plugin("sick", on=["run.completed", "run.started"])
async def sick(event: Event) -> None:
    raise ValueError(f"no \x1b[2J to {event.type}")


@dataclass
class Place:
    """A database, and what a plugin that is well was told there."""

    url: str
    told: list[Event] = field(default_factory=list[Event])

    def with_dead_letters(self) -> str:
        return anyio.run(self._published, PluginRunner([sick], max_retries=1), "a")

    def publish(self) -> None:
        @plugin("sick", on=["run.completed", "run.started"])
        async def well(event: Event) -> None:
            self.told.append(event)

        anyio.run(self._published, PluginRunner([well]), None)

    async def _published(self, plugins: PluginRunner, text: str | None) -> str:
        settings = Settings(database_url=self.url)
        async with Supervisor(App(workflows=[FLOW], plugins=plugins), settings=settings) as supervisor:
            if text is not None:
                handle = await supervisor.start(FLOW, Doc(text=text))
                await handle.result()
                return handle.id
            await supervisor.kernel.dispatch(FlushOutbox())
        return ""


@pytest.fixture(scope="module")
def database(postgres_url: str) -> Iterator[str]:
    name = f"leasehold_test_{secrets.token_hex(6)}"

    async def execute(statement: str) -> None:
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(statement)
        await connection.close()

    anyio.run(execute, f"CREATE DATABASE {name}")
    url = with_database(postgres_url, name)
    anyio.run(migrate_database, Settings(database_url=url))
    yield url
    anyio.run(execute, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def place(database: str) -> Place:
    return Place(database)


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEASEHOLD_DATABASE_URL", database)

    def execute(*words: str) -> tuple[int, str, str]:
        code = run(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return execute


def test_dead_letters_are_listed_and_replayed_and_then_arrive(place: Place, command: Command) -> None:
    run_id = place.with_dead_letters()

    code, out, err = command("dlq", "list")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["ID", "SINK", "RUN", "SEQ", "TRIES", "FAILED", "ERROR"]
    assert len(lines) == 3
    assert all("sick" in line and run_id[-8:] in line and "ValueError: no" in line for line in lines[1:])
    assert "\x1b[2J" not in out

    _, first, remark = command("dlq", "replay", "--limit", "1")
    assert first.startswith("1 event is tried again")
    assert "There are more dead letters" in remark
    assert command("dlq", "replay", "--json")[1] == '{"replayed": 1, "more": false}\n'
    assert command("dlq", "replay")[2] == "No dead letters.\n"
    place.publish()

    assert sorted(event.type for event in place.told) == ["run.completed", "run.started"]
    assert command("dlq", "list")[2] == "No dead letters.\n"


def test_dead_letters_as_json_come_in_pages(place: Place, command: Command) -> None:
    run_id = place.with_dead_letters()

    first = json.loads(command("dlq", "list", "--json", "--limit", "1")[1])
    rest = json.loads(command("dlq", "list", "--json", "--after", str(first["next"]))[1])

    letters = first["dead_letters"] + rest["dead_letters"]
    assert [(letter["sink"], letter["run_id"], letter["tries"]) for letter in letters] == [("sick", run_id, 1)] * 2
    assert set(letters[0]) == {"id", "sink", "run_id", "seq", "tries", "error", "failed_at"}
    assert rest["next"] is None


def test_sinks_are_listed_and_forgotten(place: Place, command: Command) -> None:
    place.with_dead_letters()

    code, out, _ = command("sinks")
    assert code == 0
    assert out.splitlines()[1].split() == ["sick", "0", "run.completed,", "run.started"]
    listed = json.loads(command("sinks", "--json")[1])
    assert listed == {"sinks": [{"name": "sick", "events": ["run.completed", "run.started"], "owed_runs": 0}]}

    assert command("sinks", "forget", "sick")[:2] == (0, 'Nothing is owed to "sick" any more.\n')
    assert command("sinks", "forget", "sick")[0] == 1
    assert command("dlq", "list")[2] == "No dead letters.\n"
    assert "No sinks" in command("sinks")[2]


def test_a_sink_that_is_to_be_forgotten_must_be_named(command: Command) -> None:
    code, _, err = command("sinks", "forget")

    assert code == 2
    assert "leasehold sinks forget NAME" in err
