"""Checks of where traces and metrics are sent to: that the variables can be used, and that somebody takes it there.

Separate from other surroundings because it speaks a little of two protocols: a port that accepts connections may still
be the collector's other one. It sends no telemetry.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from socket import gaierror
from typing import Literal, cast
from urllib.parse import urlsplit

import anyio

from kernel.errors import InvalidCommand
from kernel.ports.diagnosis import Check, Finding
from telemetry.export import check_libraries
from telemetry.otel_environment import OtelEnvironment, Signal, read_environment

__all__ = ["CollectorPlace", "collector_checks", "collector_places"]

Family = Literal["http", "grpc"]

CONNECT_S = 3.0
ANSWER_S = 1.0
PORTS: Mapping[Family, int] = {"http": 4318, "grpc": 4317}
"""Where a collector listens that nobody has told otherwise."""
CALLED: Mapping[Family, str] = {"http": "HTTP", "grpc": "gRPC"}
VALUES: Mapping[Family, str] = {"http": "http/protobuf", "grpc": "grpc"}

_FRAME_BYTES = 9
_SETTINGS = b"\x04"
_EMPTY_SETTINGS = b"\0\0\0" + _SETTINGS + b"\0\0\0\0\0"
_HTTP_2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _EMPTY_SETTINGS
"""How a client of HTTP/2, and so of gRPC, begins (RFC 9113, 3.4); a server answers with settings of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorPlace:
    """Where `sent` goes: the variable that says so, the protocol's family, and the port (None: the URL has none)."""

    sent: str
    variable: str
    protocol: Family
    scheme: str
    host: str
    port: int | None

    @property
    def effective_port(self) -> int:
        """Where an exporter connects to: what a URL without a port means is the scheme's, not the collector's."""
        if self.port is not None:
            return self.port
        return 80 if self.protocol == "http" and self.scheme == "http" else 443


def collector_checks(environ: Mapping[str, str]) -> Sequence[Check]:
    """A check for each place that something is sent to; one that says why, when there is none."""
    try:
        environment = read_environment(environ)
        check_libraries(environment)
    except InvalidCommand as error:
        return [Check("collector", partial(_told, _refused(error)))]
    places = collector_places(environment)
    if not places:
        return [Check("collector", partial(_told, _nothing_sent(environ, environment)))]
    names = ("collector", f"collector of {places[-1].sent}")
    return [Check(name, partial(_connected, place)) for name, place in zip(names, places, strict=False)]


def collector_places(environment: OtelEnvironment) -> Sequence[CollectorPlace]:
    """Where spans and metrics are sent to: two places, one for both, or fewer."""
    spans, metrics = _place("spans", environment.traces), _place("metrics", environment.metrics)
    if spans is not None and metrics is not None:
        same = (spans.host, spans.effective_port, spans.protocol) == (
            metrics.host,
            metrics.effective_port,
            metrics.protocol,
        )
        return [replace(spans, sent="spans and metrics")] if same else [spans, metrics]
    return [place for place in (spans, metrics) if place is not None]


def _place(sent: str, signal: Signal | None) -> CollectorPlace | None:
    if signal is None or "otlp" not in signal.exporters:
        return None
    parts = urlsplit(signal.endpoint)
    assert parts.hostname is not None, "it has been checked"
    return CollectorPlace(
        sent=sent,
        variable=signal.variable,
        protocol="grpc" if signal.protocol == "grpc" else "http",
        scheme=parts.scheme,
        host=parts.hostname,
        port=parts.port,
    )


# -- without asking anybody ------------------------------------------------------------------------------------------


async def _told(finding: Finding) -> Finding:
    return finding


def _refused(error: InvalidCommand) -> Finding:
    hint = error.hint or f"Correct or unset {error.field}."
    return Finding(
        status="problem",
        found=error.message,
        advice=f"{hint} Until then no process starts with it: leasehold up says the same, and exits.",
        figures={"variable": error.field},
    )


def _nothing_sent(environ: Mapping[str, str], environment: OtelEnvironment) -> Finding:
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Finding(status="skipped", found="OTEL_SDK_DISABLED is set: nothing is exported.")
    if environment.traces is not None or environment.metrics is not None:
        return Finding(status="skipped", found="What is exported goes to standard error, and to no collector.")
    return Finding(status="skipped", found="No collector is configured (OTEL_EXPORTER_OTLP_ENDPOINT).")


# -- asking there ------------------------------------------------------------------------------------------------------


