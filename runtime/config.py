"""Every bound and choice of the runtime: its default, its unit, and where its value came from.

One literal table, `SETTINGS`, has a row per setting; names of environment variables and of pyproject keys follow from
it (durations get `_s`, because a bare number has no unit). A value is taken from the first that has one: an argument,
the environment, `[tool.leasehold]` of the nearest pyproject.toml, the default. Nothing here opens a database or
imports an app.
"""

from __future__ import annotations

import os
import platform
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from kernel.errors import InvalidCommand
from runtime.database_urls import masked_url
from runtime.setting_kinds import BlobUrl, Choice, Flag, Folder, Kind, Names, Number, Seconds, Text, Url

__all__ = ["SETTINGS", "Setting", "Settings", "Source", "find_pyproject", "load_settings", "setting_json", "shown"]

PREFIX = "LEASEHOLD_"
# Variables of our own tests, which are nobody's setting.
_FOREIGN_PREFIXES = ("LEASEHOLD_TEST_",)
# Only the first changes anything; a name like "prod" is taken for a mistake.
_ENVIRONMENTS = ("production", "staging", "development", "test")

Source: TypeAlias = str
"""Where a value came from: "argument", "environment", the path of a pyproject.toml, or "default"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the table: a field of `Settings`, how its values are written, and what it means."""

    name: str
    kind: Kind
    note: str

    @property
    def key(self) -> str:
        """Its name where values have no types: in pyproject.toml and in JSON."""
        return f"{self.name}_s" if isinstance(self.kind, Seconds) else self.name

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return PREFIX + self.key.upper()


def _processes() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The effective settings of one process; `SETTINGS` says what each means.

    Built directly, the values are exactly these; `load_settings` also asks the environment and pyproject.toml.
    Raises: InvalidCommand, naming the setting and what it takes.
    """

    database_url: str | None = None
    direct_url: str | None = None
    data_dir: Path = Path(".leasehold")
    blob_url: str | None = None
    env: str | None = None
    app: str | None = None
    name: str = field(default_factory=lambda: platform.node() or "leasehold")
    event_loop: Literal["asyncio", "trio"] = "asyncio"
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    max_runs: int = 1000
    max_bodies: int = 100
    max_checks: int = 100
    threads: int = 40
    processes: int = field(default_factory=_processes)
    queues: tuple[str, ...] = ("default",)
    lease: timedelta = timedelta(seconds=10)
    renew: timedelta = timedelta(seconds=3)
    poll_interval: timedelta = timedelta(seconds=1)
    drain_grace: timedelta = timedelta(seconds=30)
    passivate_after: timedelta = timedelta(seconds=5)
    max_blocked: timedelta = timedelta(seconds=300)
    payload_inline_bytes_max: int = 16_384
    payload_bytes_max: int = 67_108_864
    history_events_max: int = 10_000
    unknown_workflow_grace: timedelta | None = None
    idempotency_expiry: timedelta = timedelta(days=30)
    capture_payloads: bool = False
    sources: Mapping[str, Source] = field(default_factory=dict[str, Source], compare=False, repr=False)
    warnings: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse values that make no sense, alone or together."""
        for row in SETTINGS:
            object.__setattr__(self, row.name, row.kind.read(getattr(self, row.name), row.name, row.name))
        if self.renew * 2 > self.lease:
            # One renewal may get lost without the lease.
            raise InvalidCommand(
                f"renew ({self.renew.total_seconds():g} s) must be at most half of lease "
                f"({self.lease.total_seconds():g} s).",
                field="renew",
                hint=f"Set {PREFIX}RENEW_S to {self.lease.total_seconds() / 2:g} or less, "
                f"or {PREFIX}LEASE_S to {self.renew.total_seconds() * 2:g} or more.",
            )
        if self.payload_inline_bytes_max > self.payload_bytes_max:
            raise InvalidCommand(
                f"payload_inline_bytes_max ({self.payload_inline_bytes_max}) must not exceed "
                f"payload_bytes_max ({self.payload_bytes_max}).",
                field="payload_inline_bytes_max",
                hint=f"Lower {PREFIX}PAYLOAD_INLINE_BYTES_MAX or raise {PREFIX}PAYLOAD_BYTES_MAX.",
            )

    @property
    def in_production(self) -> bool:
        """Whether falling back to the embedded database is forbidden (`LEASEHOLD_ENV=production`)."""
        return (self.env or "").strip().lower() == "production"

    def source_of(self, name: str) -> Source:
        """Where the value of this field came from."""
        return self.sources.get(name, "default")


