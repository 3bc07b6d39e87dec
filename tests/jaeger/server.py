"""A real Jaeger on ports that it chooses itself, and what its query API says of a trace.

Its program is built by `make jaeger`, and named by LEASEHOLD_TEST_JAEGER. A trace comes back as spans of OTLP, so what
is said of it here holds for any receiver; only lists have become text, and links have lost their attributes.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from tests.otlp_records import Span, spans_of

T = TypeVar("T")

# Each server on a port of its own; two that are told the same address would be one to it.
_ADDRESSES = {
    "admin.http": "127.0.0.1:0",
    "collector.grpc-server": "127.0.0.1:0",
    "collector.http-server": "127.0.0.1:0",
    "collector.otlp.grpc": "127.0.0.1:0",
    "collector.otlp.http": "127.0.0.1:0",
    "query.grpc-server": "localhost:0",
    "query.http-server": "127.0.0.1:0",
}
_IDS = {"traceId", "spanId", "parentSpanId"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Jaeger:
    """All are addresses with a scheme; the first two are for OTEL_EXPORTER_OTLP_ENDPOINT."""

    http_endpoint: str
    grpc_endpoint: str
    query_url: str

    def find_trace(self, trace_id: str) -> tuple[Span, ...]:
        """What is known of it now; nothing of one that has not arrived."""
        try:
            with urllib.request.urlopen(f"{self.query_url}/api/v3/traces/{trace_id}", timeout=10) as answer:
                result = json.load(answer)["result"]
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 404:
                    raise
            return ()
        return tuple(spans_of(ParseDict(_with_base64(result), TracesData()).resource_spans))

    def find_trace_ids(self, service: str, attributes: Mapping[str, str]) -> set[str]:
        """Of all traces in which that service has a span with these attributes."""
        query = urllib.parse.urlencode({"service": service, "tags": json.dumps(attributes), "limit": 1000})
        with urllib.request.urlopen(f"{self.query_url}/api/traces?{query}", timeout=10) as answer:
            return {trace["traceID"] for trace in json.load(answer)["data"]}

    def wait_for_trace(
        self, trace_id: str, enough: Callable[[tuple[Span, ...]], bool], timeout_s: float = 20
    ) -> tuple[Span, ...]:
        """The same as soon as it is enough: what was accepted is found a moment later. It blocks.

        Raises:
            AssertionError: It was not enough in time; it says what is there.
        """
        return _until(lambda: self.find_trace(trace_id), enough, timeout_s)

    def wait_for_trace_ids(self, service: str, attributes: Mapping[str, str], timeout_s: float = 20) -> set[str]:
        """The same as soon as there is one."""
        return _until(lambda: self.find_trace_ids(service, attributes), bool, timeout_s)


def _until(read: Callable[[], T], enough: Callable[[T], bool], timeout_s: float) -> T:
    deadline = time.monotonic() + timeout_s
    while not enough(found := read()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s; Jaeger has only {found}"
        time.sleep(0.02)
    return found


@contextmanager
def running_jaeger(folder: Path) -> Iterator[Jaeger]:
    """Until the end of the block; its log is kept in the folder."""
    program = os.environ.get("LEASEHOLD_TEST_JAEGER")
    assert program is not None, "no Jaeger is named by LEASEHOLD_TEST_JAEGER: use make test-jaeger"
    words = [program, *(f"--{server}.host-port={address}" for server, address in _ADDRESSES.items())]
    # It would send spans of its own queries to whoever listens on the usual port.
    environment = {**os.environ, "OTEL_TRACES_SAMPLER": "always_off", "SPAN_STORAGE_TYPE": "memory"}
    log = folder / "jaeger.log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT, env=environment
        )
    try:
        yield _when_ready(process, log)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _when_ready(process: subprocess.Popen[bytes], log: Path) -> Jaeger:
    """Its log says which ports it was given, and when all of them answer."""
    deadline = time.monotonic() + 30
    while _said(log, "Health Check state change", "status") != "ready":
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, f"Jaeger does not start\n{log.read_text()}"
        time.sleep(0.02)
    return Jaeger(
        http_endpoint=f"http://{_said(log, 'Starting HTTP server', 'endpoint')}",
        grpc_endpoint=f"http://{_said(log, 'Starting GRPC server', 'endpoint')}",
        query_url=f"http://{_said(log, 'Query server started', 'http_addr')}",
    )


def _said(log: Path, message: str, field: str) -> str | None:
    """Of the first line of its log that has both: whole lines of JSON, after a greeting to people."""
    for line in log.read_text().splitlines():
        if line.startswith("{") and line.endswith("}"):
            entry = json.loads(line)
            if entry["msg"] == message and field in entry:
                return str(entry[field])
    return None


def _with_base64(value: Any) -> Any:
    """OTLP writes ids in hexadecimal, unlike all other bytes in JSON."""
    if isinstance(value, list):
        return [_with_base64(each) for each in value]
    if isinstance(value, dict):
        return {
            key: base64.b64encode(bytes.fromhex(each)).decode() if key in _IDS else _with_base64(each)
            for key, each in value.items()
        }
    return value
