"""What is said between the benchmark and the processes that it starts: JSON lines over their standard streams.

The first line to a process says what it is to be; every further one is something to do, answered by one line. Settings
go this way as well: a database URL in arguments would show its password to everybody who lists processes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from runtime.config import SETTINGS, Settings, setting_json

__all__ = ["Message", "Role", "decoded", "encoded", "settings_from", "settings_message"]

Role: TypeAlias = Literal["worker", "client", "bare", "rivals"]

Message: TypeAlias = Mapping[str, Any]


def encoded(message: Message) -> bytes:
    """One line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decoded(line: bytes) -> Message:
    """What a line says."""
    found: Message = json.loads(line)
    return found


def settings_message(settings: Settings, **overrides: object) -> Message:
    """Settings as JSON, passwords included: for a pipe, not for people."""
    values = {row.name: setting_json(row, getattr(settings, row.name)) for row in SETTINGS}
    return {**values, "database_url": settings.database_url, "direct_url": settings.direct_url, **overrides}


def settings_from(message: Message) -> Settings:
    """The settings again."""
    return Settings(**message)
