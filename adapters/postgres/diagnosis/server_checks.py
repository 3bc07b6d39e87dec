"""Checks of the server and of the way to it.

Is it there, may we use it, is the schema ours, is our clock right, who stands between us, do notifications arrive.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from adapters.postgres.connections import place_of
from adapters.postgres.diagnosis.patient import Patient
from adapters.postgres.diagnosis.quantities import counted, span
from adapters.postgres.failures import DRIVER_ERRORS, describe, mapped
from adapters.postgres.migrating import NEWEST, OLDEST, find_version
from adapters.postgres.statements import migration_files, statement
from kernel.errors import EngineError, Unavailable
from kernel.ports.diagnosis import CheckSkipped, CheckStatus, Finding

if TYPE_CHECKING:
    from asyncpg import Connection, Record

__all__ = [
    "check_clock",
    "check_database",
    "check_listen",
    "check_migrations",
    "check_pooler",
    "check_role",
    "check_server",
]

OLDEST_SERVER = 140_000
CONNECTIONS_WARNING = 0.9
HEARD_WITHIN_S = 2.0
NAMED_MAX = 3
"""Of several privileges that are missing; the rest is a number."""


async def check_database(patient: Patient) -> Finding:
    """Whether it can be reached, and how long that takes."""
    try:
        reached = await patient.reach()
    except CheckSkipped:
        assert patient.failure is not None
        raise patient.failure from None

    async def timed(connection: Connection[Record]) -> float:
        begun = time.perf_counter()
        await connection.execute("SELECT 1")
        return time.perf_counter() - begun

    round_trip_s = await patient.use(timed)
    return Finding(
        status="ok",
        found=f"{_capital(patient.place)} answers within {span(round_trip_s)}.",
        figures={"round_trip_s": round_trip_s, "connect_s": reached.connect_s},
    )


async def check_server(patient: Patient) -> Finding:
    """Whether the server is one that the engine runs on, and takes writes."""
    (row,) = await patient.ask("diagnose_server")
    used, most = row["connections"], row["connections_max"]
    figures = {
        "version": row["version"],
        "connections": used,
        "connections_max": most,
        "in_recovery": row["in_recovery"],
        "read_only": row["read_only"],
    }
    found = f"PostgreSQL {row['version'].split()[0]}, {used} of {most} connections in use."
    trouble = _unfit(row)
    if trouble is not None:
        return Finding(status="problem", found=f"{found} {trouble[0]}", advice=trouble[1], figures=figures)
    if used >= most * CONNECTIONS_WARNING:
        advice = "Each process takes five or so: raise max_connections, or put a pooler before the server."
        return Finding(status="warning", found=found, advice=advice, figures=figures)
    return Finding(status="ok", found=found, figures=figures)


def _unfit(row: Any) -> tuple[str, str] | None:
    """What is wrong with the server, and the way out."""
    if row["version_number"] < OLDEST_SERVER:
        return "It is too old.", "Use PostgreSQL 14 or newer."
    if row["encoding"] != "UTF8":
        return f"The database's encoding is {row['encoding']}.", "Create it with ENCODING 'UTF8'."
    if row["in_recovery"]:
        return "It is a standby, which takes no writes.", "Name the primary in the database URL, or promote this one."
    if row["read_only"]:
        advice = (
            "Somebody has set default_transaction_read_only, often because the disk was full or for a maintenance: "
            "ALTER DATABASE … RESET default_transaction_read_only, and the same for the role."
        )
        return "Transactions are read-only.", advice
    return None


async def check_role(patient: Patient) -> Finding:
    """Whether the role may do what the engine does."""
    (row,) = await patient.ask("diagnose_privileges")
    missing: list[str] = list(row["missing"])
    if row["has_schema"] and not row["may_use"]:
        missing.insert(0, "USAGE on the schema")
    migrates = "may migrate too" if row["may_migrate"] else "may not migrate"
    kind = "a superuser" if row["superuser"] else migrates
    figures = {
        "role": row["role"],
        "superuser": row["superuser"],
        "may_migrate": row["may_migrate"],
        "missing": missing,
    }
    if missing:
        return Finding(
            status="problem",
            found=f'Role "{row["role"]}" lacks {counted(len(missing), "privilege")}: {_first(missing)}.',
            advice=f"Grant them as OPERATIONS.md shows under Two roles, as the owner of the schema {patient.schema}.",
            figures=figures,
        )
    if not row["has_schema"]:
        return Finding(status="ok", found=f'Role "{row["role"]}" ({kind}).', figures=figures)
    return Finding(status="ok", found=f'Role "{row["role"]}" may do what the engine does ({kind}).', figures=figures)


def _first(missing: Sequence[str]) -> str:
    # All of them are in the figures; a role that was never granted anything lacks a hundred.
    more = len(missing) - NAMED_MAX
    return ", ".join(missing) if more <= 0 else f"{', '.join(missing[:NAMED_MAX])} and {more:,} more"


async def check_migrations(patient: Patient) -> Finding:
    """Whether the schema is one that this release runs on."""
    version = await patient.use(lambda connection: find_version(connection, patient.schema))
    newest = migration_files()[-1][0]
    figures = {"version": version, "current": newest, "oldest": OLDEST, "newest": NEWEST}
    migrate = "leasehold migrate" if not patient.embedded else "The next command that opens it does that by itself."
    if version is None:
        advice = migrate if patient.embedded else f"{migrate}, as the role that is to own it."
        return Finding(
            status="problem", found=f'There is no schema "{patient.schema}".', advice=advice, figures=figures
        )
    found = f"Schema version {version}; this release brings {newest} and runs on {OLDEST} to {NEWEST}."
    if version > NEWEST:
        return Finding(status="problem", found=found, advice="Replace this release by a newer one.", figures=figures)
    if version < newest:
        status: CheckStatus = "problem" if version < OLDEST else "warning"
        return Finding(status=status, found=found, advice=migrate, figures=figures)
    return Finding(status="ok", found=found, figures=figures)


async def check_clock(patient: Patient) -> Finding:
    """How far the clock of this host is from the database's, by which everything is decided."""

    async def compared(connection: Connection[Record]) -> tuple[float, float]:
        before, begun = patient.wall(), time.perf_counter()
        theirs = await connection.fetchval("SELECT clock_timestamp()")
        took_s = time.perf_counter() - begun
        # Somewhere between the two moments the server looked at its clock; most likely in the middle.
        return took_s / 2, (before - theirs).total_seconds() + took_s / 2

    uncertain_s, offset_s = min([await patient.use(compared) for _ in range(3)])
    figures = {"offset_s": offset_s, "uncertainty_s": uncertain_s}
    far_s = max(abs(offset_s) - uncertain_s, 0.0)
    if far_s < patient.thresholds.clock_warning_s:
        shown = f"within {span(max(abs(offset_s), uncertain_s))} of each other"
        return Finding(status="ok", found=f"This host's clock and the database's are {shown}.", figures=figures)
    direction = "ahead of" if offset_s > 0 else "behind"
    return Finding(
        status="problem" if far_s >= patient.thresholds.clock_problem_s else "warning",
        found=f"This host's clock is {span(abs(offset_s))} {direction} the database's.",
        advice="Synchronise both hosts (NTP). The engine itself goes by the database's clock, but a run_at that a "
        "program reckons, the times of logs and traces, and signed requests (S3, webhooks) go by the host's.",
        figures=figures,
    )


