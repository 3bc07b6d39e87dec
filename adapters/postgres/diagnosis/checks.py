"""The table of checks, and the database that they are made of.

Some need another event loop than the caller's, so each is wrapped to run where the driver does.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from anyio import CancelScope

from adapters.postgres.bridge import Runner, current_event_loop, runner_for
from adapters.postgres.diagnosis.patient import Patient, Thresholds
from adapters.postgres.diagnosis.server_checks import (
    check_clock,
    check_database,
    check_listen,
    check_migrations,
    check_pooler,
    check_role,
    check_server,
)
from adapters.postgres.diagnosis.upkeep_checks import check_blobs, check_months, check_transactions, check_vacuum
from adapters.postgres.diagnosis.work_checks import (
    check_backlog,
    check_commands,
    check_dead_letters,
    check_jobs,
    check_outbox,
    check_parked,
    check_sessions,
)
from adapters.postgres.statements import DEFAULT_SCHEMA, checked_schema
from kernel.ports.diagnosis import Check, Finding

__all__ = ["CHECKS", "open_diagnosis"]

Examination = Callable[[Patient], Awaitable[Finding]]

CHECKS: Sequence[tuple[str, Examination]] = (
    ("database", check_database),
    ("server", check_server),
    ("role", check_role),
    ("migrations", check_migrations),
    ("clock", check_clock),
    ("pooler", check_pooler),
    ("listen", check_listen),
    ("transactions", check_transactions),
    ("vacuum", check_vacuum),
    ("months", check_months),
    ("sessions", check_sessions),
    ("backlog", check_backlog),
    ("jobs", check_jobs),
    ("parked", check_parked),
    ("commands", check_commands),
    ("outbox", check_outbox),
    ("dead letters", check_dead_letters),
    ("blobs", check_blobs),
)


@asynccontextmanager
async def open_diagnosis(
    url: str,
    *,
    direct_url: str | None = None,
    schema: str = DEFAULT_SCHEMA,
    embedded: bool = False,
    thresholds: Thresholds | None = None,
    wall: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> AsyncGenerator[Sequence[Check]]:
    """The checks of a database, which connect when the first is made; they may be made at the same time.

    The first, `database`, raises what keeps it from being reached; the others are skipped then. `wall` is the clock of
    this host. Raises: InvalidCommand for a name that cannot be a schema's.
    """
    name = checked_schema(schema)
    async with runner_for(current_event_loop()) as runner:
        patient = Patient(url, direct_url, name, thresholds=thresholds or Thresholds(), embedded=embedded, wall=wall)
        try:
            yield [_wrapped(check, examine, patient, runner) for check, examine in CHECKS]
        finally:
            with CancelScope(shield=True):
                await runner.call(patient.close)


def _wrapped(name: str, examine: Examination, patient: Patient, runner: Runner) -> Check:
    async def on_this_side() -> Finding:
        async def on_the_driver_s() -> Finding:
            return await examine(patient)

        return await runner.call(on_the_driver_s)

    return Check(name, on_this_side)
