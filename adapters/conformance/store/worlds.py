"""A store as two processes see it, and time that can be let pass in it: all that a test needs to know of a store.

Whoever has a store gives a `World` for each test, from a fixture of that name; see TESTING.md. Nothing here knows what
the store is made of. Tests wait for facts with `until`, never for a length of time.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, Protocol, Self, TypeVar
from uuid import uuid4

import pytest
from anyio import fail_after, sleep

from adapters.conformance.store.builders import Change, KnownRun, a_creation, a_definition, starting
from kernel.errors import Conflict
from kernel.journal import fold_stored
from kernel.model.run import RunState
from kernel.ports.jobs import JobTransport
from kernel.ports.persistence import Append, Claimed, Lease, Persistence, SessionInfo
from kernel.ports.scheduler import CommandSchedule

T = TypeVar("T")

LONG = timedelta(minutes=5)
SHORT = timedelta(milliseconds=300)


class Store(Persistence, Protocol):
    """The port of the runs, and beside it the two that have to see the same appends."""

    @property
    def jobs(self) -> JobTransport: ...

    @property
    def scheduler(self) -> CommandSchedule: ...


class Passage(Protocol):
    """How time passes where the store is."""

    def now(self) -> datetime:
        """Aware, and about what the store's own clock says."""
        ...

    async def a_little(self) -> None:
        """Let some milliseconds pass in the store."""


