"""What the words of a command line mean, and what is said of those that mean nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from kernel import InvalidCommand
from runtime.commandline.invocation import (
    Annotate,
    Annotations,
    Artifacts,
    Cancel,
    Config,
    Demo,
    Dlq,
    Doctor,
    Explain,
    History,
    Init,
    Logs,
    Migrate,
    Options,
    Poll,
    Rerun,
    Runs,
    Show,
    Sinks,
    Start,
    Unpark,
    Up,
)
from runtime.commandline.parser import HelpWanted, parse


@pytest.mark.parametrize(
    "words,command",
    [
        ("", Up()),
        ("up", Up()),
        ("--workers 3", Up(workers=3)),
        ("up --workers=3 --accept-changes", Up(workers=3, accept_changes=True)),
        ("demo", Demo()),
        ("demo --directory docs --limit 10", Demo(directory=Path("docs"), limit=10)),
        ("init", Init()),
        ("init shop", Init(directory=Path("shop"))),
        ("start hello", Start(workflow="hello")),
        ("run hello --input -", Start(workflow="hello", input="-")),
        (
            "start hello --input {} --key k --wait --timeout 2.5",
            Start(workflow="hello", input="{}", key="k", wait=True, timeout_s=2.5),
        ),
        ("start hello --config @c.json --priority 0", Start(workflow="hello", config="@c.json", priority=0)),
        ("runs", Runs()),
        ("runs --status failed --workflow w --limit 5 --full", Runs(status="FAILED", workflow="w", limit=5, full=True)),
        ("runs --after abc", Runs(after="abc")),
        ("show 12345678", Show(run="12345678")),
        ("show --key hello k --full", Show(key=("hello", "k"), full=True)),
        ("explain 12345678", Explain(run="12345678")),
        ("explain --key hello k", Explain(key=("hello", "k"))),
        ("history 12345678", History(run="12345678")),
        ("logs 12345678 -f", Logs(run="12345678", follow=True)),
        ("artifacts 12345678", Artifacts(run="12345678")),
        ("artifacts 12345678 draw", Artifacts(run="12345678", stage="draw")),
        (
            "artifacts 12345678 draw a.png -o b.png",
            Artifacts(run="12345678", stage="draw", name="a.png", output=Path("b.png")),
        ),
        ("annotations 12345678 --prefix a.", Annotations(run="12345678", prefix="a.")),
        ("annotate 12345678 a.b 1", Annotate(run="12345678", key="a.b", value="1")),
        (
            "annotate 12345678 a.b x --scope page --scope-id 7 --actor user:ada --once k --emit",
            Annotate(
                run="12345678", key="a.b", value="x", scope="page", scope_id="7", actor="user:ada", once="k", emit=True
            ),
        ),
        ("cancel 12345678 --reason why", Cancel(run="12345678", reason="why")),
        ("rerun 12345678 --from report", Rerun(run="12345678", from_stage="report")),
        (
            "rerun 12345678 --from report --keep-completed --key k",
            Rerun(run="12345678", from_stage="report", keep_completed=True, key="k"),
        ),
        ("poll 12345678", Poll(run="12345678")),
        ("unpark 12345678", Unpark(run="12345678")),
        ("dlq list", Dlq(action="list")),
        ("dlq list --limit 5 --after 7", Dlq(action="list", limit=5, after=7)),
        ("dlq replay --limit 5", Dlq(action="replay", limit=5)),
        ("sinks", Sinks()),
        ("sinks forget audit", Sinks(action="forget", name="audit")),
        ("migrate --sql", Migrate(sql=True)),
        ("config", Config()),
        ("doctor", Doctor()),
    ],
)
def test_words_become_a_command(words: str, command: object) -> None:
    assert parse(words.split()).command == command


@pytest.mark.parametrize("words", ["--json --app a:b runs", "runs --json --app=a:b", "--json runs --app a:b"])
def test_common_options_stand_before_or_after_the_command(words: str) -> None:
    assert parse(words.split()).options == Options(app="a:b", json=True)


def test_common_options_without_a_command_belong_to_up() -> None:
    invocation = parse(["--database-url", "embedded", "--data-dir", "state"])

    assert invocation.command == Up()
    assert invocation.options == Options(database_url="embedded", data_dir=Path("state"))


def test_the_value_of_an_option_is_not_taken_for_the_command() -> None:
    invocation = parse(["--app", "runs", "show", "12345678"])

    assert invocation.command == Show(run="12345678")
    assert invocation.options.app == "runs"


def test_a_time_without_a_zone_is_the_wall_clock_of_whoever_types_it() -> None:
    with_zone = parse(["start", "w", "--run-at", "2030-01-02T03:04:05+00:00"]).command
    without = parse(["start", "w", "--run-at", "2030-01-02T03:04:05"]).command

    assert isinstance(with_zone, Start)
    assert isinstance(without, Start)
    assert with_zone.run_at == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert without.run_at == datetime(2030, 1, 2, 3, 4, 5).astimezone()


@pytest.mark.parametrize(
    "words,said",
    [
        ("strat hello", ['"strat"', '"leasehold start"']),
        ("frobnicate", ['"frobnicate"', "Commands: demo, init, up"]),
        ("runs --limt 3", ["no option --limt", "--limit"]),
        ("runs --lim 3", ["no option --lim", "--limit"]),
        ("runs --limit x", ["--limit", "1 to 1000", '"x"']),
        ("runs --limit 0", ["--limit", "1 to 1000"]),
        ("runs --status done", ["--status", "COMPLETED"]),
        ("up --workers 0", ["--workers", "1 to 256"]),
        ("up --queues gpu,c|pu", ["--queues", '"c|pu"', "separated by commas"]),
        ("up now", ['"now"', "one word too many"]),
        ("start", ["WORKFLOW"]),
        ("start w --priority 11", ["--priority", "0 to 9"]),
        ("start w --run-at tomorrow", ["--run-at", "ISO 8601"]),
        ("start w --wait --timeout soon", ["--timeout", "seconds"]),
        ("start w --timeout 3", ["--timeout", "Add --wait"]),
        ("start w --input - --config -", ["standard input", "@FILE"]),
        ("show", ["needs one run", "--key WORKFLOW KEY"]),
        ("show 12345678 --key w k", ["needs one run"]),
        ("explain", ["leasehold explain needs one run", "--key WORKFLOW KEY"]),
        ("artifacts 12345678 draw -o x", ["--output", "RUN STAGE NAME"]),
        ("artifacts 12345678 draw a.png --json", ["not as JSON", "--output FILE"]),
        ("dlq", ["list|replay"]),
        ("dlq drop", ["'drop'", "'list', 'replay'"]),
        ("dlq replay --after 3", ["--after", "oldest"]),
        ("sinks list audit", ['"audit"', "sinks forget NAME"]),
        ("config --app", ["--app", "expected one argument"]),
    ],
)
def test_what_cannot_be_understood_is_said_with_what_can(words: str, said: list[str]) -> None:
    with pytest.raises(InvalidCommand) as refused:
        parse(words.split())

    assert all(word in str(refused.value) for word in said), str(refused.value)


COMMANDS = [
    "demo",
    "init",
    "up",
    "start",
    "runs",
    "show",
    "explain",
    "history",
    "logs",
    "cancel",
    "rerun",
    "poll",
    "unpark",
    "dlq",
    "sinks",
    "migrate",
    "config",
    "doctor",
]


@pytest.mark.parametrize("words", ["--help", "-h", "help", "--json --help"])
def test_help_lists_every_command(words: str) -> None:
    with pytest.raises(HelpWanted) as wanted:
        parse(words.split())

    assert all(f"\n  {command} " in wanted.value.text for command in COMMANDS)


@pytest.mark.parametrize("command", [*COMMANDS, "run"])
def test_every_command_explains_itself_and_the_common_options(command: str) -> None:
    with pytest.raises(HelpWanted) as wanted:
        parse([command, "--help"])

    assert "--database-url URL" in wanted.value.text
    assert "--supervised" not in wanted.value.text


def test_the_version_is_told() -> None:
    with pytest.raises(HelpWanted, match="leasehold "):
        parse(["--version"])
