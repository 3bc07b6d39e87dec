"""Jobs: taking them out of their queues, and keeping, giving up and taking over the leases on them.

That a job exists, and what becomes of it with its run, is the affair of appends (`sql/jobs.fragment.sql`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any

from adapters.postgres.bridge import Runner
from adapters.postgres.connections import Line
from adapters.postgres.failures import mapped
from adapters.postgres.statements import Schema, statement
from adapters.postgres.workflows import WorkflowKeys
from kernel.errors import LeaseLost
from kernel.model.facts import FORMAT
from kernel.model.ids import is_run_id
from kernel.ports.jobs import Definition, ExpiredJob, Holder, JobInfo, JobLease, LeasedJob

__all__ = ["Jobs", "PostgresJobTransport"]

TRIES = 3
LOOK_AT_MORE = 16
"""Others take jobs at the same time and pass over each other's; so many more are looked at than are wanted."""


class Jobs:
    """`kernel.ports.jobs.JobTransport`, on the asyncio side."""

    def __init__(self, line: Line, schema: Schema, keys: WorkflowKeys) -> None:
        self._line = line
        self._keys = keys
        self._sql: Callable[[str], str] = lambda name: statement(name, schema)

    async def dequeue(
        self, queues: Sequence[str], definitions: Sequence[Definition], tokens: Sequence[str], holder: Holder
    ) -> Sequence[LeasedJob]:
        if not tokens:
            return ()
        keys = await self._keys.keys_of(definitions)
        look_at = len(tokens) + LOOK_AT_MORE
        for _ in range(TRIES):
            # Not repeated when the answer is lost: what was taken then is held, or ends, and is found by that.
            rows = await self._fetch(
                "take jobs", "dequeue", tokens, *_holder(holder), queues, keys, FORMAT, look_at, repeat=False
            )
            _check_alive(rows, holder)
            if rows[0]["run_id"] is not None:
                return [_leased(row) for row in rows]
            if rows[0]["picked"] < look_at:
                break
            # All that was looked at was being taken by others: there may be more behind it.
            look_at *= 4
        return ()

    async def take(self, run_id: str, stage_id: str, token: str, holder: Holder) -> LeasedJob | None:
        if not is_run_id(run_id):
            return None
        rows = await self._fetch("take a job", "take_job", run_id, stage_id, token, *_holder(holder), FORMAT)
        _check_alive(rows, holder)
        return None if rows[0]["run_id"] is None else _leased(rows[0])

    async def find_leased(self, lease: JobLease) -> LeasedJob | None:
        if not is_run_id(lease.run_id):
            return None
        rows = await self._fetch("find a leased job", "leased_job", lease.run_id, lease.stage_id, lease.token, FORMAT)
        return _leased(rows[0]) if rows else None

    async def heartbeat(self, leases: Sequence[JobLease], lease: timedelta) -> Collection[JobLease]:
        if not leases:
            return ()
        columns = zip(*((one.run_id, one.stage_id, one.token) for one in leases), strict=True)
        rows = await self._fetch("prolong the leases of jobs", "prolong_jobs", *columns, lease)
        places: list[int] = [row["place"] for row in rows]
        return {leases[place] for place in places}

    async def held_by(self, session_id: str) -> Sequence[LeasedJob]:
        return [_leased(row) for row in await self._fetch("list the jobs of a session", "held_jobs", session_id)]

    async def release(self, lease: JobLease, delay: timedelta) -> bool:
        parameters = (lease.run_id, lease.stage_id, lease.token, delay or None)
        return bool(await self._fetch("give back a job", "release_job", *parameters))

    async def discard(self, lease: JobLease) -> bool:
        return bool(await self._fetch("delete a job", "discard_job", lease.run_id, lease.stage_id, lease.token))

    async def take_expired(
        self, definitions: Sequence[Definition], tokens: Sequence[str], lease: timedelta
    ) -> Sequence[ExpiredJob]:
        keys = await self._keys.keys_of(definitions)
        rows = await self._fetch("take over jobs", "expired_jobs", tokens, keys, lease, repeat=False)
        return [
            ExpiredJob(
                job=_leased(row),
                previous=JobLease(row["run_id"], row["stage_id"], row["previous_token"]),
                previous_session=row["previous_session"],
            )
            for row in rows
        ]

    async def jobs_of(self, run_ids: Sequence[str]) -> Sequence[JobInfo]:
        known = [run_id for run_id in run_ids if is_run_id(run_id)]
        rows = await self._fetch("list the jobs of runs", "run_jobs", known) if known else ()
        return [JobInfo(**dict(row)) for row in rows]

    async def _fetch(self, doing: str, name: str, *parameters: object, repeat: bool = True) -> Sequence[Any]:
        with mapped(doing):
            return await self._line.fetch(doing, self._sql(name), *parameters, repeat=repeat)


def _holder(holder: Holder) -> tuple[str | None, timedelta | None]:
    return (holder, None) if isinstance(holder, str) else (None, holder)


def _check_alive(rows: Sequence[Any], holder: Holder) -> None:
    if not rows[0]["alive"]:
        assert isinstance(holder, str), "only a session can have ended"
        raise LeaseLost(None, session_id=holder)


def _leased(row: Any) -> LeasedJob:
    lease = JobLease(row["run_id"], row["stage_id"], row["token"])
    return LeasedJob(lease=lease, queue=row["queue"], polls=row["polls"], lost=row["lost"])


class PostgresJobTransport:
    """`kernel.ports.jobs.JobTransport` in the same database; `PostgresPersistence.jobs`."""

    def __init__(self, jobs: Jobs, runner: Runner) -> None:
        self._jobs = jobs
        self._call = runner.call

    async def dequeue(
        self, queues: Sequence[str], definitions: Sequence[Definition], tokens: Sequence[str], /, *, holder: Holder
    ) -> Sequence[LeasedJob]:
        return await self._call(lambda: self._jobs.dequeue(queues, definitions, tokens, holder))

    async def take(self, run_id: str, stage_id: str, token: str, /, *, holder: Holder) -> LeasedJob | None:
        return await self._call(lambda: self._jobs.take(run_id, stage_id, token, holder))

    async def find_leased(self, lease: JobLease, /) -> LeasedJob | None:
        return await self._call(lambda: self._jobs.find_leased(lease))

    async def heartbeat(self, leases: Sequence[JobLease], /, *, lease: timedelta) -> Collection[JobLease]:
        return await self._call(lambda: self._jobs.heartbeat(leases, lease))

    async def held_by(self, session_id: str, /) -> Sequence[LeasedJob]:
        return await self._call(lambda: self._jobs.held_by(session_id))

    async def release(self, lease: JobLease, /, *, delay: timedelta = timedelta(0)) -> bool:
        return await self._call(lambda: self._jobs.release(lease, delay))

    async def discard(self, lease: JobLease, /) -> bool:
        return await self._call(lambda: self._jobs.discard(lease))

    async def take_expired(
        self, definitions: Sequence[Definition], tokens: Sequence[str], /, *, lease: timedelta
    ) -> Sequence[ExpiredJob]:
        return await self._call(lambda: self._jobs.take_expired(definitions, tokens, lease))

    async def jobs_of(self, *run_ids: str) -> Sequence[JobInfo]:
        return await self._call(lambda: self._jobs.jobs_of(run_ids))