SETTINGS: tuple[Setting, ...] = (
    Setting(name="app", kind=Text(), note="where the App is, as module:attribute"),
    Setting(name="database_url", kind=Url(), note='the database, or "embedded"'),
    Setting(name="direct_url", kind=Url(), note="the same database without the pooler: renewal, LISTEN, migrations"),
    Setting(name="data_dir", kind=Folder(), note="where the embedded database lives"),
    Setting(
        name="blob_url",
        kind=BlobUrl(),
        note="where large payloads, artifacts and ctx.storage go instead of the database: s3://bucket/prefix or file:///folder",
    ),
    Setting(name="env", kind=Text(), note='"production" forbids falling back to the embedded database'),
    Setting(name="name", kind=Text(), note="how this process calls itself to operators"),
    Setting(name="event_loop", kind=Choice(("asyncio", "trio")), note="what the command line runs on"),
    Setting(name="log_format", kind=Choice(("console", "json")), note="how the command line writes its log"),
    Setting(name="log_level", kind=Choice(("debug", "info", "warning", "error")), note="what it leaves out"),
    Setting(
        name="max_runs", kind=Number(0), note="runs that this process drives at a time; 0: only stages of its queues"
    ),
    Setting(name="max_bodies", kind=Number(1), note="stage bodies that it executes at a time"),
    Setting(name="max_checks", kind=Number(1), note="checks of suspended stages that it makes at a time"),
    Setting(name="threads", kind=Number(1), note="worker threads for stages that are plain functions"),
    Setting(name="processes", kind=Number(1), note="child interpreters for stages with a process of their own"),
    Setting(name="queues", kind=Names(), note="queues that this process serves"),
    Setting(name="lease", kind=Seconds(0.2), note="how long a silent process keeps its runs"),
    Setting(name="renew", kind=Seconds(0.05), note="how often it renews its lease"),
    Setting(name="poll_interval", kind=Seconds(0.01), note="how often it looks for work without being told"),
    Setting(name="drain_grace", kind=Seconds(0.0), note="how long bodies may go on when it is asked to stop"),
    Setting(name="passivate_after", kind=Seconds(0.0), note="how long a waiting run stays in memory"),
    Setting(name="max_blocked", kind=Seconds(1.0), note="how long a blocked event loop keeps the lease"),
    Setting(name="payload_inline_bytes_max", kind=Number(0), note="larger payloads go to the blob store"),
    Setting(name="payload_bytes_max", kind=Number(1), note="larger payloads are refused"),
    Setting(name="history_events_max", kind=Number(100), note="a run with more events than this is failed"),
    Setting(
        name="unknown_workflow_grace",
        kind=Seconds(0.0, never=True),
        note="how long a run may wait for a process that knows its workflow",
    ),
    Setting(name="idempotency_expiry", kind=Seconds(1.0), note="how long an idempotency key is remembered"),
    Setting(name="capture_payloads", kind=Flag(), note="whether traces have inputs and outputs in them"),
)

_BY_NAME: Mapping[str, Setting] = {row.name: row for row in SETTINGS}


def load_settings(
    *, environ: Mapping[str, str] | None = None, directory: Path | None = None, **arguments: object
) -> Settings:
    """The effective settings: `arguments` by field name (None: not given), then environment, pyproject.toml, default.

    `environ` and `directory` stand for the process's own environment and working directory. Unknown variables and
    keys end up in `Settings.warnings`, with the closest name.
    Raises: InvalidCommand, naming the argument, variable or file, for a value that cannot be used.
    """
    environ = os.environ if environ is None else environ
    pyproject = find_pyproject(_working_directory() if directory is None else directory)
    found_table = None if pyproject is None else _tool_table(pyproject)
    table: Mapping[str, object] = found_table or {}
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for name, value in arguments.items():
        if name not in _BY_NAME:
            raise InvalidCommand(f'There is no setting "{name}".', field=name, hint=_closest(name, list(_BY_NAME)))
        if value is not None:
            values[name], sources[name] = _BY_NAME[name].kind.read(value, name, name), "argument"
    for row in SETTINGS:
        if row.name in values:
            continue
        # An empty variable is how many tools say "not set".
        if raw := environ.get(row.variable, "").strip():
            values[row.name], sources[row.name] = row.kind.read(raw, row.variable, row.name), "environment"
        elif row.key in table and pyproject is not None:
            where = f"[tool.leasehold] {row.key} in {pyproject}"
            found = row.kind.read(table[row.key], where, row.name)
            # A path in a file is meant from where the file is.
            values[row.name] = pyproject.parent / found if isinstance(found, Path) else found
            sources[row.name] = str(pyproject)
    if "data_dir" not in values and found_table is not None and pyproject is not None:
        values["data_dir"] = _data_dir_of(pyproject)
    unheeded = (*_warnings(environ, table, pyproject), *_env_warning(values.get("env")))
    return Settings(**values, sources=sources, warnings=unheeded)


