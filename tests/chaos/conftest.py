from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

WORKER = Path(__file__).with_name("worker.py")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def anyio_backend() -> str:
    """The processes under test choose their own loop; the test only watches."""
    return "asyncio"


@dataclass
class Worker:
    """A supervisor process and what it has printed."""

    process: subprocess.Popen[str]
    log: Path
    stopped: bool = field(default=False)

    @property
    def session_id(self) -> str:
        return self.output().partition("ready ")[2].partition("\n")[0]

    def output(self) -> str:
        return self.log.read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.output().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]


@dataclass
class World:
    """A database, a folder of effects, and the processes that a test starts."""

    url: str
    effects_dir: Path
    workers: list[Worker] = field(default_factory=list)

    def start(self, *arguments: str, **settings: str) -> Worker:
        log = self.effects_dir / f"worker-{len(self.workers)}.log"
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "EFFECTS_DIR": str(self.effects_dir),
            **{f"LEASEHOLD_{name.upper()}": value for name, value in settings.items()},
        }
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, str(WORKER), self.url, *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                text=True,
            )
        worker = Worker(process, log)
        self.workers.append(worker)
        return worker

    async def ready(self, *workers: Worker) -> None:
        for worker in workers:
            await until(lambda worker=worker: "ready " in worker.output() or worker.process.poll() is not None)
            assert worker.process.poll() is None, worker.output()

    def effects(self) -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for file in sorted(self.effects_dir.glob("*.jsonl"))
            for line in file.read_text().splitlines()
            if line.endswith("}")
        ]

    def in_a_body(self, worker: Worker) -> bool:
        """Whether a body of this worker has begun and not ended."""
        file = self.effects_dir / f"{worker.process.pid}.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        open_bodies = Counter(json.loads(line)["what"] for line in lines if line.endswith("}"))
        return open_bodies["start"] > open_bodies["end"]

    def paused_in_a_body(self, worker: Worker) -> bool:
        """Stop a worker, and let it go on when it proves to be between two bodies: what is seen stays true."""
        worker.process.send_signal(signal.SIGSTOP)
        if self.in_a_body(worker):
            return True
        worker.process.send_signal(signal.SIGCONT)
        return False

    def killed_in_a_body(self, worker: Worker) -> bool:
        if not self.paused_in_a_body(worker):
            return False
        worker.process.kill()
        return True

    def starts(self) -> Counter[tuple[str, str]]:
        return Counter((e["run"], e["stage"]) for e in self.effects() if e["what"] == "start")


async def until(fact: Callable[[], object], *, within_s: float = 30.0) -> None:
    """Wait for a fact, and fail when it does not come about."""
    with anyio.fail_after(within_s):
        while not fact():  # noqa: ASYNC110 - other processes set no event of ours
            await anyio.sleep(0.02)


@pytest.fixture
def world(migrated_database_url: str, tmp_path: Path) -> Iterator[World]:
    world = World(migrated_database_url, tmp_path)
    yield world
    for worker in world.workers:
        if worker.process.poll() is None:
            worker.process.kill()
        worker.process.wait(10)


def now() -> float:
    return time.time()
