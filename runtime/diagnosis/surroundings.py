"""Checks of what lies around the database: the store of large payloads, and the collector of telemetry."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import gaierror
from typing import cast
from urllib.parse import urlsplit

import anyio
from anyio import to_thread

from kernel.ports.blobs import BlobStore
from kernel.ports.diagnosis import Check, Finding
from runtime.blob_urls import BlobBucket, BlobFolder, blob_place
from runtime.bootstrap import open_blobs
from runtime.config import Settings

__all__ = ["CollectorPlace", "check_collector", "collector_place", "surrounding_checks"]

CONNECT_S = 3.0
BYTES_LEAST = 100_000_000
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PORTS = {"http": 4318, "grpc": 4317}
"""Where a collector listens that nobody has told otherwise."""


def surrounding_checks(settings: Settings, environment: Mapping[str, str] | None = None) -> Sequence[Check]:
    """The checks that need no database; large payloads in the database are checked with it."""
    given = os.environ if environment is None else environment
    checks: list[Check] = []
    if settings.blob_url is not None:
        checks.append(Check("blobs", lambda: _check_blobs(settings)))
    return [*checks, Check("collector", lambda: check_collector(given))]


# -- large payloads ----------------------------------------------------------------------------------------------------


async def _check_blobs(settings: Settings) -> Finding:
    assert settings.blob_url is not None
    match blob_place(settings.blob_url):
        case BlobFolder(path):
            return await to_thread.run_sync(_check_folder, path)
        case BlobBucket() as place:
            blobs = open_blobs(settings)
            assert blobs is not None
            return await _check_bucket(blobs, f"s3://{place.bucket}/{place.prefix}")


def _check_folder(folder: Path) -> Finding:
    """Whether blobs can be written there; the folder itself is made with the first one."""
    standing = next(path for path in (folder, *folder.parents) if path.exists())
    figures = {"place": str(folder), "exists": standing == folder}
    if not standing.is_dir():
        return Finding(
            status="problem",
            found=f"Large payloads are to go to {folder}, but {standing} is no folder.",
            advice="Name another folder in LEASEHOLD_BLOB_URL.",
            figures=figures,
        )
    if not os.access(standing, os.W_OK | os.X_OK):
        return Finding(
            status="problem",
            found=f"Large payloads are to go to {folder}, but this user may not write in {standing}.",
            advice="Let the user of the processes write there, or name another folder in LEASEHOLD_BLOB_URL.",
            figures=figures,
        )
    free = shutil.disk_usage(standing).free
    found = f"Large payloads go to {folder}, with {free / 1e9:,.1f} GB free."
    if free < BYTES_LEAST:
        return Finding(
            status="problem", found=found, advice="Free some space.", figures={**figures, "free_bytes": free}
        )
    if standing != folder:
        return Finding(
            status="warning",
            found=f"{found} The folder is not there yet.",
            advice="The first payload makes it. Where others should share it, is it mounted?",
            figures={**figures, "free_bytes": free},
        )
    return Finding(status="ok", found=found, figures={**figures, "free_bytes": free})


async def _check_bucket(blobs: BlobStore, place: str) -> Finding:
    begun = time.perf_counter()
    await blobs.has("leasehold/doctor")
    took_s = time.perf_counter() - begun
    return Finding(
        status="ok",
        found=f"Large payloads go to {place}, which answers within {took_s * 1000:.0f} ms. (Nothing was written.)",
        figures={"place": place, "answer_s": took_s},
    )


# -- telemetry ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorPlace:
    """Where spans go: the variable that says so, the protocol's family, and the port (None: the URL has none)."""

    variable: str
    protocol: str
    scheme: str
    host: str
    port: int | None

    @property
    def effective_port(self) -> int:
        """Where an exporter connects to: what a URL without a port means is the scheme's, not the collector's."""
        if self.port is not None:
            return self.port
        return 80 if self.protocol == "http" and self.scheme == "http" else 443


def collector_place(environment: Mapping[str, str]) -> CollectorPlace | str | None:
    """Where these variables send spans; a text says why that cannot be told, None that they name no place."""
    variable = next((name for name in ENDPOINTS if environment.get(name, "").strip()), None)
    if variable is None:
        return None
    text = environment[variable].strip()
    named = next((environment[name] for name in PROTOCOLS if environment.get(name, "").strip()), "http/protobuf")
    protocol = "grpc" if named.strip().lower() == "grpc" else "http"
    try:
        # For gRPC a bare host:port is usual.
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if not host or (protocol == "http" and parts.scheme not in {"http", "https"}):
        return f"{variable} is no address of a collector."
    return CollectorPlace(variable=variable, protocol=protocol, scheme=parts.scheme, host=host, port=port)


async def check_collector(environment: Mapping[str, str]) -> Finding:
    """Whether somebody accepts connections where spans are sent to; a warning if not, because runs do not need it."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Finding(status="skipped", found="OTEL_SDK_DISABLED is set: nothing is exported.")
    place = collector_place(environment)
    if place is None:
        found = "No collector is configured (OTEL_EXPORTER_OTLP_ENDPOINT)."
        return Finding(status="skipped", found=found)
    if isinstance(place, str):
        example = "Write it as http://host:4318, or for gRPC (OTEL_EXPORTER_OTLP_PROTOCOL=grpc) http://host:4317."
        return Finding(status="problem", found=place, advice=example)
    return await _connected(place)


async def _connected(place: CollectorPlace) -> Finding:
    port, usual = place.effective_port, PORTS[place.protocol]
    where = f"{place.host}:{port}"
    figures = {"host": place.host, "port": port, "protocol": place.protocol, "variable": place.variable}
    begun = time.perf_counter()
    reason = await _refusal(place.host, port)
    if reason is None:
        took_s = time.perf_counter() - begun
        return Finding(
            status="ok",
            found=f"The collector at {where} ({place.protocol}) accepts connections within {took_s * 1000:.0f} ms.",
            figures={**figures, "connect_s": took_s},
        )
    found = f"Nobody accepts connections at {where} ({reason}), where {place.variable} sends spans."
    if place.port is None and await _refusal(place.host, usual) is None:
        found += f" Somebody does at port {usual}, the usual one for {place.protocol}."
        return Finding(status="warning", found=found, advice=f"Name the port in {place.variable}.", figures=figures)
    advice = (
        f"Start the collector, or correct {place.variable}. Usual ports: 4318 for HTTP, 4317 for gRPC. Runs go on "
        "without it."
    )
    return Finding(status="warning", found=found, advice=advice, figures=figures)


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


def _reason(error: OSError) -> str:
    """What the operating system says, in the same words on every event loop; of several addresses the first."""
    cause: BaseException = error.__cause__ or error
    if isinstance(cause, BaseExceptionGroup):
        cause = cast("BaseExceptionGroup[BaseException]", cause).exceptions[0]
    if isinstance(cause, OSError) and not isinstance(cause, gaierror) and cause.errno is not None:
        return os.strerror(cause.errno)
    return str(getattr(cause, "strerror", None) or cause)
