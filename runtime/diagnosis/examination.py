"""Making all checks of an installation: at once, each within a deadline, and none able to end the others.

Knows no check by itself; the database brings its own, `surroundings` those of what lies around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import anyio

from kernel.errors import EngineError
from kernel.ports.diagnosis import Check, CheckSkipped, Finding
from runtime.bootstrap import open_diagnosis
from runtime.config import Settings
from runtime.diagnosis.surroundings import surrounding_checks

__all__ = ["DEADLINE_S", "Examined", "Report", "examine", "look"]

DEADLINE_S = 15.0
"""For each check; since they are made at once, about as long as all of them take at worst."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A check and what it found."""

    name: str
    finding: Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that was found, in the order of the checks; `database` names the one that was examined, None if none was."""

    database: str | None
    examined: Sequence[Examined]

    @property
    def healthy(self) -> bool:
        """Whether there is no problem; warnings are none."""
        return all(each.finding.status != "problem" for each in self.examined)

    @property
    def unreachable(self) -> Exception | None:
        """Why the database could not be examined, if so."""
        first = self.examined[0]
        return first.finding.error if first.name == "database" else None


async def examine(settings: Settings, *, tell: Callable[[str], None] | None = None) -> Report:
    """Make every check that can be made with these settings; nothing is changed, and no error is raised for a finding.

    An embedded database that exists is started for it. `tell` is given what people should know about the database.
    """
    async with AsyncExitStack() as stack:
        name: str | None = None
        try:
            opened = await stack.enter_async_context(open_diagnosis(settings, tell=tell))
        except EngineError as error:
            checks: Sequence[Check] = (_failed("database", error),)
        else:
            name, checks = opened.database, opened.checks
        around = surrounding_checks(settings)
        # Where payloads are kept elsewhere, the database's table of them is nobody's business.
        elsewhere = {check.name for check in around}
        checks = [check for check in checks if check.name not in elsewhere]
        return Report(database=name, examined=await _all([*checks, *around]))


async def _all(checks: Sequence[Check]) -> Sequence[Examined]:
    found: dict[int, Finding] = {}

    async def one(place: int, check: Check) -> None:
        found[place] = await look(check)

    async with anyio.create_task_group() as tasks:
        for place, check in enumerate(checks):
            tasks.start_soon(one, place, check)
    return [Examined(name=check.name, finding=found[place]) for place, check in enumerate(checks)]


async def look(check: Check, *, deadline_s: float = DEADLINE_S) -> Finding:
    """Make one check; whatever goes wrong is a finding."""
    try:
        with anyio.fail_after(deadline_s):
            return await check.look()
    except CheckSkipped as skipped:
        return Finding(status="skipped", found=skipped.message, advice=skipped.hint)
    except TimeoutError as error:
        advice = "Is the server overloaded, or does somebody hold a lock?"
        return Finding(status="problem", found=f"No answer within {deadline_s:g} s.", advice=advice, error=error)
    except EngineError as error:
        return Finding(status="problem", found=error.message, advice=error.hint, error=error)
    except Exception as error:  # noqa: BLE001 - a check that fails is a finding, and the others go on
        found = f"The check itself failed: {type(error).__name__}: {error}"
        return Finding(
            status="problem", found=found, advice="This is a bug in Leasehold; please report it.", error=error
        )


def _failed(name: str, error: EngineError) -> Check:
    async def fail() -> Finding:
        raise error

    return Check(name, fail)
