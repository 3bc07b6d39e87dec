"""Taking runs, and the low-water mark that keeps taking them cheap.

Every run that is taken leaves an index entry behind until it is vacuumed away, at the lower end of the very range that
the next claim reads. So the scan begins at a mark below which nothing is due any more, as far as the last claim saw,
less a margin for transactions that were under way. A run that appears below the mark all the same (its transaction was
long, or whoever was taking it failed) is found by a scan without the mark. That one is made as often as its measured
cost allows: it takes at most a hundredth of the time, is not made more than once a second, and at least every 30 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import TypeAlias

from adapters.postgres.connections import Line
from adapters.postgres.failures import mapped
from adapters.postgres.reading import histories_of
from adapters.postgres.statements import Schema, statement
from adapters.postgres.workflows import WorkflowKeys
from kernel.errors import LeaseLost
from kernel.model.facts import FORMAT
from kernel.ports.persistence import Claimed, Lease, StoredHistory, SuspendedRuns

__all__ = ["Claims", "Mark", "Marks"]

MARGIN = timedelta(seconds=5)
UNMARKED_EVERY_MAX_S = 30.0
UNMARKED_EVERY_MIN_S = 1.0
UNMARKED_SHARE = 0.01
_Taken: TypeAlias = tuple[Lease, str | None, timedelta | None]
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
TRIES = 4


@dataclass(slots=True)
class Mark:
    """Where one session's next scan begins, and when it has to begin at the beginning again."""

    at: datetime = LONG_AGO
    unmarked_due: float = 0.0

    def lower(self) -> datetime:
        """The lower end of the next scan."""
        return LONG_AGO if monotonic() >= self.unmarked_due else self.at

    def scanned(self, lower: datetime, cost_s: float) -> None:
        """A scan from this lower end took so long."""
        if lower == LONG_AGO:
            pause = min(max(cost_s / UNMARKED_SHARE, UNMARKED_EVERY_MIN_S), UNMARKED_EVERY_MAX_S)
            self.unmarked_due = monotonic() + pause


class Marks:
    """The marks of the sessions of this process; read by heartbeats in other threads."""

    def __init__(self) -> None:
        self._marks: dict[str, Mark] = {}

    def of(self, session_id: str) -> Mark:
        """The session's mark."""
        return self._marks.setdefault(session_id, Mark())

    def forget(self, session_id: str) -> None:
        """The session has ended."""
        self._marks.pop(session_id, None)


class Claims:
    """`kernel.ports.persistence.Claims`."""

    def __init__(self, line: Line, schema: Schema, keys: WorkflowKeys, marks: Marks) -> None:
        self._line = line
        self._keys = keys
        self._marks = marks
        self._sql_claim = statement("claim", schema)
        self._sql_load = statement("load_runs", schema)
        self._sql_hold = statement("hold_suspended", schema)
        self._sql_due = statement("due_runs", schema)

    async def claim(self, session_id: str, limit: int) -> Sequence[Claimed]:
        if limit < 1:
            return ()
        taken: dict[str, _Taken] = {}
        for _ in range(TRIES):
            picked, found = await self._take(session_id, limit)
            taken |= found
            # All that was picked was locked by others, who have taken it since: there may be more behind it.
            if taken or picked < limit:
                break
        if not taken:
            return ()
        with mapped("load the runs that were claimed"):
            rows = await self._line.fetch("load the runs that were claimed", self._sql_load, list(taken))
        # A run that changed hands since is not ours to report.
        return [
            Claimed(lease=lease, previous_owner=previous, history=history, waited=waited)
            for history in histories_of(rows)
            for lease, previous, waited in [taken[history.head.run_id]]
            if history.head.claim == lease.claim
        ]

    async def hold_suspended(self, workflows: Sequence[tuple[str, str]], limit: int, hold: timedelta) -> SuspendedRuns:
        ids, versions = [workflow_id for workflow_id, _ in workflows], [version for _, version in workflows]
        with mapped("find suspended runs"):
            # Not repeated when the answer is lost: what was held then is due again by itself.
            rows = await self._line.fetch(
                "find suspended runs", self._sql_hold, ids, versions, limit, hold, FORMAT, repeat=False
            )
        return SuspendedRuns(held=rows[0]["held"], attended=rows[0]["attended"])

    async def look_due(self, definitions: Sequence[tuple[str, str]], limit: int) -> Sequence[StoredHistory]:
        keys = sorted(set(await self._keys.keys_of(definitions)))
        with mapped("look for due runs"):
            rows = await self._line.fetch("look for due runs", self._sql_due, keys, limit, FORMAT)
            found = [row[0] for row in rows]
            loaded = await self._line.fetch("load due runs", self._sql_load, found) if found else ()
        histories = {history.head.run_id: history for history in histories_of(loaded)}
        return [histories[run_id] for run_id in found if run_id in histories]

    async def _take(self, session_id: str, limit: int) -> tuple[int, dict[str, _Taken]]:
        mark = self._marks.of(session_id)
        lower = mark.lower()
        began = monotonic()
        with mapped("claim runs"):
            # Not repeated when the answer is lost: what was taken then is found by looking at what the session owns.
            rows = await self._line.fetch("claim runs", self._sql_claim, session_id, limit, lower, FORMAT, repeat=False)
        mark.scanned(lower, monotonic() - began)
        row = rows[0]
        if not row["alive"]:
            raise LeaseLost(None, session_id=session_id)
        if row["picked"] < limit:
            mark.at = row["now"] - MARGIN
        elif row["last_rank"] is not None:
            mark.at = row["last_rank"] - MARGIN
        columns = (row[name] or () for name in ("ids", "claims", "previous_owners", "waited"))
        leases: dict[str, _Taken] = {
            str(run_id): (Lease(session_id=session_id, claim=claim), owner, waited)
            for run_id, claim, owner, waited in zip(*columns, strict=True)
        }
        return row["picked"], leases
