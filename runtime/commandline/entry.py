"""From words to an exit code: parse, carry out, and turn whatever happens into an answer.

START HERE for the command line: `_carry_out` has one line per command. Modules of a command are imported when it is
asked for, because `leasehold runs` should not wait for what only `up` needs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import assert_never

from kernel.errors import EngineError, RunCancelled, RunFailed
from runtime.commandline.exporting import exporting
from runtime.commandline.failures import BUG, DONE, INTERRUPTED, report, report_bug, single
from runtime.commandline.invocation import (
    Annotate,
    Annotations,
    Artifacts,
    Bench,
    Cancel,
    Config,
    Demo,
    Dlq,
    History,
    Init,
    Invocation,
    Logs,
    Migrate,
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
from runtime.commandline.screen import Screen

__all__ = ["run"]


def run(words: Sequence[str]) -> int:
    """Carry out a command line; never raises for anything that a user can cause."""
    # Before anything is parsed, so that an error in the words themselves comes in the form that was asked for.
    screen = Screen(as_json="--json" in words)
    try:
        return _help_or_work(words, screen)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_left()
    except Exception as raised:  # noqa: BLE001 - the last place where a failure can become an answer
        return _answer(single(raised), screen)


def _help_or_work(words: Sequence[str], screen: Screen) -> int:
    try:
        invocation = parse(words)
    except HelpWanted as wanted:
        screen.raw(wanted.text)
        return DONE
    with exporting(invocation.command):
        return _carry_out(invocation, screen)


def _answer(error: BaseException, screen: Screen) -> int:
    match error:
        case EngineError() | RunFailed() | RunCancelled():
            return report(error, screen)
        case KeyboardInterrupt():
            return INTERRUPTED
        case BrokenPipeError():
            return _reader_left()
        case BaseExceptionGroup() if all(isinstance(single(e), EngineError) for e in error.exceptions):
            codes = [_answer(single(e), screen) for e in error.exceptions]
            return max(codes, default=BUG)
        case _:
            return report_bug(error, screen)


def _reader_left() -> int:
    """Whoever read our output (say `head`) has had enough."""
    # Python flushes at exit, and would complain about the pipe again.
    if sys.stdout is not None:  # None where the shell closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE


def _carry_out(invocation: Invocation, screen: Screen) -> int:
    from runtime.commandline.opening import Context, run_async, settings_of

    command = invocation.command
    if isinstance(command, Init):
        from runtime.commandline.project import write_project

        return write_project(command, screen)
    context = Context(settings=settings_of(invocation.options, screen), screen=screen)
    settings = context.settings
    match command:
        case Up():
            from runtime.commandline.serving import serve

            return serve(command, context)
        case Demo():
            from runtime.demo.command import run_demo

            return run_demo(command, context)
        case Start():
            from runtime.commandline.starting import start_run

            return start_run(command, context)
        case Runs():
            from runtime.commandline.looking import list_runs

            return run_async(lambda: list_runs(command, context), settings)
        case Show():
            from runtime.commandline.looking import show_run

            return run_async(lambda: show_run(command, context), settings)
        case History():
            from runtime.commandline.looking import show_history

            return run_async(lambda: show_history(command, context), settings)
        case Logs():
            from runtime.commandline.looking import show_logs

            return run_async(lambda: show_logs(command, context), settings)
        case Artifacts():
            from runtime.commandline.artifacts import show_artifacts

            return run_async(lambda: show_artifacts(command, context), settings)
        case Annotations():
            from runtime.commandline.annotating import show_annotations

            return run_async(lambda: show_annotations(command, context), settings)
        case Annotate():
            from runtime.commandline.annotating import annotate_run

            return run_async(lambda: annotate_run(command, context), settings)
        case Cancel():
            from runtime.commandline.acting import cancel_run

            return run_async(lambda: cancel_run(command, context), settings)
        case Rerun():
            from runtime.commandline.acting import rerun_run

            return run_async(lambda: rerun_run(command, context), settings)
        case Poll():
            from runtime.commandline.acting import poll_run

            return run_async(lambda: poll_run(command, context), settings)
        case Unpark():
            from runtime.commandline.acting import unpark_run

            return run_async(lambda: unpark_run(command, context), settings)
        case Dlq():
            from runtime.commandline.publishing import dead_letters

            return run_async(lambda: dead_letters(command, context), settings)
        case Sinks():
            from runtime.commandline.publishing import known_sinks

            return run_async(lambda: known_sinks(command, context), settings)
        case Migrate():
            from runtime.commandline.maintaining import migrate

            return run_async(lambda: migrate(command, context), settings)
        case Bench():
            from runtime.bench.command import run_bench

            return run_bench(command, context)
        case Config():
            from runtime.commandline.maintaining import show_config

            return show_config(context)
        case _:
            assert_never(command)