def _data_dir_of(pyproject: Path) -> Path:
    """The default data directory of a project: one for all its folders, shown short in the topmost."""
    default = Path(".leasehold")
    return default if pyproject.parent == _working_directory() else pyproject.parent / default


def _env_warning(env: str | None) -> tuple[str, ...]:
    if env is None or env.strip().lower() in _ENVIRONMENTS:
        return ()
    known = ", ".join(f'"{name}"' for name in _ENVIRONMENTS)
    return (f'{PREFIX}ENV is "{env}", which has no effect; "production" has one. Known names: {known}.',)


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        message = "The working directory does not exist any more."
        raise InvalidCommand(message, field="directory", hint="Change to one that does.") from None


def find_pyproject(directory: Path) -> Path | None:
    """The nearest pyproject.toml: in this directory, or in the closest one above it that has one."""
    directory = directory.absolute()
    candidates = (folder / "pyproject.toml" for folder in (directory, *directory.parents))
    # os.path.isfile, because a directory above that may not be read is no error.
    return next((path for path in candidates if os.path.isfile(path)), None)  # noqa: PTH113


def _tool_table(pyproject: Path) -> Mapping[str, object] | None:
    """Our table of the file; None when it has none."""
    try:
        found: dict[str, Any] = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidCommand(f"{pyproject} cannot be read: {error}.", field="pyproject.toml") from error
    tool: object = found.get("tool")
    table: object = cast("dict[str, object]", tool).get("leasehold") if isinstance(tool, dict) else None
    if table is None:
        return None
    if not isinstance(table, dict):
        raise InvalidCommand(f"[tool.leasehold] in {pyproject} is not a table.", field="pyproject.toml")
    return cast("dict[str, object]", table)


def _warnings(environ: Mapping[str, str], table: Mapping[str, object], pyproject: Path | None) -> tuple[str, ...]:
    variables = [row.variable for row in SETTINGS]
    unknown_variables = sorted(
        name
        for name in environ
        if name.startswith(PREFIX) and not name.startswith(_FOREIGN_PREFIXES) and name not in variables
    )
    keys = [row.key for row in SETTINGS]
    return (
        *(f"{name} is not a setting and has no effect. {_closest(name, variables)}" for name in unknown_variables),
        *(
            f'"{key}" of [tool.leasehold] in {pyproject} is not a setting and has no effect. {_closest(key, keys)}'
            for key in sorted(table.keys() - set(keys))
        ),
    )


def _closest(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean {close[0]}?" if close else '"leasehold config" lists all of them.'


def shown(row: Setting, value: object) -> str:
    """A value as people read it, without passwords."""
    if value is None:
        return "never" if isinstance(row.kind, Seconds) else "-"
    match row.kind:
        case Url():
            return masked_url(str(value))
        case Flag():
            return "true" if value else "false"
        case Seconds() if isinstance(value, timedelta):
            return _duration(value)
        case Names() if isinstance(value, tuple):
            return ", ".join(map(str, cast("tuple[object, ...]", value)))
        case _:
            return str(value)


def _duration(value: timedelta) -> str:
    seconds = value.total_seconds()
    for size, unit in ((86_400, "d"), (3600, "h")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def setting_json(row: Setting, value: object) -> object:
    """A value as JSON, without passwords: durations as seconds, paths as text."""
    match value:
        case timedelta():
            return value.total_seconds()
        case tuple():
            return list(cast("tuple[object, ...]", value))
        case Path():
            return str(value)
        case str() if isinstance(row.kind, Url):
            return masked_url(value)
        case _:
            return value
