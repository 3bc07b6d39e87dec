"""Real processes that send to a real receiver: one of them is killed, and the other one goes on with its traces."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from anyio import to_thread

from runtime import Client, Settings
from tests.otlp_receiver import OtlpReceiver, otlp_receiver
from tests.otlp_records import Span
from tests.runtime.shared_store import until
from tests.span_tree import tree_of
from tests.telemetry.traced_app import Doc, app, queued, traced

pytestmark = [pytest.mark.anyio, pytest.mark.processes, pytest.mark.timeout(120)]


@pytest.fixture
def anyio_backend() -> str:
    """This side only starts runs; the processes choose their own event loop."""
    return "asyncio"


ROOT = Path(__file__).parents[2]
RUNS = 8
Protocol = Literal["http/protobuf", "grpc"]


@contextmanager
def supervisor(url: str, receiver: OtlpReceiver, protocol: Protocol, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`up`, as an operator would start it, sending soon after spans have ended."""
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LEASEHOLD_DATABASE_URL": url,
        "LEASEHOLD_LEASE_S": "2",
        "LEASEHOLD_RENEW_S": "0.5",
        # Both shall have some of the runs.
        "LEASEHOLD_MAX_RUNS": str(RUNS // 2),
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
    }
    command = [sys.executable, "-m", "runtime", "up", "--app", "tests.telemetry.traced_app:app"]
    with (folder / f"up-{len(list(folder.iterdir()))}.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def named(spans: Sequence[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


def of(spans: Sequence[Span], process: subprocess.Popen[bytes]) -> list[Span]:
    return [span for span in spans if span.resource["process.pid"] == process.pid]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_each_run_is_one_whole_trace_although_a_process_was_killed_in_the_middle(
    protocol: Protocol, migrated_url: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    settings = Settings(database_url=migrated_url)
    with otlp_receiver() as receiver, supervisor(migrated_url, receiver, protocol, tmp_path) as killed:
        async with Client(app, settings=settings) as client:
            runs = [await client.start(traced, Doc(gate=str(gate))) for _ in range(RUNS // 2)]
            # All it had finished has arrived, and so has what is below the bodies that it will not finish.
            await to_thread.run_sync(
                lambda: receiver.wait_until(lambda spans: len(named(spans, "lock")) == RUNS // 2, timeout_s=30)
            )
            with supervisor(migrated_url, receiver, protocol, tmp_path) as other:
                runs += [await client.start(traced, Doc(gate=str(gate))) for _ in range(RUNS // 2)]
                await to_thread.run_sync(
                    lambda: receiver.wait_until(lambda spans: len(named(spans, "lock")) == RUNS, timeout_s=30)
                )
                os.kill(killed.pid, signal.SIGKILL)
                gate.touch()
                for run in runs:
                    await run.result(timeout=60)
                await to_thread.run_sync(lambda: receiver.wait_until(_is_all, timeout_s=40))
                survivor = other.pid
        spans = receiver.spans

    by_trace: defaultdict[str, list[Span]] = defaultdict(list)
    for span in spans:
        by_trace[span.trace_id].append(span)
    by_run = {
        run.id: {span.trace_id for span in spans if span.attributes.get("leasehold.run.id") == run.id} for run in runs
    }
    assert all(len(traces) == 1 for traces in by_run.values())
    assert len(by_trace) == RUNS
    taken_over = 0
    for run in runs:
        [trace_id] = by_run[run.id]
        whole = by_trace[trace_id]
        assert len({span.span_id for span in whole}) == len(whole), "a span was sent twice"
        root = tree_of(whole)
        assert root.name == "run traced"
        assert root.attributes["leasehold.outcome"] == "completed"
        assert all(root.span.start <= node.span.start and node.span.end <= root.span.end for node in root.walk())
        assert root.span.resource["process.pid"] == survivor
        stages = [node for node in root.walk() if node.name.startswith("stage ")]
        below = {node.name: [child.name for child in node.children] for node in stages}
        assert below == {
            "stage fetch": ["GET"],
            "stage hold": ["lock"],
            "stage thread": ["read"],
            "stage process": ["compute"],
        }
        outcomes = [node.attributes["leasehold.outcome"] for node in stages if node.name == "stage hold"]
        if "lost" in outcomes:
            taken_over += 1
            assert sorted(outcomes) == ["completed", "lost"]
            [lost] = [node for node in stages if node.attributes["leasehold.outcome"] == "lost"]
            assert lost.span.resource["process.pid"] == survivor
            assert lost.children[0].span.resource["process.pid"] == killed.pid
            assert "run.owner_changed" in [event.name for event in root.span.events]
            assert lost.attributes["leasehold.session.id"] != root.attributes["leasehold.session.id"]
    assert taken_over == RUNS // 2


async def test_what_a_process_had_in_flight_when_it_was_frozen_is_sent_once(migrated_url: str, tmp_path: Path) -> None:
    gate, runs_of_one = tmp_path / "gate", RUNS // 2
    with otlp_receiver() as receiver:

        async def locked(number: int) -> None:
            await to_thread.run_sync(
                lambda: receiver.wait_until(lambda spans: len(named(spans, "lock")) >= number, timeout_s=30)
            )

        with supervisor(migrated_url, receiver, "http/protobuf", tmp_path) as frozen:
            async with Client(app, settings=Settings(database_url=migrated_url)) as client:
                kinds = [traced, queued] * (runs_of_one // 2)
                runs = [await client.start(kind, Doc(gate=str(gate))) for kind in kinds]
                await locked(runs_of_one)
                with supervisor(migrated_url, receiver, "http/protobuf", tmp_path):
                    os.kill(frozen.pid, signal.SIGSTOP)
                    try:
                        # The other one has begun them again, and may end them; the frozen one wakes up to open ways.
                        await locked(2 * runs_of_one)
                        gate.touch()
                        for run in runs:
                            await run.result(timeout=60)
                    finally:
                        os.kill(frozen.pid, signal.SIGCONT)
                    # It has come back as somebody new, and is through with what it had.
                    await until(lambda: (tmp_path / "up-0.log").read_text().count("session.opened") == 2)
        # Both have left, and have sent what they had to send.
        spans = receiver.spans

    assert len({span.span_id for span in spans}) == len(spans), "a span was sent twice"
    for run in runs:
        whole = [span for span in spans if span.trace_id in {one.trace_id for one in _of_run(spans, run.id)}]
        holds = [node for node in tree_of(whole).walk() if node.name == "stage hold"]
        assert sorted(str(node.attributes["leasehold.outcome"]) for node in holds) == ["completed", "lost"]


def _of_run(spans: Sequence[Span], run_id: str) -> list[Span]:
    return [span for span in spans if span.attributes.get("leasehold.run.id") == run_id]


def _is_all(spans: Sequence[Span]) -> bool:
    """Every run has its root and what was computed for it in a child."""
    return len(named(spans, "run traced")) == len(named(spans, "compute")) == RUNS
