"""What a person asked for, as values: one class per command, with its options.

The parser makes them and `entry` matches on them; neither the words of the command line nor the work is known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeAlias

__all__ = [
    "Artifacts",
    "Bench",
    "Cancel",
    "Command",
    "Config",
    "Demo",
    "Dlq",
    "Doctor",
    "Explain",
    "History",
    "Init",
    "Invocation",
    "Logs",
    "Migrate",
    "Options",
    "Poll",
    "Rerun",
    "Runs",
    "Show",
    "Sinks",
    "Start",
    "Unpark",
    "Up",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Up:
    """Supervise in the foreground, in this process or (`workers`) in several.

    `supervised`: as which of those. `queues`: instead of those of the settings. `metrics_port`: where metrics are
    served as text; of several workers the first has it, the second the next one.
    """

    workers: int | None = None
    accept_changes: bool = False
    queues: tuple[str, ...] | None = None
    supervised: int | None = None
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """Run the example pipeline on the files of a directory (None: Python's standard library)."""

    directory: Path | None = None
    limit: int = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Init:
    """Write a first app into a directory."""

    directory: Path = Path()


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Create a run. `input` and `config` are as written: JSON, @file or -; `timeout_s` bounds the wait, not the run.

    `traceparent`: the W3C header of the span which the run's trace continues, as written.
    """

    workflow: str
    input: str | None = None
    key: str | None = None
    config: str | None = None
    priority: int = 5
    run_at: datetime | None = None
    traceparent: str | None = None
    wait: bool = False
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """List runs, newest first. `after` is the cursor that the page before gave."""

    status: str | None = None
    workflow: str | None = None
    limit: int = 20
    after: str | None = None
    full: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """Everything about one run, named by its id (or the end of it), or by workflow and idempotency key."""

    run: str | None = None
    key: tuple[str, str] | None = None
    full: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The events of one run."""

    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """What the bodies of one run have logged; `follow`: and log until it ends."""

    run: str
    follow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifacts:
    """List the artifacts of a run, or of one stage; with a `name`, write that one.

    `output` is the file to write; None stands for standard output.
    """

    run: str
    stage: str | None = None
    name: str | None = None
    output: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """What was remarked about one run; `prefix` is the beginning of the keys that are meant."""

    run: str
    prefix: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotate:
    """Remark something about one run. `value` is JSON, or a text when it is none; `actor` is kind[:id[:version]]."""

    run: str
    key: str
    value: str
    stage: str | None = None
    scope: str | None = None
    scope_id: str | None = None
    actor: str | None = None
    once: str | None = None
    emit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Cancel one run."""

    run: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """Begin one run again at a stage; `keep`: what has completed beside it stays."""

    run: str
    from_stage: str
    keep_completed: bool = False
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """Have the suspended stages of one run looked at now."""

    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpark:
    """Give a parked run back."""

    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dlq:
    """List dead letters, oldest first, those with an id above `after`; or replay the oldest of them."""

    action: Literal["list", "replay"]
    limit: int = 100
    after: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sinks:
    """List the sinks, or forget the one of this name."""

    action: Literal["list", "forget"] = "list"
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrate:
    """Bring the database's schema up to date; `sql`: only print what would be executed."""

    sql: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Measure the engine on this machine and database. `only` names groups of measures, with commas; None: all.

    Sizes that are None are the usual ones, which `quick` makes smaller. `compare` is an earlier result.
    """

    only: str | None = None
    quick: bool = False
    repeat: int | None = None
    runs: int | None = None
    sleepers: int | None = None
    sleep_s: float | None = None
    compare: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Show the effective settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doctor:
    """Examine the database and what lies around it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explain:
    """Why one run does not progress; named as for `Show`."""

    run: str | None = None
    key: tuple[str, str] | None = None


Command: TypeAlias = (
    Up
    | Demo
    | Init
    | Start
    | Runs
    | Show
    | History
    | Logs
    | Artifacts
    | Annotations
    | Annotate
    | Cancel
    | Rerun
    | Poll
    | Unpark
    | Dlq
    | Sinks
    | Migrate
    | Bench
    | Config
    | Doctor
    | Explain
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What every command understands."""

    app: str | None = None
    database_url: str | None = None
    data_dir: Path | None = None
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """A command with its options."""

    command: Command
    options: Options
