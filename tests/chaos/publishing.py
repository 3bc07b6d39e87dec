"""Publishers are killed at random while thousands of runs are published: what arrived, what came twice, what got lost.

`make chaos` does the large form: 5,000 runs and fifty kills, once for a webhook and once for JetStream. The suite does
a small one (`test_publishers_killed.py`). `python -m tests.chaos.publishing --help` tells what can be chosen.

A receiver notes every arrival in order. Afterwards the histories say what should have come: per run every event at
least once, and the first arrivals in the order of `seq`. Kills happen when so and so many events have arrived, at
numbers drawn from a seed, so that they spread over the work however fast the machine is.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from adapters.postgres import migrate
from runtime import App, Client
from tests.adapters.sinks.nats_server import SERVER, nats_server
from tests.adapters.sinks.receiver import Receiver, Request, receiving
from tests.chaos.publisher import SECRET, SUBJECT, steps

PUBLISHER = Path(__file__).with_name("publisher.py")
ROOT = Path(__file__).parents[2]
EVENTS_PER_RUN = 8
PROCESSES = 2
STALLED_S = 90.0
LEASE = {"LEASEHOLD_LEASE_S": "2", "LEASEHOLD_RENEW_S": "0.5"}

Arrivals = list[tuple[str, int]]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of the events of all runs; `disordered` are runs whose first arrivals were out of order."""

    sink: str
    runs: int
    kills: int
    events: int
    arrivals: int
    duplicates: int
    lost: int
    unknown: int
    disordered: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.sink}: {self.runs} runs, {self.kills} publishers killed, {self.seconds:.0f} s\n"
            f"  events {self.events}, arrivals {self.arrivals}: {self.lost} lost, {self.duplicates} more than once, "
            f"{self.unknown} unknown\n"
            f"  runs whose first arrivals were out of order: {self.disordered}"
        )


@dataclass
class Publishers:
    """Processes that publish; killing one starts another."""

    words: Sequence[str]
    log: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])
    killed: int = 0

    def start(self) -> None:
        with self.log.open("ab") as log:
            words = [sys.executable, str(PUBLISHER), *self.words]
            environment = {**os.environ, "PYTHONPATH": str(ROOT), **LEASE}
            self.processes.append(subprocess.Popen(words, stdout=log, stderr=log, env=environment))

    def kill(self, chance: random.Random) -> None:
        victim = chance.choice(self.processes)
        assert victim.poll() is None, f"a publisher ended by itself:\n{self.log.read_text()[-3000:]}"
        victim.kill()
        victim.wait(10)
        self.processes.remove(victim)
        self.killed += 1
        self.start()

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait(10)


async def killed_at_random(
    database: str, kind: str, *, runs: int, kills: int, seed: int, folder: Path, say: Callable[[str], None] = print
) -> Report:
    """Publish so many runs to a receiver of this kind, and kill so many publishers meanwhile; needs asyncio."""
    chance = random.Random(seed)
    began = time.monotonic()
    await migrate(database)
    async with receiver_of(kind, folder) as (url, arrivals):
        publishers = Publishers([database, kind, url], folder / "publishers.log")
        try:
            for _ in range(PROCESSES):
                publishers.start()
            # What they owe they owe from their registration on.
            await until(lambda: "ready" in publishers.log.read_text(), "no publisher starts")
            moments = sorted(chance.sample(range(1, runs * EVENTS_PER_RUN), kills))
            async with Client(App(workflows=[steps]), database=database) as client, anyio.create_task_group() as tasks:
                tasks.start_soon(partial(kill_in_between, publishers, moments, arrivals, chance, say))
                handles = await client.start_many(steps, range(runs))
                for handle in handles:
                    await handle.result(timeout=600)
                histories = {handle.id: [event.seq for event in await handle.history()] for handle in handles}
                await until(partial(everything_is_there, histories, arrivals), "events do not arrive", arrivals)
                await until(lambda: publishers.killed == kills, "nobody is left to be killed")
        finally:
            await anyio.to_thread.run_sync(publishers.end)
    return compared(kind, histories, arrivals, kills=publishers.killed, seconds=time.monotonic() - began)


async def kill_in_between(
    publishers: Publishers,
    moments: Sequence[int],
    arrivals: Arrivals,
    chance: random.Random,
    say: Callable[[str], None],
) -> None:
    for number, moment in enumerate(moments, start=1):
        while len(arrivals) < moment:  # noqa: ASYNC110 - arrivals set no event
            await anyio.sleep(0.005)
        publishers.kill(chance)
        if number % 10 == 0:
            say(f"  {number} killed, {len(arrivals)} arrivals")


