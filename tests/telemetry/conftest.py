"""Traces and metrics of a test: providers of its own, in place of the process's, and what they were told."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler

from telemetry.metrics import use_meters
from tests.runtime.conftest import log, memory, migrated_url, postgres, store, untouched_logging
from tests.telemetry.metered import Metered, set_up
from tests.telemetry.trees import Sent

__all__ = ["log", "memory", "migrated_url", "postgres", "store", "untouched_logging"]


@pytest.fixture
def sampled_by(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Sampler], Sent]]:
    """Sets up tracing with this sampler, for everything that is opened afterwards."""
    providers: list[TracerProvider] = []

    def set_up(sampler: Sampler) -> Sent:
        exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=sampler)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        # A process can set its provider once; a test gives it back.
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
        providers.append(provider)
        return Sent(exporter)

    yield set_up
    for provider in providers:
        provider.shutdown()


@pytest.fixture
def sent(sampled_by: Callable[[Sampler], Sent]) -> Sent:
    """Everything is sampled; what was sent so far."""
    return sampled_by(ParentBased(ALWAYS_ON))


@pytest.fixture
def metered() -> Iterator[Metered]:
    """Everything that is opened afterwards is metered."""
    made = set_up(own_histograms=True)
    use_meters(made.meters)
    yield made
    use_meters(None)
