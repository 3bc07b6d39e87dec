"""`leasehold bench`: open a schema of its own, take the measures, print them, and leave nothing behind.

START HERE. Progress goes to standard error and results to standard output. Ctrl-C ends every process that was started
and removes the schema; a benchmark that was killed has its schema removed by the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import anyio

from kernel.errors import InvalidCommand
from runtime.bench.comparison import compared, comparison_json, comparison_table, read_result
from runtime.bench.laboratory import QUICK, Laboratory, Sizes
from runtime.bench.machine import machine_json, settings_json
from runtime.bench.measures import GROUPS, take_all
from runtime.bench.table import figures_table, heading
from runtime.bootstrap import open_bench_database
from runtime.commandline.failures import DONE, FAILED, INTERRUPTED
from runtime.commandline.invocation import Bench
from runtime.commandline.layout import Span
from runtime.commandline.opening import Context, note_notice, run_async
from runtime.commandline.screen import Screen
from runtime.commandline.signals import StopRequest, stop_request
from telemetry.logs import configure_logging

__all__ = ["chosen_groups", "run_bench"]

REPETITIONS = 5
QUICK_REPETITIONS = 2
BARE_RUNS_PER_RUN = 3
"""The bare loop is so much faster that it needs more runs to take long enough."""


def run_bench(command: Bench, context: Context) -> int:
    """Measure, and print what was found; 1 when a measure could not be taken."""
    groups = chosen_groups(command.only)
    before = None if command.compare is None else read_result(command.compare)
    configure_logging(context.settings.log_format, "warning")
    # The gauges speak asyncio; the processes that are measured run on the configured loop.
    here = replace(context.settings, event_loop="asyncio")
    with stop_request() as stop:
        return run_async(lambda: _until_stopped(command, context, groups, before, stop), here)


async def _until_stopped(
    command: Bench, context: Context, groups: Sequence[str], before: Mapping[str, Any] | None, stop: StopRequest
) -> int:
    code = INTERRUPTED
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as work:

            async def heed() -> None:
                await stop.wait()
                work.cancel()

            tasks.start_soon(heed)
            result = await _measured(command, context, groups)
            _print(result, before, context.screen)
            failed = any("error" in measure for measure in result["measures"].values())
            code = FAILED if failed else DONE
        tasks.cancel_scope.cancel()
    return code


async def _measured(command: Bench, context: Context, groups: Sequence[str]) -> Mapping[str, Any]:
    repetitions = command.repeat or (QUICK_REPETITIONS if command.quick else REPETITIONS)
    screen = context.screen

    def tell(text: str) -> None:
        screen.note(Span(text, "dim"))

    async with open_bench_database(context.settings, tell=note_notice(screen)) as database:
        if database.gauges.removed:
            tell(f"removed what killed benchmarks left: {', '.join(database.gauges.removed)}")
        tell(f"measuring {', '.join(groups)} in schema {database.schema} of {database.database}")
        lab = Laboratory(database, _sizes(command), tell)
        machine = await machine_json(lab)
        if not machine["server_is_local"]:
            tell("the server is not on this machine, so its processor time cannot be read")
        if machine["others_connected"]:
            tell("others are connected to this database: what they do is counted as statements and WAL of the measures")
        measures = await take_all(lab, groups, repetitions)
        return {
            "machine": machine,
            "settings": settings_json(lab, repetitions=repetitions),
            "measures": measures,
        }


def _print(result: Mapping[str, Any], before: Mapping[str, Any] | None, screen: Screen) -> None:
    moved = None if before is None else compared(before, result)
    if screen.as_json:
        screen.json(dict(result) if moved is None else {**result, "compared": list(comparison_json(moved))})
        return
    screen.lines(heading(result["machine"]))
    screen.line()
    screen.lines(figures_table(result["measures"]))
    if moved is not None:
        screen.line()
        screen.lines(comparison_table(moved))


def _sizes(command: Bench) -> Sizes:
    sizes = QUICK if command.quick else Sizes()
    return replace(
        sizes,
        runs=command.runs or sizes.runs,
        bare_runs=sizes.bare_runs if command.runs is None else BARE_RUNS_PER_RUN * command.runs,
        sleepers=command.sleepers or sizes.sleepers,
        sleep_s=sizes.sleep_s if command.sleep_s is None else command.sleep_s,
        polls=command.sleepers or sizes.polls,
        poll_s=sizes.poll_s if command.sleep_s is None else command.sleep_s,
    )


def chosen_groups(only: str | None) -> Sequence[str]:
    """The groups that were named, in the order of the table. Raises: InvalidCommand."""
    if only is None:
        return GROUPS
    named = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in named if name not in GROUPS]
    if unknown or not named:
        what = f'There is no measure "{unknown[0]}".' if unknown else "--only names no measure."
        raise InvalidCommand(what, field="only", hint=f"Measures: {', '.join(GROUPS)}.")
    return [group for group in GROUPS if group in named]