class ByWaiting:
    """Time that passes by itself, as in a database on this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def a_little(self) -> None:
        await sleep(0.02)


class Backdoor:
    """What only somebody behind the ports can bring about, at once: override what your store lets you do.

    A test that needs what is left out is skipped, and says so; each function tells what then nobody checks. They are
    plain functions, called from the event loop, and may block it for a moment.
    """

    def expire(self, session_id: str, /) -> None:
        """Let the lease of a session have ended just now.

        Left out: that a session whose lease ended can do nothing, is condemned, and has its runs taken over.
        """
        _left_out("expire")

    def age(self, run_id: str, by: timedelta, /) -> None:
        """Let a run have been due for so much longer.

        Left out: that waiting counts as priority and is told, that suspended runs are looked at in turn, and that a run
        whose workflow nobody knows is found once its time of grace is over.
        """
        _left_out("age")

    def strand(self, run_id: str, /) -> None:
        """Let nobody own a run, and let it never be due.

        Left out: that a run which nothing would ever move again is found and healed.
        """
        _left_out("strand")

    def set_format(self, run_id: str, format: int, /) -> None:
        """Make it a run that a newer release has written.

        Left out: that such a run is left to those who can read it.
        """
        _left_out("set_format")

    def expire_job(self, run_id: str, stage_id: str, /) -> None:
        """Let the time of a job's lease be up.

        Left out: that the job of a process that died is swept, by one, and that the dead can do nothing with it.
        """
        _left_out("expire_job")

    def drop_jobs(self, run_id: str, /) -> None:
        """Let the jobs of a run be gone.

        Left out: that a run which waits for a job that does not exist is found.
        """
        _left_out("drop_jobs")

    def age_job(self, run_id: str, stage_id: str, by: timedelta, /) -> None:
        """Let a job have been due for so much longer.

        Left out: that waiting counts as priority, and that a job may wait for months.
        """
        _left_out("age_job")

    def age_command(self, key: str, by: timedelta, /) -> None:
        """Let a scheduled command have been due for so much longer.

        Left out: that commands which failed long ago are forgotten.
        """
        _left_out("age_command")

    def is_kept(self, key: str, /) -> bool:
        """Whether a scheduled command is there, in whatever state. Left out: the same."""
        _left_out("is_kept")


def _left_out(name: str) -> NoReturn:
    pytest.skip(f"not checked: the Backdoor of this store has no {name}")


class World:
    """A store, empty or used before, for one test: `async with World(store) as world: yield world`.

    `store` is this process's view and `other` that of another process, with connections of its own; a store that lives
    in one process has no other. `workflow` is known to both and to no other test, so that tests may share a database;
    but nobody else may use it meanwhile. `seed` repeats what chance decided: a failed test shows it with the world.
    """

    def __init__(
        self,
        store: Store,
        other: Store | None = None,
        *,
        passage: Passage | None = None,
        backdoor: Backdoor | None = None,
        seed: int | None = None,
    ) -> None:
        self.store: Store = store
        self.other: Store = store if other is None else other
        self.workflow: str = f"greet-{uuid4().hex[:12]}"
        self.backdoor: Backdoor = Backdoor() if backdoor is None else backdoor
        self.seed: int = secrets.randbelow(2**32) if seed is None else seed
        self.chance: random.Random = random.Random(self.seed)
        self._passage: Passage = ByWaiting() if passage is None else passage
        self._sessions: list[str] = []

    def __repr__(self) -> str:
        return f"<World of {type(self.store).__name__}, seed={self.seed}>"

    async def __aenter__(self) -> Self:
        await self.define(self.workflow)
        return self

    async def __aexit__(self, *_: object) -> None:
        """No session outlives its test: the next one would count it."""
        for session_id in self._sessions:
            await self.store.close_session(session_id)

    async def define(self, workflow_id: str, version: str = "1") -> None:
        for store in (self.store, self.other):
            await store.register_workflows([a_definition(workflow_id, version)])

    # -- time ---------------------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        return self._passage.now()

    async def until(self, fact: Callable[[], Awaitable[T]], *, within_s: float = 20) -> T:
        """What `fact` answers as soon as it is true; time passes meanwhile."""
        with fail_after(within_s):
            while not (answer := await fact()):
                await self._passage.a_little()
            return answer

    async def a_little(self) -> None:
        """Time passes, so that what comes next is later."""
        await self._passage.a_little()

    # -- sessions -----------------------------------------------------------------------------------------------------

    async def session(
        self, *workflows: tuple[str, str], at: Persistence | None = None, lease: timedelta = LONG, name: str = "worker"
    ) -> str:
        """A session that knows these definitions, or else the world's own."""
        known = workflows or ((self.workflow, "1"),)
        session_id = await (at or self.store).open_session(self.info(name), known, lease=lease)
        self._sessions.append(session_id)
        return session_id

    def info(self, name: str = "worker") -> SessionInfo:
        return SessionInfo(name=name, hostname="host", pid=1, started_at=self.now())

    async def time(self) -> datetime:
        """The store's own time."""
        return (await self.store.renew(await self.session())).now

    # -- runs ---------------------------------------------------------------------------------------------------------

    def creation(self, *, owner: str | None = None, workflow: str | None = None, **fields: Any) -> Append:
        lease = None if owner is None else Lease(session_id=owner, claim=1)
        return a_creation(workflow or self.workflow, fields.pop("now", self.now()), lease=lease, **fields)

    async def create(self, **fields: Any) -> KnownRun:
        """A run that is waiting to be claimed, or, with `owner`, one of that session."""
        creation = self.creation(**fields)
        await self.store.append(creation)
        return KnownRun.of(creation, self.now)

    async def create_many(self, count: int, **fields: Any) -> list[KnownRun]:
        """Runs in the order of their ids, which lie a millisecond apart."""
        first = self.now() - timedelta(milliseconds=count)
        moments = [first + timedelta(milliseconds=n) for n in range(count)]
        return [await self.create(minted=moment, **fields) for moment in moments]

    async def started(self, owner: str) -> KnownRun:
        """A run of that session with its first stage running."""
        return await self.create(owner=owner, change=starting)

    async def orphan(self, **fields: Any) -> KnownRun:
        """A run whose owner is condemned."""
        owner = await self.session(*fields.pop("definitions", ()))
        run = await self.create(owner=owner, change=starting, **fields)
        await self.store.close_session(owner)
        return run

    async def parked(self, reason: str = "corrupt_history") -> KnownRun:
        owner = await self.session()
        run = await self.started(owner)
        await self.store.append(run.park(reason))
        return run

    def taken(self, claimed: Claimed) -> KnownRun:
        return KnownRun(fold_stored(claimed.history), self.now, claimed.lease)

    async def stored_state(self, run: KnownRun) -> RunState:
        return fold_stored(await self.store.load(run.id))

    async def claims(self, session_id: str, limit: int = 100) -> list[str]:
        """The ids of the runs that the session gets, in the order in which it gets them."""
        return [claimed.history.head.run_id for claimed in await self.store.claim(session_id, limit)]

    async def adds(self, run: KnownRun, change: Change) -> None:
        """Somebody else, in another process, changes the run."""
        await run.land(self.other, run.foreign(change))


async def outcome_of(store: Persistence, append: Append) -> Conflict | None:
    """None when the append landed, else why it was refused."""
    try:
        await store.append(append)
    except Conflict as conflict:
        return conflict
    return None


def same_runs(found: Sequence[str], runs: Sequence[KnownRun]) -> bool:
    return sorted(found) == sorted(run.id for run in runs)
