"""A collector that tests look into: OTLP over HTTP and gRPC on loopback ports, in threads of its own.

It answers as a collector does, or misbehaves as told, and keeps what it was sent. Every wait is for a fact, on one
condition. Knows nothing of the engine.
"""

from __future__ import annotations

import gzip
import socket
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread
from typing import Any, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.otlp_records import Point, Span, points_of, spans_of

T = TypeVar("T")
Sent = ExportTraceServiceRequest | ExportMetricsServiceRequest

_SIGNALS: dict[str, tuple[type[Sent], type[ExportTraceServiceResponse | ExportMetricsServiceResponse]]] = {
    "/v1/traces": (ExportTraceServiceRequest, ExportTraceServiceResponse),
    "/v1/metrics": (ExportMetricsServiceRequest, ExportMetricsServiceResponse),
}
_DECODED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "identity": bytes,
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
}
# As many requests may hang over gRPC at once; more wait for one of them.
_GRPC_THREADS = 16


class Mode(Enum):
    """What a request meets."""

    ACCEPT = "it is kept and answered"
    REFUSE = "nobody listens: the connection is refused"
    UNAVAILABLE = "503 with Retry-After; over gRPC, UNAVAILABLE with the same delay"
    HANG = "it is read and never answered; the connection breaks when the mode changes"


