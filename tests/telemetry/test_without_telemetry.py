"""The engine without OpenTelemetry: it imports none of it unless the program has, and works where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RUN = """
import anyio
from pydantic import BaseModel
from kernel import StageContext, WorkflowBuilder, stage
from runtime import App, run_and_wait

class Doc(BaseModel):
    text: str

@stage("shout")
async def shout(ctx: StageContext[Doc]) -> Doc:
    return Doc(text=ctx.input.text.upper())

workflow = WorkflowBuilder("shout", input=Doc, output=Doc).pipe(shout).build()

async def main():
    found = await run_and_wait(App(workflows=[workflow]), workflow, Doc(text="a"), database="memory://")
    print(found.text)

anyio.run(main)
"""
ABSENT = "import sys; sys.modules['opentelemetry'] = None\n"
UNUSED = "\nimport sys; print([name for name in sys.modules if name.startswith('opentelemetry')])"


@pytest.mark.processes
@pytest.mark.parametrize(
    "program, printed", [(ABSENT + RUN, ["A"]), (RUN + UNUSED, ["A", "[]"])], ids=["absent", "unused"]
)
def test_a_run_completes_without_anything_of_opentelemetry(program: str, printed: list[str]) -> None:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=50)

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == printed
