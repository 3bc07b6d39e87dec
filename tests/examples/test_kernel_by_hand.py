"""The kernel by hand: the example as it is, and that its lines do what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples import kernel_by_hand

ROOT = Path(__file__).parents[2]


@pytest.mark.anyio
async def test_every_command_does_what_the_comment_beside_it_says(capsys: pytest.CaptureFixture[str]):
    await kernel_by_hand.main()
    assert capsys.readouterr().out.splitlines() == [
        "created once: True",
        "claimed: ['greetings']",
        "lease holds: True",
        "greet: hello, Ada",
        "greet again: hello, Ada",
        "shout: HELLO, ADA!",
        "shout again: HELLO, ADA!",
        "transition: noop",
        " 1 run.created",
        " 2 run.started, stage.started",
        " 4 stage.completed, stage.scheduled",
        " 6 stage.started",
        " 7 stage.completed, run.completed",
        "run: COMPLETED",
    ]


@pytest.mark.anyio
async def test_a_body_is_called_once_however_often_its_job_is_sent(monkeypatch: pytest.MonkeyPatch):
    called: list[str] = []
    body = kernel_by_hand.greet.body

    async def counted(ctx: object) -> object:
        called.append("greet")
        return await body(ctx)

    monkeypatch.setattr(kernel_by_hand.greet, "body", counted)
    await kernel_by_hand.main()
    assert called == ["greet"]


def test_it_runs_as_a_script():
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    script = [sys.executable, str(ROOT / "examples" / "kernel_by_hand.py")]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=50, check=True)
    assert re.search(r"^run: COMPLETED$", done.stdout, re.MULTILINE)
    assert done.stderr == ""
