"""A store as two processes see it, and time that can be let pass in it: all that a test needs to know of a store.

In memory time is a clock that only moves when told to; in a database it is the server's own, and letting it pass is
waiting. Tests wait for facts with `until`, never for a length of time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from anyio import fail_after

from kernel.errors import Conflict
from kernel.journal import fold_stored
from kernel.model.run import RunState
from kernel.ports.persistence import Append, Claimed, Lease, Persistence, SessionInfo
from tests.conformance.builders import Change, KnownRun, a_creation, a_definition, starting

T = TypeVar("T")

LONG = timedelta(minutes=5)
SHORT = timedelta(milliseconds=300)


class Passage(Protocol):
    """How time passes where the store is."""

    def now(self) -> datetime: ...

    async def a_little(self) -> None: ...


class Backdoor(Protocol):
    """What only somebody behind the port can bring about."""

    def set_format(self, run_id: str, format: int, /) -> None:
        """Make it a run of another release."""

    def expire(self, session_id: str, /) -> None:
        """Let the lease have ended just now."""

    def age(self, run_id: str, by: timedelta, /) -> None:
        """Let the run have been due for so much longer."""

    def strand(self, run_id: str, /) -> None:
        """Let nobody own the run, and let it never be due."""

    def expire_job(self, run_id: str, stage_id: str, /) -> None:
        """Let the time of the job's lease be up."""

    def drop_jobs(self, run_id: str, /) -> None:
        """Let the run's jobs be gone."""

    def age_command(self, key: str, by: timedelta, /) -> None:
        """Let the scheduled command have been due for so much longer."""

    def is_kept(self, key: str, /) -> bool:
        """Whether a scheduled command is there, in whatever state."""
        ...

    def age_job(self, run_id: str, stage_id: str, by: timedelta, /) -> None:
        """Let the job have been due for so much longer."""


class World:
    """`store` is this process's view and `other` that of another process; `workflow` is known to both and to no other
    test, so that tests may share a database."""

    def __init__(self, store: Persistence, other: Persistence, passage: Passage, backdoor: Backdoor) -> None:
        self.store = store
        self.other = other
        self.workflow = f"greet-{uuid4().hex[:12]}"
        self.backdoor = backdoor
        self._passage = passage
        self._sessions: list[str] = []

    async def open(self) -> None:
        await self.define(self.workflow)

    async def close(self) -> None:
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
