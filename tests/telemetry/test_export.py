"""What the command line exports arrives, whatever carries it; and a collector that misbehaves harms nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.otlp_receiver import Mode, OtlpReceiver, otlp_receiver

pytestmark = [pytest.mark.processes, pytest.mark.timeout(60)]

ROOT = Path(__file__).parents[2]
WORKFLOW = "leasehold.workflow.id"
PROGRAM = [sys.executable, "-m", "tests.telemetry.exporting_program"]
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_METRIC_EXPORT_INTERVAL": "200", "OTEL_EXPORTER_OTLP_TIMEOUT": "0.5"}


@pytest.fixture(scope="module")
def collector() -> Iterator[OtlpReceiver]:
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture
def receiver(collector: OtlpReceiver) -> OtlpReceiver:
    collector.become(Mode.ACCEPT)
    collector.forget()
    return collector


def over(protocol: str, receiver: OtlpReceiver) -> dict[str, str]:
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}


def environment(variables: dict[str, str]) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LEASEHOLD_"))}
    return {**ours, **variables}


def run(
    variables: dict[str, str], runs: int = 2, *, program: list[str] | None = None
) -> tuple[dict[str, float], list[dict[str, str]]]:
    """What the program says at its end, and its log."""
    answer = subprocess.run(
        program or [*PROGRAM, str(runs)],
        cwd=ROOT,
        env=environment(variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1]), [json.loads(line) for line in answer.stderr.splitlines()]


def of_telemetry(log: list[dict[str, str]]) -> list[str]:
    return [line["event"] for line in log if line["logger"].startswith(("leasehold.telemetry", "opentelemetry"))]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_traces_and_metrics_arrive_and_say_who_sent_them(receiver: OtlpReceiver, protocol: str) -> None:
    _, log = run({**over(protocol, receiver), "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test"})

    assert {"run doubling", "stage double"} <= {span.name for span in receiver.spans}
    counts = {point.name: point for point in receiver.points if point.attributes.get(WORKFLOW) == "doubling"}
    assert counts["leasehold.runs.completed"].value == 2
    assert counts["leasehold.run.duration"].count == sum(counts["leasehold.run.duration"].buckets) == 2
    for resource in (receiver.spans[0].resource, receiver.points[0].resource):
        assert resource["service.name"] == "leasehold"
        assert resource["deployment.environment"] == "test"
        assert {"service.version", "service.instance.id", "process.pid", "host.name"} <= resource.keys()
    assert of_telemetry(log) == []


def test_a_name_a_sampler_and_deltas_of_ones_own_count(receiver: OtlpReceiver) -> None:
    variables = {
        "OTEL_SERVICE_NAME": "orders",
        "OTEL_TRACES_SAMPLER": "always_off",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta",
    }
    run({**over("http/protobuf", receiver), **variables, **QUICK})

    assert receiver.spans == ()
    assert {point.resource["service.name"] for point in receiver.points} == {"orders"}
    durations = [point for point in receiver.points if point.name == "leasehold.run.duration"]
    assert sum(point.count for point in durations) == 2
    assert not any(point.cumulative for point in durations)


@pytest.mark.parametrize(
    "protocol, mode, patience_s",
    [
        ("http/protobuf", Mode.REFUSE, 2.0),
        ("grpc", Mode.REFUSE, 2.0),
        ("http/protobuf", Mode.UNAVAILABLE, 2.0),
        ("http/protobuf", Mode.HANG, 4.5),
    ],
)
def test_a_collector_that_takes_nothing_is_one_warning_and_no_more(
    receiver: OtlpReceiver, protocol: str, mode: Mode, patience_s: float
) -> None:
    receiver.become(mode)

    ended, log = run(over(protocol, receiver))

    assert ended["results"] == [0, 2]
    assert ended["left_s"] < patience_s
    assert of_telemetry(log) == ["telemetry.unreachable"]
    [warning] = [line for line in log if line["event"] == "telemetry.unreachable"]
    assert warning["endpoint"] in {receiver.http_endpoint, receiver.grpc_endpoint}


@pytest.mark.parametrize("embedded", [False, True])
def test_a_collector_that_is_away_is_one_warning_also_with_child_interpreters(
    receiver: OtlpReceiver, embedded: object
) -> None:
    receiver.become(Mode.REFUSE)

    text = f"from tests.telemetry.exporting_children import *; leave_after_one_run(embedded={embedded})"
    ended, log = run({**over("http/protobuf", receiver), **QUICK}, program=[sys.executable, "-c", text])

    assert ended["sampled"] is True
    assert of_telemetry(log) == ["telemetry.unreachable"]


def test_a_child_interpreter_sends_its_spans_and_no_metrics_of_ours(receiver: OtlpReceiver) -> None:
    text = "from tests.telemetry.exporting_children import *; leave_after_one_run(embedded=False)"
    run({**over("http/protobuf", receiver), **QUICK}, program=[sys.executable, "-c", text])

    (mine,) = [span for span in receiver.spans if span.name == "mine"]
    (root,) = [span for span in receiver.spans if span.name == "run sending"]
    assert mine.resource["process.pid"] != root.resource["process.pid"]
    assert {point.resource["process.pid"] for point in receiver.points} == {root.resource["process.pid"]}


def test_a_child_interpreter_is_kept_although_it_begins_to_send_with_a_later_attempt(receiver: OtlpReceiver) -> None:
    text = "from tests.telemetry.exporting_children import *; tell_children()"
    told, _ = run({**over("http/protobuf", receiver), **QUICK}, program=[sys.executable, "-c", text])

    assert len(set(told["children"])) == 1


def test_spans_that_find_no_room_are_said_with_their_number_by_a_log_line_and_a_metric(receiver: OtlpReceiver) -> None:
    # One at a time, so slowly that the queue, which holds two, is full.
    little = {"OTEL_BSP_MAX_QUEUE_SIZE": "2", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1"}

    _, log = run({**over("http/protobuf", receiver), **little}, runs=30)

    said = [line for line in log if line["event"] == "telemetry.spans_dropped"]
    assert 1 <= len(said) <= 2, log
    assert said[-1]["in_all"] == sum(int(line["spans"]) for line in said)
    assert "OTEL_BSP_MAX_QUEUE_SIZE" in said[0]["hint"]
    [counted] = [point.value for point in receiver.points if point.name == "leasehold.spans.dropped"]
    assert 0 < counted == said[-1]["in_all"]
    assert of_telemetry(log) == ["telemetry.spans_dropped"] * len(said)


class Going:
    """The program between two of its runs."""

    def __init__(self, variables: dict[str, str], runs: int, folder: Path) -> None:
        self._errors = folder / "stderr"
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [*PROGRAM, str(runs), "pause"],
                cwd=ROOT,
                env=environment(variables),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def has_run(self) -> None:
        assert self.process.stdout is not None
        assert '"run"' in self.process.stdout.readline(), self._errors.read_text()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def events(self) -> list[str]:
        return of_telemetry([json.loads(line) for line in self._errors.read_text().splitlines()])

    def until(self, fact: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not fact():
            assert time.monotonic() < deadline, self._errors.read_text()
            time.sleep(0.02)


def test_a_collector_that_goes_and_comes_is_said_once_each_time(receiver: OtlpReceiver, tmp_path: Path) -> None:
    going = Going({**over("http/protobuf", receiver), **QUICK}, 3, tmp_path)
    going.has_run()
    receiver.wait_until(bool)

    receiver.become(Mode.REFUSE)
    going.go_on()
    going.has_run()
    going.until(lambda: going.events() == ["telemetry.unreachable"])
    receiver.become(Mode.ACCEPT)
    going.go_on()
    going.has_run()
    going.until(lambda: going.events() == ["telemetry.unreachable", "telemetry.recovered"])
    going.go_on()

    going.process.communicate(timeout=20)
    assert going.process.returncode == 0
    assert going.events() == ["telemetry.unreachable", "telemetry.recovered"]


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_SERVICE_NAME": "mine", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
    ],
)
def test_nobody_who_asks_for_nothing_pays_even_an_import(variables: dict[str, str]) -> None:
    code = (
        "import sys; from telemetry.export import configure_export; import runtime; "
        "assert configure_export() is False; "
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(variables), capture_output=True, text=True, check=False
    )

    assert (answer.stdout.strip(), answer.stderr) == ("[]", "")
