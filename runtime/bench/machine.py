"""What the figures were taken on, as JSON: without it they cannot be compared."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from runtime.bench.laboratory import Laboratory
from runtime.config import SETTINGS, setting_json

__all__ = ["machine_json", "settings_json"]


async def machine_json(lab: Laboratory) -> Mapping[str, Any]:
    """Processor, memory, Python, event loop, server, release."""
    settings = lab.database.settings
    return {
        "cpus": _usable_cpus(),
        "cpu": _cpu_model(),
        "memory_gb": _memory_gb(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "event_loop": "uvloop" if settings.event_loop == "asyncio" and find_spec("uvloop") else settings.event_loop,
        "leasehold": _release(),
        "database": lab.database.database,
        "server": dict(await lab.database.gauges.server()),
        "server_is_local": await lab.database.gauges.is_local(),
        "others_connected": await lab.database.gauges.others_connected(),
    }


def settings_json(lab: Laboratory, *, repetitions: int) -> Mapping[str, Any]:
    """The sizes of the benchmark and the engine's settings, without passwords."""
    settings = lab.database.settings
    return {
        "repetitions": repetitions,
        **asdict(lab.sizes),
        "engine": {row.key: setting_json(row, getattr(settings, row.name)) for row in SETTINGS},
    }


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError):
        return None


def _release() -> str | None:
    try:
        return version("leasehold")
    except PackageNotFoundError:
        return None
