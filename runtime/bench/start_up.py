"""Start-up: how long `import runtime` and a command that only looks take, from the start of a process to its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import anyio

from runtime.bench.laboratory import Laboratory, MeasureFailed, Measurement
from runtime.bench.messages import encoded, settings_message

__all__ = ["measure_start_up"]

WITHIN_S = 30.0

_HOME = Path(__file__).parents[2]
_IMPORT = "import sys; sys.path.append(sys.argv.pop(1)); import runtime"
_RUNS = "import sys; sys.path.append(sys.argv.pop(1)); from runtime.bench.lister import main; main()"


async def measure_start_up(lab: Laboratory) -> Measurement:
    """The median of several processes of each kind, one after the other."""
    settings = encoded({"schema": lab.database.schema, "settings": settings_message(lab.database.settings)})
    imports = [await _seconds(_IMPORT, b"") for _ in range(lab.sizes.starts)]
    runs = [await _seconds(_RUNS, settings) for _ in range(lab.sizes.starts)]
    return {"import": median(imports), "runs": median(runs)}


async def _seconds(program: str, told: bytes) -> float:
    command: Sequence[str] = [sys.executable, "-P", "-c", program, str(_HOME)]
    began = time.perf_counter()
    with anyio.fail_after(WITHIN_S):
        done = await anyio.run_process(command, input=told, check=False, start_new_session=True)
    if done.returncode:
        raise MeasureFailed(f"a process ended with {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}")
    return time.perf_counter() - began
