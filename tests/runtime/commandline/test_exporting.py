"""What a command exports: metrics for whoever asks on a port, and clear errors for what cannot be exported."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from urllib.error import URLError

import pytest

from runtime.commandline.entry import run
from tests.runtime.commandline.test_end_to_end import Terminal, terminal

__all__ = ["terminal"]


@pytest.fixture
def ports() -> Iterator[int]:
    """The first of two that are free, one after the other."""
    for first in range(42_000, 60_000, 7):
        with ExitStack() as stack:
            try:
                for port in (first, first + 1):
                    stack.enter_context(closing(socket.socket())).bind(("127.0.0.1", port))
            except OSError:
                continue
        yield first
        return


def metrics_at(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return answer.read().decode()
    except URLError:
        return ""


@pytest.mark.processes
@pytest.mark.timeout(120)
def test_every_worker_serves_its_metrics_on_a_port_of_its_own(terminal: Terminal, ports: int) -> None:
    supervisor = terminal.begin("up", "--workers", "2", "--metrics-port", str(ports))
    for port in (ports, ports + 1):
        terminal.wait_until(lambda port=port: "leasehold_runs_oldest_runnable_age_seconds" in metrics_at(port))

    code, _, err = terminal.type("start", "job", "--input", '{"name": "a"}', "--wait", "--json")

    assert code == 0, err
    terminal.wait_until(
        lambda: any(
            'leasehold_runs_completed_total{leasehold_workflow_id="job"' in metrics_at(port)
            and 'leasehold_run_duration_seconds_bucket{le="0.1",leasehold_outcome="completed"' in metrics_at(port)
            for port in (ports, ports + 1)
        )
    )
    text = metrics_at(ports)
    assert 'leasehold_runs_runnable{leasehold_workflow_id="job"' in text
    assert "target_info" in text
    supervisor.terminate()
    assert supervisor.wait(timeout=30) == 0


def test_a_port_that_is_in_use_is_an_error_that_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        code = run(["up", "--metrics-port", str(port)])

    assert code == 2
    error = capsys.readouterr().err
    assert f"Metrics cannot be served on 127.0.0.1:{port}: Address already in use." in error
    assert "--metrics-port" in error


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_a_worker_whose_port_is_in_use_is_named_with_it(terminal: Terminal, ports: int) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", ports + 1))
        taken.listen()

        code, _, err = terminal.type("up", "--workers", "2", "--metrics-port", str(ports))

    assert code == 2
    assert f"The metrics of worker 2 cannot be served on 127.0.0.1:{ports + 1}: Address already in use." in err


@pytest.mark.parametrize("words", [["up"], ["up", "--workers", "2"], ["start", "job"], ["demo"]])
def test_a_variable_that_is_wrong_is_named_before_anything_begins(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")

    code = run([*words, "--json"])

    assert code == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["field"] == "OTEL_TRACES_EXPORTER"
    assert "zipkin" in error["message"]


@pytest.mark.parametrize("words", [["up"], ["up", "--workers", "2"]])
def test_metrics_that_would_be_served_empty_are_refused(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")

    code = run([*words, "--metrics-port", "1", "--json"])

    assert code == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["field"] == "OTEL_SDK_DISABLED"
    assert "--metrics-port" in error["message"]


def test_a_command_that_only_looks_does_not_care(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")

    assert run(["config"]) == 0
    assert "zipkin" not in capsys.readouterr().err
