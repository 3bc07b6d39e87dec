"""examples/annotations.py: every remark is found as the comments say, on both event loops."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "annotations.py"


@pytest.mark.anyio
async def test_everybodys_remarks_are_found(anyio_backend_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    await runpy.run_path(str(EXAMPLE))["main"]("memory://")

    lines = capsys.readouterr().out.splitlines()
    # The plugin speaks when it is told, which may be between the others.
    assert [told for told in lines if told.startswith("told: ")] == [
        "told: decision.outcome = refuse",
        "told: decision.confidence = 0.6",
    ]
    assert [other for other in lines if not other.startswith("told: ")] == [
        "trigger.source = mail, by nobody in particular",
        "claim.lines = 1, by nobody in particular",
        "decision.outcome = refuse, by agent:judge:2",
        "decision.confidence = 0.6, by agent:judge:2",
        "review.score = 4.5, by user:ada",
        "60% sure in attempt 1 of judge",
        "['decision.outcome', 'decision.confidence']",
        "['invoice.pdf']",
    ]
