"""Which runs a program's sampler wants, without asking it where the answer is known."""

from __future__ import annotations

import random
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    Decision,
    ParentBased,
    Sampler,
    TraceIdRatioBased,
)

from telemetry.spans import Spans

RATIOS = [TraceIdRatioBased(rate) for rate in (0.0, 1e-7, 0.01, 0.5, 1.0)]
BUILT_IN: list[Sampler] = [ALWAYS_ON, ALWAYS_OFF, DEFAULT_ON, DEFAULT_OFF, *RATIOS, *map(ParentBased, RATIOS)]


@pytest.mark.parametrize("sampler", BUILT_IN, ids=lambda sampler: sampler.get_description()[:50])
def test_what_the_sdks_own_samplers_answer_is_known_without_asking(sampler: Sampler, rng: random.Random) -> None:
    spans = Spans(TracerProvider(sampler=sampler))

    assert spans.repeatable
    for trace_id in [0, 2**63, 2**64 - 1, *(rng.getrandbits(128) for _ in range(200))]:
        wanted = sampler.should_sample(None, trace_id, "run any").decision is Decision.RECORD_AND_SAMPLE
        assert spans.decide(trace_id, "any") is wanted


class Halves(TraceIdRatioBased):
    """Describes itself as what it inherits from, and answers otherwise."""

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *args: Any, **named: Any) -> Any:
        inner = ALWAYS_ON if name == "run wanted" else ALWAYS_OFF
        return inner.should_sample(parent_context, trace_id, name, *args, **named)


def test_any_other_sampler_is_asked_and_told_the_name_of_the_span() -> None:
    spans = Spans(TracerProvider(sampler=Halves(0.0)))

    assert not spans.repeatable
    assert spans.decide(1, "wanted")
    assert not spans.decide(1, "other")


def test_a_sampler_that_cannot_say_what_it_is_is_asked() -> None:
    class Nameless(Sampler):
        def should_sample(self, *args: Any, **named: Any) -> Any:
            return ALWAYS_ON.should_sample(None, 1, "")

        def get_description(self) -> str:
            raise RuntimeError("a defect of the program's")

    sampler = ParentBased(ALWAYS_ON)
    sampler._root = Nameless()

    assert Spans(TracerProvider(sampler=sampler)).decide(1, "any")
