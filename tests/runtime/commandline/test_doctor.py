"""`doctor` as it is typed: what it prints, how it exits, and that nothing is made or changed by it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime.bootstrap import migrate_database
from runtime.commandline.entry import run
from runtime.config import Settings
from tests.conftest import execute

Doctor = Callable[..., tuple[int, Any]]


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Doctor:
    """Run it in an empty folder; its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("OTEL_", "LEASEHOLD_"))]:
        monkeypatch.delenv(name)

    def examined(*words: str) -> tuple[int, Any]:
        code = run(["doctor", *words])
        out = capsys.readouterr().out
        return code, json.loads(out) if "--json" in words else out

    return examined


def by_name(report: Any) -> dict[str, Any]:
    return {check["name"]: check for check in report["checks"]}


@pytest.mark.parametrize("event_loop", ["asyncio", "trio"])
def test_a_database_without_a_process_is_healthy_with_a_warning(
    doctor: Doctor, migrated_url: str, monkeypatch: pytest.MonkeyPatch, event_loop: str
) -> None:
    monkeypatch.setenv("LEASEHOLD_EVENT_LOOP", event_loop)

    code, report = doctor("--json", "--database-url", migrated_url)

    checks = by_name(report)
    assert (code, report["healthy"]) == (0, True)
    assert {name: check["status"] for name, check in checks.items() if check["status"] != "ok"} == {
        "sessions": "warning",
        "collector": "skipped",
    }
    assert checks["listen"]["figures"]["round_trip_s"] < 2
    assert checks["sessions"]["advice"] == "Start a process: leasehold up."


def test_a_problem_is_the_exit_code_and_has_its_way_out(
    doctor: Doctor, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")

    code, said = doctor("--database-url", database_url)

    lines = said.splitlines()
    assert code == 1
    assert "✓ database" in lines[0]
    assert [line.split()[1] for line in lines if line.startswith("✗")] == ["migrations"]
    assert any(line.startswith("! collector") for line in lines)
    assert "→ leasehold migrate, as the role that is to own it." in said
    assert lines[-1] == "1 problem, 1 warning"
    assert max(map(len, lines)) <= 100


def test_a_problem_in_the_work_is_one_too(doctor: Doctor, database_url: str) -> None:
    anyio.run(migrate_database, Settings(database_url=database_url))
    execute(database_url, "INSERT INTO leasehold.sinks (name) VALUES ('audit')")
    execute(
        database_url,
        "INSERT INTO leasehold.dead_letters (run_id, seq, sink, error, tries) "
        "VALUES (leasehold.mint_run_id(), 1, 'audit', 'no', 3)",
    )

    code, report = doctor("--json", "--database-url", database_url)

    assert (code, report["healthy"], by_name(report)["dead letters"]["status"]) == (1, False, "problem")


def test_a_database_that_cannot_be_reached_is_told_with_all_that_could_be_checked(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LEASEHOLD_BLOB_URL", f"file://{tmp_path}")

    code, report = doctor("--json", "--database-url", "postgresql://u:hidden@127.0.0.1:1/d")

    checks = by_name(report)
    assert (code, report["healthy"]) == (3, False)
    assert (checks["database"]["status"], checks["backlog"]["status"]) == ("problem", "skipped")
    assert [check["status"] for check in report["checks"] if check["name"] == "blobs"] == ["ok"]
    assert "hidden" not in json.dumps(report)


def test_without_a_database_the_rest_is_told_all_the_same(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEASEHOLD_ENV", "production")

    code, report = doctor("--json")

    assert (code, report["database"]) == (2, None)
    assert [check["name"] for check in report["checks"]] == ["database", "collector"]
    assert "LEASEHOLD_DATABASE_URL" in report["checks"][0]["advice"]


def test_an_embedded_database_that_does_not_exist_is_not_made(doctor: Doctor, tmp_path: Path) -> None:
    code, said = doctor("--database-url", "embedded", "--data-dir", "state")

    assert (code, list(tmp_path.iterdir())) == (3, [])
    assert "There is no embedded database in state yet." in said


@pytest.mark.parametrize("columns", ["60", "80"])
@pytest.mark.parametrize("piped", [False, True])
def test_lines_fit_the_terminal_or_what_columns_says_of_a_pipe(
    doctor: Doctor, database_url: str, monkeypatch: pytest.MonkeyPatch, columns: str, *, piped: bool
) -> None:
    monkeypatch.setattr("runtime.commandline.screen._is_terminal", lambda _: not piped)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", columns)

    _, said = doctor("--database-url", database_url)

    assert int(columns) - 20 < max(map(len, said.splitlines())) <= int(columns)
