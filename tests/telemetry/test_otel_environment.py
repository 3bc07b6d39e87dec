"""A wrong OTEL_* variable is an error that names it and what it takes, never a default in silence."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any

import pytest

from kernel import InvalidCommand
from telemetry.export import configure_export
from telemetry.otel_environment import Signal, read_environment

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


def test_without_an_endpoint_or_an_exporter_nothing_is_exported() -> None:
    found = read_environment({"OTEL_SERVICE_NAME": "mine", "OTEL_TRACES_EXPORTER": "none", "PATH": "/bin"})

    assert (found.traces, found.metrics) == (None, None)


def test_an_endpoint_is_for_both_signals_and_each_may_differ() -> None:
    found = read_environment(
        {
            **ENDPOINT,
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://metrics:4317",
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc",
        }
    )

    assert found.traces == Signal(
        exporters=("otlp",),
        protocol="http/protobuf",
        endpoint="http://collector:4318",
        variable="OTEL_EXPORTER_OTLP_ENDPOINT",
    )
    assert found.metrics == Signal(
        exporters=("otlp",),
        protocol="grpc",
        endpoint="http://metrics:4317",
        variable="OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    )


def test_an_exporter_alone_sends_to_this_machine() -> None:
    found = read_environment({"OTEL_TRACES_EXPORTER": "otlp,console", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})

    assert found.traces == Signal(
        exporters=("otlp", "console"),
        protocol="grpc",
        endpoint="http://localhost:4317",
        variable="OTEL_TRACES_EXPORTER",
    )
    assert found.metrics is None


def test_spans_are_sent_after_a_second_unless_a_variable_says_otherwise() -> None:
    assert read_environment(ENDPOINT).span_delay_ms == 1000
    assert read_environment({**ENDPOINT, "OTEL_BSP_SCHEDULE_DELAY": "5000"}).span_delay_ms == 5000


def test_what_people_are_shown_of_an_endpoint_has_no_secret() -> None:
    found = read_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://user:secret@collector:4318/in?token=secret"})

    assert found.traces is not None
    assert found.traces.endpoint == "https://collector:4318/in"


@pytest.mark.parametrize(
    "variables, field",
    [
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "OTEL_TRACES_EXPORTER"),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, "OTEL_METRICS_EXPORTER"),
        ({"OTEL_SDK_DISABLED": "yes"}, "OTEL_SDK_DISABLED"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://:x"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_HEADERS": "Bearer secret"}, "OTEL_EXPORTER_OTLP_HEADERS"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "OTEL_EXPORTER_OTLP_TIMEOUT"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "0"}, "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_COMPRESSION": "zip"}, "OTEL_EXPORTER_OTLP_COMPRESSION"),
        ({**ENDPOINT, "OTEL_RESOURCE_ATTRIBUTES": "production"}, "OTEL_RESOURCE_ATTRIBUTES"),
        ({**ENDPOINT, "OTEL_TRACES_SAMPLER": "half"}, "OTEL_TRACES_SAMPLER"),
        ({**ENDPOINT, "OTEL_TRACES_SAMPLER_ARG": "1.5"}, "OTEL_TRACES_SAMPLER_ARG"),
        ({**ENDPOINT, "OTEL_BSP_SCHEDULE_DELAY": "5s"}, "OTEL_BSP_SCHEDULE_DELAY"),
        ({**ENDPOINT, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4096"}, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"),
        ({**ENDPOINT, "OTEL_METRIC_EXPORT_INTERVAL": "-1"}, "OTEL_METRIC_EXPORT_INTERVAL"),
        ({**ENDPOINT, "OTEL_METRICS_EXEMPLAR_FILTER": "zzz"}, "OTEL_METRICS_EXEMPLAR_FILTER"),
        ({**ENDPOINT, "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "abc"}, "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"),
        ({**ENDPOINT, "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "-3"}, "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_INSECURE": "maybe"}, "OTEL_EXPORTER_OTLP_INSECURE"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_CERTIFICATE": "/nope"}, "OTEL_EXPORTER_OTLP_CERTIFICATE"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE": __file__}, "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE"),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY": "/nope"}, "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY"),
    ],
)
def test_a_value_that_cannot_be_used_names_its_variable_and_shows_no_secret(
    variables: Mapping[str, str], field: str
) -> None:
    with pytest.raises(InvalidCommand) as raised:
        read_environment(variables)

    assert raised.value.field == field
    assert field in raised.value.message
    assert "secret" not in raised.value.message


def test_limits_that_are_numbers_or_unset_are_taken() -> None:
    limits = {"OTEL_SPAN_EVENT_COUNT_LIMIT": "unset", "OTEL_ATTRIBUTE_COUNT_LIMIT": "0"}

    assert read_environment({**ENDPOINT, **limits}).traces is not None


def test_metrics_that_are_only_served_have_their_variables_checked_too() -> None:
    with pytest.raises(InvalidCommand) as raised:
        read_environment({"OTEL_METRICS_EXEMPLAR_FILTER": "zzz"}, serves_metrics=True)

    assert raised.value.field == "OTEL_METRICS_EXEMPLAR_FILTER"


@pytest.mark.parametrize(
    "error, field",
    [(ValueError("OTEL_NEW must be even"), "OTEL_NEW"), (RuntimeError("No such provider"), None)],
)
def test_what_the_sdk_refuses_by_itself_is_said_in_its_words(
    monkeypatch: pytest.MonkeyPatch, error: Exception, field: str | None
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")

    def refuse(*_more: Any, **_named: Any) -> Any:
        raise error

    monkeypatch.setattr("opentelemetry.sdk.resources.Resource.create", refuse)

    with pytest.raises(InvalidCommand, match=str(error)) as raised:
        configure_export()

    assert raised.value.field == field
    assert "OTEL_" in raised.value.message


@pytest.mark.parametrize("protocol, package", [("http/protobuf", "leasehold[otlp]"), ("grpc", "proto-grpc")])
def test_an_exporter_that_is_not_installed_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, protocol: str, package: str
) -> None:
    def without_exporters(name: str, *more: Any) -> Any:
        if name.startswith("opentelemetry.exporter"):
            raise ImportError(name, name=name)
        return importing(name, *more)

    importing = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without_exporters)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")

    with pytest.raises(InvalidCommand, match="OTEL_TRACES_EXPORTER is otlp over") as raised:
        configure_export()

    assert package in str(raised.value.hint)
