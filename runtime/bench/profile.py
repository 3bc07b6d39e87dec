"""`make profile`: where a worker of the benchmark and its database spend their time.

START HERE: `python -m runtime.bench.profile --help`. The worker is looked at from outside by py-spy, many times a
second, while a client starts runs of three no-op stages as fast as it can; nothing in the engine knows of it. What it
saw is written as folded stacks, for viewers that let one walk about in them (speedscope.app), and as a flame graph. The
server tells itself what statements cost, if it can.

Shares are of the time in which the worker computed, not of the time that passed. Being looked at costs time as well, so
a share means more than its microseconds.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import anyio
from anyio.abc import ByteReceiveStream, Process

from kernel.errors import EngineError, InvalidCommand, Unavailable
from runtime.bench.flame_graph import flame_graph
from runtime.bench.laboratory import Laboratory, MeasureFailed, Sizes
from runtime.bench.processes import BenchProcess, ProcessFailed
from runtime.bench.stacks import FunctionShare, Stacks, folded, functions_of, read_stacks
from runtime.bench.table import WIDTH, number
from runtime.bench.workflows import pipeline
from runtime.bootstrap import open_bench_database, open_statement_costs
from runtime.commandline.failures import DONE, FAILED, INTERRUPTED, report
from runtime.commandline.invocation import Options
from runtime.commandline.layout import Column, Line, Span, line, table
from runtime.commandline.opening import note_notice, run_async, settings_of
from runtime.commandline.screen import Screen
from runtime.config import Settings
from telemetry.logs import configure_logging

__all__ = ["main"]

TOP = 30
WARM_UP_RUNS = 300
WITHIN_S = 600.0
ATTACH_S = 30.0
WRITE_S = 60.0
SAMPLING = b"Sampling process"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How many runs to look at and how often a second, whether at functions in C, who starts them, where files go."""

    runs: int
    rate: int
    native: bool
    in_process: bool
    directory: Path


class StatementCost(Protocol):
    """How often a statement was executed, for how many milliseconds in all, for how many rows and bytes of log."""

    @property
    def name(self) -> str: ...
    @property
    def calls(self) -> int: ...
    @property
    def total_ms(self) -> float: ...
    @property
    def rows(self) -> int: ...
    @property
    def wal_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What was found. `cpu_ms_per_run` is the worker's; a statement's costs are those of all runs."""

    stacks: Stacks
    cpu_ms_per_run: float
    statements: Sequence[StatementCost]
    runs: int
    missing: str | None


def main() -> int:
    """Take a profile and print it; the exit code of the command."""
    plan, screen = _plan(), Screen()
    configure_logging("console", "warning")
    try:
        settings = settings_of(Options(), screen)
        return run_async(lambda: _show(plan, settings, screen), replace(settings, event_loop="asyncio"))
    except (ProcessFailed, MeasureFailed) as error:
        screen.note(Span("error: ", "bold red"), str(error))
        return FAILED
    except EngineError as error:
        return report(error, screen)
    except KeyboardInterrupt:
        return INTERRUPTED


def _plan() -> Plan:
    parser = argparse.ArgumentParser(
        prog="python -m runtime.bench.profile",
        description="Where a worker of the benchmark and its database spend their time.",
    )
    parser.add_argument("--runs", type=_count, default=4000, help="how many runs of three stages (default: 4000)")
    parser.add_argument("--rate", type=_count, default=200, help="samples per second (default: 200)")
    parser.add_argument("--native", action="store_true", help="show functions in C as well; slower")
    parser.add_argument("--in-process", action="store_true", help="the worker starts the runs itself")
    parser.add_argument("--directory", type=Path, default=Path("build/profile"), help="where the files go")
    return Plan(**vars(parser.parse_args()))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


async def _show(plan: Plan, settings: Settings, screen: Screen) -> int:
    sampler = find_sampler()
    async with open_bench_database(settings, tell=note_notice(screen)) as database:
        lab = Laboratory(database, Sizes(runs=plan.runs), lambda text: screen.note(Span(text, "dim")))
        profile = await _take(lab, plan, sampler)
    if not profile.stacks:
        raise MeasureFailed("the worker was never seen computing; look at more runs (--runs)")
    graph = flame_graph(
        profile.stacks,
        title=f"worker, {profile.runs} runs of three no-op stages",
        us_per_run=1000 * profile.cpu_ms_per_run,
    )
    drawing, stacks = plan.directory / "worker.svg", plan.directory / "worker.folded"
    await anyio.Path(drawing).write_text(graph, encoding="utf-8")
    await anyio.Path(stacks).write_text(folded(profile.stacks), encoding="utf-8")
    screen.lines(_functions(profile))
    screen.line()
    screen.lines(_statements(profile))
    screen.line()
    screen.line(str(drawing), Span("  flame graph", "dim"))
    screen.line(str(stacks), Span("  folded stacks, for speedscope.app", "dim"))
    return DONE


def find_sampler() -> str:
    """py-spy's program, from this environment or from the path. Raises: InvalidCommand."""
    # Not resolved: the interpreter of an environment is a link to one that has no py-spy beside it.
    found = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if found is None:
        raise InvalidCommand(
            "py-spy is not installed.", field="py-spy", hint='Run "make setup", or: python -m pip install py-spy'
        )
    return found