async def until(fact: Callable[[], bool], complaint: str, arrivals: Arrivals | None = None) -> None:
    """Wait for a fact, for as long as something still arrives."""
    seen, since = 0, time.monotonic()
    while not fact():
        if arrivals is not None and len(arrivals) > seen:
            seen, since = len(arrivals), time.monotonic()
        assert time.monotonic() - since < STALLED_S, complaint
        await anyio.sleep(0.05)


def everything_is_there(histories: Mapping[str, Sequence[int]], arrivals: Arrivals) -> bool:
    wanted = sum(map(len, histories.values()))
    return len(arrivals) >= wanted and len(set(arrivals)) >= wanted


def compared(
    kind: str, histories: Mapping[str, Sequence[int]], arrivals: Arrivals, *, kills: int, seconds: float
) -> Report:
    """What the receiver should have got against what it did."""
    first_arrivals: dict[str, list[int]] = {run_id: [] for run_id in histories}
    unknown = 0
    for run_id, seq in dict.fromkeys(arrivals):
        if seq in histories.get(run_id, ()):
            first_arrivals[run_id].append(seq)
        else:
            unknown += 1
    events = sum(map(len, histories.values()))
    return Report(
        sink=kind,
        runs=len(histories),
        kills=kills,
        events=events,
        arrivals=len(arrivals),
        duplicates=len(arrivals) - len(set(arrivals)),
        lost=events - sum(map(len, first_arrivals.values())),
        unknown=unknown,
        disordered=sum(seqs != sorted(seqs) for seqs in first_arrivals.values()),
        seconds=seconds,
    )


# -- receivers ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def receiver_of(kind: str, folder: Path) -> AsyncGenerator[tuple[str, Arrivals]]:
    """Where to publish to, and what has arrived there so far."""
    arrivals: Arrivals = []
    if kind == "webhook":
        async with receiving() as receiver:
            receiver.answer = partial(noted, receiver, arrivals)
            yield receiver.url, arrivals
        return
    (folder / "nats").mkdir(exist_ok=True)
    with nats_server(folder / "nats") as server:
        async with subscribed(server.url, arrivals):
            yield server.url, arrivals


def noted(receiver: Receiver, arrivals: Arrivals, request: Request) -> tuple[int, dict[str, str], bytes]:
    from adapters.sinks import verify

    assert verify(SECRET, request.headers["leasehold-signature"], request.body)
    run_id, _, seq = request.headers["leasehold-delivery"].partition(":")
    arrivals.append((run_id, int(seq)))
    receiver.requests.clear()
    return 204, {}, b""


@asynccontextmanager
async def subscribed(url: str, arrivals: Arrivals) -> AsyncGenerator[None]:
    """Note what the stream stores. It forgets at once what it has stored, so that what comes again is seen to."""
    import nats
    from nats.aio.msg import Msg
    from nats.js.api import StreamConfig

    async def note(message: Msg) -> None:
        run_id, _, seq = (message.headers or {})["Nats-Msg-Id"].partition(":")
        arrivals.append((run_id, int(seq)))

    client = await nats.connect(url)
    try:
        context = client.jetstream()
        await context.add_stream(StreamConfig(name=SUBJECT, subjects=[f"{SUBJECT}.>"], duplicate_window=0.1))
        await context.subscribe(f"{SUBJECT}.>", cb=note, ordered_consumer=True)
        yield
    finally:
        await client.close()


# -- by command --------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.publishing", description=__doc__)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--to", choices=("webhook", "jetstream"), action="append", help="default: both")
    parser.add_argument("--database-url", help="an empty database (default: a private server)")
    given = parser.parse_args()
    print(f"seed: {given.seed} (repeat with --seed {given.seed})")
    bad = 0
    for kind in given.to or ("webhook", "jetstream"):
        if kind == "jetstream" and SERVER is None:
            print("jetstream: there is no nats-server here (Debian: apt install nats-server)")
            continue
        with tempfile.TemporaryDirectory(prefix="leasehold-") as folder, a_database(given.database_url) as url:
            check = partial(killed_at_random, runs=given.runs, kills=given.kills, seed=given.seed, folder=Path(folder))
            report = anyio.run(partial(check, url, kind))
        print(report, flush=True)
        bad += report.lost + report.unknown + report.disordered
    return 1 if bad else 0


@contextmanager
def a_database(url: str | None):
    if url is not None:
        yield url
        return
    from adapters.embedded_postgres import embedded_postgres

    with tempfile.TemporaryDirectory(prefix="leasehold-") as directory:
        # As root the server runs as another user, who has to reach its data through this folder.
        Path(directory).chmod(0o755)
        with embedded_postgres(Path(directory)) as server:
            yield server.url


if __name__ == "__main__":
    sys.exit(main())
