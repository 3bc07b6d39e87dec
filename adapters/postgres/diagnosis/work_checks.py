"""Checks of the work itself: who does it, what waits for somebody, and what was given up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adapters.postgres.diagnosis.patient import Patient
from adapters.postgres.diagnosis.quantities import COUNTED_MAX, counted, span
from adapters.postgres.inspection import SESSIONS_MAX, session_seen
from kernel.model.facts import FORMAT
from kernel.ports.diagnosis import CheckStatus, Finding, SessionSeen

__all__ = [
    "check_backlog",
    "check_commands",
    "check_dead_letters",
    "check_jobs",
    "check_outbox",
    "check_parked",
    "check_sessions",
]

SHOWN_MAX = 5
NOBODY = "Start a process: leasehold up."


async def check_sessions(patient: Patient) -> Finding:
    """Which processes live, and whether a dead one has runs that nobody took."""
    sessions = [session_seen(row) for row in await patient.ask("list_sessions", SESSIONS_MAX)]
    by_state = {state: [s for s in sessions if s.state == state] for state in ("live", "expiring", "dead")}
    live, expiring = by_state["live"], by_state["expiring"]
    holding = [s for s in by_state["dead"] if s.runs or s.jobs]
    orphans = sum(s.runs + s.jobs for s in holding)
    figures = {
        "live": len(live),
        "expiring": len(expiring),
        "dead_with_runs": len(holding),
        "orphans": orphans,
        "sessions": [_session_json(s) for s in (*live, *expiring, *holding)],
    }
    details = [_session(s) for s in (*holding[:SHOWN_MAX], *expiring[:SHOWN_MAX], *live[:SHOWN_MAX])]
    if holding:
        longest_s = max((s.seen_at - s.ended_at).total_seconds() for s in holding)
        advice = "The live processes take them as they find room; those that know their workflows do."
        return Finding(
            status="problem" if longest_s > patient.thresholds.dead_session_problem_s else "warning",
            found=f"{counted(len(holding), 'session')} ended up to {span(longest_s)} ago and left "
            f"{counted(orphans, 'run')} behind; {len(live) + len(expiring)} live.",
            details=details,
            advice=advice if live or expiring else NOBODY,
            figures=figures,
        )
    if expiring:
        return Finding(
            status="warning",
            found=f"{counted(len(expiring), 'session')} of {len(live) + len(expiring)} were not renewed in time.",
            details=details,
            advice="The process has died just now, is paused, or cannot reach the database. Its runs are taken over "
            "when the lease ends.",
            figures=figures,
        )
    if not live:
        return Finding(
            status="warning", found="No process renews its lease: nobody executes runs.", advice=NOBODY, figures=figures
        )
    runs = sum(s.runs for s in live)
    verb = "processes drive" if len(live) != 1 else "process drives"
    return Finding(
        status="ok", found=f"{len(live)} live {verb} {counted(runs, 'run')}.", details=details, figures=figures
    )


def _session(seen: SessionSeen) -> str:
    who = f"{seen.name} (host {seen.hostname}, pid {seen.pid})"
    has = f"{counted(seen.runs, 'run')}, {counted(seen.jobs, 'job')}" if seen.jobs else counted(seen.runs, "run")
    if seen.state == "dead":
        return f"{who}: dead for {span((seen.seen_at - seen.ended_at).total_seconds())}, {has}"
    left = span((seen.lease_expires_at - seen.seen_at).total_seconds())
    return f"{who}: {seen.state}, {left} of its lease left, {has}"


def _session_json(seen: SessionSeen) -> dict[str, Any]:
    return {
        "id": seen.id,
        "state": seen.state,
        "name": seen.name,
        "hostname": seen.hostname,
        "pid": seen.pid,
        "lease_left_s": (seen.lease_expires_at - seen.seen_at).total_seconds(),
        "runs": seen.runs,
        "jobs": seen.jobs,
        "queues": list(seen.queues),
    }


async def check_backlog(patient: Patient) -> Finding:
    """Runs that are due and that nobody has taken."""
    limits = patient.thresholds
    rows = await patient.ask("diagnose_backlog", COUNTED_MAX, FORMAT)
    due = sum(row["due"] for row in rows)
    oldest_s = max((row["oldest_s"] for row in rows), default=0.0)
    figures = {
        "due": due,
        "oldest_s": oldest_s,
        "workflows": [
            {key: row[key] for key in ("workflow_id", "version", "due", "newer", "oldest_s", "known")} for row in rows
        ],
    }
    if not rows:
        return Finding(status="ok", found="No run waits for a process.", figures=figures)
    found = f"{counted(due, 'run', bounded=True)} due, the oldest for {span(oldest_s)}."
    unknown = [row for row in rows if not row["known"] and row["oldest_s"] > limits.nobody_problem_s]
    late = [row for row in rows if row["known"] and row["oldest_s"] > limits.backlog_problem_s]
    status: CheckStatus = "ok"
    if unknown or late:
        status = "problem"
    elif oldest_s > limits.backlog_warning_s or not all(row["known"] for row in rows):
        status = "warning"
    if status == "ok":
        return Finding(status="ok", found=found, figures=figures)
    return Finding(
        status=status,
        found=found,
        details=[_waiting(row) for row in rows[:SHOWN_MAX]],
        advice=_for_backlog(rows),
        figures=figures,
    )


def _waiting(row: Any) -> str:
    nobody = "" if row["known"] else "; no live process knows it"
    newer = f"; {row['newer']:,} of a newer release" if row["newer"] else ""
    return f"{row['workflow_id']} version {row['version']}: {row['due']:,}, for {span(row['oldest_s'])}{nobody}{newer}"


def _for_backlog(rows: Sequence[Any]) -> str:
    if not all(row["known"] for row in rows):
        return (
            "Start a process whose app has the workflow in this version: leasehold up. Runs that nobody wants any "
            "more: leasehold cancel RUN. (Where only a ServerlessHost works, its next call takes them.)"
        )
    if any(row["newer"] for row in rows):
        return "Replace the processes by the newer release that wrote these runs."
    return (
        "Start more processes (leasehold up --workers 4); when bodies wait more than they compute, raise "
        "LEASEHOLD_MAX_BODIES."
    )


async def check_jobs(patient: Patient) -> Finding:
    """Jobs that are due and that nobody has (any more), by queue."""
    limits = patient.thresholds
    rows = await patient.ask("diagnose_jobs", COUNTED_MAX)
    due = sum(row["due"] for row in rows)
    oldest_s = max((row["oldest_s"] for row in rows), default=0.0)
    queues = [{key: row[key] for key in ("queue", "due", "lost", "oldest_s", "served")} for row in rows]
    figures = {"due": due, "oldest_s": oldest_s, "queues": queues}
    if not rows:
        return Finding(status="ok", found="No job waits in a queue.", figures=figures)
    found = f"{counted(due, 'job', bounded=True)} due, the oldest for {span(oldest_s)}."
    unserved = [row for row in rows if not row["served"]]
    status: CheckStatus = "ok"
    if oldest_s > limits.backlog_problem_s or any(row["oldest_s"] > limits.nobody_problem_s for row in unserved):
        status = "problem"
    elif unserved or oldest_s > limits.backlog_warning_s:
        status = "warning"
    advice = "Start more processes that serve these queues."
    if unserved:
        names = ",".join(row["queue"] for row in unserved)
        advice = f"Start a process that serves them: leasehold up --queues {names}; or have the ServerlessHost called."
    return Finding(
        status=status,
        found=found,
        details=[]
        if status == "ok"
        else [
            f'queue "{row["queue"]}": {row["due"]:,}, for {span(row["oldest_s"])}'
            + (f"; {row['lost']:,} of them taken by somebody who is gone" if row["lost"] else "")
            + ("" if row["served"] else "; no live process serves it")
            for row in rows[:SHOWN_MAX]
        ],
        advice=None if status == "ok" else advice,
        figures=figures,
    )


async def check_parked(patient: Patient) -> Finding:
    """Runs that were set aside and wait for a human."""
    rows = await patient.ask("diagnose_parked", COUNTED_MAX)
    runs = sum(row["runs"] for row in rows)
    figures = {"runs": runs, "reasons": [dict(row) for row in rows]}
    if not rows:
        return Finding(status="ok", found="No run is set aside.", figures=figures)
    return Finding(
        status="problem",
        found=f"{counted(runs, 'run', bounded=True)} set aside.",
        details=[
            f"{row['workflow_id']} version {row['version']}: {row['runs']:,} for {row['reason']}, as {row['latest']}"
            for row in rows[:SHOWN_MAX]
        ],
        advice="leasehold explain RUN says why, and what gives it back.",
        figures=figures,
    )


async def check_commands(patient: Patient) -> Finding:
    """Scheduled commands that failed, or are late."""
    limits = patient.thresholds
    (row,) = await patient.ask("diagnose_commands", COUNTED_MAX)
    figures = dict(row)
    late = row["oldest_s"] > limits.backlog_problem_s
    if not (row["late"] or row["failed"]):
        return Finding(status="ok", found="No scheduled command is due or has failed.", figures=figures)
    found = f"{counted(row['late'], 'scheduled command', bounded=True)} due"
    found += f", the oldest for {span(row['oldest_s'])}" if row["late"] else ""
    found += f"; {counted(row['failed'], 'other', bounded=True)} failed for good." if row["failed"] else "."
    if not (late or row["failed"]):
        return Finding(status="ok", found=found, figures=figures)
    advice: list[str] = []
    if late:
        advice.append("Processes dispatch them that know their workflow; is one running?")
    if row["failed"]:
        advice.append("SELECT key, error FROM leasehold.scheduled_commands WHERE state = 'failed' says why.")
    return Finding(status="problem", found=found, advice=" ".join(advice), figures=figures)


async def check_outbox(patient: Patient) -> Finding:
    """How late sinks are told of events."""
    limits = patient.thresholds
    rows = await patient.ask("diagnose_outbox", COUNTED_MAX)
    lag_s = max(row["oldest_s"] for row in rows)
    sinks = [row for row in rows if row["sink"] is not None]
    figures = {
        "lag_s": lag_s,
        "unspread": rows[0]["owed"],
        "sinks": {row["sink"]: {"owed": row["owed"], "lag_s": row["oldest_s"], "tries": row["tries"]} for row in sinks},
    }
    owed = sum(row["owed"] for row in sinks)
    if not sinks and not rows[0]["owed"]:
        return Finding(status="ok", found="No sink is registered.", figures=figures)
    if not owed and not rows[0]["owed"]:
        return Finding(status="ok", found="Every sink has been told of every event.", figures=figures)
    behind = [row for row in sinks if row["owed"] and (row["oldest_s"] > limits.outbox_warning_s or row["tries"])]
    found = (
        f"{counted(owed + rows[0]['owed'], 'run', bounded=True)} with events to publish, late by {span(lag_s)} at most."
    )
    if lag_s <= limits.outbox_warning_s and not behind:
        return Finding(status="ok", found=found, figures=figures)
    return Finding(
        status="problem" if lag_s > limits.outbox_problem_s else "warning",
        found=found,
        details=[_owed(row) for row in behind[:SHOWN_MAX]],
        advice="Processes publish whose app has the sink; is one running, and does the sink answer? One that is "
        "not wanted any more: leasehold sinks forget NAME.",
        figures=figures,
    )


def _owed(row: Any) -> str:
    tried = f", tried {row['tries']} times: {row['error']}" if row["tries"] else ""
    return f'sink "{row["sink"]}": {counted(row["owed"], "run", bounded=True)}, late by {span(row["oldest_s"])}{tried}'


async def check_dead_letters(patient: Patient) -> Finding:
    """Events that a sink refused too often."""
    rows = [row for row in await patient.ask("diagnose_outbox", COUNTED_MAX) if row["dead"]]
    dead = sum(row["dead"] for row in rows)
    figures = {"events": dead, "sinks": {row["sink"]: row["dead"] for row in rows}}
    if not rows:
        return Finding(status="ok", found="No event was given up.", figures=figures)
    return Finding(
        status="problem",
        found=f"{counted(dead, 'event', bounded=True)} given up after too many refusals.",
        details=[
            f'sink "{row["sink"]}": {counted(row["dead"], "event", bounded=True)}, such as {row["dead_error"]}'
            for row in rows[:SHOWN_MAX]
        ],
        advice="leasehold dlq list shows them; when the sink is mended: leasehold dlq replay.",
        figures=figures,
    )