async def _take(lab: Laboratory, plan: Plan, sampler: str) -> Profile:
    await anyio.Path(plan.directory).mkdir(parents=True, exist_ok=True)
    seen = plan.directory / "samples.folded"
    program = [sampler, "record", "--format", "raw", "--function", *(["--native"] if plan.native else [])]
    database = lab.database
    async with (
        open_statement_costs(database.settings, database.schema) as costs,
        lab.process("worker") as worker,
        lab.process("client") as client,
    ):
        await _work(lab, plan, worker, client, WARM_UP_RUNS)
        lab.tell(f"looking at {plan.runs} runs")
        async with _recording(program, worker, plan.rate, seen):
            await costs.begin()
            before = await worker.ask("usage")
            await _work(lab, plan, worker, client, plan.runs)
            after = await worker.ask("usage")
            statements = await costs.since()
        text = await anyio.Path(seen).read_text(encoding="utf-8")
        await anyio.Path(seen).unlink()
        return Profile(
            stacks=read_stacks(text.splitlines()),
            cpu_ms_per_run=1000 * (after["cpu_s"] - before["cpu_s"]) / plan.runs,
            statements=statements,
            runs=plan.runs,
            missing=costs.missing,
        )


async def _work(lab: Laboratory, plan: Plan, worker: BenchProcess, client: BenchProcess, runs: int) -> None:
    if plan.in_process:
        at_once = lab.database.settings.max_runs // 2
        await worker.ask("keep-busy", within_s=WITHIN_S, workflow=pipeline.id, runs=runs, at_once=at_once)
    else:
        await client.ask("start-many", within_s=WITHIN_S, workflow=pipeline.id, runs=runs)
    await lab.all_ended(within_s=WITHIN_S)


@asynccontextmanager
async def _recording(program: Sequence[str], worker: BenchProcess, rate: int, output: Path) -> AsyncGenerator[None]:
    """Look at the worker while the block runs; then the file is written. Raises: Unavailable, when it may not look."""
    process = await anyio.open_process(
        [*program, "--rate", str(rate), "--output", str(output), "--pid", str(worker.pid)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None, "a pipe was asked for"
        await _until_sampling(process, process.stdout)
        yield
        process.send_signal(signal.SIGINT)
        with anyio.fail_after(WRITE_S):
            async for _ in process.stdout:
                pass  # what it says about its file must not fill the pipe
            await process.wait()
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            await process.aclose()


async def _until_sampling(process: Process, output: ByteReceiveStream) -> None:
    said = b""
    with anyio.move_on_after(ATTACH_S):
        async for data in output:
            said += data
            if SAMPLING in said:
                return
        # It has refused, and is about to end.
        await process.wait()
    raise Unavailable(
        f"py-spy cannot look at the worker: {said.decode(errors='replace').strip() or 'no answer'}",
        hint="Linux lets a user look at other processes with kernel.yama.ptrace_scope=0 (sysctl), a container with the "
        "capability SYS_PTRACE; macOS wants root.",
    )


# -- what is printed ---------------------------------------------------------------------------------------------------


def _functions(profile: Profile) -> Sequence[Line]:
    """The functions that ran most themselves, then those in which most was done."""
    per_run_us = 1000 * profile.cpu_ms_per_run
    columns = (
        Column("FUNCTION", flexible=True),
        Column("SELF", right=True),
        Column("µs PER RUN", right=True),
        Column("TOTAL", right=True),
        Column("µs PER RUN", right=True),
    )

    def rows(functions: Sequence[FunctionShare]) -> list[tuple[str, str, str, str, str]]:
        return [
            (
                function.name,
                f"{function.self_share:.1%}",
                number(function.self_share * per_run_us),
                f"{function.total_share:.1%}",
                number(function.total_share * per_run_us),
            )
            for function in functions[:TOP]
        ]

    functions = functions_of(profile.stacks)
    by_total = sorted(functions, key=lambda function: -function.total_share)
    return [
        line(Span("Worker, by self time", "bold"), f"  {number(profile.cpu_ms_per_run)} ms of processor per run"),
        *table(columns, rows(functions), width=WIDTH),
        line(),
        line(Span("Worker, by total time", "bold")),
        *table(columns, rows(by_total), width=WIDTH),
    ]


def _statements(profile: Profile) -> Sequence[Line]:
    """What statements cost the server, or why that is not known."""
    if profile.missing is not None:
        return [line(Span("Postgres, by statement: ", "bold"), profile.missing)]
    columns = (
        Column("STATEMENT", flexible=True),
        Column("CALLS", right=True),
        Column("TOTAL ms", right=True),
        Column("ms PER CALL", right=True),
        Column("ms PER RUN", right=True),
        Column("ROWS", right=True),
        Column("WAL BYTES PER RUN", right=True),
    )
    rows = [
        (
            cost.name,
            f"{cost.calls:,}",
            number(cost.total_ms),
            number(cost.total_ms / cost.calls),
            number(cost.total_ms / profile.runs),
            f"{cost.rows:,}",
            number(cost.wal_bytes / profile.runs),
        )
        for cost in profile.statements
    ]
    return [line(Span("Postgres, by statement", "bold")), *table(columns, rows, width=WIDTH)]


if __name__ == "__main__":
    sys.exit(main())
