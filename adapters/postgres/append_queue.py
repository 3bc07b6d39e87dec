"""Appends that wait to be sent: which ones may go together, and who has to wait for whose answer.

A run is ready or under way at most once, whatever comes for it: in one statement twice, head and history would part
without an error, and a successor that is sent while its predecessor is uncommitted is refused. The same holds for an
idempotency key, because who loses it in the same statement could not see the winner.

Pure bookkeeping: no connection, no clock, nothing that waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from adapters.postgres.batches import Item, Kind
from kernel.ports.persistence import KeyRecord, KeyTaken

__all__ = ["AppendQueue", "is_stuck", "key_name"]

ROWS_MAX = 400
"""Larger batches gain nothing measurable, and hold their locks longer."""

BYTES_MAX = 1_048_576
"""Of events and bodies in one batch; a larger append goes alone."""

KeyName = tuple[str, str, str]


class AppendQueue:
    """Items that wait to be sent, and who waits behind them."""

    def __init__(self) -> None:
        self._ready: dict[Kind, deque[Item]] = {}
        # Present: an item of this run (with this key) is ready or under way. The deque: who waits for its answer.
        self._runs: dict[str, deque[Item]] = {}
        self._keys: dict[KeyName, deque[Item]] = {}
        self.unanswered: set[Item] = set()
        self.size_bytes: int = 0

    def add(self, item: Item) -> None:
        """Take an item in."""
        self.unanswered.add(item)
        self.size_bytes += item.size
        behind = self._runs.get(item.append.run_id)
        if behind is None:
            self._runs[item.append.run_id] = deque()
            self._pass_key(item)
        else:
            behind.append(item)

    def _pass_key(self, item: Item) -> None:
        if item.append.key is not None:
            name = key_name(item.append.key)
            behind = self._keys.get(name)
            if behind is not None:
                behind.append(item)
                return
            self._keys[name] = deque()
        self._ready.setdefault(item.kind, deque()).append(item)

    @property
    def ready(self) -> int:
        """How many items could be sent now."""
        return sum(map(len, self._ready.values()))

    def put_back(self, items: Sequence[Item], now: float) -> None:
        """Let items that were taken be sent again, before all others of their kind.

        But not before other kinds that have waited since: what cannot be sent must not keep them from being tried.
        """
        for item in reversed(items):
            item.since = now
            self._ready.setdefault(item.kind, deque()).appendleft(item)

    def take(self) -> list[Item]:
        """The next batch, in the order of run ids; empty when nothing is ready."""
        if not self._ready:
            return []
        kind = min(self._ready, key=lambda kind: self._ready[kind][0].since)
        queue = self._ready[kind]
        batch = [queue.popleft()]
        size = batch[0].size
        if not batch[0].alone:
            while queue and len(batch) < ROWS_MAX and not queue[0].alone and (size := size + queue[0].size) < BYTES_MAX:
                batch.append(queue.popleft())
        if not queue:
            del self._ready[kind]
        batch.sort(key=_run_id)
        return batch

    def finish(self, item: Item, error: Exception | None = None, *, owned: bool = False) -> None:
        """Give the item its answer, and let go who waits behind it."""
        self._settle(item, error, owned=owned)
        key = item.append.key
        if key is None:
            return
        winner: tuple[str, str] | None = None
        if isinstance(error, KeyTaken):
            winner = error.run_id, error.digest
        elif error is None:
            winner = item.append.run_id, key.digest
        for other in self._keys.pop(key_name(key)):
            # A run's own append, sent again, has to find its own history rather than its own key.
            if winner is None or other.append.run_id == winner[0]:
                self._pass_key(other)
            else:
                assert other.append.key is not None
                self._settle(other, KeyTaken(other.append.key, run_id=winner[0], digest=winner[1]))

    def _settle(self, item: Item, error: Exception | None, *, owned: bool = False) -> None:
        self.unanswered.remove(item)
        self.size_bytes -= item.size
        # Whoever awaited the answer may have been cancelled since; the append went its way all the same.
        if not item.answer.done():
            if error is None:
                item.answer.set_result(owned)
            else:
                item.answer.set_exception(error)
        behind = self._runs[item.append.run_id]
        if behind:
            self._pass_key(behind.popleft())
        else:
            del self._runs[item.append.run_id]

    def take_stuck(self, now: float, patience_s: float) -> list[Item]:
        """Take out what has been stuck for too long and may be given up."""
        taken: list[Item] = []
        for kind, queue in list(self._ready.items()):
            stuck = {item for item in queue if is_stuck(item, now, patience_s)}
            if not stuck:
                continue
            taken += stuck
            kept = deque(item for item in queue if item not in stuck)
            if kept:
                self._ready[kind] = kept
            else:
                del self._ready[kind]
        return taken


def key_name(key: KeyRecord) -> KeyName:
    """What must be unique of a key."""
    return key.command_type, key.scope, key.key


def _run_id(item: Item) -> str:
    return item.append.run_id


def is_stuck(item: Item, now: float, patience_s: float) -> bool:
    """Whether the item has been stuck for longer than this, was certainly not done, and may be given up.

    It counts from the first time of asking, not from when the item came: in a long queue everything is old.
    """
    if item.stuck_since is None:
        item.stuck_since = now
    return item.kind.group != "owned" and not item.uncertain and now - item.stuck_since > patience_s