# A request may be read just before its server stops listening.
_UNANSWERED = {Mode.HANG, Mode.REFUSE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A request, whatever became of it; `encoding` is empty for one that was not compressed, and over gRPC."""

    transport: str
    path: str
    encoding: str
    headers: dict[str, str]
    mode: Mode


class OtlpReceiver:
    """May be used from any thread. What it has kept stays when the mode changes."""

    def __init__(self, http_port: int, grpc_port: int) -> None:
        self.http_port = http_port
        self.grpc_port = grpc_port
        self.retry_after_s = 1
        self._changed = Condition()
        self._mode = Mode.REFUSE
        self._arrivals: list[Arrival] = []
        self._spans: list[Span] = []
        self._points: list[Point] = []
        self._listening = ExitStack()

    @property
    def http_endpoint(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT with `http/protobuf`; an exporter is given `/v1/traces` after it."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc_endpoint(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT with `grpc`, and for an exporter's own argument."""
        return f"http://127.0.0.1:{self.grpc_port}"

    @property
    def spans(self) -> tuple[Span, ...]:
        with self._changed:
            return tuple(self._spans)

    @property
    def points(self) -> tuple[Point, ...]:
        with self._changed:
            return tuple(self._points)

    @property
    def arrivals(self) -> tuple[Arrival, ...]:
        with self._changed:
            return tuple(self._arrivals)

    def wait_until(self, enough: Callable[[tuple[Span, ...]], bool], timeout_s: float = 10) -> tuple[Span, ...]:
        """All spans, as soon as they are enough. It blocks: on an event loop call it in a thread.

        Raises:
            AssertionError: They were not enough in time; it says what has arrived.
        """
        return self._wait(lambda: tuple(self._spans), enough, timeout_s)

    def wait_until_points(
        self, enough: Callable[[tuple[Point, ...]], bool], timeout_s: float = 10
    ) -> tuple[Point, ...]:
        """The same of metrics."""
        return self._wait(lambda: tuple(self._points), enough, timeout_s)

    def wait_until_arrivals(
        self, enough: Callable[[tuple[Arrival, ...]], bool], timeout_s: float = 10
    ) -> tuple[Arrival, ...]:
        """The same of requests, for modes in which nothing is kept."""
        return self._wait(lambda: tuple(self._arrivals), enough, timeout_s)

    def forget(self) -> None:
        """Empty it, between two parts of a test."""
        with self._changed:
            for kept in (self._arrivals, self._spans, self._points):
                kept.clear()

    def become(self, mode: Mode) -> None:
        """From now on, on the same ports; requests that hang are let go first."""
        with self._changed:
            before, self._mode = self._mode, mode
            self._changed.notify_all()
        if mode is Mode.REFUSE:
            self._listening.close()
        elif before is Mode.REFUSE:
            self._listening.enter_context(_http_listening(self))
            self._listening.enter_context(_grpc_listening(self))

    def arrived(self, transport: str, path: str, headers: dict[str, str]) -> Mode:
        """How to treat this request; for the two servers. Returns when it has been let go, if it was to hang."""
        with self._changed:
            mode = self._mode
            encoding = headers.get("content-encoding", "")
            self._arrivals.append(
                Arrival(transport=transport, path=path, encoding=encoding, headers=headers, mode=mode)
            )
            self._changed.notify_all()
            if mode is Mode.HANG:
                self._changed.wait_for(lambda: self._mode is not Mode.HANG)
            return mode

    def keep(self, sent: Sent) -> None:
        """For the two servers."""
        with self._changed:
            if isinstance(sent, ExportTraceServiceRequest):
                self._spans += spans_of(sent.resource_spans)
            else:
                self._points += points_of(sent.resource_metrics)
            self._changed.notify_all()

    def _wait(self, read: Callable[[], T], enough: Callable[[T], bool], timeout_s: float) -> T:
        with self._changed:
            in_time = self._changed.wait_for(lambda: enough(read()), timeout_s)
            names = [each.name for each in (*self._spans, *self._points)]
            assert in_time, f"not within {timeout_s} s; {len(self._arrivals)} requests brought {names}"
            return read()


@contextmanager
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """One that accepts, until the end of the block; nothing of it is left then."""
    with _reserved_port() as http_port, _reserved_port() as grpc_port:
        receiver = OtlpReceiver(http_port, grpc_port)
        try:
            receiver.become(Mode.ACCEPT)
            yield receiver
        finally:
            receiver.become(Mode.REFUSE)


@contextmanager
def _reserved_port() -> Iterator[int]:
    """A port that refuses connections, and that nobody else is given, while no server of ours listens on it too."""
    with closing(socket.socket()) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


class _HttpServer(ThreadingHTTPServer):
    allow_reuse_port = True
    # Joined when it is closed.
    daemon_threads = False
    receiver: OtlpReceiver

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may go away at any time; a failing test says more than a traceback on standard error."""


class _HttpRequest(BaseHTTPRequestHandler):
    """One request a connection, as HTTP 1.0 does, so that no connection outlives a change of mode."""

    server: _HttpServer
    timeout = 10

    def do_POST(self) -> None:
        receiver = self.server.receiver
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", "0")))
        mode = receiver.arrived("http", self.path, headers)
        if mode in _UNANSWERED:
            return
        if mode is Mode.UNAVAILABLE:
            self._answer(503, {"Retry-After": str(receiver.retry_after_s)}, b"")
            return
        if self.path not in _SIGNALS:
            self._answer(404, {}, b"")
            return
        request, answer = _SIGNALS[self.path]
        if headers.get("content-type") != "application/x-protobuf":
            self._answer(415, {}, b"")
            return
        try:
            receiver.keep(request.FromString(_DECODED[headers.get("content-encoding", "")](body)))
        except (KeyError, OSError, zlib.error, DecodeError):
            self._answer(400, {}, b"")
            return
        self._answer(200, {"Content-Type": "application/x-protobuf"}, answer().SerializeToString())

    def log_message(self, format: str, *args: Any) -> None:
        """Not to standard error."""

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def _http_listening(receiver: OtlpReceiver) -> Iterator[None]:
    with _HttpServer(("127.0.0.1", receiver.http_port), _HttpRequest) as server:
        server.receiver = receiver
        # The interval bounds how long the end of a test waits, nothing else.
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name="otlp-http")
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class _GrpcService:
    """`Export` of either signal, under the path that HTTP has for it."""

    def __init__(self, receiver: OtlpReceiver, path: str) -> None:
        self._receiver = receiver
        self._path = path

    def Export(self, sent: Sent, context: grpc.ServicerContext) -> Any:  # noqa: N802  the protocol's name
        headers = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        mode = self._receiver.arrived("grpc", self._path, headers)
        if mode is Mode.UNAVAILABLE:
            delay = RetryInfo(retry_delay=Duration(seconds=self._receiver.retry_after_s))
            context.set_trailing_metadata((("google.rpc.retryinfo-bin", delay.SerializeToString()),))
            context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
        if mode in _UNANSWERED:
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        self._receiver.keep(sent)
        return _SIGNALS[self._path][1]()


@contextmanager
def _grpc_listening(receiver: OtlpReceiver) -> Iterator[None]:
    with ThreadPoolExecutor(_GRPC_THREADS, thread_name_prefix="otlp-grpc") as threads:
        server = grpc.server(threads, options=[("grpc.so_reuseport", 1)])
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_GrpcService(receiver, "/v1/traces"), server)
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_GrpcService(receiver, "/v1/metrics"), server)
        assert server.add_insecure_port(f"127.0.0.1:{receiver.grpc_port}") == receiver.grpc_port
        server.start()
        try:
            yield
        finally:
            # Nothing hangs any more. Calls that are cut off would make gRPC write to standard error.
            server.stop(grace=1).wait()
