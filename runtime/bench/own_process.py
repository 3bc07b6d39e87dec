"""What a process of the benchmark can tell of itself: processor time, memory, and how late its event loop is.

From the operating system, by the standard library alone. Where a system does not tell memory, it is None.
"""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

import anyio

__all__ = ["LoopLag", "MemoryPeak", "cpu_s", "memory_bytes", "settled_memory_bytes"]

LAG_INTERVAL_S = 0.01
MEMORY_INTERVAL_S = 0.05


def cpu_s() -> float:
    """Processor seconds of this process so far, user and system, of all its threads."""
    return time.process_time()


def memory_bytes() -> int | None:
    """Resident memory of this process now."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def settled_memory_bytes() -> int | None:
    """The same after what nobody refers to has been let go."""
    gc.collect()
    return memory_bytes()


class LoopLag:
    """How much later than asked for this event loop wakes somebody up, in seconds, since `values` was emptied."""

    def __init__(self) -> None:
        self.values: list[float] = []

    async def run(self) -> None:
        """Take it down for ever."""
        while True:
            asked_at = time.perf_counter()
            await anyio.sleep(LAG_INTERVAL_S)
            self.values.append(max(time.perf_counter() - asked_at - LAG_INTERVAL_S, 0.0))


class MemoryPeak:
    """The most resident memory that was seen since `value` was set; looked at 20 times a second."""

    def __init__(self) -> None:
        self.value: int = memory_bytes() or 0

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self.value = max(self.value, memory_bytes() or 0)
            await anyio.sleep(MEMORY_INTERVAL_S)