async def check_pooler(patient: Patient) -> Finding:
    """Whether a transaction pooler stands between, and whether there is a way around it."""
    target = (await patient.reach()).target
    figures: dict[str, Any] = {
        "transaction_pooler": target.pooled,
        "prepared_statements": target.prepared,
        "direct_url": patient.direct_url is not None,
    }
    trouble = await _direct_trouble(patient)
    if trouble is not None:
        return Finding(status="problem", found=trouble[0], advice=trouble[1], figures=figures)
    way = " LEASEHOLD_DIRECT_URL leads to the same database without one." if patient.direct_url is not None else ""
    if not target.pooled:
        return Finding(status="ok", found=f"No transaction pooler stands before the server.{way}", figures=figures)
    (row,) = await patient.ask("diagnose_server")
    unfit: list[str] = list(row["unfit_settings"])
    figures["unfit_settings"] = unfit
    found = f"A transaction pooler stands before the server.{way}"
    advice: list[str] = []
    if patient.direct_url is None:
        found += " Without a way around it a wake-up takes up to a second, and a dead process is replaced after 10 s."
        advice.append("Set LEASEHOLD_DIRECT_URL to the server itself.")
    if unfit:
        found += f" The role lacks settings for use behind one: {', '.join(unfit)}."
        advice.append("ALTER ROLE … SET …, as OPERATIONS.md lists under Poolers.")
    return Finding(status="warning" if advice else "ok", found=found, advice=" ".join(advice) or None, figures=figures)


