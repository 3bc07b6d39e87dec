"""From words to an exit code: parse, carry out, and turn whatever happens into an answer.

START HERE for the command line: `_CARRIED_OUT_BY` has one line per command. Modules of a command are imported when it
is asked for, because `leasehold runs` should not wait for what only `up` needs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import import_module
from inspect import iscoroutinefunction
from typing import cast

from kernel.errors import EngineError, RunCancelled, RunFailed
from runtime.commandline.exporting import exporting
from runtime.commandline.failures import BUG, DONE, INTERRUPTED, report, report_bug, single
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
    Doctor,
    Explain,
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
    carry_out = _work_of(type(command))
    if isinstance(command, Init):
        # It comes before there are settings to be read.
        return carry_out(command, screen)
    context = Context(settings=settings_of(invocation.options, screen), screen=screen)
    if iscoroutinefunction(carry_out):
        work = cast("Callable[..., Awaitable[int]]", carry_out)  # which of the two it is, the line above has asked
        return run_async(lambda: work(command, context), context.settings)
    return carry_out(command, context)


def _work_of(command: type[Command]) -> Callable[..., int]:
    module, _, function = _CARRIED_OUT_BY[command].partition(":")
    work: Callable[..., int] = getattr(import_module(module), function)
    return work


_CARRIED_OUT_BY: Mapping[type[Command], str] = {
    Up: "runtime.commandline.serving:serve",
    Demo: "runtime.demo.command:run_demo",
    Init: "runtime.commandline.project:write_project",
    Start: "runtime.commandline.starting:start_run",
    Runs: "runtime.commandline.looking:list_runs",
    Show: "runtime.commandline.looking:show_run",
    Explain: "runtime.commandline.diagnosing:explain_run",
    History: "runtime.commandline.looking:show_history",
    Logs: "runtime.commandline.looking:show_logs",
    Artifacts: "runtime.commandline.artifacts:show_artifacts",
    Annotations: "runtime.commandline.annotating:show_annotations",
    Annotate: "runtime.commandline.annotating:annotate_run",
    Cancel: "runtime.commandline.acting:cancel_run",
    Rerun: "runtime.commandline.acting:rerun_run",
    Poll: "runtime.commandline.acting:poll_run",
    Unpark: "runtime.commandline.acting:unpark_run",
    Dlq: "runtime.commandline.publishing:dead_letters",
    Sinks: "runtime.commandline.publishing:known_sinks",
    Migrate: "runtime.commandline.maintaining:migrate",
    Bench: "runtime.bench.command:run_bench",
    Config: "runtime.commandline.maintaining:show_config",
    Doctor: "runtime.commandline.diagnosing:report_health",
}
"""What carries out each command: a function of the command and its context, in an event loop if it is asynchronous."""
