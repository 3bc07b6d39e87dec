"""Journals of runs that have no actor in this process: load, decide, append from outside, look again on conflict.

Stateless: every call reads the history anew (or is given what was just read), so any process with a store can use it,
with or without the user's code. What is appended here leaves the run's owner in place and raises its attention.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeAlias, TypeVar

from kernel.errors import StaleVersion
from kernel.model.draft import Decision, Moment
from kernel.model.facts import (
    FORMAT,
    CorruptHistory,
    Fact,
    NewerHistory,
    RunCancelled,
    decode_facts,
    encode_facts,
    format_of,
)
from kernel.model.head import head_of
from kernel.model.looks import decode_looks, encode_looks, lay_over
from kernel.model.run import RunState, fold
from kernel.model.stage import Body
from kernel.ports.blobs import BlobReading, BlobStore
from kernel.ports.clock import Clock
from kernel.ports.ids import Ids
from kernel.ports.journals import Create, Decide
from kernel.ports.persistence import (
    Append,
    Appends,
    Histories,
    HistoryRow,
    KeyRecord,
    Lease,
    Mode,
    NewRun,
    StoredHistory,
)

__all__ = ["ForeignJournals", "JournalStore", "Teller", "append_of", "fetch_payloads", "fold_stored", "inline_bodies"]

R = TypeVar("R")

CONFLICTS_MAX = 20
"""How often a caller's command is decided again before it gives up; the ends of attempts never give up."""


Teller: TypeAlias = Callable[[RunState, Sequence[Fact]], None]
"""Is given facts that have become durable and the state that they led to, and must not raise.

Of all processes one is given each fact, once; none is given it when its writer died, or was cancelled, before it
had the answer. That a run was cancelled its owner tells, whoever cancelled it: none, when it begins again before its
dead owner is replaced, and two, when the answer was lost and it has been given back since.
"""


class JournalStore(Appends, Histories, Protocol):
    """What a journal needs of a store."""


class ForeignJournals:
    """`Journals` over a store alone; appends in the modes `create`, `foreign` and `dispatch`.

    `births` is where new histories begin, when not in the store itself: in somebody's transaction. The `tellers` are
    told what was appended here.
    """

    def __init__(
        self,
        store: JournalStore,
        blobs: BlobStore,
        clock: Clock,
        ids: Ids,
        *,
        births: Appends | None = None,
        tellers: Sequence[Teller] = (),
    ) -> None:
        self._store = store
        self._births: Appends = births or store
        self._blobs = blobs
        self._clock = clock
        self._ids = ids
        self._tellers = tellers

    async def create(self, _run_id: str, decide: Create[R], /, *, new: NewRun, key: KeyRecord | None) -> R:
        """Begin a history that nobody owns; a supervisor will claim it."""
        moment = Moment(now=self._clock.now(), append_id=self._ids.append_id())
        decision = decide(moment)
        await self._births.append(append_of(decision, moment, mode="create", expected=0, new=new, key=key))
        self._tell(decision)
        return decision.result

    async def record(self, run_id: str, decide: Decide[R], /, *, ends_attempt: bool = False) -> R:
        """Decide on the stored history and append from outside."""
        return await self._record(run_id, decide, conflicts_max=None if ends_attempt else CONFLICTS_MAX)

    async def reopen(self, run_id: str, decide: Decide[R], /, *, key: KeyRecord | None = None) -> R:
        """The same, with a key."""
        return await self._record(run_id, decide, conflicts_max=CONFLICTS_MAX, key=key)

    async def _record(
        self, run_id: str, decide: Decide[R], *, conflicts_max: int | None, key: KeyRecord | None = None
    ) -> R:
        conflicts = 0
        state: RunState | None = None
        while True:
            after = 0 if state is None else state.seq
            stored = await self._store.load(run_id, after=after, bodies=False)
            if stored.head.seq < after:
                # The store lost what it had acknowledged (a failover, a restore): what was read of it is void.
                state = None
                continue
            state = fold_stored(stored, state)
            moment = Moment(now=self._clock.now(), append_id=self._ids.append_id())
            decision = decide(state, moment)
            if not decision.changes:
                return decision.result
            try:
                owned = await self._store.append(append_of(decision, moment, expected=state.seq, key=key))
            except StaleVersion:
                conflicts += 1
                if conflicts_max is not None and conflicts >= conflicts_max:
                    raise
                continue
            self._tell(decision, owned=owned)
            return decision.result

    async def hand_over(self, state: RunState, decide: Decide[R], /) -> R:
        """Decide on this state, and append once; who finds the run changed looks for due ones again."""
        now = self._clock.now()
        # The store has found the run due by its own clock, which ours may be a moment behind.
        now = now if state.run_at is None else max(now, state.run_at)
        moment = Moment(now=now, append_id=self._ids.append_id())
        decision = decide(state, moment)
        await self._store.append(append_of(decision, moment, mode="dispatch", expected=state.seq))
        self._tell(decision)
        return decision.result

    def _tell(self, decision: Decision[object], *, owned: bool = False) -> None:
        if not self._tellers:
            return
        facts = decision.facts
        if owned:
            # Who owns the run interrupts what it executes, gives the run back, and tells that it was cancelled.
            facts = tuple(fact for fact in facts if not isinstance(fact, RunCancelled))
        for tell in self._tellers:
            tell(decision.state, facts)

    async def payloads(self, run_id: str, bodies: Collection[Body], /) -> Mapping[Body, bytes]:
        """Read inline payloads from the history and the others from the blob store."""
        inline = [body for body in bodies if body.blob is None]
        rows = (await self._store.load(run_id)).rows if inline else ()
        return await fetch_payloads(run_id, bodies, inline_bodies(rows), self._blobs)