async def _direct_trouble(patient: Patient) -> tuple[str, str | None] | None:
    """What is wrong with the direct URL, if there is one."""
    if patient.direct_url is None:
        return None
    try:
        direct = await patient.reach_direct()
        if direct.target.pooled:
            return "LEASEHOLD_DIRECT_URL leads through a transaction pooler as well.", "Name the server itself in it."
        here = await patient.ask("same_database")
        with mapped("say which one it is"):
            there = await direct.line.fetch("say which one it is", statement("same_database", patient.schema))
    except CheckSkipped:
        raise
    except EngineError as error:
        return f"LEASEHOLD_DIRECT_URL: {error.message}", error.hint
    if tuple(here[0]) == tuple(there[0]):
        return None
    return (
        f"LEASEHOLD_DIRECT_URL leads to another database ({place_of(patient.direct_url)}).",
        "Name the server behind the pooler in it, and the same database.",
    )


async def check_listen(patient: Patient) -> Finding:
    """Whether a notification goes through, there and back, on a channel of our own."""
    try:
        reached = await patient.reach_direct()
    except CheckSkipped:
        raise
    except EngineError:
        raise CheckSkipped("LEASEHOLD_DIRECT_URL cannot be used; see the check of the pooler.") from None
    if reached.target.pooled:
        return Finding(
            status="warning",
            found="Nobody can listen through a transaction pooler: a wake-up takes up to a second.",
            advice="Set LEASEHOLD_DIRECT_URL to the server itself.",
            figures={"round_trip_s": None},
        )
    try:
        took_s = await _round_trip(patient)
    except DRIVER_ERRORS as error:
        # A standby, say, has no notifications.
        raise Unavailable(f"LISTEN and NOTIFY do not work: {describe(error)}.") from error
    if took_s is None:
        return Finding(
            status="warning",
            found=f"A notification was sent, and did not arrive within {HEARD_WITHIN_S:g} s.",
            advice="Something between here and the server holds notifications back. The engine then looks once a "
            "second. Set LEASEHOLD_DIRECT_URL to the server itself.",
            figures={"round_trip_s": None},
        )
    return Finding(
        status="ok", found=f"A notification arrives within {span(took_s)}.", figures={"round_trip_s": took_s}
    )


async def _round_trip(patient: Patient) -> float | None:
    """How long a notification takes from one connection to another; None: it does not arrive."""
    listener = await (await patient.reach_direct()).line.connection()
    line = (await patient.reach()).line
    channel, heard = f"leasehold_doctor_{secrets.token_hex(6)}", asyncio.Event()

    def hear(*_: object) -> None:
        heard.set()

    await listener.add_listener(channel, hear)

    async def send(connection: Connection[Record]) -> float:
        begun = time.perf_counter()
        await connection.execute(f'NOTIFY "{channel}"')
        return begun

    begun = await line.run("send a notification", send)
    try:
        async with asyncio.timeout(HEARD_WITHIN_S):
            await heard.wait()
    except TimeoutError:
        return None
    return time.perf_counter() - begun


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
