"""`leasehold demo`: many real files through a durable pipeline on a private Postgres, and a report at the end."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import anyio

from kernel.errors import RunCancelled, RunFailed
from runtime.bootstrap import open_storage
from runtime.commandline.failures import DONE, FAILED, INTERRUPTED
from runtime.commandline.invocation import Demo
from runtime.commandline.layout import Column, Line, Span, bar, line, printable
from runtime.commandline.opening import Context, note_notice, run_async
from runtime.commandline.runs_view import short_id
from runtime.commandline.screen import Draw, Screen
from runtime.commandline.times import duration
from runtime.database_urls import EMBEDDED
from runtime.demo.documents import Document, Report, app, documents
from runtime.demo.files import choose_files, standard_library
from runtime.info import RunInfo, StageInfo
from runtime.run_handle import RunHandle
from runtime.supervisor import Supervisor
from telemetry.logs import configure_logging

__all__ = ["own_name", "run_demo"]

DRAW_S = 0.1
DESCRIBE_AT_ONCE = 16
BAR_CELLS = 32
APP = "runtime.demo.documents:app"


@dataclass(slots=True)
class _Progress:
    """How far it is. `reports` and `failures` are of runs that have ended, by run id."""

    total: int
    began: float = 0.0
    reports: dict[str, Report] = field(default_factory=dict[str, Report])
    failures: dict[str, str] = field(default_factory=dict[str, str])
    took_s: float = 0.0

    @property
    def ended(self) -> int:
        return len(self.reports) + len(self.failures)


def run_demo(command: Demo, context: Context) -> int:
    """Run the pipeline and print the report; 0 when every run has completed."""
    files = choose_files(command.directory, command.limit)
    settings = context.settings
    if settings.source_of("database_url") != "argument":
        # The demo is safe to run anywhere: it touches no database but its own, unless it is told to.
        settings = replace(settings, database_url=EMBEDDED)
    configure_logging(settings.log_format, "warning")
    inner = replace(context, settings=settings)
    progress = _Progress(total=len(files))
    try:
        return run_async(lambda: _run(command, inner, files, progress), settings, long_lived=True)
    except KeyboardInterrupt:
        goes_on = f"what was under way goes on with the next `{own_name()} demo`"
        done = f"{progress.ended} of {progress.total} done; {goes_on}" if progress.began else "Nothing had begun"
        context.screen.note(f"Stopped. {done}.")
        return INTERRUPTED


async def _run(command: Demo, context: Context, files: Sequence[Path], progress: _Progress) -> int:
    screen = context.screen
    where = command.directory or f"Python's standard library ({standard_library()})"
    screen.note(Span("leasehold demo", "bold"), f"  {len(files)} files of {where}")
    screen.note(Span("extract → keywords | language | statistics → report, one durable run for each file", "dim"))
    screen.note(Span("opening a private Postgres ...", "dim"))
    storage = open_storage(context.settings, tell=note_notice(screen))
    async with Supervisor(app, settings=context.settings, storage=storage) as supervisor:
        screen.note(Span(f"{supervisor.storage.database} is ready", "dim"))
        progress.began = anyio.current_time()
        await _process(supervisor, files, progress, screen)
        runs = await _described(supervisor, [*progress.reports, *progress.failures])
    if screen.as_json:
        screen.json(_summary_json(progress, runs))
    else:
        _print_summary(progress, runs, screen)
    return DONE if len(progress.reports) == progress.total else FAILED


async def _process(supervisor: Supervisor, files: Sequence[Path], progress: _Progress, screen: Screen) -> None:
    async def one(handle: RunHandle[Report]) -> None:
        try:
            progress.reports[handle.id] = await handle.result()
        except (RunFailed, RunCancelled) as error:
            progress.failures[handle.id] = str(error)

    with screen.live() as draw:
        async with anyio.create_task_group() as showing:
            showing.start_soon(_show, supervisor, progress, screen, draw)
            handles = await supervisor.start_many(documents, [Document(path=str(path)) for path in files])
            async with anyio.create_task_group() as waiting:
                for handle in handles:
                    waiting.start_soon(one, handle)
            progress.took_s = anyio.current_time() - progress.began
            showing.cancel_scope.cancel()


async def _show(supervisor: Supervisor, progress: _Progress, screen: Screen, draw: Draw | None) -> None:
    """A bar where there can be one, else a line for every tenth of the way."""
    said = 0
    while True:
        await anyio.sleep(DRAW_S)
        elapsed_s = anyio.current_time() - progress.began
        if draw is not None:
            draw(_bar(progress, elapsed_s, bodies=supervisor.stats().bodies))
        elif (tenth := 10 * progress.ended // progress.total) > said:
            said = tenth
            screen.note(f"{progress.ended:>5} of {progress.total} files, {duration(elapsed_s)}")


def _bar(progress: _Progress, elapsed_s: float, *, bodies: int) -> list[Line]:
    rate = progress.ended / elapsed_s if elapsed_s else 0.0
    left = duration((progress.total - progress.ended) / rate) if rate else "?"
    return [
        line(
            bar(progress.ended / progress.total, BAR_CELLS, "green"),
            f"  {progress.ended}/{progress.total} files",
            Span(f"  {rate:.0f} runs/s · {bodies} stages executing · {left} left", "dim"),
        )
    ]


async def _described(supervisor: Supervisor, run_ids: Sequence[str]) -> list[RunInfo]:
    """All runs with their stages, as the database has them."""
    found: dict[str, RunInfo] = {}
    limiter = anyio.CapacityLimiter(DESCRIBE_AT_ONCE)

    async def one(run_id: str) -> None:
        async with limiter:
            found[run_id] = await supervisor.run(run_id).describe()

    async with anyio.create_task_group() as tasks:
        for run_id in run_ids:
            tasks.start_soon(one, run_id)
    return [found[run_id] for run_id in run_ids]


# -- the report --------------------------------------------------------------------------------------------------------


def _print_summary(progress: _Progress, runs: Sequence[RunInfo], screen: Screen) -> None:
    reports = progress.reports
    rate = progress.ended / progress.took_s if progress.took_s else 0.0
    screen.line()
    screen.line(
        Span(
            f"{len(reports)} of {progress.total} runs completed", "bold green" if not progress.failures else "bold red"
        ),
        f" in {duration(progress.took_s)}: {rate:.0f} runs/s, {rate * len(documents.stages):.0f} stages/s, "
        f"{sum(report.words for report in reports.values()):,} words read",
    )
    screen.line()
    _print_stages(runs, screen)
    screen.line()
    _print_longest(reports, screen)
    languages = Counter(report.language for report in reports.values())
    words = Counter(word for report in reports.values() for word in report.keywords)
    screen.line()
    screen.line(Span("languages  ", "dim"), ", ".join(f"{name} {count}" for name, count in languages.most_common(4)))
    screen.line(
        Span("keywords   ", "dim"), ", ".join(f"{printable(word)} {count}" for word, count in words.most_common(8))
    )
    for run_id, message in list(progress.failures.items())[:5]:
        screen.line(Span(f"failed     {short_id(run_id)}  {printable(message)}", "red"))
    _print_next(runs, screen)


def _print_stages(runs: Sequence[RunInfo], screen: Screen) -> None:
    columns = (
        Column("STAGE"),
        Column("COMPLETED", right=True),
        Column("TYPICAL", right=True),
        Column("SLOWEST", right=True),
        Column("OF", flexible=True),
    )
    rows: list[tuple[str, ...]] = []
    for stage in documents.stages:
        timed = [(info.duration_s or 0.0, run) for run in runs for info in _stages(run, stage.id)]
        # By the time alone: stages that ended in one append took equally long, and runs have no order.
        spans = sorted(timed, key=lambda span: span[0])
        if not spans:
            continue
        slowest_s, run = spans[-1][0], spans[-1][1]
        completed = sum(info.status == "COMPLETED" for each in runs for info in _stages(each, stage.id))
        typical = duration(median(span for span, _ in spans))
        rows.append((stage.id, f"{completed:,}", typical, duration(slowest_s), _file_of(run)))
    screen.table(columns, rows)


def _stages(run: RunInfo, stage_id: str) -> list[StageInfo]:
    return [stage for stage in run.stages or () if stage.id == stage_id]


def _file_of(run: RunInfo) -> str:
    return printable(Path(Document.model_validate(run.input).path).name)


def _print_longest(reports: dict[str, Report], screen: Screen) -> None:
    longest = sorted(reports.items(), key=lambda item: item[1].words, reverse=True)[:5]
    columns = (Column("RUN"), Column("LONGEST FILES"), Column("REPORT", flexible=True))
    rows = [
        (Span(short_id(run_id), "bold"), printable(Path(report.path).name), printable(report.summary))
        for run_id, report in longest
    ]
    screen.table(columns, rows)


def _print_next(runs: Sequence[RunInfo], screen: Screen) -> None:
    example = short_id(runs[0].id) if runs else "RUN"
    screen.line()
    screen.line("Every run and every stage is in the database now. Look at them, then make your own:")
    name = own_name()
    for command, what in (
        (f"{name} runs", "the newest runs"),
        (f"{name} show {example}", "one of them, with its stages"),
        (f"{name} history {example}", "every event of it"),
        (f"{name} init", "write a first app of your own"),
    ):
        screen.line(f"  {command:<{len(name) + 19}}", Span(what, "dim"))
    if runs:
        input_ = json.dumps({"path": Document.model_validate(runs[0].input).path}, ensure_ascii=False)
        where = f"--app {APP}"
        screen.line("The same pipeline from two terminals, one that executes and one that asks:")
        screen.line(f"  {name} up {where}")
        screen.line(printable(f"  {name} start documents --input {shlex.quote(input_)} --wait {where}"))


def own_name() -> str:
    """What starts this program in a shell that stands where it was started."""
    if shutil.which("leasehold") is not None:
        return "leasehold"
    script = Path(sys.executable).with_name("leasehold")
    if not script.exists():
        return f"{shlex.quote(sys.executable)} -m runtime"
    return shlex.quote(str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script))


def _summary_json(progress: _Progress, runs: Sequence[RunInfo]) -> dict[str, object]:
    return {
        "files": progress.total,
        "completed": len(progress.reports),
        "failed": len(progress.failures),
        "duration_s": round(progress.took_s, 3),
        "runs_per_s": round(progress.ended / progress.took_s, 1) if progress.took_s else None,
        "words": sum(report.words for report in progress.reports.values()),
        "run_ids": [run.id for run in runs],
    }