def inline_bodies(rows: Collection[HistoryRow]) -> Mapping[int, bytes]:
    """The inline payloads of these rows by the sequence number of their fact."""
    return {int(seq): data for row in rows for seq, data in row.bodies.items()}


async def fetch_payloads(
    run_id: str, bodies: Collection[Body], inline: Mapping[int, bytes], blobs: BlobReading
) -> Mapping[Body, bytes]:
    """The payloads of `bodies`, given the run's inline ones.

    Raises: CorruptHistory, when an inline payload is absent or a blob's bytes are not those that were recorded;
    BlobNotFound; Unavailable.
    """
    found: dict[Body, bytes] = {}
    for body in bodies:
        if body.blob is not None:
            data = await blobs.get(body.blob.key)
            if hashlib.sha256(data).hexdigest() != body.blob.digest:
                raise CorruptHistory(run_id, f'blob "{body.blob.key}" is not what was recorded')
            found[body] = data
        elif body.seq in inline:
            found[body] = inline[body.seq]
        else:
            raise CorruptHistory(run_id, f"the payload of event {body.seq} is absent")
    return found


def fold_stored(stored: StoredHistory, state: RunState | None = None) -> RunState:
    """The state that a stored history (or its continuation after `state`) tells.

    Raises: CorruptHistory, when it cannot be read or ends before its head does, and as NewerHistory when a newer
    release has to; IllegalTransition.
    """
    run_id = stored.head.run_id
    if stored.head.format > FORMAT:
        raise NewerHistory(run_id, format=stored.head.format)
    rows = ((row.first_seq, row.at, decode_facts(row.events, run_id=run_id)) for row in stored.rows)
    folded = fold(run_id, rows, state)
    if folded.seq < stored.head.seq:
        raise CorruptHistory(run_id, f"it ends at sequence {folded.seq}, and its head is at {stored.head.seq}")
    looks = stored.head.poll_state
    return folded if looks is None else lay_over(folded, decode_looks(looks, run_id=run_id))


def append_of(
    decision: Decision[object],
    moment: Moment,
    *,
    mode: Mode | None = None,
    expected: int,
    lease: Lease | None = None,
    new: NewRun | None = None,
    key: KeyRecord | None = None,
) -> Append:
    """The append that makes a decision durable; without a mode the one of an owner (with a lease) or a foreigner.

    A decision without facts is of the mode `poll`.
    """
    if mode is None:
        mode = ("foreign" if lease is None else "owned") if decision.facts else "poll"
    bodies = None
    if decision.bodies:
        # Each payload is valid JSON already; joining the texts spares parsing and encoding them again.
        bodies = b"{" + b",".join(b'"%d":%b' % (seq, data) for seq, data in decision.bodies.items()) + b"}"
    return Append(
        mode=mode,
        run_id=decision.state.run_id,
        append_id=moment.append_id,
        expected=expected,
        seq=decision.state.seq,
        at=moment.now,
        head=head_of(decision.state),
        events=encode_facts(decision.facts) if decision.facts else None,
        format=format_of(decision.facts),
        bodies=bodies,
        poll_state=encode_looks(decision.looks) if decision.looks else None,
        lease=lease,
        new=new,
        key=key,
        jobs=decision.jobs,
    )
