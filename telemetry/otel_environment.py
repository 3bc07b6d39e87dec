"""The standard OTEL_* variables as one checked value, or a clear error that names the variable and what it takes.

Separate from what is set up with it, so that asking whether anything is to be exported imports nothing of
OpenTelemetry. The SDK itself falls back to a default, with a line of log, for most of what is wrong here; an operator
who has set a variable wants to know that it has no effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, TypeVar, cast
from urllib.parse import unquote, urlsplit, urlunsplit

from kernel.errors import InvalidCommand

__all__ = ["Exporter", "OtelEnvironment", "Protocol", "Signal", "read_environment"]

T = TypeVar("T")

Exporter = Literal["otlp", "console"]
Protocol = Literal["http/protobuf", "grpc"]
SignalName = Literal["TRACES", "METRICS"]

_SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
_DEFAULT_ENDPOINTS: Mapping[Protocol, str] = {
    "http/protobuf": "http://localhost:4318",
    "grpc": "http://localhost:4317",
}
_COMPRESSIONS = ("none", "gzip", "deflate")
_AGGREGATIONS = ("explicit_bucket_histogram", "base2_exponential_bucket_histogram")
_LIMITS = (
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """Where traces, or metrics, go; `endpoint` is for people, without anything secret, and `variable` asks for it."""

    exporters: tuple[Exporter, ...]
    protocol: Protocol
    endpoint: str
    variable: str


SPAN_DELAY = "OTEL_BSP_SCHEDULE_DELAY"
SPAN_DELAY_MS = 1000
"""Instead of the SDK's five seconds: what has ended and is not sent yet is lost with a process that is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtelEnvironment:
    """What the variables ask for. A signal that is None is not exported.

    `sampler_ratio` is the argument of the samplers that take one, `span_delay_ms` how long ended spans wait to be sent
    together. Other settings (headers, timeouts, certificates, the sizes of batches) the SDK and its exporters read by
    themselves; here they are only checked.
    """

    traces: Signal | None
    metrics: Signal | None
    sampler: str
    sampler_ratio: float
    service_name: str | None
    metric_deltas: bool
    span_delay_ms: int


def read_environment(environ: Mapping[str, str], *, serves_metrics: bool = False) -> OtelEnvironment:
    """Read and check the variables; `serves_metrics` says that metrics are wanted whatever they say.

    Raises: InvalidCommand, naming the variable in `field`.
    """
    given = {name: value.strip() for name, value in environ.items() if name.startswith("OTEL_") and value.strip()}
    disabled = _read(given, "OTEL_SDK_DISABLED", _flag, default=False)
    if disabled and serves_metrics:
        raise InvalidCommand(
            "Metrics are to be served (--metrics-port), and OTEL_SDK_DISABLED says that there are none.",
            field="OTEL_SDK_DISABLED",
            hint="Unset it, or leave --metrics-port out. To serve metrics and export nothing else, unset it and the "
            "OTEL_EXPORTER_OTLP_ variables.",
        )
    traces = None if disabled else _signal(given, "TRACES")
    metrics = None if disabled else _signal(given, "METRICS")
    sampler, ratio = "parentbased_always_on", 1.0
    deltas = False
    if traces is not None or metrics is not None:
        _check_resource(given)
        for name in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_COMPRESSION"):
            _check_delivery(given, name)
        _check_limits(given)
        for name in ("OTEL_EXPORTER_OTLP", "OTEL_EXPORTER_OTLP_TRACES", "OTEL_EXPORTER_OTLP_METRICS"):
            _check_security(given, name)
    if metrics is not None or serves_metrics:
        takes = _one_of("trace_based", "always_on", "always_off")
        _read(given, "OTEL_METRICS_EXEMPLAR_FILTER", takes, default="")
    if traces is not None:
        sampler = _read(given, "OTEL_TRACES_SAMPLER", _one_of(*_SAMPLERS), default=sampler)
        ratio = _read(given, "OTEL_TRACES_SAMPLER_ARG", _ratio, default=1.0)
        _check_batches(given)
    if metrics is not None:
        preference = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
        deltas = _read(given, preference, _one_of("cumulative", "delta", "lowmemory"), default="") not in {
            "",
            "cumulative",
        }
        aggregation = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"
        _read(given, aggregation, _one_of(*_AGGREGATIONS), default="")
        for name in ("OTEL_METRIC_EXPORT_INTERVAL", "OTEL_METRIC_EXPORT_TIMEOUT"):
            _read(given, name, _milliseconds, default=None)
    return OtelEnvironment(
        traces=traces,
        metrics=metrics,
        sampler=sampler,
        sampler_ratio=ratio,
        service_name=given.get("OTEL_SERVICE_NAME"),
        metric_deltas=deltas,
        span_delay_ms=_read(given, SPAN_DELAY, _count, default=SPAN_DELAY_MS),
    )


def _signal(given: Mapping[str, str], name: SignalName) -> Signal | None:
    own, shared = f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
    found = _read(given, f"OTEL_{name}_EXPORTER", _exporters, default=None)
    if found is None:
        # Nobody without a collector shall hear of one.
        found = ("otlp",) if own in given or shared in given else ()
    if not found:
        return None
    takes = _one_of("http/protobuf", "grpc")
    protocol = _read(given, "OTEL_EXPORTER_OTLP_PROTOCOL", takes, default="http/protobuf")
    protocol = cast("Protocol", _read(given, f"OTEL_EXPORTER_OTLP_{name}_PROTOCOL", takes, default=protocol))
    endpoint, asking = _DEFAULT_ENDPOINTS[protocol], f"OTEL_{name}_EXPORTER"
    for variable in (shared, own):
        if variable in given:
            endpoint, asking = _endpoint(variable, given[variable], protocol), variable
    for setting in ("HEADERS", "TIMEOUT", "COMPRESSION"):
        _check_delivery(given, f"OTEL_EXPORTER_OTLP_{name}_{setting}")
    return Signal(exporters=found, protocol=protocol, endpoint=endpoint, variable=asking)


