"""Collectors, and variables that name them: there, not there, and asked in the wrong language."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from kernel.ports.diagnosis import Finding
from runtime.config import Settings
from runtime.diagnosis import collectors
from runtime.diagnosis.collectors import collector_places
from runtime.diagnosis.examination import look
from runtime.diagnosis.surroundings import surrounding_checks
from telemetry.otel_environment import read_environment
from tests.otlp_receiver import OtlpReceiver, otlp_receiver

pytestmark = pytest.mark.anyio

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
METRICS = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
GRPC = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with otlp_receiver() as receiver:
        yield receiver


async def found_with(**environment: str) -> list[Finding]:
    return [await look(check) for check in surrounding_checks(Settings(), environment)]


async def collector(**environment: str) -> Finding:
    (found,) = await found_with(**environment)
    return found


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def test_a_collector_that_listens_is_well_over_either_protocol(receiver: OtlpReceiver) -> None:
    over_http = await collector(**{ENDPOINT: receiver.http_endpoint})
    over_grpc = await collector(**{ENDPOINT: receiver.grpc_endpoint, **GRPC})

    assert (over_http.status, over_http.figures["port"]) == ("ok", receiver.http_port)
    assert (over_grpc.status, over_grpc.figures["port"]) == ("ok", receiver.grpc_port)
    assert "spans and metrics" in over_http.found
    assert receiver.arrivals == ()


async def test_a_port_of_the_other_protocol_is_a_warning_with_the_way_out(receiver: OtlpReceiver) -> None:
    over_http = await collector(**{ENDPOINT: receiver.grpc_endpoint})
    over_grpc = await collector(**{ENDPOINT: receiver.http_endpoint, **GRPC})

    assert (over_http.status, over_grpc.status) == ("warning", "warning")
    assert "speaks gRPC, and is sent spans and metrics by HTTP" in over_http.found
    assert "OTEL_EXPORTER_OTLP_PROTOCOL=grpc" in (over_http.advice or "")
    assert "speaks HTTP, and is sent spans and metrics by gRPC" in over_grpc.found
    assert "usually 4317" in (over_grpc.advice or "")


async def test_who_says_nothing_of_the_protocol_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collectors, "ANSWER_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]

        found = await collector(**{ENDPOINT: f"http://127.0.0.1:{port}"})

    assert (found.status, found.figures["port"]) == ("ok", port)


async def test_a_collector_that_is_not_there_is_a_warning_because_runs_go_on() -> None:
    port = free_port()

    found = await collector(**{TRACES: f"http://127.0.0.1:{port}/v1/traces"})

    assert (found.status, found.figures["port"], found.figures["variable"]) == ("warning", port, TRACES)
    assert f"127.0.0.1:{port} (Connection refused)" in found.found
    assert "4317 for gRPC" in (found.advice or "")


async def test_metrics_that_go_elsewhere_are_looked_at_there(receiver: OtlpReceiver) -> None:
    port = free_port()

    spans, metrics = await found_with(**{ENDPOINT: receiver.http_endpoint, METRICS: f"http://127.0.0.1:{port}"})
    alone = await collector(**{METRICS: f"http://127.0.0.1:{port}"})

    assert (spans.status, metrics.status) == ("ok", "warning")
    assert (metrics.figures["variable"], metrics.figures["port"]) == (METRICS, port)
    assert f"where {METRICS} sends metrics" in alone.found


async def test_without_a_collector_there_is_nothing_to_look_at() -> None:
    assert (await collector()).status == "skipped"
    assert (await collector(**{ENDPOINT: "  "})).status == "skipped"
    assert (await collector(**{ENDPOINT: "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"})).status == "skipped"
    assert "standard error" in (await collector(OTEL_TRACES_EXPORTER="console")).found


@pytest.mark.parametrize(
    "environment, host, port",
    [
        ({ENDPOINT: "http://c:4318"}, "c", 4318),
        ({ENDPOINT: "http://c"}, "c", 80),
        ({ENDPOINT: "https://c/otlp"}, "c", 443),
        ({ENDPOINT: "c:4317", **GRPC}, "c", 4317),
        ({ENDPOINT: "http://c", **GRPC}, "c", 443),
        ({ENDPOINT: "http://c:4318", METRICS: "http://c:4318/other"}, "c", 4318),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "localhost", 4318),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, "localhost", 4318),
        ({"OTEL_TRACES_EXPORTER": "otlp", **GRPC}, "localhost", 4317),
    ],
)
def test_variables_lead_to_where_exporters_connect(environment: dict[str, str], host: str, port: int) -> None:
    (place,) = collector_places(read_environment(environment))

    assert (place.host, place.effective_port) == (host, port)


def test_what_asks_for_a_place_is_named() -> None:
    environment = {"OTEL_TRACES_EXPORTER": "otlp", METRICS: "http://m:4318"}

    assert [place.variable for place in collector_places(read_environment(environment))] == [
        "OTEL_TRACES_EXPORTER",
        METRICS,
    ]


@pytest.mark.parametrize(
    "variable, value",
    [
        (ENDPOINT, "collector:4318"),
        (ENDPOINT, "http://"),
        (ENDPOINT, "http://c:port"),
        (ENDPOINT, "ftp://c:1"),
        ("OTEL_TRACES_SAMPLER", "foo"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "never"),
    ],
)
async def test_a_variable_with_which_no_process_starts_is_a_problem_that_names_it(
    receiver: OtlpReceiver, variable: str, value: str
) -> None:
    found = await collector(**{ENDPOINT: receiver.http_endpoint, variable: value})

    assert (found.status, found.figures["variable"]) == ("problem", variable)
    assert found.found.startswith(f"{variable} must be")
    assert f"Correct or unset {variable}." in (found.advice or "")


async def test_a_library_that_is_not_installed_is_a_problem_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("telemetry.export.find_spec", lambda name: None if "grpc" in name else find_spec(name))

    found = await collector(**{ENDPOINT: "http://127.0.0.1:1", **GRPC})

    assert (found.status, "pip install opentelemetry-exporter-otlp-proto-grpc" in (found.advice or "")) == (
        "problem",
        True,
    )
