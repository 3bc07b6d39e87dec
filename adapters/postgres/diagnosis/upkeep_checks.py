"""Checks of what the server does for our tables in the background, and of who keeps it from doing so."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

from adapters.postgres.diagnosis.patient import Patient
from adapters.postgres.diagnosis.quantities import counted, size, span
from kernel.ports.diagnosis import CheckStatus, Finding

__all__ = ["check_blobs", "check_months", "check_transactions", "check_vacuum"]

_MONTH = re.compile(r"history_(\d{4})_(\d{2})")
SHOWN_MAX = 5


async def check_transactions(patient: Patient) -> Finding:
    """Who holds the oldest snapshot, and who sits in a transaction without doing anything."""
    rows = await patient.ask("diagnose_transactions")
    limits = patient.thresholds
    hidden = sum(row["hidden"] for row in rows)
    seen = [row for row in rows if not row["hidden"]]
    oldest_s = max((row["open_s"] or 0.0 for row in seen), default=0.0)
    xmin_age = max((row["xmin_age"] or 0 for row in seen), default=0)
    idle = [row for row in seen if (row["idle_s"] or 0.0) > limits.idle_warning_s]
    long = [
        row
        for row in seen
        if row in idle
        or (row["open_s"] or 0.0) > limits.open_warning_s
        or (row["xmin_age"] or 0) > limits.xmin_age_warning
    ]
    figures = {
        "oldest_s": oldest_s,
        "oldest_xmin_age": xmin_age,
        "idle_in_transaction": len(idle),
        "hidden_connections": hidden,
    }
    blind = f" Of {counted(hidden, 'connection')} of other roles nothing can be seen." if hidden else ""
    see = "GRANT pg_read_all_stats TO this role lets it see the others. " if hidden else ""
    if not long:
        found = f"The oldest open transaction began {span(oldest_s)} ago." if seen else "No transaction is open."
        return Finding(status="ok", found=found + blind, advice=see.strip() or None, figures=figures)
    found = (
        f"The oldest open transaction began {span(oldest_s)} ago, its snapshot is {counted(xmin_age, 'transaction')} "
        f"old; {len(idle)} idle in transaction."
    )
    status: CheckStatus = "problem" if oldest_s > limits.open_problem_s else "warning"
    return Finding(
        status=status,
        found=found + blind,
        details=[_transaction(row) for row in long[:SHOWN_MAX]],
        advice=f"{see}Dead rows stay while it is open, and claims become slow. Find out what it is for; "
        "SELECT pg_terminate_backend(PID) ends a connection, ROLLBACK PREPARED a prepared transaction, "
        "pg_drop_replication_slot a slot that nobody reads. idle_in_transaction_session_timeout prevents the next.",
        figures=figures,
    )


def _transaction(row: Any) -> str:
    who = [row["kind"]]
    who += [f"pid {row['pid']}"] if row["pid"] is not None else []
    who += [f"role {row['role']}"] if row["role"] else []
    who += [f'"{row["name"]}"'] if row["name"] else []
    how = [f"open for {span(row['open_s'])}"] if row["open_s"] is not None else []
    how += [f"idle for {span(row['idle_s'])}"] if row["idle_s"] is not None else []
    how += [f"snapshot {counted(row['xmin_age'], 'transaction')} old"] if row["xmin_age"] is not None else []
    return f"{', '.join(who)}: {', '.join(how)}"


async def check_vacuum(patient: Patient) -> Finding:
    """Whether dead rows are removed as fast as they come about."""
    tables = await patient.ask("diagnose_tables")
    (server,) = await patient.ask("diagnose_server")
    limits = patient.thresholds
    late: list[tuple[float, Any]] = []
    for row in tables:
        share = row["dead"] / max(row["due_at"], 1.0)
        if row["dead"] >= limits.dead_rows_least and share >= limits.dead_rows_warning:
            late.append((share, row))
    off = [row["name"] for row in tables if not row["enabled"]]
    dead_rows, size_bytes = sum(row["dead"] for row in tables), sum(row["size_bytes"] for row in tables)
    figures = {
        "dead_rows": dead_rows,
        "size_bytes": size_bytes,
        "autovacuum": server["autovacuum"],
        "late": {row["name"]: {"dead_rows": row["dead"], "due_at": row["due_at"]} for _, row in late},
    }
    found = f"{counted(dead_rows, 'dead row')} in {size(size_bytes)} of tables and indexes."
    if not server["autovacuum"] or off:
        where = f"for {', '.join(off)}" if server["autovacuum"] else "on this server"
        advice = (
            "ALTER SYSTEM SET autovacuum = on"
            if not server["autovacuum"]
            else "ALTER TABLE … RESET (autovacuum_enabled)"
        )
        return Finding(status="problem", found=f"{found} Autovacuum is off {where}.", advice=advice, figures=figures)
    if not late:
        return Finding(status="ok", found=f"{found} Autovacuum keeps up.", figures=figures)
    late.sort(key=lambda one: one[0], reverse=True)
    worst = late[0][0]
    return Finding(
        status="problem" if worst >= limits.dead_rows_problem else "warning",
        found=f"{found} Autovacuum lags behind on {counted(len(late), 'table')}.",
        details=[_table(share, row) for share, row in late[:SHOWN_MAX]],
        advice="See first who holds an old snapshot (the check of transactions): nothing can be removed while it "
        "lives. Else give autovacuum more workers (autovacuum_max_workers) and less delay "
        "(autovacuum_vacuum_cost_delay), or VACUUM the tables now.",
        figures=figures,
    )


def _table(share: float, row: Any) -> str:
    last = "never vacuumed" if row["vacuumed_s"] is None else f"last vacuumed {span(row['vacuumed_s'])} ago"
    return f"{row['name']}: {row['dead']:,} dead rows, {share:.1f} times what calls for a vacuum, {last}"


async def check_months(patient: Patient) -> Finding:
    """How far the monthly tables of the history reach."""
    rows = await patient.ask("history_partitions")
    months = [_MONTH.fullmatch(row["name"]) for row in rows]
    last = max((date(int(found[1]), int(found[2]), 1) for found in months if found is not None), default=None)
    today = patient.wall().date()
    ahead = -1 if last is None else (last.year - today.year) * 12 + last.month - today.month
    found = "The history has no table of a month." if last is None else f"The history's tables reach to {last:%Y-%m}."
    status: CheckStatus = "ok" if ahead >= patient.thresholds.months_ahead else "warning"
    advice = None if status == "ok" else "leasehold migrate makes more; nothing breaks until then."
    return Finding(status=status, found=found, advice=advice, figures={"months_ahead": ahead})


async def check_blobs(patient: Patient) -> Finding:
    """Whether large payloads can be read, where they are kept in the database."""
    await patient.ask("blob_has", "doctor")
    tables = await patient.ask("diagnose_tables")
    kept = next((row["size_bytes"] for row in tables if row["name"] == "blobs"), 0)
    return Finding(
        status="ok",
        found=f"Large payloads are kept in the database: {size(kept)}. A store that an app brings is not examined.",
        figures={"place": "database", "size_bytes": kept},
    )
