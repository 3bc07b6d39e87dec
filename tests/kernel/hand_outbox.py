"""The outbox of the store that is driven by hand: cursors, what is owed, and dead letters, without other processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Protocol

from kernel.ports.clock import Clock
from kernel.ports.outbox import DeadLetter, DeadLetterPage, Delivery, Settlement, SinkRecord
from kernel.ports.persistence import HistoryRow


class Recorded(Protocol):
    seq: int
    rows: list[HistoryRow]


@dataclass
class Owed:
    next_seq: int
    last_seq: int
    due_at: datetime
    tries: int = 0
    token: str = ""


class HandOutbox:
    """`pieces` is how many appends of a run are read at a time."""

    clock: Clock
    runs: Mapping[str, Recorded]
    pieces = 50

    @cached_property
    def sinks(self) -> dict[str, SinkRecord]:
        return {}

    @cached_property
    def spread_to(self) -> dict[str, int]:
        return {}

    @cached_property
    def owed(self) -> dict[tuple[str, str, int], Owed]:
        return {}

    @cached_property
    def dead(self) -> list[DeadLetter]:
        return []

    async def register_sinks(self, sinks: Sequence[SinkRecord], /) -> None:
        self.sinks.update({sink.name: sink for sink in sinks})

    async def spread(self, limit: int, /) -> int:
        news = [(id_, run.seq) for id_, run in self.runs.items() if run.seq > self.spread_to.get(id_, 0)][:limit]
        for run_id, seq in news:
            first = self.spread_to.get(run_id, 0) + 1
            for name in self.sinks:
                fresh = Owed(next_seq=first, last_seq=seq, due_at=self.clock.now())
                self.owed.setdefault((run_id, name, 0), fresh).last_seq = seq
            self.spread_to[run_id] = seq
        return len(news)

    async def claim_deliveries(self, sink: str, limit: int, /, *, lease: timedelta) -> Sequence[Delivery]:
        now = self.clock.now()
        due = [(key, owed) for key, owed in self.owed.items() if key[1] == sink and owed.due_at <= now]
        claimed: list[Delivery] = []
        for (run_id, name, replayed), owed in sorted(due, key=lambda entry: entry[1].due_at)[:limit]:
            owed.token, owed.due_at = f"claim of {now} until {now + lease}", now + lease
            rows = [r for r in self.runs[run_id].rows if r.seq >= owed.next_seq and r.first_seq <= owed.last_seq]
            claimed.append(
                Delivery(
                    run_id=run_id,
                    sink=name,
                    replayed=replayed,
                    token=owed.token,
                    next_seq=owed.next_seq,
                    last_seq=owed.last_seq,
                    tries=owed.tries,
                    rows=rows[: self.pieces],
                )
            )
        return claimed

    async def settle(self, settlements: Sequence[Settlement], /) -> None:
        now = self.clock.now()
        for settlement in settlements:
            delivery = settlement.delivery
            key = (delivery.run_id, delivery.sink, delivery.replayed)
            assert self.owed[key].token == delivery.token
            for refused in settlement.dead:
                self.dead.append(
                    DeadLetter(
                        id=len(self.dead) + 1,
                        run_id=delivery.run_id,
                        seq=refused.seq,
                        sink=delivery.sink,
                        error=refused.error,
                        tries=refused.tries,
                        failed_at=now,
                    )
                )
            if settlement.next_seq > self.owed[key].last_seq:
                del self.owed[key]
            else:
                last_seq = self.owed[key].last_seq
                self.owed[key] = Owed(settlement.next_seq, last_seq, now + settlement.delay, settlement.tries)

    async def replay_dead_letters(self, limit: int, /) -> int:
        letters, self.dead[:] = self.dead[:limit], self.dead[limit:]
        for letter in letters:
            self.owed[letter.run_id, letter.sink, letter.seq] = Owed(letter.seq, letter.seq, self.clock.now())
        return len(letters)

    async def list_dead_letters(self, *, after: int = 0, limit: int = 100) -> DeadLetterPage:
        return DeadLetterPage(letters=[letter for letter in self.dead if letter.id > after][:limit])
