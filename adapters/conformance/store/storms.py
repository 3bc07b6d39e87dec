"""Everything at once, at random: sessions that claim, append, release and die, and others who meddle.

Afterwards the store alone has to satisfy what a checker of a production database would ask: histories without gaps,
heads that agree with them, nothing from a session that had lost the run, and exactly what was acknowledged.
"""

import random
from dataclasses import dataclass, field

import pytest
from anyio import create_task_group
from anyio.lowlevel import checkpoint

from adapters.conformance.store.builders import KnownRun, annotating, cancelling, completing, starting
from adapters.conformance.store.worlds import World
from kernel.errors import Conflict, LeaseLost
from kernel.journal import fold_stored
from kernel.model.head import head_of
from kernel.ports.persistence import Append, Persistence, StoredHistory

pytestmark: pytest.MarkDecorator = pytest.mark.anyio

RUNS = 12
STEPS = 40


@dataclass
class Storm:
    """What is done to the runs, and what the store has said of it."""

    world: World
    chance: random.Random
    acknowledged: set[str] = field(default_factory=set[str])
    refused: set[str] = field(default_factory=set[str])

    async def send(self, store: Persistence, run: KnownRun, append: Append) -> bool:
        await self._dawdle()
        try:
            await run.land(store, append)
        except Conflict:
            self.refused.add(append.append_id)
            return False
        if append.events is not None:
            self.acknowledged.add(append.append_id)
        return True

    async def _dawdle(self) -> None:
        for _ in range(self.chance.randrange(3)):
            await checkpoint()

    async def work(self, store: Persistence) -> None:
        """One process: takes runs and drives each a few steps; now and then it dies and another takes its place."""
        session = await self.world.session(at=store)
        for _ in range(STEPS // 4):
            try:
                taken = await store.claim(session, 3)
            except LeaseLost:
                session = await self.world.session(at=store)
                continue
            for claimed in taken:
                await self._drive(store, self.world.taken(claimed))
            if self.chance.random() < 0.3:
                await store.close_session(session)

    async def _drive(self, store: Persistence, run: KnownRun) -> None:
        if _ended(run):  # by somebody else, before its last owner died
            await self.send(store, run, run.release())
            return
        for _ in range(self.chance.randrange(4)):
            if _ended(run):
                return
            change = completing if run.state.group else starting
            if self.chance.random() < 0.3 or not _running(run):
                change = annotating if run.state.group else starting
            if not await self.send(store, run, run.owned(change)):
                return
        if not _ended(run) and self.chance.random() < 0.7:
            await self.send(store, run, run.release())

    async def meddle(self, store: Persistence, ids: list[str]) -> None:
        """Somebody without a session, who looks and changes."""
        for _ in range(STEPS):
            stored = await store.load(self.chance.choice(ids))
            run = KnownRun(fold_stored(stored), self.world.now)
            if not run.state.ended:
                change = cancelling if self.chance.random() < 0.05 else annotating
                await self.send(store, run, run.foreign(change))


def _ended(run: KnownRun) -> bool:
    """Asked anew each time: what is sent in between changes it."""
    return run.state.ended


def _running(run: KnownRun) -> bool:
    return any(stage.token for stage in run.state.stages.values())


@pytest.mark.parametrize("round", range(3))
async def test_after_a_storm_the_store_is_whole(world: World, round: int) -> None:
    storm = Storm(world, random.Random(f"{world.chance.random()} {round}"))
    runs = [await world.create() for _ in range(RUNS)]

    async with create_task_group() as group:
        for store in (world.store, world.other):
            group.start_soon(storm.work, store)
            group.start_soon(storm.work, store)
            group.start_soon(storm.meddle, store, [run.id for run in runs])

    histories = [await world.store.load(run.id) for run in runs]
    for stored in histories:
        _check(stored)
    created = {stored.rows[0].append_id for stored in histories}
    landed = {row.append_id for stored in histories for row in stored.rows} - created
    assert landed == storm.acknowledged
    assert not landed & storm.refused


def _check(stored: StoredHistory) -> None:
    """The invariants of one run; folding it also proves that no token of a superseded attempt ended anything."""
    seqs = [seq for row in stored.rows for seq in range(row.first_seq, row.seq + 1)]
    assert seqs == list(range(1, stored.head.seq + 1))
    state, head = fold_stored(stored), stored.head
    expected = head_of(state)
    assert (head.head.status, head.head.phase) == (expected.status, expected.phase)
    if state.ended:
        assert (head.owner is not None, head.head.wake_at) == (head.attention, None)
    else:
        assert (head.owner is None) == (head.head.wake_at is not None)
    owners = [row.session_id for row in stored.rows if row.session_id is not None]
    acquisitions = sum(1 for before, after in zip([None, *owners], owners, strict=False) if before != after)
    assert acquisitions <= head.claim
