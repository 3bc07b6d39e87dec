"""`doctor` and `explain`: what is wrong with an installation, and why one run does not progress. They only look."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

from kernel.journal import fold_stored
from kernel.model.facts import CorruptHistory
from kernel.ports.diagnosis import CheckStatus, Finding
from runtime.client import Client
from runtime.commandline.explanations import Explanation, explain
from runtime.commandline.explanations_json import explanation_json
from runtime.commandline.failures import DONE, FAILED, exit_code
from runtime.commandline.invocation import Doctor, Explain
from runtime.commandline.layout import Line, Span, line, printable
from runtime.commandline.opening import Context, find_chosen_run, note_notice, open_client
from runtime.commandline.run_case import Case
from runtime.commandline.runs_view import status_span
from runtime.diagnosis import Examined, Report, examine
from runtime.info import run_info

__all__ = ["case_of", "explain_run", "report_health"]

_SIGNS: dict[CheckStatus, Span] = {
    "ok": Span("✓", "green"),
    "warning": Span("!", "yellow"),
    "problem": Span("✗", "bold red"),
    "skipped": Span("-", "dim"),
}
_WIDE = 100
"""Cells of a line where neither a terminal nor COLUMNS says how many; more are hard to read in any."""


# -- doctor ------------------------------------------------------------------------------------------------------------


async def report_health(_command: Doctor, context: Context) -> int:
    """Make every check and print what was found."""
    screen = context.screen
    report = await examine(context.settings, tell=note_notice(screen))
    if screen.as_json:
        screen.json(_report_json(report))
    else:
        screen.lines(_report_lines(report, min(screen.wrap_width or _WIDE, _WIDE)))
    if report.unreachable is not None:
        return exit_code(report.unreachable)
    return DONE if report.healthy else FAILED


def _report_json(report: Report) -> dict[str, Any]:
    return {
        "healthy": report.healthy,
        "database": report.database,
        "checks": [{"name": each.name, **_finding_json(each.finding)} for each in report.examined],
    }


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "status": finding.status,
        "found": finding.found,
        "advice": finding.advice,
        "details": list(finding.details),
        "figures": dict(finding.figures),
    }


def _report_lines(report: Report, width: int) -> list[Line]:
    name_cells = max(len(each.name) for each in report.examined)
    lines = [each for examined in report.examined for each in _finding_lines(examined, name_cells, width)]
    problems = sum(each.finding.status == "problem" for each in report.examined)
    warnings = sum(each.finding.status == "warning" for each in report.examined)
    lines.append(())
    if not problems:
        lines.append(line(Span("healthy", "green"), _and_warnings(warnings)))
    else:
        lines.append(line(Span(_some(problems, "problem"), "bold red"), _and_warnings(warnings)))
    return lines


def _and_warnings(warnings: int) -> str:
    return f", {_some(warnings, 'warning')}" if warnings else ""


def _some(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _finding_lines(examined: Examined, name_cells: int, width: int) -> list[Line]:
    finding = examined.finding
    indent = name_cells + 4
    style = "dim" if finding.status == "skipped" else ""
    first, *more = _wrapped(finding.found, width - indent)
    blank = " " * indent
    lines = [line(_SIGNS[finding.status], f" {examined.name:<{name_cells}}  ", Span(first, style))]
    lines += [line(blank, Span(each, style)) for each in more]
    for detail in finding.details:
        lines += [line(blank, Span(each, "dim")) for each in _listed("· ", detail, width - indent)]
    if finding.advice is not None:
        lines += [line(blank, Span(each, "cyan")) for each in _listed("→ ", finding.advice, width - indent)]
    return lines


def _listed(sign: str, text: str, width: int) -> list[str]:
    first, *more = _wrapped(text, width - len(sign))
    return [sign + first, *(" " * len(sign) + each for each in more)]


def _wrapped(text: str, width: int) -> list[str]:
    # A command that is broken in two cannot be copied, so words stay whole, hyphens and all.
    return wrap(printable(text), max(width, 16), break_long_words=False, break_on_hyphens=False) or [""]


# -- explain -----------------------------------------------------------------------------------------------------------


async def explain_run(command: Explain, context: Context) -> int:
    """Say why a run does not progress."""
    async with open_client(context) as client:
        handle = await find_chosen_run(client, command.run, command.key)
        case = await case_of(client, handle.id)
    told = explain(case)
    screen = context.screen
    if screen.as_json:
        screen.json(explanation_json(case, told))
    else:
        screen.lines(_explanation_lines(case, told, min(screen.wrap_width or _WIDE, _WIDE)))
    return DONE


async def case_of(client: Client, run_id: str) -> Case:
    """Everything that explains the run. Raises: RunNotFound, Unavailable."""
    storage = client.storage
    store = storage.persistence
    stored = await store.load(run_id, bodies=False)
    try:
        state = fold_stored(stored)
    except CorruptHistory:
        state = None
    known = await store.live_workflows()
    reported = None if state is None or state.ended else await store.read_progress(run_id)
    jobs = await storage.jobs.jobs_of(run_id)
    inspection = storage.inspection
    sessions = None if inspection is None else await inspection.sessions()
    debts = () if inspection is None else await inspection.debts(run_id)
    now = storage.clock.now()
    info = run_info(stored.head, state, now=now, live_workflows=known, progress=reported, jobs=jobs or None)
    stages = () if state is None else tuple(state.stages.values())
    begun = {stage.id: stage.attempt_started_at for stage in stages if stage.attempt_started_at is not None}
    return Case(info=info, head=stored.head, now=now, jobs=jobs, sessions=sessions, debts=debts, begun=begun)


def _explanation_lines(case: Case, told: Explanation, width: int) -> list[Line]:
    info = case.info
    heading = line(
        Span(printable(info.workflow_id), "bold"),
        f" version {printable(info.workflow_version)}  ",
        status_span(info.status),
        Span("" if told.reason == "finished" else f"  {told.reason}", "yellow"),
    )
    lines: list[Line] = [heading, line(Span("run  ", "dim"), info.id), ()]
    lines += [line(each) for text in told.because for each in _wrapped(text, width)]
    if told.then is not None:
        lines += [line(Span(each, "dim")) for each in _wrapped(told.then, width)]
    if told.advice:
        lines.append(())
    lines += [line(Span(each, "cyan")) for text in told.advice for each in _listed("→ ", text, width)]
    return lines