# -- single values ----------------------------------------------------------------------------------------------------


def _read(given: Mapping[str, str], name: str, read: Callable[[str], T], *, default: T) -> T:
    if name not in given:
        return default
    try:
        return read(given[name])
    except _Unfit as unfit:
        _refuse(name, given[name], str(unfit))


class _Unfit(Exception):
    """A value that cannot be used; the message says what would."""


def _refuse(name: str, value: str, takes: str) -> NoReturn:
    # Headers hold tokens, and so may the password of a URL; what takes neither is shown.
    shown = "" if name.endswith(("HEADERS", "ENDPOINT", "ATTRIBUTES")) else f', not "{value}"'
    raise InvalidCommand(f"{name} must be {takes}{shown}.", field=name)


def _flag(value: str) -> bool:
    if value.lower() not in {"true", "false"}:
        raise _Unfit('"true" or "false"')
    return value.lower() == "true"


def _one_of(*words: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value.lower() not in words:
            *others, last = (f'"{word}"' for word in words)
            raise _Unfit(f"{', '.join(others)} or {last}")
        return value.lower()

    return read


def _exporters(value: str) -> tuple[Exporter, ...]:
    words = [word.strip().lower() for word in value.split(",")]
    if words == ["none"]:
        return ()
    if not set(words) <= {"otlp", "console"}:
        hint = " (for Prometheus: leasehold up --metrics-port PORT)" if "prometheus" in words else ""
        raise _Unfit(f'"otlp", "console" or "none"{hint}')
    return tuple(dict.fromkeys(cast("list[Exporter]", words)))


def _endpoint(variable: str, value: str, protocol: Protocol) -> str:
    """As people may read it: without user, password and query."""
    # gRPC is also given as host:port.
    text = value if "://" in value or protocol == "http/protobuf" else f"http://{value}"
    takes = f'a URL such as "{_DEFAULT_ENDPOINTS[protocol]}"'
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        _refuse(variable, value, takes)
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        _refuse(variable, value, takes)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _ratio(value: str) -> float:
    number = _number(value, "a number from 0 to 1")
    if not 0.0 <= number <= 1.0:
        raise _Unfit("a number from 0 to 1")
    return number


def _seconds(value: str) -> float:
    takes = "a number of seconds above 0"
    number = _number(value, takes)
    if number <= 0 or math.isinf(number):
        raise _Unfit(takes)
    return number


def _milliseconds(value: str) -> float | None:
    takes = "a number of milliseconds above 0"
    number = _number(value, takes)
    if number <= 0 or math.isinf(number):
        raise _Unfit(takes)
    return number


def _count(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise _Unfit("a whole number above 0")
    return int(value)


def _number(value: str, takes: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise _Unfit(takes) from None
    if math.isnan(number):
        raise _Unfit(takes)
    return number


# -- what is only checked ---------------------------------------------------------------------------------------------


def _check_delivery(given: Mapping[str, str], name: str) -> None:
    if name.endswith("HEADERS"):
        _read(given, name, _pairs, default=None)
    elif name.endswith("TIMEOUT"):
        _read(given, name, _seconds, default=0.0)
    else:
        _read(given, name, _one_of(*_COMPRESSIONS), default="")


def _check_limits(given: Mapping[str, str]) -> None:
    for name in _LIMITS:
        _read(given, name, _limit, default=None)


def _limit(value: str) -> None:
    if value.lower() != "unset" and not value.isdecimal():
        raise _Unfit('a whole number, 0 or above, or "unset"')


def _check_security(given: Mapping[str, str], prefix: str) -> None:
    _read(given, f"{prefix}_INSECURE", _flag, default=False)
    _read(given, f"{prefix}_CERTIFICATE", _authorities, default=None)
    for name in ("CLIENT_CERTIFICATE", "CLIENT_KEY"):
        _read(given, f"{prefix}_{name}", _file, default=None)


def _authorities(value: str) -> None:
    from ssl import PROTOCOL_TLS_CLIENT, SSLContext, SSLError  # dear, and seldom needed

    if Path(value).is_dir():
        return  # of certificates under their hashes; over HTTP that is allowed
    _file(value)
    try:
        SSLContext(PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=value)
    except SSLError:
        raise _Unfit("a file with certificates, as PEM") from None


def _file(value: str) -> None:
    try:
        with Path(value).open("rb"):
            pass
    except OSError as error:
        raise _Unfit(f"a file that can be read ({error.strerror})") from None


def _check_resource(given: Mapping[str, str]) -> None:
    _read(given, "OTEL_RESOURCE_ATTRIBUTES", _pairs, default=None)


def _pairs(value: str) -> None:
    for pair in value.split(","):
        if not pair.strip():
            continue
        key, equals, _ = pair.partition("=")
        if not equals or not unquote(key).strip():
            raise _Unfit('pairs such as "name=value,other=value"')


def _check_batches(given: Mapping[str, str]) -> None:
    size, queue = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_BSP_MAX_QUEUE_SIZE"
    _read(given, "OTEL_BSP_EXPORT_TIMEOUT", _count, default=0)
    sizes = {name: _read(given, name, _count, default=default) for name, default in ((size, 512), (queue, 2048))}
    if sizes[size] > sizes[queue]:
        raise InvalidCommand(
            f"{size} ({sizes[size]}) must not exceed {queue} ({sizes[queue]}).", field=size, hint=f"Raise {queue}."
        )
