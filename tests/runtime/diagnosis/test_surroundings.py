"""What lies around a database: stores of large payloads and collectors, there and not there."""

from __future__ import annotations

import socket
from pathlib import Path

import anyio
import pytest

from kernel.ports.diagnosis import Check, CheckSkipped, Finding
from runtime.config import Settings
from runtime.diagnosis.examination import look
from runtime.diagnosis.surroundings import CollectorPlace, collector_place, surrounding_checks

pytestmark = pytest.mark.anyio

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
GRPC = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}


async def collector(**environment: str) -> Finding:
    (check,) = surrounding_checks(Settings(), environment)
    return await look(check)


async def blobs(url: str) -> Finding:
    first, _ = surrounding_checks(Settings(blob_url=url), {})
    return await look(first)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def test_a_collector_that_listens_is_well() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)

        found = await collector(**{ENDPOINT: f"http://127.0.0.1:{port}"})

    assert (found.status, found.figures["port"]) == ("ok", port)


async def test_a_collector_that_is_not_there_is_a_warning_because_runs_go_on() -> None:
    port = free_port()

    found = await collector(**{TRACES: f"http://127.0.0.1:{port}/v1/traces", ENDPOINT: "http://127.0.0.1:1"})

    assert (found.status, found.figures["port"], found.figures["variable"]) == ("warning", port, TRACES)
    assert f"127.0.0.1:{port} (Connection refused)" in found.found
    assert "4317 for gRPC" in (found.advice or "")


async def test_without_a_collector_there_is_nothing_to_look_at() -> None:
    assert (await collector()).status == "skipped"
    assert (await collector(**{ENDPOINT: "  "})).status == "skipped"
    assert (await collector(**{ENDPOINT: "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"})).status == "skipped"


@pytest.mark.parametrize(
    "environment, host, port",
    [
        ({ENDPOINT: "http://c:4318"}, "c", 4318),
        ({ENDPOINT: "http://c"}, "c", 80),
        ({ENDPOINT: "https://c/otlp"}, "c", 443),
        ({ENDPOINT: "c:4317", **GRPC}, "c", 4317),
        ({ENDPOINT: "http://c", **GRPC}, "c", 443),
    ],
)
def test_an_endpoint_leads_to_where_exporters_take_it(environment: dict[str, str], host: str, port: int) -> None:
    place = collector_place(environment)

    assert isinstance(place, CollectorPlace)
    assert (place.host, place.effective_port) == (host, port)


@pytest.mark.parametrize("text", ["collector:4318", "http://", "http://c:port", "ftp://c:1"])
async def test_an_endpoint_that_is_none_is_said_with_the_form(text: str) -> None:
    found = await collector(**{ENDPOINT: text})

    assert (found.status, ENDPOINT in found.found, "http://host:4318" in (found.advice or "")) == (
        "problem",
        True,
        True,
    )


async def test_a_folder_for_payloads_is_there_or_will_be_made(tmp_path: Path) -> None:
    there = await blobs(f"file://{tmp_path}")
    ahead = await blobs(f"file://{tmp_path}/not/yet")

    assert (there.status, ahead.status) == ("ok", "warning")
    assert list(tmp_path.iterdir()) == []


async def test_a_place_for_payloads_that_is_no_folder_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    found = await blobs(f"file://{tmp_path}/file/below")

    assert (found.status, "is no folder" in found.found) == ("problem", True)


async def test_a_bucket_that_cannot_be_reached_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")

    found = await blobs(f"s3://bucket/prefix?endpoint=http://127.0.0.1:{free_port()}&region=x")

    assert (found.status, "s3://bucket/prefix" in found.found) == ("problem", True)
    assert "LEASEHOLD_BLOB_URL" in (found.advice or "")


async def test_whatever_goes_wrong_in_a_check_is_a_finding() -> None:
    async def skip() -> Finding:
        raise CheckSkipped("Not here.")

    async def break_down() -> Finding:
        raise ZeroDivisionError("oops")

    async def hang() -> Finding:
        await anyio.sleep_forever()
        raise AssertionError

    found = [await look(Check("x", work), deadline_s=0.05) for work in (skip, break_down, hang)]

    assert [f.status for f in found] == ["skipped", "problem", "problem"]
    assert "ZeroDivisionError: oops" in found[1].found
    assert found[2].found == "No answer within 0.05 s."
