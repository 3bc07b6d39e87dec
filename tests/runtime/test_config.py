"""Where the values of settings come from, and what is refused."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from kernel import InvalidCommand
from runtime.config import SETTINGS, Settings, load_settings, setting_json, shown


def row_of(name: str):
    return next(row for row in SETTINGS if row.name == name)


def write_pyproject(folder: Path, table: str) -> Path:
    path = folder / "pyproject.toml"
    path.write_text(f"[tool.leasehold]\n{table}\n", encoding="utf-8")
    return path


def test_an_argument_beats_the_environment_which_beats_the_file_which_beats_the_default(tmp_path: Path) -> None:
    pyproject = write_pyproject(tmp_path, 'max_runs = 1\nmax_bodies = 2\nthreads = 3\napp = "a:b"')
    environ = {"LEASEHOLD_MAX_RUNS": "10", "LEASEHOLD_MAX_BODIES": "20"}

    settings = load_settings(max_runs=100, environ=environ, directory=tmp_path)

    assert (settings.max_runs, settings.max_bodies, settings.threads, settings.history_events_max) == (
        100,
        20,
        3,
        10_000,
    )
    found = [settings.source_of(name) for name in ("max_runs", "max_bodies", "threads", "history_events_max")]
    assert found == ["argument", "environment", str(pyproject), "default"]


def test_the_nearest_file_above_the_directory_counts(tmp_path: Path) -> None:
    write_pyproject(tmp_path, "threads = 3")
    deep = tmp_path / "src" / "shop"
    deep.mkdir(parents=True)

    assert load_settings(environ={}, directory=deep).threads == 3


def test_a_path_in_a_file_is_meant_from_where_the_file_is(tmp_path: Path) -> None:
    write_pyproject(tmp_path, 'data_dir = "state"')
    (tmp_path / "src").mkdir()

    assert load_settings(environ={}, directory=tmp_path / "src").data_dir == tmp_path / "state"


def test_an_empty_variable_is_not_set(tmp_path: Path) -> None:
    settings = load_settings(environ={"LEASEHOLD_DATABASE_URL": "", "LEASEHOLD_THREADS": " "}, directory=tmp_path)

    assert settings.database_url is None
    assert settings.source_of("threads") == "default"


def test_an_argument_of_none_is_not_given(tmp_path: Path) -> None:
    settings = load_settings(database_url=None, environ={"LEASEHOLD_DATABASE_URL": "embedded"}, directory=tmp_path)

    assert settings.source_of("database_url") == "environment"


def test_durations_are_seconds_in_variables_and_files(tmp_path: Path) -> None:
    write_pyproject(tmp_path, "renew_s = 0.5")

    settings = load_settings(environ={"LEASEHOLD_LEASE_S": "2.5"}, directory=tmp_path)

    assert (settings.lease, settings.renew) == (timedelta(seconds=2.5), timedelta(seconds=0.5))


@pytest.mark.parametrize(
    "variable,value,words",
    [
        ("LEASEHOLD_MAX_BODIES", "many", ["LEASEHOLD_MAX_BODIES", "whole number", "at least 1", '"many"']),
        ("LEASEHOLD_MAX_BODIES", "0", ["at least 1"]),
        ("LEASEHOLD_LEASE_S", "10s", ["LEASEHOLD_LEASE_S", "seconds"]),
        ("LEASEHOLD_LEASE_S", "nan", ["seconds"]),
        ("LEASEHOLD_LEASE_S", "1e300", ["seconds"]),
        ("LEASEHOLD_LOG_FORMAT", "xml", ["LEASEHOLD_LOG_FORMAT", "console", "json"]),
        ("LEASEHOLD_QUEUES", " , ", ["LEASEHOLD_QUEUES", "default"]),
        ("LEASEHOLD_DATABASE_URL", "mysql://h/d", ["LEASEHOLD_DATABASE_URL", "mysql", "postgresql://"]),
        ("LEASEHOLD_UNKNOWN_WORKFLOW_GRACE_S", "soon", ["LEASEHOLD_UNKNOWN_WORKFLOW_GRACE_S", "never"]),
    ],
)
def test_a_wrong_variable_is_named_with_what_it_takes(
    tmp_path: Path, variable: str, value: str, words: list[str]
) -> None:
    with pytest.raises(InvalidCommand) as refused:
        load_settings(environ={variable: value}, directory=tmp_path)

    assert all(word in str(refused.value) for word in words)


def test_a_wrong_value_in_a_file_is_named_with_the_file(tmp_path: Path) -> None:
    pyproject = write_pyproject(tmp_path, "threads = true")

    with pytest.raises(InvalidCommand, match="threads") as refused:
        load_settings(environ={}, directory=tmp_path)

    assert str(pyproject) in str(refused.value)


@pytest.mark.parametrize("text", ["[tool.leasehold", "[tool]\nleasehold = 1\n"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")

    with pytest.raises(InvalidCommand, match=r"pyproject\.toml"):
        load_settings(environ={}, directory=tmp_path)


def test_a_refused_database_url_does_not_show_its_password(tmp_path: Path) -> None:
    with pytest.raises(InvalidCommand) as refused:
        load_settings(environ={"LEASEHOLD_DATABASE_URL": "postgresql://u:hidden@h:port/d"}, directory=tmp_path)

    assert "hidden" not in str(refused.value)


def test_an_unknown_variable_is_warned_of_with_the_closest_name(tmp_path: Path) -> None:
    settings = load_settings(environ={"LEASEHOLD_MAX_RUN": "5"}, directory=tmp_path)

    [warning] = settings.warnings
    assert "LEASEHOLD_MAX_RUN " in warning
    assert "LEASEHOLD_MAX_RUNS" in warning


def test_an_unknown_key_of_the_file_is_warned_of_with_the_closest_name(tmp_path: Path) -> None:
    write_pyproject(tmp_path, "lease = 5")

    [warning] = load_settings(environ={}, directory=tmp_path).warnings
    assert "lease_s" in warning


def test_variables_of_other_programs_and_of_the_tests_are_nobodys_business(tmp_path: Path) -> None:
    environ = {"LEASEHOLD_TEST_SEED": "1", "PATH": "/bin", "XLEASEHOLD_A": "1"}

    assert load_settings(environ=environ, directory=tmp_path).warnings == ()


def test_a_lease_must_outlast_a_lost_renewal() -> None:
    with pytest.raises(InvalidCommand, match="LEASEHOLD_RENEW_S to 2 or less") as refused:
        Settings(lease=timedelta(seconds=4), renew=timedelta(seconds=3))

    assert refused.value.field == "renew"


def test_an_inline_payload_cannot_be_larger_than_any_payload() -> None:
    with pytest.raises(InvalidCommand, match="payload_bytes_max"):
        Settings(payload_bytes_max=10)


def test_settings_built_in_python_are_checked_too() -> None:
    with pytest.raises(InvalidCommand, match="max_bodies"):
        Settings(max_bodies=0)


def test_a_misspelt_argument_is_an_error() -> None:
    with pytest.raises(InvalidCommand, match="Did you mean max_runs"):
        load_settings(max_run=5)


@pytest.mark.parametrize(
    "given,expected", [("a,b", ("a", "b")), ("a, a ,b,", ("a", "b")), (["a", "b"], ("a", "b")), (("a",), ("a",))]
)
def test_queues_are_a_list_or_a_text_with_commas(given: object, expected: tuple[str, ...]) -> None:
    assert load_settings(queues=given, environ={}).queues == expected


def test_a_name_of_a_queue_that_no_stage_can_have_is_refused() -> None:
    with pytest.raises(InvalidCommand, match='the name "gpu gpu" has characters that are not allowed') as refused:
        load_settings(queues="default,gpu gpu", environ={})

    assert refused.value.field == "queues"


def test_never_means_no_end() -> None:
    assert load_settings(environ={"LEASEHOLD_UNKNOWN_WORKFLOW_GRACE_S": "never"}).unknown_workflow_grace is None
    grace = load_settings(environ={"LEASEHOLD_UNKNOWN_WORKFLOW_GRACE_S": "90"}).unknown_workflow_grace
    assert grace == timedelta(seconds=90)


@pytest.mark.parametrize(
    "value,expected", [("production", True), ("Production ", True), ("staging", False), (None, False)]
)
def test_production_is_recognised_in_any_case(value: str | None, *, expected: bool) -> None:
    assert Settings(env=value).in_production is expected


def test_every_field_has_a_row_and_every_row_a_default() -> None:
    fields = set(Settings.__dataclass_fields__) - {"sources", "warnings"}

    assert {row.name for row in SETTINGS} == fields
    assert len({row.variable for row in SETTINGS}) == len(SETTINGS)


@pytest.mark.parametrize(
    "name,value,text,json",
    [
        ("lease", timedelta(seconds=10), "10 s", 10.0),
        ("idempotency_expiry", timedelta(days=30), "30 d", 2_592_000.0),
        ("unknown_workflow_grace", None, "never", None),
        ("queues", ("a", "b"), "a, b", ["a", "b"]),
        ("data_dir", Path("x"), "x", "x"),
        ("app", None, "-", None),
        ("database_url", "postgresql://u:hidden@h/d", "postgresql://u:***@h/d", "postgresql://u:***@h/d"),
    ],
)
def test_values_are_shown_for_people_and_for_machines(name: str, value: object, text: str, json: object) -> None:
    assert shown(row_of(name), value) == text
    assert setting_json(row_of(name), value) == json


def test_the_folders_of_a_project_share_its_data_directory(tmp_path: Path) -> None:
    write_pyproject(tmp_path, 'app = "a:b"')
    (tmp_path / "src").mkdir()

    assert load_settings(environ={}, directory=tmp_path / "src").data_dir == tmp_path / ".leasehold"


def test_a_data_directory_is_named_short_where_the_project_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pyproject(tmp_path, 'app = "a:b"')
    monkeypatch.chdir(tmp_path)

    assert load_settings(environ={}).data_dir == Path(".leasehold")


def test_a_pyproject_of_something_else_does_not_move_the_data_directory(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.other]\n", encoding="utf-8")
    (tmp_path / "src").mkdir()

    assert load_settings(environ={}, directory=tmp_path / "src").data_dir == Path(".leasehold")


@pytest.mark.parametrize("value,warned", [("prod", True), ("Production", False), ("staging", False), ("", False)])
def test_an_unknown_environment_is_warned_of(tmp_path: Path, value: str, *, warned: bool) -> None:
    warnings = load_settings(environ={"LEASEHOLD_ENV": value}, directory=tmp_path).warnings

    assert [f'"{value}"' in warning and '"production"' in warning for warning in warnings] == [True] * warned
