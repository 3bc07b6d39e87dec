"""From words to an `Invocation`; whatever cannot be understood is an `InvalidCommand` that says what can.

argparse does the work. It is kept from ending the process, and from guessing abbreviations: an option that is added
later must not change what an old script means. The common options may stand before or after the command.
"""

from __future__ import annotations

import argparse
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from kernel.authoring.identifiers import identifier_problem
from kernel.errors import InvalidCommand
from kernel.model.machine import Status
from runtime.commandline import diagnosis_words
from runtime.commandline.invocation import (
    Annotate,
    Annotations,
    Artifacts,
    Bench,
    Cancel,
    Command,
    Config,
    Demo,
    Dlq,
    History,
    Init,
    Invocation,
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

__all__ = ["HelpWanted", "parse"]

_HELP = """\
usage: leasehold [COMMAND] [OPTIONS]

Durable workflow runs on Postgres. Without a command: up.

first steps
  demo         a durable pipeline on real files, with a private Postgres; needs nothing
  init         write an app.py, a test for it, and the entry in pyproject.toml

work
  up           supervise: execute the runs of the app until told to stop
  start        create a run (also: run)

look
  runs         list runs
  show         everything about one run
  explain      why it does not progress, and what to do about it
  history      its events
  logs         what its stages logged
  artifacts    what its stages kept beside their results
  annotations  what was remarked about it

act
  annotate     remark something about a run
  cancel       cancel a run
  rerun        do a run that has ended again, from one of its stages on
  poll         look at the suspended stages of a run now
  unpark       give back a run that could not be decided

publish
  dlq          events that a plugin or sink refused too often: list them, or try them again
  sinks        who is told of events and what each is still owed; forget one

maintain
  migrate      bring the database's schema up to date
  bench        measure the engine on this machine and database
  config       the effective settings, and where each comes from
  doctor       what is wrong with the database and around it, and what to do about it

options of every command
  --app MODULE:ATTRIBUTE   the App (else LEASEHOLD_APP, else [tool.leasehold] app in pyproject.toml)
  --database-url URL       the database (else LEASEHOLD_DATABASE_URL, else pyproject.toml, else embedded)
  --data-dir DIRECTORY     where the embedded database lives (default: .leasehold)
  --json                   results as JSON, for machines
  --version, --help

leasehold COMMAND --help tells more about one. Short run ids are the last 8 characters.
"""

_VALUED = ("--app", "--database-url", "--data-dir")


class HelpWanted(Exception):
    """Somebody asked for help or the version; `text` is the answer."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise InvalidCommand(
            f"{self.prog}: {message}.", field="arguments", hint=f'"{self.prog} --help" tells how it is used.'
        )


class _Help(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise HelpWanted(parser.format_help())


def parse(words: Sequence[str]) -> Invocation:
    """What was asked for.

    Raises: InvalidCommand, naming the word that is wrong and the closest one that is not; HelpWanted.
    """
    words = list(words)
    position = _command_at(words)
    if position is None:
        # Whatever is not a common option belongs to the command that was left out.
        name, rest = "up", words
    else:
        name, rest = words[position], words[:position] + words[position + 1 :]
    name = _ALIASES.get(name, name)
    if name == "help":
        raise HelpWanted(_HELP)
    if name not in _COMMANDS:
        raise _unknown_command(name)
    description = inspect.getdoc(_COMMANDS[name])
    parser = _Parser(prog=f"leasehold {name}", add_help=False, allow_abbrev=False, description=description)
    _add_common(parser)
    make = _COMMANDS[name](parser)
    known, unknown = parser.parse_known_args(rest)
    if unknown:
        raise _unknown_word(parser, unknown[0])
    options = Options(app=known.app, database_url=known.database_url, data_dir=known.data_dir, json=known.json)
    return Invocation(command=make(known), options=options)


def _command_at(words: Sequence[str]) -> int | None:
    """Where the command stands: the first word that is neither a common option nor an option's value."""
    skip = False
    for i, word in enumerate(words):
        if skip:
            skip = False
        elif word in {"-h", "--help"}:
            raise HelpWanted(_HELP)
        elif word == "--version":
            raise HelpWanted(f"leasehold {_version()}\n")
        elif word in _VALUED:
            skip = True
        elif word == "--json" or word.startswith(tuple(f"{option}=" for option in _VALUED)):
            continue
        else:
            return None if word.startswith("-") else i
    return None


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("leasehold")
    except PackageNotFoundError:
        return "(not installed)"


def _unknown_command(name: str) -> InvalidCommand:
    known = [*_COMMANDS, *_ALIASES]
    close = get_close_matches(name, known, n=1)
    hint = f'Did you mean "leasehold {close[0]}"?' if close else f"Commands: {', '.join(_COMMANDS)}."
    return InvalidCommand(f'There is no command "{name}".', field="command", hint=hint)


def _unknown_word(parser: argparse.ArgumentParser, word: str) -> InvalidCommand:
    if not word.startswith("-"):
        return InvalidCommand(
            f'{parser.prog}: "{word}" is one word too many.',
            field="arguments",
            hint=f'"{parser.prog} --help" tells how it is used.',
        )
    option = word.partition("=")[0]
    known = [name for action in _actions(parser) for name in action.option_strings]
    close = get_close_matches(option, known, n=1)
    hint = f"Did you mean {close[0]}?" if close else f'"{parser.prog} --help" lists its options.'
    return InvalidCommand(f"{parser.prog} has no option {option}.", field="arguments", hint=hint)


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return parser._actions  # noqa: SLF001 - argparse has no public list of them


# -- options ---------------------------------------------------------------------------------------------------------


def _add_common(parser: argparse.ArgumentParser) -> None:
    common = parser.add_argument_group("options of every command")
    common.add_argument("--app", metavar="MODULE:ATTRIBUTE", help="the App")
    common.add_argument("--database-url", metavar="URL", help='the database, or "embedded"')
    common.add_argument("--data-dir", metavar="DIRECTORY", type=_folder, help="where the embedded database lives")
    common.add_argument("--json", action="store_true", help="results as JSON, for machines")
    common.add_argument("-h", "--help", action=_Help, nargs=0, help="show this")


def _folder(text: str) -> Path:
    if not text.strip():
        # To Path it would be the working directory, which a script with an unset variable does not mean.
        raise argparse.ArgumentTypeError('a directory is needed, such as .leasehold (or "." for this one), not ""')
    return Path(text)


def _number(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    def read(text: str) -> int:
        bounds = f"at least {minimum}" if maximum is None else f"{minimum} to {maximum}"
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if number < minimum or (maximum is not None and number > maximum):
            raise argparse.ArgumentTypeError(f'a whole number, {bounds}, is needed, not "{text}"')
        return number

    return read


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise argparse.ArgumentTypeError(f'a number of seconds, 0 or more, is needed, not "{text}"')
    return seconds


def _status(text: str) -> str:
    if text.upper() not in Status.__members__:
        raise argparse.ArgumentTypeError(f'"{text}" is none of {", ".join(Status.__members__)}')
    return text.upper()


def _queues(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError(f'names are needed, such as default,gpu, not "{text}"')
    for name in names:
        if (problem := identifier_problem(name)) is not None:
            raise argparse.ArgumentTypeError(f'the queue "{name}" {problem}; names are separated by commas')
    return names


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'a time in ISO 8601 is needed, such as {datetime.now(UTC):%Y-%m-%dT%H:%M}Z, not "{text}"'
        ) from None
    # Without a zone it is the wall clock of whoever types it.
    return moment.astimezone()


# -- the commands: each adds its options and returns what makes the command of them ------------------------------------

_Make = Callable[[argparse.Namespace], Command]


def _taken(command: type[Any], known: argparse.Namespace) -> Mapping[str, Any]:
    """The fields of a command class, by name, from what was parsed."""
    return {field.name: getattr(known, field.name) for field in fields(command)}


def _up(parser: argparse.ArgumentParser) -> _Make:
    """Supervise: execute the runs of the app until told to stop.

    The first SIGINT, SIGTERM or SIGHUP drains, a second one ends the process at once.
    """
    parser.add_argument(
        "--workers", type=_number(1, 256), metavar="N", help="this many processes, restarted if they die"
    )
    parser.add_argument(
        "--accept-changes", action="store_true", help="go on with runs whose definition changed under their version"
    )
    parser.add_argument(
        "--queues",
        type=_queues,
        metavar="Q,Q",
        help="execute the stages of these queues, beside whole runs (default: those of the settings; with"
        " LEASEHOLD_MAX_RUNS=0 nothing else)",
    )
    parser.add_argument(
        "--metrics-port",
        type=_number(1, 65535),
        metavar="PORT",
        help="serve metrics to Prometheus; of several workers the first has this port, the second the next one",
    )
    parser.add_argument(
        "--metrics-host", default="127.0.0.1", metavar="HOST", help="on this address (default: 127.0.0.1)"
    )
    parser.add_argument("--supervised", type=_number(1), help=argparse.SUPPRESS)
    return lambda known: Up(**_taken(Up, known))


def _demo(parser: argparse.ArgumentParser) -> _Make:
    """A durable pipeline on real files, with an embedded Postgres.

    Extracts their texts, finds keywords, language and statistics at the same time, and reports.
    """
    parser.add_argument(
        "--directory", type=_folder, metavar="DIR", help="its text files (default: Python's own library)"
    )
    parser.add_argument(
        "--limit", type=_number(1), default=400, metavar="N", help="at most so many files (default: 400)"
    )
    return lambda known: Demo(**_taken(Demo, known))


def _init(parser: argparse.ArgumentParser) -> _Make:
    """Write an app.py, a test_app.py and the entry in pyproject.toml. Existing files are left alone."""
    parser.add_argument("directory", type=_folder, nargs="?", default=Path(), help="where (default: here)")
    return lambda known: Init(**_taken(Init, known))


def _start(parser: argparse.ArgumentParser) -> _Make:
    """Create a run, and print it. Some process has to execute it: leasehold up."""
    parser.add_argument("workflow", metavar="WORKFLOW", help="the workflow's id")
    parser.add_argument("--input", metavar="JSON|@FILE|-", help="its input: JSON, a file of it, or standard input")
    parser.add_argument("--key", metavar="K", help="idempotency key: the same key answers with the same run")
    parser.add_argument("--config", metavar="JSON|@FILE|-", help='configuration by stage: {"STAGE": {...}}')
    parser.add_argument("--priority", type=_number(0, 9), default=5, metavar="P", help="0 to 9 (default: 5)")
    parser.add_argument("--run-at", type=_moment, metavar="TIME", help="not before this time (ISO 8601)")
    parser.add_argument("--traceparent", metavar="TRACEPARENT", help="continue the trace of this span (W3C header)")
    parser.add_argument("--wait", action="store_true", help="wait for its end; Ctrl-C stops waiting, not the run")
    parser.add_argument("--timeout", type=_seconds, dest="timeout_s", metavar="S", help="wait at most so many seconds")
    return _made_start


def _made_start(known: argparse.Namespace) -> Start:
    start = Start(**_taken(Start, known))
    if start.timeout_s is not None and not start.wait:
        raise InvalidCommand("--timeout bounds --wait, which is not there.", field="timeout", hint="Add --wait.")
    if start.input == "-" and start.config == "-":
        raise InvalidCommand(
            "--input and --config cannot both be standard input.", field="config", hint="Put one into a file: @FILE."
        )
    return start


def _runs(parser: argparse.ArgumentParser) -> _Make:
    """List runs, newest first."""
    parser.add_argument("--status", type=_status, metavar="S", help="only those: pending, running, failed, ...")
    parser.add_argument("--workflow", metavar="W", help="only those of this workflow")
    parser.add_argument("--limit", type=_number(1, 1000), default=20, metavar="N", help="at most so many (default: 20)")
    parser.add_argument("--after", metavar="CURSOR", help="go on where a page ended")
    parser.add_argument("--full", action="store_true", help="with --json: also input, output and stages")
    return lambda known: Runs(**_taken(Runs, known))


def _show(parser: argparse.ArgumentParser) -> _Make:
    """Everything about one run."""
    diagnosis_words.add_chosen_run(parser)
    parser.add_argument("--full", action="store_true", help="payloads uncut, errors with traceback")
    return _made_show


def _made_show(known: argparse.Namespace) -> Show:
    run, key = diagnosis_words.chosen_run("show", known)
    return Show(run=run, key=key, full=known.full)


def _history(parser: argparse.ArgumentParser) -> _Make:
    """The events of a run, in order."""
    _add_run(parser)
    return lambda known: History(run=known.run)


def _logs(parser: argparse.ArgumentParser) -> _Make:
    """What the stages of a run logged."""
    _add_run(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="and what they will log, until the run ends")
    return lambda known: Logs(**_taken(Logs, known))


def _artifacts(parser: argparse.ArgumentParser) -> _Make:
    """What the stages of a run kept beside their results: a list, or with a STAGE and a NAME the bytes of one."""
    _add_run(parser)
    parser.add_argument("stage", metavar="STAGE", nargs="?", help="only those of this stage")
    parser.add_argument("name", metavar="NAME", nargs="?", help="write this one")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="to this file (default: standard output)")
    return _made_artifacts


def _made_artifacts(known: argparse.Namespace) -> Artifacts:
    artifacts = Artifacts(**_taken(Artifacts, known))
    if artifacts.name is None and artifacts.output is not None:
        raise InvalidCommand("--output takes one artifact.", field="output", hint="Name it: RUN STAGE NAME.")
    if artifacts.name is not None and artifacts.output is None and known.json:
        raise InvalidCommand(
            "An artifact is written as it is, not as JSON.",
            field="json",
            hint="Leave out --json, or add --output FILE.",
        )
    return artifacts


def _annotations(parser: argparse.ArgumentParser) -> _Make:
    """What was remarked about a run, by its stages and by anybody else, oldest first."""
    _add_run(parser)
    parser.add_argument("--prefix", metavar="P", help='only keys that begin so, such as "decision."')
    return lambda known: Annotations(**_taken(Annotations, known))


def _annotate(parser: argparse.ArgumentParser) -> _Make:
    """Remark something about a run, whether it goes on or has ended."""
    _add_run(parser)
    parser.add_argument("key", metavar="KEY", help="lower case words joined by dots: approval.approvers")
    parser.add_argument("value", metavar="VALUE", help="JSON; what is none is taken as a text")
    parser.add_argument("--stage", metavar="STAGE", help="the stage that it is about")
    parser.add_argument("--scope", metavar="S", help="what it is about, in a word of yours (default: run, or stage)")
    parser.add_argument("--scope-id", metavar="ID", help="and which one of those")
    parser.add_argument("--actor", metavar="KIND[:ID]", help="who says so, such as user:ada")
    parser.add_argument("--once", metavar="K", help="idempotency key: the same key and K is one annotation")
    parser.add_argument("--emit", action="store_true", help="give sinks an annotation.created")
    return lambda known: Annotate(**_taken(Annotate, known))


def _cancel(parser: argparse.ArgumentParser) -> _Make:
    """Cancel a run; what executes of it is interrupted, in whatever process."""
    _add_run(parser)
    parser.add_argument("--reason", metavar="R", help="kept with the run")
    return lambda known: Cancel(**_taken(Cancel, known))


def _rerun(parser: argparse.ArgumentParser) -> _Make:
    """Begin a run that has ended again at a stage: that stage, those beside it and all later ones are done again."""
    _add_run(parser)
    parser.add_argument("--from", dest="from_stage", required=True, metavar="STAGE", help="the stage's id")
    parser.add_argument("--keep-completed", action="store_true", help="keep what has completed beside the stage")
    parser.add_argument("--key", metavar="K", help="idempotency key: the same key is one rerun")
    return lambda known: Rerun(**_taken(Rerun, known))


def _poll(parser: argparse.ArgumentParser) -> _Make:
    """Have the suspended stages of a run looked at now and not when they are due, by whichever process drives it."""
    _add_run(parser)
    return lambda known: Poll(run=known.run)


def _unpark(parser: argparse.ArgumentParser) -> _Make:
    """Give back a run that was set aside because it could not be decided; it will be tried again."""
    _add_run(parser)
    return lambda known: Unpark(run=known.run)


def _dlq(parser: argparse.ArgumentParser) -> _Make:
    """List the events that a plugin or sink refused too often (dead letters), or have them tried again.

    A replayed event goes to the sink that refused it, and to no other.
    """
    parser.add_argument("action", choices=("list", "replay"), metavar="list|replay", help="look, or try again")
    parser.add_argument("--limit", type=_number(1, 10_000), default=100, metavar="N", help="at most (default: 100)")
    parser.add_argument("--after", type=_number(0), default=0, metavar="ID", help="the page after this one (list)")
    return _made_dlq


def _made_dlq(known: argparse.Namespace) -> Dlq:
    if known.action == "replay" and known.after:
        raise InvalidCommand(
            "--after is for looking: the oldest dead letters are replayed first.", field="after", hint="Leave it out."
        )
    return Dlq(**_taken(Dlq, known))


def _sinks(parser: argparse.ArgumentParser) -> _Make:
    """List plugins and sinks that have been registered, and of how many runs each is still owed events.

    One that no process serves any more is owed more and more: forget it.
    """
    parser.add_argument(
        "action",
        nargs="?",
        default="list",
        choices=("list", "forget"),
        metavar="list|forget",
        help="look, or forget one",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the sink to forget")
    return _made_sinks


def _made_sinks(known: argparse.Namespace) -> Sinks:
    if known.action == "list" and known.name is not None:
        raise InvalidCommand(
            f'leasehold sinks: "{known.name}" is one word too many.', field="name", hint="leasehold sinks forget NAME"
        )
    return Sinks(**_taken(Sinks, known))


def _migrate(parser: argparse.ArgumentParser) -> _Make:
    """Bring the database's schema up to date. Safe to repeat, and while others work."""
    parser.add_argument("--sql", action="store_true", help="print the statements instead")
    return lambda known: Migrate(sql=known.sql)


def _bench(parser: argparse.ArgumentParser) -> _Make:
    """Measure the engine on this machine and database, beside the least that its rows could cost.

    In a schema of its own, which is removed at the end. Takes about ten minutes; --quick takes two.
    """
    parser.add_argument("--only", metavar="A,B", help="some measures: pipeline, latency, fan-out, takeover, ...")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer repetitions")
    parser.add_argument("--repeat", type=_number(1), metavar="N", help="repetitions (default: 5, quick: 2)")
    parser.add_argument("--runs", type=_number(1), metavar="N", help="runs of the pipeline (default: 3000)")
    parser.add_argument("--sleepers", type=_number(1), metavar="N", help="runs that wait (20000, or 10000 polled)")
    parser.add_argument("--sleep-s", type=_seconds, metavar="S", help="how long they wait (default: 60)")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="an earlier result (--json): show what moved")
    return lambda known: Bench(**_taken(Bench, known))


def _config(_parser: argparse.ArgumentParser) -> _Make:
    """The effective settings, and where each comes from."""
    return lambda _known: Config()


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="its id, or the last 8 characters of it")


_COMMANDS: Mapping[str, Callable[[argparse.ArgumentParser], _Make]] = {
    "demo": _demo,
    "init": _init,
    "up": _up,
    "start": _start,
    "runs": _runs,
    "show": _show,
    "explain": diagnosis_words.explain,
    "history": _history,
    "logs": _logs,
    "artifacts": _artifacts,
    "annotations": _annotations,
    "annotate": _annotate,
    "cancel": _cancel,
    "rerun": _rerun,
    "poll": _poll,
    "unpark": _unpark,
    "dlq": _dlq,
    "sinks": _sinks,
    "migrate": _migrate,
    "bench": _bench,
    "config": _config,
    "doctor": diagnosis_words.doctor,
}
_ALIASES: Mapping[str, str] = {"run": "start"}
