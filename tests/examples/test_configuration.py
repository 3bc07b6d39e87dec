"""examples/configuration.py: defaults, what a run changes of them, and every mistake at once."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "configuration.py"


@pytest.mark.anyio
async def test_defaults_overrides_and_mistakes(anyio_backend_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    await runpy.run_path(str(EXAMPLE))["main"]("memory://")

    assert capsys.readouterr().out.splitlines() == [
        "7 pieces for gemini-2.5-flash at 0",
        "4 pieces for a-larger-one at 0",
        "cut.window.size - Input should be greater than 0",
        "ask.temperature - Input should be less than or equal to 1",
    ]
