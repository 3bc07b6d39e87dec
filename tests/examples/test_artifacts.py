"""examples/artifacts.py: what a stage kept is read back, on both event loops."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "artifacts.py"


@pytest.mark.anyio
async def test_the_picture_and_the_table_come_back(anyio_backend_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    await runpy.run_path(str(EXAMPLE))["main"]("memory://")

    drawn, chart, *bars = capsys.readouterr().out.splitlines()
    assert drawn == "bars=3"
    assert chart.startswith("<svg")
    assert chart.count("<rect") == 3
    assert bars == ["3 is 25%", "4 is 33%", "5 is 42%"]
