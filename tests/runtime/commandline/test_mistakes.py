"""What a person can get wrong: an exit code, a message that names it, and never a traceback."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from runtime.commandline.entry import run

APP = """
from pydantic import BaseModel
from kernel import StageContext, WorkflowBuilder, stage
from runtime import App

class Job(BaseModel):
    name: str

class Config(BaseModel):
    limit: int = 1

@stage("work")
async def work(ctx: StageContext[Job, Config]) -> str:
    return ctx.input.name

job = WorkflowBuilder("job", input=Job, output=str).pipe(work).build()
app = App(workflows=[job])
"""


@pytest.fixture
def project(tmp_path: Path, migrated_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with an app, and a database."""
    (tmp_path / "shop_of_mistakes.py").write_text(APP, encoding="utf-8")
    (tmp_path / "broken_shop.py").write_text("app = undefined\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("LEASEHOLD_APP", "shop_of_mistakes:app")
    monkeypatch.setenv("LEASEHOLD_DATABASE_URL", migrated_database_url)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield tmp_path
    # `up` configures the process's logging, as it should.
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    sys.modules.pop("shop_of_mistakes", None)


MISTAKES = [
    ("up --app shop_of_mistake:app", 2, "AppNotLoaded", 'Did you mean "shop_of_mistakes"?'),
    ("up --app shop_of_mistakes:flows", 2, "AppNotLoaded", "shop_of_mistakes:app"),
    ("up --app broken_shop:app", 2, "AppNotLoaded", "broken_shop.py, line 1: NameError"),
    ("up --workers 2 --app broken_shop:app", 2, "AppNotLoaded", "line 1"),
    ("start jab --input {}", 2, "WorkflowNotFound", "Known workflows: job"),
    ("start job", 2, "InvalidInput", """For example --input '{"name": "…"}'"""),
    ("show --key job k", 2, "KeyNotFound", 'No run of workflow "job" has the idempotency key "k"'),
    ('start job --input {"name":1}', 2, "InvalidInput", "name: Input should be a valid string"),
    ("start job --input {name:1}", 2, "InvalidCommand", "not JSON"),
    ("start job --input @nowhere.json", 2, "InvalidCommand", "nowhere.json"),
    ('start job --input {"name":"a"} --config {"wurk":{}}', 2, "InvalidConfig", "wurk"),
    ('start job --input {"name":"a"} --config {"work":{"limit":"x"}}', 2, "InvalidConfig", "limit"),
    ('start job --input {"name":"a"} --config []', 2, "InvalidCommand", "JSON object"),
    ('start job --input {"name":"\\u0000"}', 2, "PayloadRefused", "NUL"),
    ("up --database-url=", 2, "InvalidCommand", "postgresql://"),
    ("up --data-dir=", 2, "InvalidCommand", "a directory is needed, such as .leasehold"),
    ("start job --input {} --wait --timeout -1", 2, "InvalidCommand", "a number of seconds, 0 or more"),
    ("start job --input {} --config=", 2, "InvalidCommand", """--config '{"STAGE": {"FIELD": VALUE}}'"""),
    ("start job --input {} --key \udcff\udcfe", 2, "InvalidCommand", "idempotency_key is not valid UTF-8"),
    ("up --database-url mysql://h/d", 2, "InvalidCommand", "postgresql://"),
    ("runs --database-url postgresql://u:hidden@127.0.0.1:1/d", 3, "Unavailable", "127.0.0.1:1"),
    ("runs --database-url postgresql://u@h/d?sslmode=foo", 2, "NoDatabase", "sslmode"),
    ("up --database-url postgresql://u:hidden@no-such-host.invalid/d", 3, "Unavailable", "no-such-host.invalid"),
    ("show 00000000", 2, "RunNotFound", "does not exist"),
    ("show 01a1fb81-0915-7f00-8a2b-22bf95bcc5b0", 2, "RunNotFound", "does not exist"),
    ("runs --after nonsense", 2, "InvalidCommand", "after"),
    ("demo --directory nowhere", 2, "InvalidCommand", "nowhere is not a directory"),
]


@pytest.mark.parametrize("words,code,kind,said", MISTAKES, ids=[words for words, *_ in MISTAKES])
def test_a_mistake_is_named_with_the_way_out(
    project: Path, capsys: pytest.CaptureFixture[str], words: str, code: int, kind: str, said: str
) -> None:
    found = run([*words.split(), "--json"])

    out, err = capsys.readouterr()
    assert found == code, err
    error = json.loads(err.splitlines()[-1])["error"]
    assert error["type"] == kind
    assert said in f"{error['message']} {error['hint']}"
    assert (out, "Traceback" in err, "hidden" in err) == ("", False, False)


def test_an_outdated_schema_is_said_with_the_command_that_helps(
    project: Path, capsys: pytest.CaptureFixture[str], postgres_url: str
) -> None:
    code = run(["runs", "--database-url", postgres_url])

    _, err = capsys.readouterr()
    assert code == 3
    assert "leasehold migrate" in err