async def _connected(place: CollectorPlace) -> Finding:
    """Whether somebody accepts connections there, and speaks the protocol; a warning if not: runs do not need it."""
    port, usual = place.effective_port, PORTS[place.protocol]
    where = f"{place.host}:{port}"
    figures = {"host": place.host, "port": port, "protocol": place.protocol, "variable": place.variable}
    begun = time.perf_counter()
    reason = await _refusal(place.host, port)
    if reason is None:
        took_s = time.perf_counter() - begun
        figures = {**figures, "connect_s": took_s}
        spoken = await _spoken(place)
        if spoken not in {None, place.protocol}:
            return _misunderstood(place, where, figures)
        accepts = f"accepts connections within {took_s * 1000:.0f} ms"
        found = f"The collector of {place.sent} at {where} ({place.protocol}) {accepts}."
        return Finding(status="ok", found=found, figures=figures)
    found = f"Nobody accepts connections at {where} ({reason}), where {place.variable} sends {place.sent}."
    if place.port is None and await _refusal(place.host, usual) is None:
        found += f" Somebody does at port {usual}, the usual one for {place.protocol}."
        return Finding(status="warning", found=found, advice=f"Name the port in {place.variable}.", figures=figures)
    advice = (
        f"Start the collector, or name it in {_endpoint_variable(place)}. Usual ports: 4318 for HTTP, 4317 for gRPC. "
        "Runs go on without it."
    )
    return Finding(status="warning", found=found, advice=advice, figures=figures)


def _misunderstood(place: CollectorPlace, where: str, figures: Mapping[str, object]) -> Finding:
    other: Family = "http" if place.protocol == "grpc" else "grpc"
    return Finding(
        status="warning",
        found=f"Who listens at {where} speaks {CALLED[other]}, and is sent {place.sent} by {CALLED[place.protocol]}: "
        "nothing will arrive.",
        advice=f"Set OTEL_EXPORTER_OTLP_PROTOCOL={VALUES[other]}, or name the collector's port for "
        f"{CALLED[place.protocol]} (usually {PORTS[place.protocol]}) in {_endpoint_variable(place)}.",
        figures=figures,
    )


def _endpoint_variable(place: CollectorPlace) -> str:
    return place.variable if place.variable.endswith("ENDPOINT") else "OTEL_EXPORTER_OTLP_ENDPOINT"


async def _refusal(host: str, port: int) -> str | None:
    """Why no connection comes about; None when one does."""
    try:
        with anyio.fail_after(CONNECT_S):
            stream = await anyio.connect_tcp(host, port)
    except TimeoutError:
        return f"no answer within {CONNECT_S:g} s"
    except OSError as error:
        return _reason(error)
    await stream.aclose()
    return None


async def _spoken(place: CollectorPlace) -> Family | None:
    """What is spoken there, as far as that can be told; behind TLS it is not asked.

    What we speak is tried first, since a port may be for both.
    """
    if place.scheme != "http":
        return None
    http_1 = f"HEAD / HTTP/1.1\r\nHost: {place.host}:{place.effective_port}\r\nConnection: close\r\n\r\n".encode()
    if place.protocol == "grpc" and (spoken := await _answered(place, _HTTP_2)) is not None:
        return spoken
    return await _answered(place, http_1)


async def _answered(place: CollectorPlace, question: bytes) -> Family | None:
    answer = b""
    with anyio.move_on_after(ANSWER_S):
        try:
            async with await anyio.connect_tcp(place.host, place.effective_port) as stream:
                await stream.send(question)
                while len(answer) < _FRAME_BYTES:
                    answer += await stream.receive()
        except (OSError, anyio.EndOfStream, anyio.BrokenResourceError):
            pass  # who hangs up has given no answer
    if answer.startswith(b"HTTP/1"):
        return "http"
    # A frame of settings for the whole connection comes first, whatever the client has sent.
    return "grpc" if answer[3:4] == _SETTINGS and answer[5:_FRAME_BYTES] == bytes(4) else None


def _reason(error: OSError) -> str:
    """What the operating system says, in the same words on every event loop; of several addresses the first."""
    cause: BaseException = error.__cause__ or error
    if isinstance(cause, BaseExceptionGroup):
        cause = cast("BaseExceptionGroup[BaseException]", cause).exceptions[0]
    if isinstance(cause, OSError) and not isinstance(cause, gaierror) and cause.errno is not None:
        return os.strerror(cause.errno)
    return str(getattr(cause, "strerror", None) or cause)
