"""A profile of a worker: what the sampler saw, counted and drawn; and the command with a real worker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from runtime.bench.flame_graph import flame_graph
from runtime.bench.stacks import folded, functions_of, read_stacks

ROOT = Path(__file__).parents[3]
PTRACE_SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")

SEEN = """\
main (runtime/x.py:1);decide (kernel/y.py:2) 6
main (runtime/x.py:1);decide (kernel/y.py:2);decide (kernel/y.py:2);<lambda> (kernel/z.py:3) 3
main (runtime/x.py:1) 1
py-spy> Wrote raw flamegraph data
Thread.run (threading.py:971);Condition.wait (threading.py:295) 90
"""


def test_shares_are_of_the_samples_in_which_somebody_computed() -> None:
    functions = {share.name: (share.self_share, share.total_share) for share in functions_of(read(SEEN))}

    assert functions == {
        "main (runtime/x.py:1)": (0.1, 1.0),
        "decide (kernel/y.py:2)": (0.6, 0.9),
        "<lambda> (kernel/z.py:3)": (0.3, 0.3),
    }


def test_functions_come_by_what_they_did_themselves() -> None:
    names = [share.name.partition(" ")[0] for share in functions_of(read(SEEN))]

    assert names == ["decide", "<lambda>", "main"]


def test_stacks_can_be_written_and_read_again() -> None:
    stacks = read(SEEN)

    assert read(folded(stacks)) == stacks
    assert sum(stacks.values()) == 10


def test_a_flame_graph_is_an_image_in_which_a_frame_is_as_wide_as_its_share() -> None:
    picture = ET.fromstring(flame_graph(read(SEEN), title="a & b", us_per_run=200.0))

    shapes = {frame[0].text: frame[1] for frame in picture.iter("{http://www.w3.org/2000/svg}g")}
    whole = float(picture.attrib["width"])
    assert float(shapes["decide (kernel/y.py:2): 90.0%, 180.0 µs per run"].attrib["width"]) == pytest.approx(
        0.9 * whole, abs=1
    )
    assert "<lambda> (kernel/z.py:3): 30.0%, 60.0 µs per run" in shapes


@pytest.mark.processes
@pytest.mark.timeout(120)
def test_a_worker_is_profiled_or_it_is_said_what_must_be_allowed(database_url: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "runtime.bench.profile", "--runs=60", "--rate=500", f"--directory={tmp_path}"]
    environment = {**os.environ, "LEASEHOLD_DATABASE_URL": database_url}

    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=100)

    if may_look_at_others():
        assert done.returncode == 0, done.stderr
        assert "Postgres, by statement" in done.stdout
        assert "(kernel/" in (tmp_path / "worker.folded").read_text(encoding="utf-8")
        assert "RunActor" in (tmp_path / "worker.svg").read_text(encoding="utf-8")
    else:
        assert done.returncode == 3
        assert "py-spy cannot look at the worker" in done.stderr


def read(text: str):
    return read_stacks(text.splitlines())


def may_look_at_others() -> bool:
    if os.geteuid() == 0:
        return True
    return sys.platform == "linux" and (not PTRACE_SCOPE.exists() or PTRACE_SCOPE.read_text().strip() == "0")
