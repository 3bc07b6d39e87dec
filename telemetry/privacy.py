"""What of a payload may leave the engine for where traces are kept: nothing, unless somebody asks for it.

Inputs, outputs, configurations and states are other people's data. `LEASEHOLD_CAPTURE_PAYLOADS` has them recorded, and
a redaction hook sees every one of them first and says what of it may be kept. Separate from what makes spans, so that
there is one place through which payloads go.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from telemetry.logs import EventLogger, get_logger
from telemetry.names import PayloadName

__all__ = ["NOTHING", "Privacy", "Redact"]

logger: EventLogger = get_logger("leasehold.telemetry")

Redact: TypeAlias = Callable[[PayloadName, Any], Any]
"""Given what a payload is and its value as JSON, what of it may be recorded; None: nothing.

"run.input" is the run's input, which is recorded on the span of every stage's body, and so seen once for each attempt;
"stage.config" what the run has configured for the stage; "stage.output" what a body, or a check, returned; and
"stage.state" the state with which a body suspended its stage.
"""

LENGTH_MAX = 8_192
"""Characters of a payload that are recorded: a trace is to be looked at, and its store has bounds of its own."""


@dataclass(frozen=True, slots=True)
class Privacy:
    """What one process has been told about payloads: whether to record them at all, and who redacts them."""

    capture: bool = False
    redact: Redact | None = None

    def captured(self, name: PayloadName, payload: bytes) -> str | None:
        """The text to record of a payload (raw JSON), or None for nothing; never raises.

        When the hook raises, nothing is recorded: what could not be redacted must not be shown.
        """
        if not self.capture:
            return None
        if self.redact is None:
            return _shortened(payload.decode(errors="replace"))
        try:
            value = self.redact(name, json.loads(payload))
            return None if value is None else _shortened(json.dumps(value, ensure_ascii=False))
        except Exception as error:  # noqa: BLE001 - a hook may raise anything, and tracing never harms a run
            # Its message may quote what it was given.
            logger.warning("payload.not_redacted", payload=name, error=type(error).__name__)
            return None


NOTHING = Privacy()
"""Records no payload."""


def _shortened(text: str) -> str:
    return text if len(text) <= LENGTH_MAX else f"{text[: LENGTH_MAX - 1]}…"
